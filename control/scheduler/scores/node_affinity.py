"""NodeAffinity: the preferred terms that a node matches, by their weights."""

from __future__ import annotations

import numpy as np

from control.scheduler.filters.node_affinity import matching
from control.scheduler.nodes import Mask, NodeTable, Scores
from control.scheduler.plugin import TOP, Score
from control.scheduler.pod import PodFacts


def rate(pod: PodFacts, nodes: NodeTable, among: Mask) -> Scores | float:
    if not pod.preferred_nodes:
        return 0.0
    total = np.zeros(nodes.size, np.float64)
    for term in pod.preferred_nodes:
        total += term.weight * matching(term.preference, nodes)
    highest = float(np.max(total, where=among, initial=0.0))
    return TOP * total / highest if highest > 0 else 0.0


SCORE = Score("NodeAffinity", rate, weight=2.0)
