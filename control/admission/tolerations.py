"""Default tolerations: how long a pod stays bound to a node that is not ready or not heard of.

Added to every pod that does not say so itself (a toleration of that taint, or of every taint, with effect NoExecute or
any). Seconds: `Config`. Source: Kubernetes' DefaultTolerationSeconds.
"""

from __future__ import annotations

from typing import Any

from control.admission.chain import CREATE, Request, View
from steersman.errors import ApiError

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"


def admit(request: Request, view: View) -> ApiError | None:
    if request.operation != CREATE or not request.concerns("pods") or request.subresource:
        return None
    assert request.document is not None
    spec = request.document["spec"]
    present = spec.get("tolerations", [])
    added = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
        for key, seconds in ((NOT_READY, view.config.not_ready_seconds), (UNREACHABLE, view.config.unreachable_seconds))
        if not any(_covers(toleration, key) for toleration in present)
    ]
    if added:
        spec["tolerations"] = [*present, *added]
    return None


def _covers(toleration: dict[str, Any], key: str) -> bool:
    return toleration.get("key", "") in ("", key) and toleration.get("effect", "") in ("", "NoExecute")
