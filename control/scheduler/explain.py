"""A refusal as people read it: Kubernetes' sentence, with the numbers added.

0/3 nodes are available: 1 Insufficient cpu (4 requested, at most 1500m of 2 free on node-1), 2 node(s) had
untolerated taint {node.kubernetes.io/unreachable: }.
"""

from __future__ import annotations

from collections import OrderedDict

from control.scheduler.decide import Decision

NO_NODES = "no nodes available to schedule pods"


def explain(decision: Decision) -> str:
    """Say why a pod fits on no node."""
    if decision.nodes == 0:
        return NO_NODES
    told: OrderedDict[str, tuple[int, str]] = OrderedDict()
    for one in decision.refused:
        count, detail = told.get(one.reason, (0, ""))
        told[one.reason] = (count + one.count, detail or one.detail)
    parts = [
        f"{count} {reason} ({detail})" if detail else f"{count} {reason}"
        for reason, (count, detail) in sorted(told.items())
    ]
    return f"0/{decision.nodes} nodes are available: {', '.join(parts)}."
