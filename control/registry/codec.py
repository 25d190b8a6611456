"""Bytes to documents and back.

In: JSON only (clients turn YAML into it), of bounded size and depth, so that nothing after this module needs to fear a
document's shape. Out: the bytes that the store keeps and every reader gets; they begin with
`{"metadata":{"resourceVersion":"`, and the store writes the revision in there when it applies the write.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from control.registry.context import IGNORE, STRICT
from control.registry.problems import at
from steersman.errors import ApiError, bad_request, too_large

REQUEST_LIMIT: Final = 3 << 20  # bytes of a request's body: Kubernetes' own limit
DOCUMENT_LIMIT: Final = 3 << 19  # bytes of a stored object (1.5 MiB): etcd's limit, so that either backend can hold it
DEPTH_LIMIT: Final = 100  # levels of nesting; Kubernetes' deepest kinds have about 20, CRD schemas may have 60

_PREFIX: Final = b'{"metadata":{"resourceVersion":"'
SPLICE: Final = len(_PREFIX)  # where the revision goes

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def parse(data: bytes, mode: str = STRICT) -> tuple[dict[str, Any], list[str]]:
    """Parse a JSON object; answer it and the warnings.

    Raises:
        ApiError: 400 for what is not a JSON object, is nested too deep, or (Strict) repeats a key; 413 when too large.
    """
    document, warnings = parse_value(data, mode)
    if not isinstance(document, dict):
        raise bad_request(f"the body must be a JSON object, not {_name(document)}")
    return document, warnings


def parse_value(data: bytes, mode: str = STRICT) -> tuple[Any, list[str]]:
    """Parse any JSON value (a JSON patch is an array); otherwise as `parse`."""
    if len(data) > REQUEST_LIMIT:
        raise too_large(f"the body has {len(data)} bytes: at most {REQUEST_LIMIT} are accepted")
    try:
        value = _decode(data)
    except msgspec.DecodeError as error:
        raise bad_request(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise _too_deep() from None
    if data.count(b"{") + data.count(b"[") > DEPTH_LIMIT and _deeper_than(value, DEPTH_LIMIT):
        raise _too_deep()
    if mode == IGNORE:
        return value, []
    repeated = duplicate_fields(data, value)
    told = [f'duplicate field "{path}"' for path in repeated]
    if told and mode == STRICT:
        raise bad_request(f"strict decoding error: {', '.join(told)}")
    return value, told


def encode(document: dict[str, Any]) -> tuple[bytes, int]:
    """The bytes to store and the offset in them at which the store inserts the revision.

    Raises:
        ApiError: 413, the document is larger than an object may be.
    """
    metadata = {key: value for key, value in document["metadata"].items() if key != "resourceVersion"}
    head = _encode(metadata)
    rest = _encode({key: value for key, value in document.items() if key != "metadata"})
    value = b"".join(
        (
            _PREFIX,
            b'",' if metadata else b'"',
            head[1:],
            b"," if len(rest) > 2 else b"",
            rest[1:],
        )
    )
    if len(value) > DOCUMENT_LIMIT:
        raise too_large(f"the object has {len(value)} bytes: at most {DOCUMENT_LIMIT} can be stored")
    return value, SPLICE


def decode_stored(value: bytes) -> dict[str, Any]:
    """The document of stored bytes."""
    return _decode(value)  # type: ignore[no-any-return]


def copy(document: dict[str, Any]) -> dict[str, Any]:
    """A copy that shares nothing: a trip through bytes, which is faster than a walk."""
    return _decode(_encode(document))  # type: ignore[no-any-return]


def duplicate_fields(data: bytes, value: Any) -> list[str]:
    """Paths of the keys that occur twice in one object of `data`, which was decoded to `value`.

    A compact body without repeated keys is as long as its own encoding, which costs a microsecond to find out; only
    where the lengths differ (white space, escapes, repeated keys) the body is parsed again with an eye on keys.
    """
    if len(_encode(value)) == len(data):
        return []
    pairs = json.loads(data, object_pairs_hook=_Object)
    found: list[str] = []
    _find_repeated(pairs, "", found)
    return found


class _Object(dict[str, Any]):
    """A parsed object that remembers which keys came twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated: list[str] = []
        if len(self) < len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen and key not in self.repeated:
                    self.repeated.append(key)
                seen.add(key)


def _find_repeated(value: Any, path: str, found: list[str]) -> None:
    if isinstance(value, _Object):
        found += [at(path, key) for key in value.repeated]
        for key, inner in value.items():
            _find_repeated(inner, at(path, key), found)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _find_repeated(inner, at(path, index), found)


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        below: list[Any] = []
        for container in level:
            members = container.values() if isinstance(container, dict) else container
            below += [member for member in members if isinstance(member, dict | list)]
        if not below:
            return False
        level = below
    return True


def _too_deep() -> ApiError:
    return bad_request(f"the body is nested too deep: at most {DEPTH_LIMIT} levels are accepted")


def _name(value: Any) -> str:
    return {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
