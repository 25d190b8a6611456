"""The scale subresource (autoscaling/v1 Scale): one number out of many kinds' specs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.registry.codec import copy
from control.registry.problems import Problems
from control.registry.resources import Document, Resource
from control.registry.selectors import parsed
from control.registry.strategy import check_preconditions
from steersman.errors import ApiError, bad_request


def _require_scale(resource: Resource) -> None:
    if "scale" not in resource.subresources:
        raise ApiError("NotFound", f"{resource.qualified} can't be scaled: they have no subresource scale")


def to_scale(resource: Resource, document: Mapping[str, Any]) -> Document:
    """The Scale of an object.

    Raises:
        ApiError: 404, the kind can't be scaled.
    """
    _require_scale(resource)
    meta, spec = document["metadata"], document["spec"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: meta[name] for name in kept if name in meta},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {
            "replicas": document.get("status", {}).get("replicas", 0),
            "selector": str(parsed(spec.get("selector"))),
        },
    }


def from_scale(resource: Resource, current: Mapping[str, Any], scale: Mapping[str, Any]) -> Document:
    """The object with the number of replicas that the Scale asks for; hand it to `prepare_update`.

    Raises:
        ApiError: 400, it is not a Scale; 404, the kind can't be scaled; 409, it was made from another state; 422, the
            number is not one.
    """
    _require_scale(resource)
    meta, spec = scale.get("metadata") or {}, scale.get("spec") or {}
    if scale.get("kind", "Scale") != "Scale" or not isinstance(meta, dict) or not isinstance(spec, dict):
        raise bad_request("the body of the scale subresource must be an autoscaling/v1 Scale")
    check_preconditions(
        resource, current["metadata"], uid=meta.get("uid", ""), revision=meta.get("resourceVersion", "")
    )
    replicas = spec.get("replicas", 0)
    problems = Problems()
    if type(replicas) is not int:
        problems.invalid("spec.replicas", replicas, "must be a whole number")
    problems.at_least("spec.replicas", replicas, 0)
    problems.refuse("Scale", current["metadata"]["name"], "autoscaling")
    document = copy(dict(current))
    document["spec"]["replicas"] = replicas
    return document
