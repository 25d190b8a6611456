"""The rules that a node must keep to take a pod, in the order in which they are tried: cheap and final ones first."""

from __future__ import annotations

from control.scheduler.filters import (
    inter_pod_affinity,
    node_affinity,
    node_name,
    node_ports,
    node_resources_fit,
    node_unschedulable,
    pod_topology_spread,
    taint_toleration,
)
from control.scheduler.plugin import Filter

DEFAULT: tuple[Filter, ...] = (
    node_unschedulable.FILTER,
    node_name.FILTER,
    taint_toleration.FILTER,
    node_affinity.FILTER,
    node_ports.FILTER,
    node_resources_fit.FILTER,
    pod_topology_spread.FILTER,
    inter_pod_affinity.FILTER,
)
