"""Snapshot files are there whole or not at all, and damage is noticed before it is used."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from control.raft.files import MemoryFiles
from control.raft.interface import LogDamagedError
from control.raft.messages import Membership, SnapshotMeta
from control.raft.snapshots import SnapshotStore

META = SnapshotMeta(7, 2, Membership(frozenset("abc"), frozenset("d"), {"a": "a:1"}, "test"))
CHUNKS = [b"", b"one", bytes(300_000), b"end"]
NAME = "snapshot-00000000000000000007-00000000000000000002"


@pytest.fixture
def disk() -> MemoryFiles:
    return MemoryFiles()


def test_a_snapshot_survives_power_loss_as_it_was_written(disk: MemoryFiles) -> None:
    SnapshotStore(disk).write(META, CHUNKS)
    disk.crash()
    store = SnapshotStore(disk)
    assert store.newest() == META
    assert list(store.chunks(META)) == CHUNKS


def test_a_crash_while_writing_leaves_the_older_snapshot(disk: MemoryFiles) -> None:
    store = SnapshotStore(disk)
    older = SnapshotMeta(3, 1, META.membership)
    store.write(older, [b"old"])

    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.write(META, chunks())
    assert store.newest() == older
    disk.open("writing-00000000000000000009-00000000000000000002").write(0, b"half")
    store.clean()
    assert len(disk.names()) == 1


@pytest.mark.parametrize("offset", [0, 9, 40, 200, 300_100])
def test_a_flipped_bit_is_found(disk: MemoryFiles, offset: int) -> None:
    store = SnapshotStore(disk)
    store.write(META, CHUNKS)
    disk.flip_bit(NAME, offset)
    with pytest.raises(LogDamagedError, match="remove it from the cluster and add it again"):
        assert store.newest() != list(store.chunks(META))


def test_a_cut_file_is_found(disk: MemoryFiles) -> None:
    store = SnapshotStore(disk)
    size = store.write(META, CHUNKS)
    for cut in (size - 1, size - 8, size - 9, 50):
        disk.open(NAME).truncate(cut)
        with pytest.raises(LogDamagedError):
            list(store.chunks(META))


def test_a_transfer_goes_on_where_it_stopped(disk: MemoryFiles) -> None:
    leader = SnapshotStore(MemoryFiles())
    size = leader.write(META, CHUNKS)
    content = leader.open(META).read(0, size)
    store = SnapshotStore(disk)
    assert store.incoming_size(META) == 0
    store.receive(META, 0, content[:1000])
    assert store.incoming_size(META) == 1000
    store.receive(META, 1000, content[1000:])
    store.check_incoming(META)
    assert store.newest() is None  # not ours until the log says so
    store.accept(META)
    assert list(store.chunks(META)) == CHUNKS


def test_a_transfer_that_was_garbled_is_thrown_away(disk: MemoryFiles) -> None:
    store = SnapshotStore(disk)
    store.receive(META, 0, b"STSNAP01 but then something else altogether")
    with pytest.raises(LogDamagedError):
        store.check_incoming(META)
    assert store.incoming_size(META) == 0


def test_older_snapshots_and_useless_transfers_are_removed(disk: MemoryFiles) -> None:
    store = SnapshotStore(disk)
    for index in (3, 5):
        store.write(SnapshotMeta(index, 1, META.membership), [])
        store.receive(SnapshotMeta(index + 1, 1, META.membership), 0, b"x")
    store.write(META, [])
    store.remove_before(META)
    assert disk.names() == [NAME]
