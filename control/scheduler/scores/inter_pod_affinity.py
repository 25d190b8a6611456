"""InterPodAffinity: the domains of pods that a pod would be near, or far from, by the weights of the preferred terms.

It works both ways, as in Kubernetes: a placed pod that prefers to be near such a pod (or must be, which counts HARD) pulls it,
one that prefers to be far pushes it away. Every matching pod of a domain counts, for each node of that domain.
"""

from __future__ import annotations

import numpy as np

from control.scheduler.nodes import Counts, Mask, NodeTable, Scores, counts
from control.scheduler.plugin import TOP, Score
from control.scheduler.pod import PodFacts, PodTerm


def rate(pod: PodFacts, nodes: NodeTable, among: Mask) -> Scores | float:
    if not pod.preferences and not nodes.leanings:
        return 0.0
    total = np.zeros(nodes.size, np.float64)
    for weight, term in pod.preferences:
        total += weight * _by_domain(term, nodes, nodes.counted((term.namespaces, term.selector)))
    for (weight, term), places in nodes.leanings.items():
        if counts((term.namespaces, term.selector), pod):
            there = np.zeros(nodes.size, np.int32)
            there[list(places)] = list(places.values())
            total += weight * _by_domain(term, nodes, there)
    low = float(np.min(total, where=among, initial=np.inf))
    high = float(np.max(total, where=among, initial=-np.inf))
    return TOP * (total - low) / (high - low) if high > low else 0.0


def _by_domain(term: PodTerm, nodes: NodeTable, pods: Counts) -> Scores:
    """For each node, how many of the pods (given per node) are in its domain."""
    column, values = nodes.codes(term.topology_key)
    if not values:
        return np.zeros(nodes.size, np.float64)
    labelled = column >= 0
    per_domain = np.bincount(column[labelled], weights=pods[labelled], minlength=len(values))
    return np.where(labelled, per_domain[np.maximum(column, 0)], 0.0)


SCORE = Score("InterPodAffinity", rate, weight=2.0)
