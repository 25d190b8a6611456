"""Bring a document into the form of its schema, or say where it does not fit.

Two outcomes are told apart, as Kubernetes does: a value of the wrong type refuses the whole document (400, the first one
found), while unknown fields are an error, a warning or silence as the client chose (`mode`), and are pruned
where they are no error.

What else the walk does is what a trip through Go's structs would do to a document: nulls go, empty lists and maps of
optional fields go, quantities, times and base64 get their canonical spelling. The result passes the compiled check, so
the walk is taken once per change of a document, if at all.
"""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import jsonschema_rs

from control.registry.context import IGNORE, STRICT
from control.registry.problems import at, shown
from control.registry.schemas import INT_RANGE, Node
from steersman import quantity
from steersman.clock import parse_time, rfc3339, rfc3339_micro

QUANTITY_FORM = r"^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"  # as Kubernetes' message quotes it


class MisfitError(ValueError):
    """A value's type is not the field's."""


def conform(node: Node, check: jsonschema_rs.Draft4Validator, document: dict[str, Any], mode: str) -> list[str]:
    """Bring `document` into the schema's form, in place; answer the warnings.

    Raises:
        MisfitError: a value has the wrong type, or `mode` is Strict and a field is unknown.
    """
    if check.is_valid(document):
        return []
    unknown: list[str] = []
    _Walk(unknown).value(node, document, "")
    if not unknown or mode == IGNORE:
        return []
    told = [f'unknown field "{path}"' for path in unknown]
    if mode == STRICT:
        raise MisfitError(f"strict decoding error: {', '.join(told)}")
    return told


_GO_TYPE = {
    "boolean": "bool",
    "bytes": "[]byte",
    "time": "Time",
    "microtime": "MicroTime",
    "quantity": "Quantity",
    "int-or-string": "IntOrString",
}
_ZERO: dict[str, Any] = {"string": "", "integer": 0, "number": 0, "boolean": False, "bytes": "", "quantity": "0"}


class _Walk:
    def __init__(self, unknown: list[str]) -> None:
        self.unknown = unknown

    def value(self, node: Node, value: Any, path: str) -> Any:
        """The value in the schema's form."""
        match node.type:
            case "object":
                return self.object(node, value, path)
            case "map":
                return self.map(node, value, path)
            case "array":
                return self.array(node, value, path)
            case "any":
                return value
        return _scalar(node, value, path)

    def object(self, node: Node, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _misfit(node, value, path)
        for name in list(value):
            field = node.fields.get(name)
            if field is None:
                self.unknown.append(at(path, name))
                del value[name]
            elif value[name] is None:
                del value[name]
            else:
                inner = value[name] = self.value(field.node, value[name], at(path, name))
                if inner in ([], {}) and not field.required and field.node.type in ("array", "map"):
                    del value[name]
        return value

    def map(self, node: Node, value: Any, path: str) -> dict[str, Any]:
        assert node.item is not None
        if not isinstance(value, dict):
            raise _misfit(node, value, path)
        for key in list(value):
            value[key] = self.item(node.item, value[key], at(path, key))
        return value

    def array(self, node: Node, value: Any, path: str) -> list[Any]:
        assert node.item is not None
        if not isinstance(value, list):
            raise _misfit(node, value, path)
        return [self.item(node.item, member, at(path, index)) for index, member in enumerate(value)]

    def item(self, node: Node, value: Any, path: str) -> Any:
        """A list's or map's member; Go reads null there as the type's zero."""
        if value is None:
            return _ZERO.get(node.type, [] if node.type == "array" else {})
        return self.value(node, value, path)


def _scalar(node: Node, value: Any, path: str) -> Any:
    match node.type:
        case "string" if isinstance(value, str):
            return value
        case "boolean" if isinstance(value, bool):
            return value
        case "integer" if type(value) is int:
            low, high = INT_RANGE.get(node.format, INT_RANGE["int64"])
            if low <= value <= high:
                return value
        case "number" if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        case "int-or-string" if isinstance(value, str) or type(value) is int:
            return value
        case "bytes" if isinstance(value, str):
            try:
                return base64.b64encode(base64.b64decode("".join(value.split()), validate=True)).decode()
            except ValueError as error:
                raise MisfitError(f"illegal base64 data at {path}: {error}") from None
        case "quantity" if isinstance(value, str | int | float) and not isinstance(value, bool):
            try:
                return quantity.canonical(repr(value) if isinstance(value, float) else value)
            except (ValueError, ArithmeticError):
                raise MisfitError(
                    f"quantities must match the regular expression '{QUANTITY_FORM}' ({shown(value)} at {path})"
                ) from None
        case "time" | "microtime" if isinstance(value, str):
            return _time(node, value, path)
    raise _misfit(node, value, path)


def _time(node: Node, text: str, path: str) -> str:
    try:
        moment = parse_time(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or "T" not in text:
        raise MisfitError(
            f'parsing time "{text[:60]}" as "2006-01-02T15:04:05Z07:00": it is not an RFC 3339 time (at {path})'
        )
    moment = moment.astimezone(dt.UTC)
    return rfc3339(moment) if node.type == "time" else rfc3339_micro(moment)


def _misfit(node: Node, value: Any, path: str) -> MisfitError:
    """Say it as Go's decoder does, whose paths have no indexes; the exact place follows."""
    plain = "".join(part.partition("]")[2] if index else part for index, part in enumerate(path.split("[")))
    exact = f" (at {path})" if plain != path else ""
    return MisfitError(
        f"json: cannot unmarshal {_json_type(value)} into field {plain or 'object'} of type {_type_name(node)}{exact}"
    )


def _type_name(node: Node) -> str:
    match node.type:
        case "array":
            assert node.item is not None
            return f"[]{_type_name(node.item)}"
        case "map":
            assert node.item is not None
            return f"map[string]{_type_name(node.item)}"
        case "integer":
            return node.format or "int64"
        case "object":
            return node.name
    return _GO_TYPE.get(node.type, node.type)


def _json_type(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case int() | float():
            return f"number {value}"
        case list():
            return "array"
        case dict():
            return "object"
    return "null"
