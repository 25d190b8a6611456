"""A snapshot of a cluster's state as a file: writing what a member streams, and checking what a file holds.

Layout, integers little-endian: magic, then frames of kind (1 byte), length u32, CRC-32 of the payload u32, payload.

    "STEERSNAPSHOT" and a newline | H SnapshotHeader | C chunk | C chunk | … | T SnapshotTrailer

Header and trailer are the protobuf messages of `cluster.proto`; the chunks are the store's own: a kind, a checksum and records in
MessagePack, each record a key's value at a revision. So there are three nets: a checksum per chunk as it was made, one per frame, and
SHA-256 over all; and the counts of chunks, records, keys and the newest revision must be those that were announced.

A file under its own name is whole and durable: it is written as NAME.partial, synced, and renamed.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
from google.protobuf.message import DecodeError

from steersman.v1 import cluster_pb2 as pb

FORMAT: Final = 1  # raise it when the meaning of the bytes changes, and keep reading the older ones
MAGIC: Final = b"STEERSNAPSHOT\n"
FRAME: Final = struct.Struct("<cII")
HEADER, CHUNK, TRAILER = b"H", b"C", b"T"
MAX_FRAME_BYTES: Final = (
    64 << 20
)  # a chunk holds 256 KiB of records, and one record at least: the largest object fits many times


class SnapshotFileError(Exception):
    """The file is not a whole, undamaged snapshot; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a snapshot was found to hold."""

    header: pb.SnapshotHeader
    chunks: int
    bytes: int
    records: int
    keys: int
    sealed: int  # of the keys, those whose values are encrypted
    sha256: str


async def save(
    parts: AsyncIterable[pb.SnapshotPart], path: Path, progress: Callable[[int], None] = lambda _: None
) -> pb.SnapshotHeader:
    """Write the parts that `SaveSnapshot` gives to a new file; `progress` is told the bytes so far.

    Raises:
        SnapshotFileError: the stream ended early, or what arrived is not what was sent.
        OSError: the file exists, or cannot be written.
    """
    if path.exists():  # noqa: ASYNC240 - a look at one name
        raise FileExistsError(f"{path} exists, and is never overwritten: choose another name")
    partial = path.with_name(path.name + ".partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            header = await _write(parts, file, progress)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return header


async def _write(
    parts: AsyncIterable[pb.SnapshotPart], file: BinaryIO, progress: Callable[[int], None]
) -> pb.SnapshotHeader:
    header: pb.SnapshotHeader | None = None
    digest, count, total = sha256(), 0, 0
    file.write(MAGIC)
    async for part in parts:
        match part.WhichOneof("part"):
            case "header" if header is None:
                header = part.header
                _put(file, HEADER, header.SerializeToString())
            case "chunk" if header is not None:
                chunk = part.chunk
                if chunk.number != count or zlib.crc32(chunk.data) != chunk.crc32:
                    raise SnapshotFileError(f"chunk {count} arrived damaged or out of order: save the snapshot again")
                digest.update(chunk.data)
                _put(file, CHUNK, chunk.data)
                count, total = count + 1, total + len(chunk.data)
                progress(total)
            case "trailer" if header is not None:
                if part.trailer != pb.SnapshotTrailer(chunks=count, bytes=total, sha256=digest.digest()):
                    raise SnapshotFileError("what arrived is not what was sent: save the snapshot again")
                _put(file, TRAILER, part.trailer.SerializeToString())
                return header
            case _:
                raise SnapshotFileError(
                    "the member sent something unknown: is it of a newer version than this program?"
                )
    raise SnapshotFileError("the snapshot ended before it was whole: save it again")


def _put(file: BinaryIO, kind: bytes, payload: bytes) -> None:
    file.write(FRAME.pack(kind, len(payload), zlib.crc32(payload)) + payload)


def read(path: Path) -> tuple[pb.SnapshotHeader, Iterator[bytes]]:
    """Read a file's header at once, and its chunks as they are taken: all of them must be, before any is believed.

    Raises:
        SnapshotFileError: now or while the chunks are taken.
        OSError: the file cannot be read.
    """
    file = path.open("rb")
    try:
        if file.read(len(MAGIC)) != MAGIC:
            raise SnapshotFileError(f"{path} is not a snapshot: it does not begin as one")
        kind, payload = _frame(path, file)
        if kind != HEADER:
            raise _damaged(path, file, "its header is missing")
        header = _message(path, file, pb.SnapshotHeader(), payload)
        if header.format != FORMAT:
            raise SnapshotFileError(f"{path} has format {header.format}, this version reads {FORMAT}: upgrade")
    except BaseException:
        file.close()
        raise
    return header, _chunks(path, file)


def _chunks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    digest, count, total = sha256(), 0, 0
    with file:
        while True:
            kind, payload = _frame(path, file)
            if kind == TRAILER:
                break
            if kind != CHUNK:
                raise _damaged(path, file, f"a part of unknown kind {kind!r}")
            digest.update(payload)
            count, total = count + 1, total + len(payload)
            yield payload
        found = pb.SnapshotTrailer(chunks=count, bytes=total, sha256=digest.digest())
        if _message(path, file, pb.SnapshotTrailer(), payload) != found:
            raise _damaged(path, file, "its chunks are not those that its end tells of")
        if file.read(1):
            raise _damaged(path, file, "it goes on after its end")


def verify(path: Path) -> Report:
    """Read a file from end to end and compare everything that it says of itself.

    Raises:
        SnapshotFileError, OSError.
    """
    header, chunks = read(path)
    digest, count, total, records, newest = sha256(), 0, 0, 0, 0
    living: dict[str, bool] = {}  # key -> whether its newest value is encrypted
    for data in chunks:
        digest.update(data)
        count, total = count + 1, total + len(data)
        if zlib.crc32(data[5:]).to_bytes(4, "big") != data[1:5]:
            raise SnapshotFileError(f"{path}: chunk {count - 1} was damaged before it was saved: save another snapshot")
        try:
            content: Any = msgspec.msgpack.decode(data[5:])
        except msgspec.DecodeError as error:
            raise SnapshotFileError(f"{path}: chunk {count - 1} cannot be decoded: {error}") from None
        if data[:1] != b"R":
            continue
        for key, value, _created, revision, deleted, *_ in content:
            records += 1
            newest = max(newest, revision)
            if deleted:
                living.pop(key, None)
            else:
                living[key] = value.startswith(b"\0st")  # documents begin with "{"
    for what, announced, found in (
        ("records", header.records, records),
        ("keys", header.keys, len(living)),
    ):
        if announced != found:
            raise SnapshotFileError(f"{path} announces {announced} {what} and holds {found}: save another snapshot")
    if newest > header.revision or (header.revision > header.compacted and newest != header.revision):
        raise SnapshotFileError(f"{path} is of revision {header.revision}, but its newest change is of {newest}")
    return Report(header, count, total, records, len(living), sum(living.values()), digest.hexdigest())


def _frame(path: Path, file: BinaryIO) -> tuple[bytes, bytes]:
    head = file.read(FRAME.size)
    if len(head) < FRAME.size:
        raise _damaged(path, file, "it ends too early")
    kind, length, checksum = FRAME.unpack(head)
    payload = file.read(length) if length <= MAX_FRAME_BYTES else b""
    if len(payload) != length or zlib.crc32(payload) != checksum:
        raise _damaged(path, file, "a checksum does not match, or it ends too early")
    return kind, payload


def _message(path: Path, file: BinaryIO, into: Any, payload: bytes) -> Any:
    try:
        into.ParseFromString(payload)
    except DecodeError:
        raise _damaged(path, file, "a part cannot be decoded") from None
    return into


def _damaged(path: Path, file: BinaryIO, what: str) -> SnapshotFileError:
    return SnapshotFileError(f"{path} is damaged before byte {file.tell()}: {what}; use another snapshot")
