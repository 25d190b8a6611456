"""PodTopologySpread: keep the pods of one owner apart, by node and by zone (Kubernetes' system defaults).

The weight of a topology grows with the logarithm of its number of domains, so that three zones and a thousand nodes
both count.
"""

from __future__ import annotations

import math

import numpy as np

from control.scheduler.nodes import Mask, NodeTable, Scores
from control.scheduler.plugin import TOP, Score, fewest_best
from control.scheduler.pod import PodFacts

ZONE = "topology.kubernetes.io/zone"


def rate(pod: PodFacts, nodes: NodeTable, among: Mask) -> Scores | float:
    if not pod.owner:
        return TOP
    counts = nodes.counted(pod.owner)
    against: Scores = counts.astype(np.float64) * math.log(int(among.sum()) + 2)
    column, values = nodes.codes(ZONE)
    if values:
        per_zone = np.bincount(column[column >= 0], weights=counts[column >= 0], minlength=len(values))
        against += np.where(column >= 0, per_zone[np.maximum(column, 0)], 0.0) * math.log(len(values) + 2)
    return fewest_best(against, among)


SCORE = Score("PodTopologySpread", rate, weight=2.0)
