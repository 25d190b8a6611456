"""LeastAllocated: the emptier a node is with the pod on it, in CPU and memory alike, the better."""

from __future__ import annotations

import numpy as np

from control.scheduler.nodes import Mask, NodeTable, Scores
from control.scheduler.plugin import TOP, Score
from control.scheduler.pod import PodFacts


def rate(pod: PodFacts, nodes: NodeTable, among: Mask) -> Scores:  # noqa: ARG001 - the form of a score
    used: Scores = np.minimum(fractions(pod, nodes), 1.0).mean(axis=0)
    return TOP * (1.0 - used)


def fractions(pod: PodFacts, nodes: NodeTable) -> Scores:
    """Two rows, CPU and memory: the part of each node's allocatable that is in use with the pod on it."""
    added = np.array([[pod.score_cpu], [pod.score_memory]], np.int64)
    return (nodes.scored + added) / np.maximum(nodes.allocatable[:2], 1)


SCORE = Score("NodeResourcesFit", rate, weight=1.0)
