"""NodeName: a pod that names its node goes there or nowhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from control.scheduler.nodes import NodeTable
from control.scheduler.plugin import Change, Filter, Refusal
from control.scheduler.pod import PodFacts

REASON = "node(s) didn't match the requested node name"


def refuse(pod: PodFacts, nodes: NodeTable) -> Sequence[Refusal]:
    if not pod.node_name:
        return ()
    others = np.ones(nodes.size, np.bool_)
    if pod.node_name in nodes.rows:
        others[nodes.rows[pod.node_name]] = False
    return (Refusal(REASON, others),)


FILTER = Filter("NodeName", refuse, Change.NODE_ADDED, static=True)
