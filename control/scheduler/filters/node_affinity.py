"""NodeAffinity: nodeSelector and the required node affinity, on labels and on the field metadata.name.

All of nodeSelector must hold, and one of the terms; all of a term's expressions must hold; a term without any selects
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from control.scheduler.nodes import Mask, NodeTable
from control.scheduler.plugin import Change, Filter, Refusal
from control.scheduler.pod import PodFacts
from steersman.types.core import NodeSelectorRequirement, NodeSelectorTerm

REASON = "node(s) didn't match Pod's node affinity/selector"


def refuse(pod: PodFacts, nodes: NodeTable) -> Sequence[Refusal]:
    if not pod.node_selector and pod.required_nodes is None:
        return ()
    return (Refusal(REASON, ~allowed(pod, nodes)),)


def allowed(pod: PodFacts, nodes: NodeTable) -> Mask:
    """The nodes that selector and affinity admit; also what topology spreading counts over."""
    mask = np.ones(nodes.size, np.bool_)
    for key, value in pod.node_selector.items():
        mask &= nodes.having(key, (value,))
    if pod.required_nodes is not None:
        either = np.zeros(nodes.size, np.bool_)
        for term in pod.required_nodes.node_selector_terms:
            either |= matching(term, nodes)
        mask &= either
    return mask


def matching(term: NodeSelectorTerm, nodes: NodeTable) -> Mask:
    """The nodes that a term selects."""
    if not term.match_expressions and not term.match_fields:
        return np.zeros(nodes.size, np.bool_)
    mask = np.ones(nodes.size, np.bool_)
    for expression in term.match_expressions:
        mask &= _expression(expression, nodes)
    for expression in term.match_fields:
        mask &= _field(expression, nodes)
    return mask


def _expression(expression: NodeSelectorRequirement, nodes: NodeTable) -> Mask:
    column, values = nodes.codes(expression.key)
    match expression.operator:
        case "In":
            return nodes.having(expression.key, expression.values)
        case "NotIn":
            return ~nodes.having(expression.key, expression.values)
        case "Exists":
            return column >= 0
        case "DoesNotExist":
            return column < 0
        case "Gt":
            return np.isin(column, _numbers(values, expression, lambda value, limit: value > limit))
        case "Lt":
            return np.isin(column, _numbers(values, expression, lambda value, limit: value < limit))
    return np.zeros(nodes.size, np.bool_)  # the API refuses other operators


def _numbers(
    values: Sequence[str], expression: NodeSelectorRequirement, holds: Callable[[int, int], bool]
) -> list[int]:
    """Codes of the values that are integers and compare as asked."""
    found = []
    for code, value in enumerate(values):
        try:
            if holds(int(value), int(expression.values[0])):
                found.append(code)
        except (ValueError, IndexError):
            continue
    return found


def _field(expression: NodeSelectorRequirement, nodes: NodeTable) -> Mask:
    named = np.zeros(nodes.size, np.bool_)
    if expression.key == "metadata.name":
        named[[nodes.rows[name] for name in expression.values if name in nodes.rows]] = True
        return ~named if expression.operator == "NotIn" else named
    return named


FILTER = Filter("NodeAffinity", refuse, Change.NODE_ADDED | Change.NODE_LABELS, static=True)
