"""Decide where pods go. Pure: the same nodes and pods give the same decisions.

Pods are taken in the order given; each is placed into the table before the next is looked at, so a batch of pods never
overbooks a node. Filters run in order, each only about nodes that the ones before left; the reasons of all are kept.
Of equally rated nodes the pod's uid picks one, so equal nodes fill evenly without chance.

Verdicts that depend on labels, taints and names alone are remembered per signature of pod until nodes change: the
pods of one Deployment share them. Cost per pod is a few dozen NumPy operations over all nodes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from control.scheduler import filters, scores
from control.scheduler.nodes import Mask, NodeTable, Scores
from control.scheduler.plugin import Filter, Refusal, Score
from control.scheduler.pod import PodFacts

VERDICTS_MAX = 512  # signatures remembered; each holds a byte per node and reason
TIE = 1e-6  # ratings closer than this are equal: sums of floats


@dataclass(frozen=True, slots=True)
class Profile:
    """A scheduler by name: pods choose it with spec.schedulerName."""

    name: str = "default-scheduler"
    filters: tuple[Filter, ...] = filters.DEFAULT
    scores: tuple[Score, ...] = scores.DEFAULT


@dataclass(frozen=True, slots=True)
class Refused:
    """Why some nodes were refused: how many, by which filter, and the numbers behind it."""

    plugin: str
    reason: str
    count: int
    detail: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a pod goes: `node`, or "" with the refusals of all `nodes` there are."""

    pod: PodFacts
    node: str = ""
    nodes: int = 0
    refused: tuple[Refused, ...] = ()

    @property
    def plugins(self) -> frozenset[str]:
        """The filters that must change their mind before the pod can go anywhere."""
        return frozenset(one.plugin for one in self.refused)


@dataclass(slots=True)
class Verdicts:
    """Remembered answers of static filters, by filter and signature; dropped when nodes change."""

    generation: int = -1
    known: dict[tuple[str, bytes], Sequence[Refusal]] = field(default_factory=dict)

    def ask(self, rule: Filter, pod: PodFacts, nodes: NodeTable) -> Sequence[Refusal]:
        if not rule.static:
            return rule.refuse(pod, nodes)
        if self.generation != nodes.generation or len(self.known) > VERDICTS_MAX:
            self.known.clear()
            self.generation = nodes.generation
        key = (rule.name, pod.signature)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = rule.refuse(pod, nodes)
        return found


def schedule(
    nodes: NodeTable, pods: Sequence[PodFacts], profile: Profile, verdicts: Verdicts | None = None
) -> list[Decision]:
    """Place pods one after the other; those that get a node are in `nodes` afterwards."""
    verdicts = verdicts or Verdicts()
    decisions = []
    for pod in pods:
        decision = place(nodes, pod, profile, verdicts)
        if decision.node:
            nodes.place(pod, decision.node)
        decisions.append(decision)
    return decisions


def place(nodes: NodeTable, pod: PodFacts, profile: Profile, verdicts: Verdicts) -> Decision:
    """Choose a node for one pod; changes nothing."""
    left = nodes.alive.copy()
    found: list[tuple[Filter, Refusal, Mask]] = []
    for rule in profile.filters:
        refusals = verdicts.ask(rule, pod, nodes)
        if not refusals:
            continue
        before = left
        left = before.copy()
        for refusal in refusals:
            left &= ~refusal.nodes
            found.append((rule, refusal, before))
        if not left.any():
            break
    candidates = np.flatnonzero(left)
    if candidates.size == 0:
        return Decision(pod, nodes=nodes.count, refused=_explained(found))
    if candidates.size == 1:
        return Decision(pod, nodes.names[int(candidates[0])], nodes.count)
    total = rate(nodes, pod, profile, left)[candidates]
    best = float(total.max())
    tied = candidates[total >= best - TIE]
    row = int(tied[zlib.crc32(pod.uid.encode()) % tied.size])
    return Decision(pod, nodes.names[row], nodes.count)


def rate(nodes: NodeTable, pod: PodFacts, profile: Profile, among: Mask) -> Scores:
    """The weighted sum of all scores, per row."""
    total = np.zeros(nodes.size, np.float64)
    for score in profile.scores:
        total += score.weight * score.rate(pod, nodes, among)
    return total


def _explained(found: Sequence[tuple[Filter, Refusal, Mask]]) -> tuple[Refused, ...]:
    refused = []
    for rule, refusal, before in found:
        hit = refusal.nodes & before
        count = int(hit.sum())
        if count:
            detail = refusal.detail(hit) if refusal.detail is not None else ""
            refused.append(Refused(rule.name, refusal.reason, count, detail, refusal.kind or refusal.reason))
    return tuple(refused)
