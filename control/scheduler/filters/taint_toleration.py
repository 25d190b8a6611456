"""TaintToleration: a NoSchedule or NoExecute taint keeps pods away that do not tolerate it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from control.scheduler.nodes import NodeTable
from control.scheduler.plugin import Change, Filter, Refusal
from control.scheduler.pod import PodFacts
from control.taints import PREFER_NO_SCHEDULE, tolerates
from steersman.types.core import Taint


def refuse(pod: PodFacts, nodes: NodeTable) -> Sequence[Refusal]:
    column, sets = nodes.taint_sets()
    refused: dict[str, list[int]] = {}
    for number, taints in enumerate(sets):
        taint = untolerated(pod, taints)
        if taint is not None:
            refused.setdefault(f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}", []).append(number)
    return [
        Refusal(reason, np.isin(column, numbers), kind="node(s) had untolerated taint")
        for reason, numbers in refused.items()
    ]


def untolerated(pod: PodFacts, taints: Sequence[Taint]) -> Taint | None:
    """The first taint that keeps the pod away, or None."""
    for taint in taints:
        if taint.effect != PREFER_NO_SCHEDULE and not any(tolerates(one, taint) for one in pod.tolerations):
            return taint
    return None


FILTER = Filter("TaintToleration", refuse, Change.NODE_ADDED | Change.NODE_TAINTS, static=True)
