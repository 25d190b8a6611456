"""Stored bytes as wire messages, without decoding them.

Stored documents begin with `{"metadata":{"resourceVersion":"REVISION","uid":"UID"` (`stored_form` sees to the second member,
the codec to the first), so what the typed fields repeat is cut out of the bytes; the document itself is never touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from control.registry import Resource, codec
from control.store.interface import Cause, KeyValue
from steersman.v1 import objects_pb2 as pb

_UID_KEY: Final = b',"uid":"'
_UID_LENGTH: Final = 36  # an RFC 4122 UUID in text

_START: Final = b'{"metadata":{"resourceVersion":"'


class _Metadata(msgspec.Struct, gc=False):
    uid: str = ""


class _Head(msgspec.Struct, gc=False):
    metadata: _Metadata


_head = msgspec.json.Decoder(_Head)


def stored_form(document: dict[str, Any]) -> tuple[bytes, int]:
    """The bytes to store and where the revision is inserted. Raises ApiError 413 when they are too many."""
    metadata = document["metadata"]
    if "uid" in metadata:
        document["metadata"] = {"uid": metadata["uid"], **metadata}
    return codec.encode(document)


def uid_of(value: bytes) -> str:
    """metadata.uid of stored bytes."""
    end = value.find(b'"', codec.SPLICE)
    start = end + 1 + len(_UID_KEY)
    if value.startswith(_UID_KEY, end + 1) and value[start + _UID_LENGTH : start + _UID_LENGTH + 1] == b'"':
        return value[start : start + _UID_LENGTH].decode("ascii")
    return _head.decode(value).metadata.uid


def restamped(value: bytes, revision: int) -> bytes:
    """Stored bytes as if written at `revision`: how a watch tells of an object that its selector no longer matches."""
    if not value.startswith(_START):
        return value
    return b"%b%d%b" % (value[: codec.SPLICE], revision, value[value.index(b'"', codec.SPLICE) :])


def object_of(resource: Resource, key: str, value: bytes, revision: int, cause: Cause | None = None) -> pb.Object:
    """The wire form of stored bytes."""
    namespace, _, name = key[len(resource.prefix) :].rpartition("/")
    return pb.Object(
        api_version=resource.api_version,
        kind=resource.kind,
        namespace=namespace,
        name=name,
        uid=uid_of(value),
        revision=revision,
        json=value,
        cause=None if cause is None else pb.Cause(revision=cause.revision, actor=cause.actor),
    )


def object_of_kv(resource: Resource, kv: KeyValue) -> pb.Object:
    """The wire form of a key's state."""
    return object_of(resource, kv.key, kv.value, kv.mod_revision)


def add_objects(items: Any, resource: Resource, kvs: Iterable[KeyValue]) -> None:
    """Append the wire forms of many keys' states to a message's repeated Objects.

    Made in place, with what they share taken once: of 10,000 objects of 1 KB, a quarter of the time of messages that
    are made first and then copied in.
    """
    add = items.add
    start, api_version, kind = len(resource.prefix), resource.api_version, resource.kind
    for kv in kvs:
        namespace, _, name = kv.key[start:].rpartition("/")
        add(
            api_version=api_version,
            kind=kind,
            namespace=namespace,
            name=name,
            uid=uid_of(kv.value),
            revision=kv.mod_revision,
            json=kv.value,
        )
