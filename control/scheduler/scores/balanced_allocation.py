"""BalancedAllocation: better where CPU and memory are used to like parts, so that neither is left over alone."""

from __future__ import annotations

import numpy as np

from control.scheduler.nodes import Mask, NodeTable, Scores
from control.scheduler.plugin import TOP, Score
from control.scheduler.pod import PodFacts
from control.scheduler.scores.least_allocated import fractions


def rate(pod: PodFacts, nodes: NodeTable, among: Mask) -> Scores:  # noqa: ARG001 - the form of a score
    used = np.minimum(fractions(pod, nodes), 1.0)
    deviation: Scores = np.abs(used[0] - used[1]) / 2.0  # the standard deviation of two numbers
    return TOP * (1.0 - deviation)


SCORE = Score("NodeResourcesBalancedAllocation", rate, weight=1.0)
