"""Taints against tolerations (Kubernetes' rules): which pods may be on a node, and for how long."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from steersman.clock import parse_time
from steersman.types.core import Taint, Toleration

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
NO_SCHEDULE, NO_EXECUTE, PREFER_NO_SCHEDULE = "NoSchedule", "NoExecute", "PreferNoSchedule"


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Whether one toleration covers one taint."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value


def eviction_time(tolerations: Iterable[Toleration], taints: Iterable[Taint], now: dt.datetime) -> dt.datetime | None:
    """When a pod must leave a node for its NoExecute taints; None: it may stay.

    A taint that nothing tolerates means now. A tolerated one means timeAdded plus the shortest tolerationSeconds of the
    tolerations that cover it, or never when none of them has a limit.
    """
    tolerations = tuple(tolerations)
    leave: dt.datetime | None = None
    for taint in taints:
        if taint.effect != NO_EXECUTE:
            continue
        covering = [one for one in tolerations if tolerates(one, taint)]
        if not covering:
            return now
        seconds = [one.toleration_seconds for one in covering if one.toleration_seconds is not None]
        if seconds:
            since = parse_time(taint.time_added) if taint.time_added else now
            at = since + dt.timedelta(seconds=max(min(seconds), 0))
            leave = at if leave is None else min(leave, at)
    return leave
