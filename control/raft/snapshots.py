"""Snapshot files: one file each, written beside its final name and renamed when it is whole and synced.

A file named `snapshot-INDEX-TERM` is therefore always complete; anything else that looks like one is a left-over of a
crash and removed. Layout, all integers little-endian:

    magic "STSNAP01" | frame(meta as JSON) | frame(chunk)... | end marker | number of chunks
    frame: length u32 | CRC-32 of the bytes u32 | bytes

A snapshot on its way from the leader grows in `incoming-INDEX-TERM`, byte for byte the same file, so that a transfer that
was interrupted goes on where it stopped.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing

import msgspec

from control.raft.files import File, Files
from control.raft.interface import LogDamagedError
from control.raft.messages import SnapshotMeta

MAGIC = b"STSNAP01"
FRAME = struct.Struct("<II")
END_LENGTH = 0xFFFF_FFFF  # in place of a frame's length; the number of chunks follows in place of the CRC
WRITE_BYTES = 1 << 20  # chunks are gathered up to this much before they are written


class SnapshotStore:
    """The snapshots in a folder."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def newest(self) -> SnapshotMeta | None:
        """The meta of the newest snapshot; None when there is none. Raises LogDamagedError."""
        names = [name for name in self._files.names() if name.startswith("snapshot-")]
        return self._read_meta(max(names)) if names else None

    def write(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> int:
        """Write a snapshot durably; answer its size in bytes. Raises OSError."""
        temporary = f"writing-{meta.index:020d}-{meta.term:020d}"
        self._files.remove(temporary)
        try:
            size = self._write(temporary, meta, chunks)
            self._files.rename(temporary, _name("snapshot", meta))
        except BaseException:
            self._files.remove(temporary)
            raise
        self._files.sync_folder()
        return size

    def chunks(self, meta: SnapshotMeta) -> Iterator[bytes]:
        """The chunks that were written. Raises LogDamagedError as soon as something is wrong."""
        return self._chunks(_name("snapshot", meta))

    def open(self, meta: SnapshotMeta) -> File:
        """The snapshot's file, to be sent as it is. Raises FileNotFoundError when a newer one took its place."""
        return self._files.open(_name("snapshot", meta), create=False)

    def remove_before(self, meta: SnapshotMeta) -> None:
        """Remove every older snapshot, and transfers that it makes useless."""
        for name in self._files.names():
            kind, _, rest = name.partition("-")
            if kind in ("snapshot", "incoming") and rest < _name("", meta)[1:]:
                self._files.remove(name)

    def clean(self) -> None:
        """Remove what a crash left half-written."""
        for name in self._files.names():
            if name.startswith("writing-"):
                self._files.remove(name)

    def incoming_size(self, meta: SnapshotMeta) -> int:
        """How much of a snapshot has arrived so far."""
        name = _name("incoming", meta)
        if name not in self._files.names():
            return 0
        with closing(self._files.open(name)) as file:
            return file.size()

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes) -> None:
        """Add bytes of the leader's file at `offset`. Raises OSError."""
        with closing(self._files.open(_name("incoming", meta))) as file:
            file.write(offset, data)

    def check_incoming(self, meta: SnapshotMeta) -> None:
        """Read a snapshot that has arrived from end to end, and sync it. Raises LogDamagedError, and removes it then."""
        name = _name("incoming", meta)
        try:
            if self._read_meta(name) != meta:
                raise LogDamagedError(f"{self._files.describe(name)} is not the snapshot that was announced")
            for _ in self._chunks(name):
                pass
        except LogDamagedError:
            self._files.remove(name)
            raise
        with closing(self._files.open(name)) as file:
            file.sync()

    def accept(self, meta: SnapshotMeta) -> None:
        """Make a checked incoming snapshot one of our own, durably."""
        self._files.rename(_name("incoming", meta), _name("snapshot", meta))
        self._files.sync_folder()

    def _write(self, name: str, meta: SnapshotMeta, chunks: Iterable[bytes]) -> int:
        with closing(self._files.open(name)) as file:
            encoded = _encode_meta(meta)
            pending, offset, count = bytearray(MAGIC), 0, 0
            pending += FRAME.pack(len(encoded), zlib.crc32(encoded)) + encoded
            for chunk in chunks:
                pending += FRAME.pack(len(chunk), zlib.crc32(chunk))
                pending += chunk
                count += 1
                if len(pending) >= WRITE_BYTES:
                    file.write(offset, bytes(pending))
                    offset += len(pending)
                    pending.clear()
            pending += FRAME.pack(END_LENGTH, count)
            file.write(offset, bytes(pending))
            file.sync()
            return offset + len(pending)

    def _read_meta(self, name: str) -> SnapshotMeta:
        with closing(self._files.open(name, create=False)) as file:
            if file.read(0, len(MAGIC)) != MAGIC:
                raise self._damaged(name, 0, "it does not begin as a snapshot does")
            encoded, _ = self._frame(name, file, len(MAGIC))
        try:
            return msgspec.json.decode(encoded, type=SnapshotMeta)
        except msgspec.DecodeError as error:
            raise self._damaged(name, len(MAGIC), str(error)) from error

    def _chunks(self, name: str) -> Iterator[bytes]:
        with closing(self._files.open(name, create=False)) as file:
            _, offset = self._frame(name, file, len(MAGIC))
            count = 0
            while True:
                header = file.read(offset, FRAME.size)
                if len(header) < FRAME.size:
                    raise self._damaged(name, offset, "it ends too early")
                length, number = FRAME.unpack(header)
                if length == END_LENGTH:
                    if number != count:
                        raise self._damaged(name, offset, f"it has {count} chunks instead of {number}")
                    return
                chunk, offset = self._frame(name, file, offset)
                count += 1
                yield chunk

    def _frame(self, name: str, file: File, offset: int) -> tuple[bytes, int]:
        header = file.read(offset, FRAME.size)
        if len(header) == FRAME.size:
            length, checksum = FRAME.unpack(header)
            data = file.read(offset + FRAME.size, min(length, file.size()))
            if len(data) == length and zlib.crc32(data) == checksum:
                return data, offset + FRAME.size + length
        raise self._damaged(name, offset, "a checksum does not match")

    def _damaged(self, name: str, offset: int, what: str) -> LogDamagedError:
        return LogDamagedError(
            f"snapshot {self._files.describe(name)} is damaged at byte {offset}: {what}. "
            "If the other members are well, stop this one, move its raft folder away, remove it from the cluster and add it again."
        )


def _name(prefix: str, meta: SnapshotMeta) -> str:
    return f"{prefix}-{meta.index:020d}-{meta.term:020d}"


def _encode_meta(meta: SnapshotMeta) -> bytes:
    membership = msgspec.Raw(meta.membership.encode())
    return msgspec.json.encode({"index": meta.index, "term": meta.term, "membership": membership})
