"""The group apps/v1: ReplicaSet and Deployment."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from control.registry import formats
from control.registry.core import AGE, NAME
from control.registry.pods.defaults import default_template
from control.registry.pods.validation import validate_template
from control.registry.problems import Problems
from control.registry.resources import Column, Document, Resource
from control.registry.selectors import parsed, validate_selector
from control.registry.tables import NONE, created

SURGE = UNAVAILABLE = "25%"  # of the replicas, by default
HISTORY = 10  # old ReplicaSets kept by default
DEADLINE = 600  # seconds without progress after which a rollout counts as failed, by default

TEMPLATE_COLUMNS = (
    Column("Containers", priority=1, description="Names of the containers"),
    Column("Images", priority=1, description="Images of the containers"),
    Column("Selector", priority=1, description="The labels of its pods"),
)


def template_cells(spec: Mapping[str, Any]) -> list[Any]:
    """Cells of what all kinds with a pod template show in wide output."""
    containers = spec.get("template", {}).get("spec", {}).get("containers", ())
    selector = spec.get("selector")
    return [
        ",".join(container.get("name", "") for container in containers),
        ",".join(container.get("image", "") for container in containers),
        str(parsed(selector)) if selector else NONE,
    ]


def validate_pod_owner(spec: Mapping[str, Any], kind: str, problems: Problems) -> None:
    """Check what all kinds share that keep copies of a pod: selector, template, and that they fit each other."""
    selector, template = spec.get("selector"), spec["template"]
    valid_before = len(problems.causes)
    if selector is None:
        problems.required("spec.selector")
    else:
        validate_selector(selector, "spec.selector", problems)
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            problems.invalid("spec.selector", selector, f"empty selector is invalid for {kind}")
        elif len(problems.causes) == valid_before:
            labels = template.get("metadata", {}).get("labels", {})
            if not parsed(selector).matches(labels):
                problems.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    validate_template(template, "spec.template", problems)
    pod = template["spec"]
    if pod.get("restartPolicy") != "Always":
        problems.unsupported("spec.template.spec.restartPolicy", pod.get("restartPolicy"), ("Always",))
    if "activeDeadlineSeconds" in pod:
        problems.forbidden("spec.template.spec.activeDeadlineSeconds", f"pods of a {kind} run until they are deleted")


def _immutable_selector(new: Document, old: Document, problems: Problems) -> None:
    problems.immutable("spec.selector", new["spec"].get("selector"), old["spec"].get("selector"))


def _default_replica_set(document: Document) -> None:
    spec = document.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    default_template(spec.setdefault("template", {}))


def _validate_replica_set(document: Document, problems: Problems) -> None:
    spec = document["spec"]
    problems.at_least("spec.replicas", spec["replicas"], 0)
    problems.at_least("spec.minReadySeconds", spec.get("minReadySeconds"), 0)
    validate_pod_owner(spec, "replicaset", problems)


def _replica_set_row(document: Document, now: dt.datetime) -> list[Any]:
    spec, status = document["spec"], document.get("status", {})
    return [
        document["metadata"]["name"],
        spec["replicas"],
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
        created(document, now),
        *template_cells(spec),
    ]


REPLICA_SETS = Resource(
    group="apps",
    version="v1",
    kind="ReplicaSet",
    plural="replicasets",
    singular="replicaset",
    short_names=("rs",),
    categories=("all",),
    subresources=("status", "scale"),
    default=_default_replica_set,
    validate=_validate_replica_set,
    validate_update=_immutable_selector,
    initial_status=lambda _: {"replicas": 0},
    columns=(
        NAME,
        Column("Desired", "integer", "Pods that should be"),
        Column("Current", "integer", "Pods that are"),
        Column("Ready", "integer", "Pods that are ready"),
        AGE,
        *TEMPLATE_COLUMNS,
    ),
    row=_replica_set_row,
    selectable={"status.replicas": "0"},
    has_generation=True,
)


def _default_deployment(document: Document) -> None:
    spec = document.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", UNAVAILABLE)
        rolling.setdefault("maxSurge", SURGE)
    spec.setdefault("revisionHistoryLimit", HISTORY)
    spec.setdefault("progressDeadlineSeconds", DEADLINE)
    default_template(spec.setdefault("template", {}))


def _validate_deployment(document: Document, problems: Problems) -> None:
    spec = document["spec"]
    problems.at_least("spec.replicas", spec["replicas"], 0)
    problems.at_least("spec.minReadySeconds", spec.get("minReadySeconds"), 0)
    problems.at_least("spec.revisionHistoryLimit", spec["revisionHistoryLimit"], 0)
    problems.at_least("spec.progressDeadlineSeconds", spec["progressDeadlineSeconds"], 0)
    if spec["progressDeadlineSeconds"] <= spec.get("minReadySeconds", 0):
        problems.invalid(
            "spec.progressDeadlineSeconds", spec["progressDeadlineSeconds"], "must be greater than minReadySeconds"
        )
    validate_pod_owner(spec, "deployment", problems)
    _validate_strategy(spec["strategy"], problems)


def _validate_strategy(strategy: Mapping[str, Any], problems: Problems) -> None:
    rolling = strategy.get("rollingUpdate")
    match strategy["type"]:
        case "Recreate":
            if rolling is not None:
                problems.forbidden(
                    "spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'"
                )
        case "RollingUpdate":
            assert rolling is not None  # a default
            unavailable, surge = rolling["maxUnavailable"], rolling["maxSurge"]
            validate_count("spec.strategy.rollingUpdate.maxUnavailable", unavailable, problems)
            validate_count("spec.strategy.rollingUpdate.maxSurge", surge, problems)
            if is_zero(unavailable) and is_zero(surge):
                problems.invalid(
                    "spec.strategy.rollingUpdate.maxUnavailable",
                    unavailable,
                    "may not be 0 when `maxSurge` is 0: nothing could ever be replaced",
                )
            if isinstance(unavailable, str) and formats.percentage(unavailable) is None and int(unavailable[:-1]) > 100:
                problems.invalid(
                    "spec.strategy.rollingUpdate.maxUnavailable", unavailable, "must not be greater than 100%"
                )
        case other:
            problems.unsupported("spec.strategy.type", other, ("Recreate", "RollingUpdate"))


def validate_count(path: str, value: Any, problems: Problems) -> None:
    """Check a number of pods, or a percentage."""
    if isinstance(value, str):
        problems.format(path, value, formats.percentage(value))
    else:
        problems.at_least(path, value, 0)


def is_zero(value: Any) -> bool:
    return value == 0 or (isinstance(value, str) and value.rstrip("%").strip("0") == "" and value.endswith("%"))


def _deployment_row(document: Document, now: dt.datetime) -> list[Any]:
    spec, status = document["spec"], document.get("status", {})
    return [
        document["metadata"]["name"],
        f"{status.get('readyReplicas', 0)}/{spec['replicas']}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        created(document, now),
        *template_cells(spec),
    ]


DEPLOYMENTS = Resource(
    group="apps",
    version="v1",
    kind="Deployment",
    plural="deployments",
    singular="deployment",
    short_names=("deploy",),
    categories=("all",),
    subresources=("status", "scale"),
    default=_default_deployment,
    validate=_validate_deployment,
    validate_update=_immutable_selector,
    initial_status=lambda _: {},
    columns=(
        NAME,
        Column("Ready", description="Pods that are ready, of all that should be"),
        Column("Up-to-date", "integer", "Pods of the newest template"),
        Column("Available", "integer", "Pods that have been ready for minReadySeconds"),
        AGE,
        *TEMPLATE_COLUMNS,
    ),
    row=_deployment_row,
    has_generation=True,
)

RESOURCES = (DEPLOYMENTS, REPLICA_SETS)
