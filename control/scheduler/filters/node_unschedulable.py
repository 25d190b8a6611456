"""NodeUnschedulable: a cordoned node takes only pods that tolerate it."""

from __future__ import annotations

from collections.abc import Sequence

from control.scheduler.nodes import NodeTable
from control.scheduler.plugin import Change, Filter, Refusal
from control.scheduler.pod import PodFacts
from control.taints import NO_SCHEDULE, UNSCHEDULABLE, tolerates
from steersman.types.core import Taint

REASON = "node(s) were unschedulable"
CORDON = Taint(key=UNSCHEDULABLE, effect=NO_SCHEDULE)


def refuse(pod: PodFacts, nodes: NodeTable) -> Sequence[Refusal]:
    if any(tolerates(one, CORDON) for one in pod.tolerations):
        return ()
    return (Refusal(REASON, nodes.unschedulable.copy()),)


FILTER = Filter("NodeUnschedulable", refuse, Change.NODE_ADDED | Change.NODE_TAINTS, static=True)
