"""Label selectors inside objects: their rules, and whether labels fulfil them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from control.registry import formats
from control.registry.metadata import validate_labels
from control.registry.problems import Problems, at
from steersman.selectors import Selector, from_label_selector
from steersman.types.meta import LabelSelector

OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def validate_selector(selector: Mapping[str, Any], path: str, problems: Problems) -> None:
    """Check a meta/v1 LabelSelector."""
    validate_labels(selector.get("matchLabels", {}), f"{path}.matchLabels", problems)
    for index, requirement in enumerate(selector.get("matchExpressions", ())):
        where = at(f"{path}.matchExpressions", index)
        key, operator, values = (
            requirement.get("key", ""),
            requirement.get("operator", ""),
            requirement.get("values", ()),
        )
        problems.format(f"{where}.key", key, formats.qualified_name(key))
        match operator:
            case "In" | "NotIn" if not values:
                problems.required(f"{where}.values", "operators In and NotIn need at least one value")
            case "Exists" | "DoesNotExist" if values:
                problems.forbidden(f"{where}.values", "operators Exists and DoesNotExist take no values")
            case _ if operator not in OPERATORS:
                problems.invalid(
                    f"{where}.operator", operator, f"not a valid selector operator: use {', '.join(OPERATORS)}"
                )
        for place, value in enumerate(values):
            problems.format(at(f"{where}.values", place), value, formats.label_value(value))


def parsed(selector: Mapping[str, Any] | None) -> Selector:
    """The selector as something that matches; a None selector matches nothing.

    Raises:
        ValueError: an operator is unknown.
    """
    return from_label_selector(None if selector is None else msgspec.convert(selector, LabelSelector))
