"""What is wrong with an object, gathered field by field and told at once.

The words are Kubernetes' (k8s.io/apimachinery/pkg/util/validation/field), because programs and people look for them:
"Required value", "Invalid value", …. Paths are written as in `spec.template.spec.containers[0].image`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from steersman.errors import ApiError, Cause, invalid

SHOWN_VALUE_LIMIT = 200  # characters of a refused value that a message repeats: enough to recognise, not a flood


def at(path: str, part: str | int) -> str:
    """The path of a member of what is at `path`: a field's name, a list's index or a map's key.

    >>> at(at("spec.containers", 0), "image")
    'spec.containers[0].image'
    """
    if isinstance(part, int):
        return f"{path}[{part}]"
    return f"{path}.{part}" if path else part


def keyed(path: str, key: str) -> str:
    """The path of a map's value, as Kubernetes writes it where keys may hold dots: `data[app.properties]`."""
    return f"{path}[{key}]"


def shown(value: Any) -> str:
    """A refused value as a message repeats it."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN_VALUE_LIMIT else text[:SHOWN_VALUE_LIMIT] + "…"


class Problems:
    """Collects causes; an object with none is valid."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []

    def __bool__(self) -> bool:
        return bool(self.causes)

    def _add(self, reason: str, title: str, path: str, detail: str) -> None:
        self.causes.append(Cause(f"FieldValue{reason}", f"{title}: {detail}" if detail else title, path))

    def required(self, path: str, detail: str = "") -> None:
        self._add("Required", "Required value", path, detail)

    def invalid(self, path: str, value: Any, why: str) -> None:
        self._add("Invalid", f"Invalid value: {shown(value)}", path, why)

    def unsupported(self, path: str, value: Any, supported: Iterable[str]) -> None:
        names = ", ".join(f'"{name}"' for name in supported)
        self._add("NotSupported", f"Unsupported value: {shown(value)}", path, f"supported values: {names}")

    def duplicate(self, path: str, value: Any) -> None:
        self._add("Duplicate", f"Duplicate value: {shown(value)}", path, "")

    def forbidden(self, path: str, why: str) -> None:
        self._add("Forbidden", "Forbidden", path, why)

    def not_found(self, path: str, value: Any) -> None:
        self._add("NotFound", f"Not found: {shown(value)}", path, "")

    def too_long(self, path: str, limit: int) -> None:
        self._add("TooLong", "Too long", path, f"may not be more than {limit} bytes")

    def too_many(self, path: str, count: int, limit: int) -> None:
        self._add("TooMany", f"Too many: {count}", path, f"must have at most {limit} items")

    # Checks that recur.

    def immutable(self, path: str, new: Any, old: Any) -> None:
        """Refuse a change."""
        if new != old:
            self.invalid(path, new, "field is immutable")

    def one_of(self, path: str, value: Any, supported: Iterable[str]) -> None:
        if value not in supported:
            self.unsupported(path, value, supported)

    def at_least(self, path: str, value: Any, least: int) -> None:
        if isinstance(value, int) and value < least:
            self.invalid(path, value, f"must be greater than or equal to {least}")

    def between(self, path: str, value: Any, low: int, high: int) -> None:
        if isinstance(value, int) and not low <= value <= high:
            self.invalid(path, value, f"must be between {low} and {high}, inclusive")

    def format(self, path: str, value: Any, why: str | None) -> None:
        """Report what a format function (see `formats`) answered."""
        if why is not None:
            self.invalid(path, value, why)

    def refuse(self, kind: str, name: str, group: str) -> None:
        """Raises ApiError Invalid (422) when anything was found."""
        if self.causes:
            raise invalid(kind, name, self.causes, group=group)


def refusal(kind: str, name: str, problems: Problems, group: str = "") -> ApiError | None:
    """The error that the problems make, or None."""
    return invalid(kind, name, problems.causes, group=group) if problems else None
