"""The cluster as arrays: one row per node, changed in place as nodes and pods change.

Amounts are int64 in millicores, bytes and units. A row lives as long as its node or pods placed on it; a row without
a node is not `alive` and is never chosen. Values of a label are numbered, so that "the nodes of this zone" is one
comparison of an integer array; these columns are made when first asked for and dropped when nodes change.

A placed pod is bound, or assumed to be: `place` with the same uid replaces what was known, so the watch event that
confirms an assumption changes nothing. Counts of pods per node that match a selector or have an owner are made by
going through all pods once, then kept current.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from control.scheduler.pod import PODS, Leaning, PodFacts
from steersman import quantity
from steersman.selectors import Selector
from steersman.types import Node
from steersman.types.core import Taint

Mask = npt.NDArray[np.bool_]
Amounts = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int32]

FIRST_ROWS = 16
COUNTERS_MAX = 128  # selectors whose counts are kept: 4 bytes per node each
BASIC = ("cpu", "memory", "ephemeral-storage", PODS)
HOSTNAME = "kubernetes.io/hostname"

# Which pods a counter counts: an owner's uid, or namespaces (None: all) and a selector.
Group = str | tuple[frozenset[str] | None, Selector]


class NodeTable:
    """Nodes and the pods on them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rows: dict[str, int] = {}
        self.resources: dict[str, int] = {name: index for index, name in enumerate(BASIC)}
        self.allocatable: Amounts = np.zeros((len(BASIC), FIRST_ROWS), np.int64)
        self.used: Amounts = np.zeros((len(BASIC), FIRST_ROWS), np.int64)
        self.scored: Amounts = np.zeros((2, FIRST_ROWS), np.int64)  # cpu and memory with defaults for no request
        self.alive: Mask = np.zeros(FIRST_ROWS, np.bool_)
        self.unschedulable: Mask = np.zeros(FIRST_ROWS, np.bool_)
        self.labels: list[dict[str, str]] = []
        self.taints: list[tuple[Taint, ...]] = []
        self.ports: dict[int, dict[str, frozenset[tuple[str, str, int]]]] = {}
        self.pods: dict[str, tuple[int, PodFacts]] = {}
        self.repelling: dict[str, tuple[int, PodFacts]] = {}  # placed pods with required anti-affinity
        self.leanings: dict[Leaning, dict[int, int]] = {}  # of placed pods: on which rows how many lean so
        self.generation = 0  # raised when labels, taints or the set of nodes change: static verdicts are then stale
        self._pods_on: list[int] = []
        self._free: list[int] = []
        self._codes: dict[str, tuple[Counts, list[str]]] = {}
        self._counters: OrderedDict[Group, Counts] = OrderedDict()
        self._taint_sets: tuple[Counts, list[tuple[Taint, ...]]] | None = None

    @property
    def size(self) -> int:
        """Rows of the arrays."""
        return len(self.alive)

    @property
    def count(self) -> int:
        """Nodes that exist."""
        return int(self.alive.sum())

    # --- nodes ---

    def set_node(self, node: Node) -> None:
        """Add a node, or change what is known of it."""
        row = self._row(node.name)
        labels = {HOSTNAME: node.name, **node.metadata.labels}
        changed = (
            not self.alive[row]
            or self.labels[row] != labels
            or self.taints[row] != node.spec.taints
            or bool(self.unschedulable[row]) != node.spec.unschedulable
        )
        for name, text in node.status.allocatable.items():
            self.allocatable[self._resource(name), row] = quantity.amount(name, text)
        for name, index in self.resources.items():
            if name not in node.status.allocatable:
                self.allocatable[index, row] = 0
        if changed:
            self.alive[row] = True
            self.unschedulable[row] = node.spec.unschedulable
            self.labels[row] = labels
            self.taints[row] = node.spec.taints
            self._nodes_changed()

    def remove_node(self, name: str) -> None:
        """Forget a node; its row stays while pods are bound to it."""
        row = self.rows.get(name)
        if row is None:
            return
        self.alive[row] = False
        self.allocatable[:, row] = 0
        self.labels[row] = {}
        self.taints[row] = ()
        self._nodes_changed()
        self._release(row)

    def _nodes_changed(self) -> None:
        self.generation += 1
        self._codes.clear()
        self._taint_sets = None

    def _row(self, name: str) -> int:
        row = self.rows.get(name)
        if row is not None:
            return row
        if self._free:
            row = self._free.pop()
            self.names[row] = name
        else:
            row = len(self.names)
            self.names.append(name)
            self.labels.append({})
            self.taints.append(())
            self._pods_on.append(0)
            if row >= self.size:
                self._grow()
        self.rows[name] = row
        return row

    def _grow(self) -> None:
        more = self.size
        self.allocatable = np.pad(self.allocatable, ((0, 0), (0, more)))
        self.used = np.pad(self.used, ((0, 0), (0, more)))
        self.scored = np.pad(self.scored, ((0, 0), (0, more)))
        self.alive = np.pad(self.alive, (0, more))
        self.unschedulable = np.pad(self.unschedulable, (0, more))
        for group, counter in self._counters.items():
            self._counters[group] = np.pad(counter, (0, more))
        self._nodes_changed()

    def _release(self, row: int) -> None:
        if not self.alive[row] and self._pods_on[row] == 0 and self.names[row] in self.rows:
            del self.rows[self.names[row]]
            self.unschedulable[row] = False
            self._free.append(row)

    def _resource(self, name: str) -> int:
        index = self.resources.get(name)
        if index is None:
            index = self.resources[name] = len(self.resources)
            self.allocatable = np.pad(self.allocatable, ((0, 1), (0, 0)))
            self.used = np.pad(self.used, ((0, 1), (0, 0)))
        return index

    # --- pods ---

    def place(self, pod: PodFacts, node: str) -> None:
        """Count a pod on a node, in place of what was known of the same pod."""
        known = self.pods.get(pod.uid)
        if known is not None:
            if self.names[known[0]] == node and known[1].revision == pod.revision:
                return
            self.remove(pod.uid)
        row = self._row(node)
        self.pods[pod.uid] = (row, pod)
        self._pods_on[row] += 1
        self._account(row, pod, 1)
        if pod.ports:
            self.ports.setdefault(row, {})[pod.uid] = pod.ports
        if pod.anti_affinity:
            self.repelling[pod.uid] = (row, pod)
        for leaning in pod.leanings:
            places = self.leanings.setdefault(leaning, {})
            places[row] = places.get(row, 0) + 1

    def remove(self, uid: str) -> bool:
        """Forget a pod; answers whether it was placed."""
        known = self.pods.pop(uid, None)
        if known is None:
            return False
        row, pod = known
        self._pods_on[row] -= 1
        self._account(row, pod, -1)
        self.repelling.pop(uid, None)
        for leaning in pod.leanings:
            places = self.leanings[leaning]
            places[row] -= 1
            if not places[row]:
                del places[row]
            if not places:
                del self.leanings[leaning]
        if pod.ports:
            self.ports[row].pop(uid, None)
            if not self.ports[row]:
                del self.ports[row]
        self._release(row)
        return True

    def _account(self, row: int, pod: PodFacts, sign: int) -> None:
        for name, amount in pod.requests.items():
            self.used[self._resource(name), row] += sign * amount
        self.scored[0, row] += sign * pod.score_cpu
        self.scored[1, row] += sign * pod.score_memory
        if pod.deleting:
            return  # on its way out: it occupies the node but does not count for spreading
        for group, counter in self._counters.items():
            if counts(group, pod):
                counter[row] += sign

    # --- columns ---

    def codes(self, key: str) -> tuple[Counts, list[str]]:
        """The label's value of each node as a number (-1: it has none), and the values by number."""
        found = self._codes.get(key)
        if found is None:
            values: dict[str, int] = {}
            column = np.full(self.size, -1, np.int32)
            for row, labels in enumerate(self.labels):
                value = labels.get(key)
                if value is not None:
                    column[row] = values.setdefault(value, len(values))
            found = self._codes[key] = (column, list(values))
        return found

    def having(self, key: str, values: Iterable[str]) -> Mask:
        """Nodes whose label has one of the values."""
        column, known = self.codes(key)
        wanted = [code for code, value in enumerate(known) if value in frozenset(values)]
        if len(wanted) == 1:
            return np.equal(column, wanted[0])
        return np.isin(column, wanted)

    def taint_sets(self) -> tuple[Counts, list[tuple[Taint, ...]]]:
        """The number of each node's set of taints, and the sets: there are few different ones."""
        if self._taint_sets is None:
            sets: dict[tuple[tuple[str, str, str], ...], int] = {}
            members: list[tuple[Taint, ...]] = []
            column = np.zeros(self.size, np.int32)
            for row, taints in enumerate(self.taints):
                key = tuple((taint.key, taint.value, taint.effect) for taint in taints)
                if key not in sets:
                    sets[key] = len(members)
                    members.append(taints)
                column[row] = sets[key]
            self._taint_sets = (column, members)
        return self._taint_sets

    def counted(self, group: Group) -> Counts:
        """Pods of the group on each node, those that are being deleted not counted."""
        counter = self._counters.get(group)
        if counter is not None:
            self._counters.move_to_end(group)
            return counter
        counter = np.zeros(self.size, np.int32)
        for row, pod in self.pods.values():
            if not pod.deleting and counts(group, pod):
                counter[row] += 1
        if len(self._counters) >= COUNTERS_MAX:
            self._counters.popitem(last=False)
        self._counters[group] = counter
        return counter

    def free(self, resource: str) -> Amounts:
        """What is left of a resource on each node."""
        index = self._resource(resource)
        left: Amounts = self.allocatable[index] - self.used[index]
        return left

    def named(self, mask: Mask) -> Sequence[str]:
        """Names of the nodes in a mask."""
        return [self.names[row] for row in np.flatnonzero(mask)]


def counts(group: Group, pod: PodFacts) -> bool:
    """Whether the pod belongs to the group."""
    if isinstance(group, str):
        return pod.owner == group
    namespaces, selector = group
    return (namespaces is None or pod.namespace in namespaces) and selector.matches(pod.labels)
