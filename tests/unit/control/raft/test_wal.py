"""The log on disk: nothing durable is lost, nothing damaged is believed."""

from __future__ import annotations

import errno
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.raft.core import Batch, Stored
from control.raft.files import MemoryFiles
from control.raft.interface import LogDamagedError
from control.raft.messages import Entry, HardState, InstallSnapshot, Membership, SnapshotMeta
from control.raft.wal import Wal

FIRST = Membership(frozenset("abc"), frozenset(), {"a": "a:1"}, "test")
SEGMENT = 1024


def batch(*entries: Entry, term: int = 1, vote: str = "a", snapshot: SnapshotMeta | None = None) -> Batch:
    install = InstallSnapshot("b", "a", term, snapshot) if snapshot else None
    return Batch(HardState(term, vote, 0), entries, install, ())


def run_of(first: int, count: int, term: int = 1, data: bytes = b"value") -> list[Entry]:
    return [Entry(index, term, b"%s %d" % (data, index)) for index in range(first, first + count)]


def reopened(disk: MemoryFiles) -> tuple[Wal, Stored]:
    wal = Wal(disk, SEGMENT)
    return wal, wal.open(FIRST)


@pytest.fixture
def disk() -> MemoryFiles:
    return MemoryFiles()


def newest_segment(disk: MemoryFiles) -> str:
    return max(name for name in disk.names() if name.startswith("wal-"))


def test_a_new_folder_begins_with_the_first_membership(disk: MemoryFiles) -> None:
    _, stored = reopened(disk)
    assert stored == Stored(HardState(), SnapshotMeta(0, 0, FIRST), ())
    _, again = reopened(disk)
    assert again == stored  # and keeps it, whatever the configuration says later


def test_what_was_saved_survives_power_loss(disk: MemoryFiles) -> None:
    wal, _ = reopened(disk)
    saved = []
    for number in range(50):
        more = run_of(1 + 3 * number, 3)
        wal.save(batch(*more, term=number + 1, vote="b"))
        saved += more
    disk.crash()
    _, stored = reopened(disk)
    assert stored.hard_state == HardState(50, "b", 0)
    assert list(stored.entries) == saved
    assert len([name for name in disk.names() if name.startswith("wal-")]) > 3  # over several segments


def test_replaced_entries_stay_replaced(disk: MemoryFiles) -> None:
    wal, _ = reopened(disk)
    wal.save(batch(*run_of(1, 10)))
    wal.save(batch(*run_of(4, 2, term=2), term=2))
    _, stored = reopened(disk)
    assert [entry.term for entry in stored.entries] == [1, 1, 1, 2, 2]


def test_a_torn_tail_is_cut_at_every_byte(disk: MemoryFiles) -> None:
    wal, _ = reopened(disk)
    wal.save(batch(*run_of(1, 2)))
    good = disk.open(newest_segment(disk)).read(0, 10_000)
    before = wal._offset
    wal.save(batch(*run_of(3, 2)))
    full = disk.open(newest_segment(disk)).read(0, 10_000)
    for cut in range(before, wal._offset - 1):
        torn = MemoryFiles()
        for name in disk.names():
            content = full[:cut] + good[cut:] if name == newest_segment(disk) else disk.open(name).read(0, 10_000)
            torn.open(name).write(0, content)
        survivor, stored = reopened(torn)
        assert len(stored.entries) in (2, 4)  # whole or not at all (the last bytes are padding)
        survivor.save(batch(*run_of(len(stored.entries) + 1, 1)))
        _, again = reopened(torn)
        assert len(again.entries) == len(stored.entries) + 1


def test_a_flipped_bit_in_the_middle_is_refused_with_what_to_do(disk: MemoryFiles) -> None:
    wal, _ = reopened(disk)
    for index in range(1, 5):
        wal.save(batch(*run_of(index, 1)))
    last_frame = wal._offset
    wal.save(batch(*run_of(5, 1)))
    for offset in random.Random(1).sample(range(last_frame), 80):
        disk.flip_bit(newest_segment(disk), offset, bit=3)
        try:
            _, stored = reopened(disk)
        except LogDamagedError as error:
            assert "cannot be trusted any more" in str(error)
            assert "remove the member from the cluster and add it again" in str(error)
        else:  # padding between frames is the only thing that no checksum covers
            assert len(stored.entries) == 5
        disk.flip_bit(newest_segment(disk), offset, bit=3)


def test_a_flipped_bit_in_an_older_segment_is_refused(disk: MemoryFiles) -> None:
    wal, _ = reopened(disk)
    for index in range(1, 60):
        wal.save(batch(*run_of(index, 1)))
    oldest = min(name for name in disk.names() if name.startswith("wal-"))
    disk.flip_bit(oldest, 200)
    with pytest.raises(LogDamagedError, match=oldest):
        reopened(disk)


def test_a_missing_segment_is_refused(disk: MemoryFiles) -> None:
    wal, _ = reopened(disk)
    for index in range(1, 60):
        wal.save(batch(*run_of(index, 1)))
    segments = sorted(name for name in disk.names() if name.startswith("wal-"))
    disk.remove(segments[1])
    with pytest.raises(LogDamagedError, match="should come first"):
        reopened(disk)


def test_a_log_without_its_snapshot_is_refused(disk: MemoryFiles) -> None:
    reopened(disk)
    for name in disk.names():
        if name.startswith("snapshot-"):
            disk.remove(name)
    with pytest.raises(LogDamagedError, match="no snapshot beside it"):
        reopened(disk)


def test_a_full_disk_shows_before_anything_is_written_and_is_recovered_from(disk: MemoryFiles) -> None:
    wal, _ = reopened(disk)
    disk.capacity = disk.used
    index = 1
    try:
        while True:
            wal.save(batch(*run_of(index, 1)))
            index += 1
    except OSError as refused:
        assert refused.errno == errno.ENOSPC
    assert index > 3
    with pytest.raises(OSError, match="closed after a failed write"):
        wal.save(batch(*run_of(index, 1)))
    with pytest.raises(OSError, match="No space"):
        wal.recover()
    disk.capacity = None
    wal.recover()
    wal, stored = reopened(disk)
    assert len(stored.entries) == index - 1
    wal.save(batch(*run_of(index, 1)))


def test_a_snapshot_whose_name_was_never_synced_is_made_durable_before_the_log_relies_on_it(disk: MemoryFiles) -> None:
    """Found by the simulation (20,000 worlds, one failure): power lost after a failing disk had worked again."""
    wal, _ = reopened(disk)
    wal.save(batch(*run_of(1, 2)))
    meta = SnapshotMeta(42, 7, Membership(frozenset({"a"})))
    wal.snapshots.write(meta, (b"state",))
    disk._durable_names.pop(next(name for name in disk.names() if name.startswith("snapshot-") and "42-" in name))
    reopened(disk)  # begins the log anew after the snapshot
    disk.crash()
    _, stored = reopened(disk)
    assert stored.snapshot == meta


def test_a_failed_sync_is_never_believed_later(disk: MemoryFiles) -> None:
    wal, _ = reopened(disk)
    wal.save(batch(*run_of(1, 2)))
    disk.fail_sync = OSError(errno.EIO, "Input/output error")
    with pytest.raises(OSError, match="Input/output"):
        wal.save(batch(*run_of(3, 2), term=2))
    disk.fail_sync = None
    with pytest.raises(OSError, match="closed after a failed write"):
        wal.save(batch(*run_of(3, 2)))
    wal.recover()
    wal, stored = reopened(disk)
    assert (len(stored.entries), stored.hard_state.term) == (2, 1)
    wal.save(batch(*run_of(3, 1, term=3), term=3))
    disk.crash()
    _, stored = reopened(disk)
    assert [entry.term for entry in stored.entries] == [1, 1, 3]


def test_segments_go_when_a_snapshot_stands_for_them(disk: MemoryFiles) -> None:
    wal, _ = reopened(disk)
    for index in range(1, 101):
        wal.save(batch(*run_of(index, 1), term=2))
    before = len(disk.names())
    meta = SnapshotMeta(90, 1, FIRST)
    wal.snapshots.write(meta, [b"state"])
    wal.compact(80)
    wal.snapshots.remove_before(meta)
    assert len(disk.names()) < before / 2
    disk.crash()
    _, stored = reopened(disk)
    assert stored.snapshot == meta
    assert stored.entries[0].index <= 81
    assert stored.entries[-1].index == 100
    assert stored.hard_state.term == 2


def test_a_log_whose_first_segments_are_gone_may_begin_with_replaced_entries(disk: MemoryFiles) -> None:
    """The simulation's seed 138: what remains begins with entries that a later frame replaces from further back."""
    wal, _ = reopened(disk)
    wal.save(batch(*run_of(1, 84, data=b"x" * 20)))
    wal.save(batch(*run_of(85, 1)))  # in the next segment
    wal.save(batch(*run_of(74, 20, term=2), term=2))
    meta = SnapshotMeta(90, 2, FIRST)
    wal.snapshots.write(meta, [])
    wal.compact(84)
    _, stored = reopened(disk)
    assert [entry.index for entry in stored.entries] == list(range(74, 94))


def test_a_received_snapshot_replaces_the_log(disk: MemoryFiles) -> None:
    wal, _ = reopened(disk)
    wal.save(batch(*run_of(1, 5)))
    leader = MemoryFiles()
    other, _ = reopened(leader)
    meta = SnapshotMeta(50, 3, FIRST)
    other.snapshots.write(meta, [b"one", b"two"])
    file = other.snapshots.open(meta)
    wal.snapshots.receive(meta, 0, file.read(0, file.size()))
    wal.snapshots.check_incoming(meta)
    wal.save(batch(*run_of(51, 2, term=3), term=3, snapshot=meta))
    disk.crash()
    wal, stored = reopened(disk)
    assert stored.snapshot == meta
    assert [entry.index for entry in stored.entries] == [51, 52]
    assert list(wal.snapshots.chunks(meta)) == [b"one", b"two"]


def test_a_crash_between_snapshot_and_log_keeps_the_snapshot(disk: MemoryFiles) -> None:
    wal, _ = reopened(disk)
    wal.save(batch(*run_of(1, 5)))
    meta = SnapshotMeta(50, 3, FIRST)
    wal.snapshots.write(meta, [])
    wal, stored = reopened(disk)
    assert (stored.snapshot, stored.entries, stored.hard_state.term) == (meta, (), 3)
    wal.save(batch(*run_of(51, 1, term=3), term=3))
    _, stored = reopened(disk)
    assert [entry.index for entry in stored.entries] == [51]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.booleans()), max_size=30), st.floats(0, 1))
def test_any_run_of_writes_and_crashes_keeps_what_was_acknowledged(
    steps: list[tuple[int, int, bool]], survives: float
) -> None:
    disk = MemoryFiles()
    wal, _ = reopened(disk)
    model: list[Entry] = []
    for term, (count, back, power_lost) in enumerate(steps, 1):
        start = max(1, len(model) + 1 - back)
        more = run_of(start, count, term=term)
        if power_lost:
            disk.fail_sync = OSError(errno.EIO, "power lost")
            with pytest.raises(OSError, match=r"power lost|closed"):
                wal.save(batch(*more, term=term))
            disk.fail_sync = None
            disk.crash(lambda: survives)
            wal, stored = reopened(disk)
            assert list(stored.entries) in (model, [*model[: start - 1], *more])
            model = list(stored.entries)
        else:
            wal.save(batch(*more, term=term))
            model = [*model[: start - 1], *more]
    _, stored = reopened(disk)
    assert list(stored.entries) == model
