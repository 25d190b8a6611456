"""TaintToleration: the fewer PreferNoSchedule taints a pod must put up with, the better."""

from __future__ import annotations

import numpy as np

from control.scheduler.nodes import Mask, NodeTable, Scores
from control.scheduler.plugin import TOP, Score, fewest_best
from control.scheduler.pod import PodFacts
from control.taints import PREFER_NO_SCHEDULE, tolerates
from steersman.types.core import Taint


def rate(pod: PodFacts, nodes: NodeTable, among: Mask) -> Scores | float:
    column, sets = nodes.taint_sets()
    against = np.array([_against(pod, taints) for taints in sets], np.float64)
    if not against.any():
        return TOP
    return fewest_best(against[column], among)


def _against(pod: PodFacts, taints: tuple[Taint, ...]) -> int:
    return sum(
        taint.effect == PREFER_NO_SCHEDULE and not any(tolerates(one, taint) for one in pod.tolerations)
        for taint in taints
    )


SCORE = Score("TaintToleration", rate, weight=3.0)
