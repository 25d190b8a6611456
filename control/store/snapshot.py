"""A snapshot's bytes: chunks that can be written, sent and checked one by one.

Each chunk is a kind (one byte), the CRC-32 of its payload (four bytes, big endian) and the payload in MessagePack. The
first chunk is the header, the last the trailer with the number of records and the CRC-32 over all checksums, so that a
missing, doubled or exchanged chunk is noticed as surely as a flipped bit. Between them are blocks of records: first the
state at the oldest revision kept, then every change since, in order of revision.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from control.store.interface import StoreError

FORMAT = 1  # raise it when the meaning of the bytes changes, and keep reading the older ones
CHUNK = (
    256 * 1024
)  # bytes of records per chunk: large enough to amortise a message, small enough not to delay heartbeats
HEADER, RECORDS, TRAILER = b"H", b"R", b"T"

Record = tuple[str, bytes, int, int, bool, str, int, int]
"""key, value, create_revision, mod_revision, deleted, cause.actor, cause.revision, time (ms)"""


class SnapshotDamagedError(StoreError):
    """A snapshot's bytes are not what was written, or come from a newer version; the message says which."""


class Header(msgspec.Struct, frozen=True, array_like=True):
    """What the snapshot holds."""

    revision: int
    compacted: int
    time: int
    base: int  # records of the state at the oldest revision kept
    history: int  # records of changes after it
    format: int = FORMAT


class Trailer(msgspec.Struct, frozen=True, array_like=True):
    """What was written before it."""

    records: int
    checksum: int


T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_header = msgspec.msgpack.Decoder(Header)
_records = msgspec.msgpack.Decoder(list[Record])
_trailer = msgspec.msgpack.Decoder(Trailer)


def write(header: Header, records: Iterable[Record]) -> Iterator[bytes]:
    """Give the chunks of a snapshot."""
    running = 0

    def chunk(kind: bytes, payload: bytes) -> bytes:
        nonlocal running
        checksum = zlib.crc32(payload).to_bytes(4, "big")
        running = zlib.crc32(checksum, running)
        return kind + checksum + payload

    yield chunk(HEADER, _encoder.encode(header))
    block: list[Record] = []
    size = total = 0
    for record in records:
        block.append(record)
        size += len(record[0]) + len(record[1]) + 40
        if size >= CHUNK:
            yield chunk(RECORDS, _encoder.encode(block))
            total += len(block)
            block, size = [], 0
    if block:
        yield chunk(RECORDS, _encoder.encode(block))
        total += len(block)
    yield chunk(TRAILER, _encoder.encode(Trailer(total, running)))


def read(chunks: Iterable[bytes]) -> tuple[Header, Iterator[Record]]:
    """Read the header at once and the records as they come.

    Raises:
        SnapshotDamagedError: now or while the records are taken; whoever builds a state must take them all first.
    """
    source = _checked(chunks)
    kind, payload, _ = next(source, (b"", b"", 0))
    if kind != HEADER:
        raise SnapshotDamagedError("the snapshot does not begin with its header: fetch it again")
    header = _decode(_header, payload)
    if header.format != FORMAT:
        raise SnapshotDamagedError(f"the snapshot has format {header.format}, this version reads {FORMAT}: upgrade")
    return header, _body(header, source)


def _body(header: Header, source: Iterator[tuple[bytes, bytes, int]]) -> Iterator[Record]:
    total = 0
    for kind, payload, before in source:
        if kind == RECORDS:
            block = _decode(_records, payload)
            total += len(block)
            yield from block
        elif kind == TRAILER:
            trailer = _decode(_trailer, payload)
            if trailer != Trailer(total, before) or total != header.base + header.history:
                raise SnapshotDamagedError("parts of the snapshot are missing or exchanged: fetch it again")
            if next(source, None) is not None:
                raise SnapshotDamagedError("the snapshot goes on after its end: fetch it again")
            return
        else:
            raise SnapshotDamagedError(f"the snapshot holds a chunk of unknown kind {kind!r}: fetch it again")
    raise SnapshotDamagedError("the snapshot ends too early: fetch it again")


def _checked(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes, int]]:
    """Each chunk's kind and payload, with the checksum over all chunks before it."""
    running = 0
    for number, chunk in enumerate(chunks):
        checksum, payload = chunk[1:5], chunk[5:]
        if zlib.crc32(payload).to_bytes(4, "big") != checksum:
            raise SnapshotDamagedError(f"chunk {number} of the snapshot is damaged: its checksum differs")
        yield chunk[:1], payload, running
        running = zlib.crc32(checksum, running)


def _decode(decoder: msgspec.msgpack.Decoder[T], payload: bytes) -> T:
    try:
        return decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise SnapshotDamagedError(f"the snapshot cannot be decoded: {error}") from error
