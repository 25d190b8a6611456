"""Selectable fields: what a field selector may ask of a kind, and their values in a document.

Every kind answers to metadata.name and metadata.namespace; each `Resource` lists its further ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from control.registry.resources import Resource
from steersman.errors import bad_request
from steersman.selectors import Selector, parse_fields

# Fields whose value is not simply what stands at their path.
_ELSEWHERE: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("Event", "source"): ("source", "component"),
}


def parse(resource: Resource, text: str) -> Selector:
    """Parse a field selector for a kind.

    Raises:
        ApiError: 400, it is malformed or names a field that can't be selected by.
    """
    try:
        selector = parse_fields(text)
    except ValueError as error:
        raise bad_request(str(error)) from None
    check(resource, selector)
    return selector


def check(resource: Resource, selector: Selector) -> None:
    """Check that a kind can be selected by all the fields that the selector names.

    Raises:
        ApiError: 400, naming the field and those that there are.
    """
    known = ("metadata.name", "metadata.namespace", *resource.selectable)
    for requirement in selector.requirements:
        if requirement.key not in known:
            raise bad_request(
                f'field label not supported: "{requirement.key}": {resource.plural} can be selected by {", ".join(known)}'
            )


def extract(resource: Resource, document: Mapping[str, Any]) -> dict[str, str]:
    """The values of a document's selectable fields, as a field selector matches them."""
    metadata = document["metadata"]
    found = {"metadata.name": metadata.get("name", ""), "metadata.namespace": metadata.get("namespace", "")}
    for path, absent in resource.selectable.items():
        value: Any = document
        for part in _ELSEWHERE.get((resource.kind, path)) or path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            found[path] = absent
        else:
            found[path] = str(value).lower() if isinstance(value, bool) else str(value)
    return found
