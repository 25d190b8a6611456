"""When a node that lost its lease must stop its pods.

The control plane calls a node unreachable when no heartbeat of it came for the lease and a margin, taints it, and
evicts each pod after the time that the pod tolerates the taint `node.kubernetes.io/unreachable:NoExecute`. The agent
stops the same pod *before* that: the lease and the tolerated time after it **sent** the last heartbeat that was
acknowledged. Sending comes before the leader's receiving, and the margin is the leader's, so as long as the two
clocks run at the same rate within the margin, an evicted pod is dead before its replacement starts. Both sides count
on monotonic clocks; nobody compares wall clocks.

An agent that does not run cannot fence. Whoever supervises it must start it again at once; it then looks at the lease
that it held, which is on disk, and stops what should have been stopped before it does anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from steersman.types.core import Pod, Toleration

UNREACHABLE = "node.kubernetes.io/unreachable"


@dataclass(frozen=True, slots=True)
class Fence:
    """A pod must be stopped, and why."""

    uid: str
    reason: str


def tolerated_seconds(tolerations: Iterable[Toleration]) -> float:
    """How long a pod stays on an unreachable node: 0 without a toleration, infinity when one sets no limit.

    With several matching tolerations the shortest time counts, a negative time as 0 (Kubernetes' taint manager).
    """
    times = [
        math.inf if toleration.toleration_seconds is None else max(0.0, float(toleration.toleration_seconds))
        for toleration in tolerations
        if toleration.effect in ("", "NoExecute")
        and (toleration.key == UNREACHABLE or (not toleration.key and toleration.operator == "Exists"))
        and (toleration.operator == "Exists" or not toleration.value)
    ]
    return min(times, default=0.0)


def deadline(pod: Pod, acknowledged: float, lease_s: float) -> float:
    """The monotonic time at which a pod must be stopped; infinity: never.

    `acknowledged` is when the last acknowledged heartbeat was sent.
    """
    return acknowledged + lease_s + tolerated_seconds(pod.spec.tolerations)


def fence(pods: Mapping[str, Pod], acknowledged: float, lease_s: float, now: float) -> list[Fence]:
    """The pods (by uid) that must be stopped now."""
    silent = now - acknowledged
    return [
        Fence(
            uid,
            f"no heartbeat was acknowledged for {silent:.1f} s: the lease of {lease_s:g} s and the pod's"
            f" {tolerated_seconds(pod.spec.tolerations):g} s of toleration are over",
        )
        for uid, pod in pods.items()
        if now >= deadline(pod, acknowledged, lease_s)
    ]


def next_deadline(pods: Iterable[Pod], acknowledged: float, lease_s: float) -> float:
    """The earliest deadline of all; infinity when there is none."""
    return min((deadline(pod, acknowledged, lease_s) for pod in pods), default=math.inf)
