"""Priority: the number behind a pod's priority class. Pods without a class have 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from control.admission.chain import CREATE, Request, View
from steersman.errors import ApiError, forbidden

# The classes that every cluster has.
BUILT_IN: Final[Mapping[str, int]] = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


def admit(request: Request, _view: View) -> ApiError | None:
    if request.operation != CREATE or not request.concerns("pods") or request.subresource:
        return None
    assert request.document is not None
    spec = request.document["spec"]
    name = spec.get("priorityClassName", "")
    if name and name not in BUILT_IN:
        return forbidden("pods", request.name, f"no PriorityClass with name {name} was found")
    value = BUILT_IN.get(name, 0)
    if spec.get("priority", value) != value:
        return forbidden(
            "pods",
            request.name,
            f"spec.priority is {spec['priority']}, but {f'class {name}' if name else 'a pod without a priority class'} has "
            f"{value}: leave priority out and name a priorityClassName",
        )
    spec["priority"] = value
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    return None
