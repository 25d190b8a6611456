"""What filters and scores are.

A filter answers for all nodes at once: `Refusal`s, each a reason with the nodes that it holds for. No refusal means
that every node will do. A score rates all nodes from 0 to 100; only the ratings of nodes that passed are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Flag, auto

import numpy as np

from control.scheduler.nodes import Mask, NodeTable, Scores
from control.scheduler.pod import PodFacts

TOP = 100.0  # of a score


class Change(Flag):
    """What happened to the cluster: wakes the pods whose refusal it may lift."""

    NODE_ADDED = auto()
    NODE_LABELS = auto()
    NODE_TAINTS = auto()  # also cordon and uncordon
    NODE_ALLOCATABLE = auto()
    POD_PLACED = auto()
    POD_REMOVED = auto()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Attributes:
    reason: Kubernetes' words, as "Insufficient cpu".
    nodes: those that are refused for it.
    detail: the numbers behind it for the nodes that it was decisive for; called only when no node is left.
    kind: the reason without its values, for metrics; `reason` when empty.
    """

    reason: str
    nodes: Mask
    detail: Callable[[Mask], str] | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Filter:
    """Attributes:
    refuse: the rule. `candidates` are the nodes that earlier filters left; it may ignore them.
    static: the verdict depends on labels, taints and names of nodes alone, so pods of one signature share it.
    wakes: changes that may lift its refusal.
    """

    name: str
    refuse: Callable[[PodFacts, NodeTable], Sequence[Refusal]]
    wakes: Change
    static: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """Attributes:
    rate: the rule, given the nodes that passed every filter.
    weight: how much it counts among the scores.
    """

    name: str
    rate: Callable[[PodFacts, NodeTable, Mask], Scores | float]
    weight: float = 1.0


def fewest_best(raw: Scores, among: Mask) -> Scores | float:
    """Turn "how much is against it" into a score: the least gets the most."""
    highest = float(np.max(raw, where=among, initial=0.0))
    if highest <= 0:
        return TOP
    return TOP * (1.0 - raw / highest)
