"""Label and field selectors over stored bytes: only what a selector asks about is decoded."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from control.registry import Resource, fields
from steersman import selectors
from steersman.errors import bad_request

NAME: Final = "metadata.name"
NAMESPACE: Final = "metadata.namespace"
# Field selectors that a store's index answers.
INDEXED: Final[dict[str, Literal["node", "phase"]]] = {"spec.nodeName": "node", "status.phase": "phase"}


class _Metadata(msgspec.Struct, gc=False):
    labels: dict[str, str] = {}


class _Labelled(msgspec.Struct, gc=False):
    metadata: _Metadata


_labelled = msgspec.json.Decoder(_Labelled)


class Selection:
    """What a list or a watch asks for, of one resource.

    Attributes:
        name, namespace: the one name and namespace that the field selector requires; empty: any.
    """

    def __init__(self, resource: Resource, labels: str, field_selector: str) -> None:
        """Raises ApiError 400 for a selector that cannot be parsed or names an unknown field."""
        try:
            self.labels = selectors.parse(labels)
            parsed = selectors.parse_fields(field_selector)
        except ValueError as error:
            raise bad_request(str(error)) from None
        if parsed:
            fields.check(resource, parsed)
        self.fields = parsed
        self._resource = resource
        equal = parsed.equalities()
        self.name = equal.get(NAME, "")
        self.namespace = equal.get(NAMESPACE, "")
        # Requirements that the key answers need no document.
        self._by_key = tuple(r for r in parsed.requirements if r.key in (NAME, NAMESPACE))
        self._by_document = tuple(r for r in parsed.requirements if r.key not in (NAME, NAMESPACE))

    def __bool__(self) -> bool:
        return bool(self.labels) or bool(self.fields)

    def matches(self, key: str, value: bytes) -> bool:
        """Whether the object with these stored bytes is asked for."""
        if self._by_key:
            namespace, _, name = key[len(self._resource.prefix) :].rpartition("/")
            place = {NAME: name, NAMESPACE: namespace}
            if not all(requirement.matches(place) for requirement in self._by_key):
                return False
        if self._by_document:
            document = msgspec.json.decode(value)
            found: dict[str, Any] = fields.extract(self._resource, document)
            if not all(requirement.matches(found) for requirement in self._by_document):
                return False
        return not self.labels or self.labels.matches(_labelled.decode(value).metadata.labels)

    def index_term(self) -> tuple[Literal["label", "node", "phase"], str] | None:
        """The index and value to look up, when an equality can be answered by the store's index: the narrowest known."""
        equal = self.fields.equalities()
        for path, index in INDEXED.items():
            if equal.get(path) and (index == "node" or self._resource.plural in ("pods", "namespaces")):
                return index, equal[path]
        for key, value in self.labels.equalities().items():
            return "label", f"{key}={value}"
        return None
