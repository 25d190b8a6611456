"""NodePorts: a host port can be given to one pod of a node, per protocol and address; 0.0.0.0 is every address."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from control.scheduler.nodes import NodeTable
from control.scheduler.plugin import Change, Filter, Refusal
from control.scheduler.pod import HostPort, PodFacts

REASON = "node(s) didn't have free ports for the requested pod ports"
ANY = "0.0.0.0"


def refuse(pod: PodFacts, nodes: NodeTable) -> Sequence[Refusal]:
    if not pod.ports:
        return ()
    taken = np.zeros(nodes.size, np.bool_)
    for row, by_pod in nodes.ports.items():
        if any(clash(pod.ports, theirs) for uid, theirs in by_pod.items() if uid != pod.uid):
            taken[row] = True
    return (Refusal(REASON, taken),)


def clash(wanted: Iterable[HostPort], taken: Iterable[HostPort]) -> bool:
    """Whether two sets of host ports cannot be on one node."""
    return any(
        protocol == other and port == number and (address == theirs or ANY in (address, theirs))
        for protocol, address, port in wanted
        for other, theirs, number in taken
    )


FILTER = Filter("NodePorts", refuse, Change.NODE_ADDED | Change.POD_REMOVED)
