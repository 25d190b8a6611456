"""InterPodAffinity: required affinity and anti-affinity to pods, by topology domain.

A pod goes only into domains that hold a pod matching each of its affinity terms; the first of a group that attracts
itself may go anywhere that has the labels. It stays out of domains that hold pods matching its anti-affinity, and out of
those whose pods' anti-affinity matches it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from control.scheduler.nodes import Mask, NodeTable, counts
from control.scheduler.plugin import Change, Filter, Refusal
from control.scheduler.pod import PodFacts, PodTerm

AFFINITY = "node(s) didn't match pod affinity rules"
ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
REPELLED = "node(s) didn't satisfy existing pods anti-affinity rules"


def refuse(pod: PodFacts, nodes: NodeTable) -> Sequence[Refusal]:
    refusals = []
    if pod.affinity:
        refusals.append(Refusal(AFFINITY, ~_attracted(pod, nodes)))
    for term in pod.anti_affinity:
        refusals.append(Refusal(ANTI_AFFINITY, _domains_with(term, nodes)))
    if nodes.repelling:
        repelled = np.zeros(nodes.size, np.bool_)
        for row, other in nodes.repelling.values():
            for term in other.anti_affinity:
                if other.uid != pod.uid and counts((term.namespaces, term.selector), pod):
                    column, _ = nodes.codes(term.topology_key)
                    if column[row] >= 0:
                        repelled |= column == column[row]
        refusals.append(Refusal(REPELLED, repelled))
    return refusals


def _attracted(pod: PodFacts, nodes: NodeTable) -> Mask:
    mask = np.ones(nodes.size, np.bool_)
    labelled = np.ones(nodes.size, np.bool_)
    anyone = False
    for term in pod.affinity:
        there = _domains_with(term, nodes)
        anyone = anyone or bool(there.any())
        mask &= there
        labelled &= nodes.codes(term.topology_key)[0] >= 0
    if not anyone and all(counts((term.namespaces, term.selector), pod) for term in pod.affinity):
        return labelled
    return mask


def _domains_with(term: PodTerm, nodes: NodeTable) -> Mask:
    """Nodes in a domain that holds a matching pod."""
    column, values = nodes.codes(term.topology_key)
    if not values:
        return np.zeros(nodes.size, np.bool_)
    there = nodes.counted((term.namespaces, term.selector)) > 0
    occupied = np.zeros(len(values), np.bool_)
    occupied[column[there & (column >= 0)]] = True
    return (column >= 0) & occupied[np.maximum(column, 0)]


FILTER = Filter(
    "InterPodAffinity",
    refuse,
    Change.NODE_ADDED | Change.NODE_LABELS | Change.POD_PLACED | Change.POD_REMOVED,
)
