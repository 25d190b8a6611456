"""A pod's life at the API: made, bound to a node, deleted.

The API server writes spec.nodeName and the PodScheduled condition when a scheduler binds the pod; everything else in the
status comes from the node's agent, but for the first status, which is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.registry.codec import copy
from control.registry.context import Context
from control.registry.pods.defaults import CONTAINER_LISTS
from control.registry.problems import Problems
from steersman import quantity
from steersman.errors import ApiError, Cause, conflict, invalid

FINISHED = ("Succeeded", "Failed")  # phases that a pod never leaves
QOS_RESOURCES = ("cpu", "memory")  # what decides the class


def qos_class(spec: Mapping[str, Any]) -> str:
    """The quality-of-service class: how the node treats the pod when it runs out of something.

    Guaranteed: every container limits cpu and memory and requests as much. BestEffort: no container names either.
    Burstable: the rest.
    """
    named, guaranteed = False, True
    for kind in CONTAINER_LISTS[:2]:
        for container in spec.get(kind, ()):
            resources = container.get("resources", {})
            limits, requests = resources.get("limits", {}), resources.get("requests", {})
            for resource in QOS_RESOURCES:
                limit, request = (quantity.parse(amounts.get(resource, "0")) for amounts in (limits, requests))
                named = named or limit > 0 or request > 0
                if limit == 0 or (resource in requests and request != limit):
                    guaranteed = False
    if not named:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def initial_status(document: Mapping[str, Any]) -> dict[str, Any]:
    """The status of a pod that was just made."""
    status: dict[str, Any] = {"phase": "Pending", "qosClass": qos_class(document["spec"])}
    if document["spec"].get("schedulingGates"):
        status["conditions"] = [
            {
                "type": "PodScheduled",
                "status": "False",
                "lastTransitionTime": document["metadata"]["creationTimestamp"],
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }
        ]
    return status


def prepare(document: dict[str, Any]) -> None:
    """Mend what Kubernetes mends silently on create."""
    spec = document["spec"]
    if spec["terminationGracePeriodSeconds"] < 0:
        spec["terminationGracePeriodSeconds"] = 1


def carry(new: dict[str, Any], old: Mapping[str, Any]) -> None:
    """Take over what was decided for the pod after its author wrote it, should an update leave it out."""
    for name in ("nodeName", "priority", "preemptionPolicy", "serviceAccountName", "serviceAccount"):
        if name in old["spec"]:
            new["spec"].setdefault(name, old["spec"][name])


def validate_status(new: Mapping[str, Any], old: Mapping[str, Any], problems: Problems) -> None:
    """A finished pod stays finished, and its class is what its spec makes it."""
    before, after = old.get("status", {}).get("phase"), new.get("status", {}).get("phase")
    if before in FINISHED and after != before:
        problems.forbidden("status.phase", f"a pod that {before.lower()} can't become {after}")
    if "qosClass" in old.get("status", {}):
        new["status"].setdefault("qosClass", old["status"]["qosClass"])
        problems.immutable("status.qosClass", new["status"]["qosClass"], old["status"]["qosClass"])


def grace_period(document: Mapping[str, Any], asked: int | None) -> int:
    """Seconds that a deleted pod may take to stop; 0 when nothing of it runs anywhere."""
    spec = document["spec"]
    if not spec.get("nodeName") or document.get("status", {}).get("phase") in FINISHED:
        return 0
    if asked is None:
        asked = spec.get("terminationGracePeriodSeconds", 30)
    return asked if asked >= 0 else 1


def bind(pod: Mapping[str, Any], binding: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """The pod, bound to the node that a v1 Binding names.

    Raises:
        ApiError: 422, the binding names no node; 409, the pod is bound already, gated or being deleted.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    name, target = metadata["name"], binding.get("target") or {}
    if not isinstance(target, dict) or not target.get("name"):
        raise invalid("Binding", name, [Cause("FieldValueRequired", "Required value: name the node", "target.name")])
    if target.get("kind", "Node") not in ("", "Node"):
        raise invalid(
            "Binding",
            name,
            [
                Cause(
                    "FieldValueNotSupported",
                    f'Unsupported value: "{target["kind"]}": supported values: "Node"',
                    "target.kind",
                )
            ],
        )
    if why := _not_bindable(metadata, spec, target["name"]):
        raise why
    bound = copy(dict(pod))
    bound["spec"]["nodeName"] = target["name"]
    annotations = (binding.get("metadata") or {}).get("annotations")
    if annotations:
        bound["metadata"].setdefault("annotations", {}).update(annotations)
    conditions = bound.setdefault("status", {}).setdefault("conditions", [])
    conditions[:] = [condition for condition in conditions if condition["type"] != "PodScheduled"]
    conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": context.timestamp})
    return bound


def _not_bindable(metadata: Mapping[str, Any], spec: Mapping[str, Any], node: str) -> ApiError | None:
    name = metadata["name"]
    if metadata.get("deletionTimestamp"):
        return conflict("pods/binding", name, f"pod {name} is being deleted, cannot be assigned to a host")
    if spec.get("nodeName"):
        return conflict(
            "pods/binding", name, f'pod {name} is already assigned to node "{spec["nodeName"]}", not to {node}'
        )
    if spec.get("schedulingGates"):
        return conflict("pods/binding", name, f"pod {name} has scheduling gates: they must be removed first")
    return None
