"""What makes one node better than another, with Kubernetes' weights."""

from __future__ import annotations

from control.scheduler.plugin import Score
from control.scheduler.scores import (
    balanced_allocation,
    inter_pod_affinity,
    least_allocated,
    node_affinity,
    pod_topology_spread,
    taint_toleration,
)

DEFAULT: tuple[Score, ...] = (
    taint_toleration.SCORE,
    node_affinity.SCORE,
    pod_topology_spread.SCORE,
    inter_pod_affinity.SCORE,
    least_allocated.SCORE,
    balanced_allocation.SCORE,
)
