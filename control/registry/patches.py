"""The two generic patches: JSON patch (RFC 6902) and JSON merge patch (RFC 7386). Neither knows schemas."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from control.registry.codec import DOCUMENT_LIMIT
from steersman.errors import ApiError, bad_request

OPERATIONS_MAX: Final = 10_000  # of one JSON patch: Kubernetes' limit
COPIED_MAX: Final = (
    2 * DOCUMENT_LIMIT
)  # bytes that "copy" operations of one patch may add, which could double at each step


class PatchError(ValueError):
    """An operation can't be done on this document."""


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch: null removes, objects merge, everything else replaces. Neither argument changes."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def json_patch(document: Any, operations: Any) -> Any:
    """Apply a JSON patch to `document`, in place where possible; answer the result.

    Raises:
        ApiError: 400, it is not a JSON patch; 422, an operation can't be done or a test failed: nothing was changed
            that the caller should keep.
    """
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is an array of operations")
    if len(operations) > OPERATIONS_MAX:
        raise bad_request(f"the patch has {len(operations)} operations: at most {OPERATIONS_MAX} are accepted")
    copied = 0
    for index, operation in enumerate(operations):
        try:
            document, added = _operate(document, operation)
        except PatchError as error:
            raise ApiError("Invalid", f"the patch can't be applied: operation {index}: {error}") from None
        copied += added
        if copied > COPIED_MAX:
            raise bad_request(f"the patch copies more than {COPIED_MAX} bytes")
    return document


def _operate(document: Any, operation: Any) -> tuple[Any, int]:
    """One operation: the new document and how many bytes it copied."""
    if not isinstance(operation, dict):
        raise PatchError("it must be an object with op and path")
    kind = operation.get("op")
    if kind not in ("add", "remove", "replace", "move", "copy", "test"):
        raise PatchError(f"op {kind!r} is unknown: use add, remove, replace, move, copy or test")
    path = _pointer(operation, "path")
    match kind:
        case "add":
            return _add(document, path, _value(operation)), 0
        case "remove":
            return _remove(document, path)[0], 0
        case "replace":
            _find(document, path)
            return (_value(operation) if not path else _set(document, path, _value(operation))), 0
        case "test":
            if not _same(_find(document, path), _value(operation)):
                raise PatchError(f"test failed: the value at {operation['path']} is another one")
            return document, 0
    source = _pointer(operation, "from")
    if kind == "move":
        if path[: len(source)] == source and path != source:
            raise PatchError(f"{operation['from']} can't be moved into itself")
        document, value = _remove(document, source)
        return _add(document, path, value), 0
    packed = msgspec.json.encode(_find(document, source))
    return _add(document, path, msgspec.json.decode(packed)), len(packed)


def _value(operation: dict[str, Any]) -> Any:
    if "value" not in operation:
        raise PatchError(f"{operation['op']} needs a value")
    return operation["value"]


def _pointer(operation: dict[str, Any], name: str) -> list[str]:
    """The parts of a JSON pointer (RFC 6901)."""
    text = operation.get(name)
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise PatchError(f"{name} must be a JSON pointer, as /spec/replicas")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _index(members: list[Any], part: str, *, end: bool) -> int:
    """A list's index; with `end`, the place after the last member counts."""
    if part == "-" and end:
        return len(members)
    if not part.isascii() or not part.isdigit() or (part[0] == "0" and part != "0"):
        raise PatchError(f"{part!r} is not an index of a list")
    index = int(part)
    if index >= len(members) + end:
        raise PatchError(f"index {part} is outside a list of {len(members)}")
    return index


def _step(holder: Any, part: str) -> Any:
    if isinstance(holder, dict):
        if part not in holder:
            raise PatchError(f"there is no {part!r} to go through or to change")
        return holder[part]
    if isinstance(holder, list):
        return holder[_index(holder, part, end=False)]
    raise PatchError(f"there is nothing below a plain value ({part!r})")


def _find(document: Any, path: list[str]) -> Any:
    for part in path:
        document = _step(document, part)
    return document


def _set(document: Any, path: list[str], value: Any) -> Any:
    holder = _find(document, path[:-1])
    if isinstance(holder, list):
        holder[_index(holder, path[-1], end=False)] = value
    else:
        holder[path[-1]] = value
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    holder = _find(document, path[:-1])
    if isinstance(holder, list):
        holder.insert(_index(holder, path[-1], end=True), value)
    elif isinstance(holder, dict):
        holder[path[-1]] = value
    else:
        raise PatchError(f"nothing can be added to a plain value ({path[-1]!r})")
    return document


def _remove(document: Any, path: list[str]) -> tuple[Any, Any]:
    if not path:
        raise PatchError("the whole document can't be removed")
    holder, value = _find(document, path[:-1]), _find(document, path)
    if isinstance(holder, list):
        del holder[_index(holder, path[-1], end=False)]
    else:
        del holder[path[-1]]
    return document, value


def _same(left: Any, right: Any) -> bool:
    """Equality in JSON's sense: true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)
