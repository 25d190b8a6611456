"""PodTopologySpread: with DoNotSchedule, no domain may have more than maxSkew matching pods over the emptiest one.

Domains are the label's values among the nodes that the pod's node selector and affinity admit (KEP-895, KEP-3094).
With fewer than minDomains of them, the emptiest counts as empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from control.scheduler.filters.node_affinity import allowed
from control.scheduler.nodes import Mask, NodeTable
from control.scheduler.plugin import Change, Filter, Refusal
from control.scheduler.pod import PodFacts, Spread

REASON = "node(s) didn't match pod topology spread constraints"
MISSING = f"{REASON} (missing required label)"


def refuse(pod: PodFacts, nodes: NodeTable) -> Sequence[Refusal]:
    if not pod.spreads:
        return ()
    admitted = nodes.alive & allowed(pod, nodes)
    for spread in pod.spreads:
        admitted &= nodes.codes(spread.topology_key)[0] >= 0
    refusals: list[Refusal] = []
    for spread in pod.spreads:
        refusals.extend(_one(pod, spread, nodes, admitted))
    return refusals


def _one(pod: PodFacts, spread: Spread, nodes: NodeTable, admitted: Mask) -> Sequence[Refusal]:
    column, values = nodes.codes(spread.topology_key)
    missing = Refusal(MISSING, column < 0)
    if not values or not admitted.any():
        return (missing,)
    counts = nodes.counted((frozenset((pod.namespace,)), spread.selector))
    per_domain = np.bincount(column[admitted], weights=counts[admitted], minlength=len(values))
    exists = np.bincount(column[admitted], minlength=len(values)) > 0
    least = float(per_domain[exists].min()) if int(exists.sum()) >= spread.min_domains else 0.0
    itself = 1 if spread.selector.matches(pod.labels) else 0
    full = per_domain + itself - least > spread.max_skew
    too_many = (column >= 0) & full[np.maximum(column, 0)]
    numbers = partial(_numbers, spread, int(least))
    return (missing, Refusal(REASON, too_many, numbers)) if too_many.any() else (missing,)


def _numbers(spread: Spread, least: int, refused: Mask) -> str:  # noqa: ARG001 - the same for every node
    return f"maxSkew {spread.max_skew} over {spread.topology_key}, the emptiest domain has {least}"


FILTER = Filter(
    "PodTopologySpread",
    refuse,
    Change.NODE_ADDED | Change.NODE_LABELS | Change.POD_PLACED | Change.POD_REMOVED,
)
