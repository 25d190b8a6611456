"""NodeResourcesFit: what the pod requests must be left of the node's allocatable, also one of its number of pods."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from control.scheduler.nodes import Mask, NodeTable
from control.scheduler.plugin import Change, Filter, Refusal
from control.scheduler.pod import PODS, PodFacts
from steersman import quantity


def refuse(pod: PodFacts, nodes: NodeTable) -> Sequence[Refusal]:
    refusals = []
    for resource, amount in pod.requests.items():
        if amount == 0:
            continue
        short = nodes.free(resource) < amount
        if short.any():
            reason = "Too many pods" if resource == PODS else f"Insufficient {resource}"
            refusals.append(Refusal(reason, short, partial(_numbers, resource, amount, nodes)))
    return refusals


def _numbers(resource: str, amount: int, nodes: NodeTable, refused: Mask) -> str:
    """ "4 requested, at most 1500m of 2 free on node-1": what would have to change."""
    free = nodes.free(resource)
    row = max((int(row) for row in refused.nonzero()[0]), key=lambda r: (int(free[r]), nodes.names[r]))
    total = int(nodes.allocatable[nodes.resources[resource], row])
    left = quantity.render(resource, max(int(free[row]), 0))
    if resource == PODS:
        return f"{nodes.names[row]} has {total - int(free[row])} of {total}"
    asked = quantity.render(resource, amount)
    return f"{asked} requested, at most {left} of {quantity.render(resource, total)} free on {nodes.names[row]}"


FILTER = Filter("NodeResourcesFit", refuse, Change.NODE_ADDED | Change.NODE_ALLOCATABLE | Change.POD_REMOVED)
