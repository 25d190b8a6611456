"""The write-ahead log: what a member must not forget, in segment files that are only ever appended to.

A *frame* is one group commit: everything of one batch, under one checksum, written at once and made durable by one
fdatasync. A frame is there whole or not at all. Layout, little-endian, frames padded to 8 bytes:

    magic u32 | CRC-32 u32 (of all that follows) | length u32 | reserved u32 | number u64 | records...

Frames are numbered without gaps. A segment `wal-NUMBER` begins with the frame of that number, which repeats the hard
state, so that older segments can be removed when a snapshot stands for their entries. Segments are reserved in advance:
a disk that runs full shows when a segment is begun, before anything of the batch is written.

What the reader makes of damage, frame `n` being the first that does not check out:

- Nothing after it has a number above `n`: the write of `n` was interrupted, so its fdatasync never returned and nobody
  was told anything that depends on it. The tail is cut. (A flipped bit in the very last frame looks the same; no log
  that is its own only witness can tell.)
- A frame above `n` exists, in this segment or a later one: `n` was durable and promised. The member must not start, for
  it would break its promises; the message says what to do.

A write or sync that failed leaves the file in a state nobody knows (the kernel may drop the dirty pages and report
success next time). So the log refuses everything after a failure until `recover` has cut the file back to the last
byte known to be durable; the owner then reads it all again, as after a crash.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from control.raft.core import Batch, Stored
from control.raft.files import File, Files
from control.raft.interface import LogDamagedError
from control.raft.messages import Entry, EntryKind, HardState, Membership, SnapshotMeta
from control.raft.snapshots import SnapshotStore

MAGIC = 0x57545253  # "SRTW"
HEADER = struct.Struct("<IIIIQ")
CHECKED_FROM = 8  # the checksum covers the header after itself, and the records
ALIGN = 8
RECORD_HARD_STATE = 1  # term, commit, length of vote, vote
RECORD_ENTRY = 2  # index, term, kind, length of data, data
RECORD_RESET = 3  # index, term of a snapshot: entries begin anew after it
HARD_STATE = struct.Struct("<BQQH")
ENTRY = struct.Struct("<BQQBI")
RESET = struct.Struct("<BQQ")

REMEDY = (
    "This member's log cannot be trusted any more. If a majority of the other members is well: stop this one, move its raft folder "
    "away (do not delete it), remove the member from the cluster and add it again. If not: restore a backup."
)


@dataclass
class _Segment:
    name: str
    number: int  # of its first frame
    last_index: int = 0  # the highest entry index in it


@dataclass
class _Replay:
    """What reading the frames one after the other comes to."""

    hard_state: HardState = field(default_factory=HardState)
    base: int = 0  # the first entry follows it
    base_term: int | None = None  # not known when older segments are gone
    entries: list[Entry] = field(default_factory=list)

    @property
    def last_index(self) -> int:
        return self.base + len(self.entries)

    def add(self, entry: Entry) -> bool:
        """Put an entry at its index, cutting what was there; answer False when it leaves a gap."""
        if self.base_term is None and (not self.entries or entry.index <= self.base):
            # The first entry to be read; or one that replaces it and what came before it in segments that are gone.
            self.base, self.entries = entry.index - 1, []
        if not self.base < entry.index <= self.last_index + 1:
            return False
        del self.entries[entry.index - self.base - 1 :]
        self.entries.append(entry)
        return True


class Wal:
    """The log on disk. Not for two threads at a time; `save` blocks until the disk has answered."""

    def __init__(self, files: Files, segment_bytes: int = 16 << 20) -> None:
        self.snapshots = SnapshotStore(files)
        self._files = files
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._file: File | None = None
        self._offset = 0  # where the next frame goes: everything before is durable
        self._number = 1  # of the next frame
        self._hard_state = HardState()
        self._failed = False

    # --- opening --------------------------------------------------------------------------------------------------------

    def open(self, bootstrap: Membership) -> Stored:
        """Read everything, repairing an interrupted write; an empty folder is begun with the `bootstrap` membership.

        Raises:
            LogDamagedError: something durable is missing or damaged.
            OSError: the disk refuses.
        """
        self.snapshots.clean()
        self._files.sync_folder()  # a name whose sync failed may be seen here and yet be lost in a crash
        snapshot = self.snapshots.newest()
        names = [name for name in self._files.names() if name.startswith("wal-")]
        if snapshot is None:
            if names:
                raise LogDamagedError(
                    f"{self._files.describe(names[0])} exists, but there is no snapshot beside it. {REMEDY}"
                )
            snapshot = SnapshotMeta(0, 0, bootstrap)
            self.snapshots.write(snapshot, ())
        replay = self._read(names)
        stored, reset = self._reconcile(snapshot, replay)
        self._hard_state = stored.hard_state
        if self._file is None:
            self._begin_segment()
        if reset:
            self._write(
                _encode_hard_state(stored.hard_state) + RESET.pack(RECORD_RESET, snapshot.index, snapshot.term), 0
            )
        return stored

    def _read(self, names: list[str]) -> _Replay:
        replay = _Replay()
        self._segments = [_Segment(name, int(name.removeprefix("wal-"))) for name in names]
        for position, segment in enumerate(self._segments):
            if position and segment.number != self._number:
                raise LogDamagedError(
                    f"{self._files.describe(segment.name)}: frame {self._number} should come first, not {segment.number}. {REMEDY}"
                )
            self._number = segment.number
            file = self._files.open(segment.name)
            data = file.read(0, file.size())
            offset = 0
            for records, end in self._frames(data):
                self._replay(replay, segment, records, offset)
                offset = end
                self._number += 1
            if data[offset:].lstrip(b"\0"):
                self._judge_damage(segment, data, offset, last=segment is self._segments[-1])
            if segment is self._segments[-1]:
                self._continue(segment, file, offset)
            else:
                file.close()
        return replay

    def _frames(self, data: bytes) -> Iterator[tuple[memoryview, int]]:
        """Yield the records and the end of each good frame, in order, as long as they are good."""
        offset = 0
        view = memoryview(data)
        while (end := _frame_end(view, offset, self._number)) is not None:
            length = HEADER.unpack_from(data, offset)[2]
            yield view[offset + HEADER.size : offset + HEADER.size + length], end
            offset = end

    def _judge_damage(self, segment: _Segment, data: bytes, offset: int, *, last: bool) -> None:
        """Raise unless the bytes at `offset` are an interrupted write; see the module's docstring."""
        view = memoryview(data)
        later = not last
        found = data.find(MAGIC.to_bytes(4, "little"), offset + 1)
        while found >= 0 and not later:
            if len(data) - found >= HEADER.size:
                number = HEADER.unpack_from(data, found)[4]
                later = number > self._number and _frame_end(view, found, number) is not None
            found = data.find(MAGIC.to_bytes(4, "little"), found + 1)
        if later:
            raise LogDamagedError(
                f"{self._files.describe(segment.name)} is damaged at byte {offset}: frame {self._number} does not match its checksum, "
                f"but frames written after it are there. {REMEDY}"
            )

    def _continue(self, segment: _Segment, file: File, offset: int) -> None:
        """Take the last segment up again, with what is not a good frame cut off."""
        if offset == 0:  # its very first frame was interrupted
            file.close()
            self._files.remove(segment.name)
            self._segments.pop()
            return
        file.truncate(offset)
        file.reserve(max(self._segment_bytes, offset))
        file.sync()
        self._file, self._offset = file, offset

    def _replay(self, replay: _Replay, segment: _Segment, records: memoryview, frame_offset: int) -> None:
        offset = 0
        while offset < len(records):
            match records[offset]:
                case 1:  # RECORD_HARD_STATE
                    _, term, commit, length = HARD_STATE.unpack_from(records, offset)
                    offset += HARD_STATE.size + length
                    vote = str(records[offset - length : offset], "utf-8")
                    replay.hard_state = HardState(term, vote, commit)
                case 2:  # RECORD_ENTRY
                    _, index, term, kind, length = ENTRY.unpack_from(records, offset)
                    offset += ENTRY.size + length
                    segment.last_index = max(segment.last_index, index)
                    if not replay.add(Entry(index, term, bytes(records[offset - length : offset]), EntryKind(kind))):
                        raise LogDamagedError(
                            f"{self._files.describe(segment.name)}: entry {index} does not follow entry {replay.last_index} "
                            f"(frame at byte {frame_offset}). {REMEDY}"
                        )
                case 3:  # RECORD_RESET
                    _, index, term = RESET.unpack_from(records, offset)
                    offset += RESET.size
                    replay.base, replay.base_term, replay.entries = index, term, []
                case unknown:
                    raise LogDamagedError(
                        f"{self._files.describe(segment.name)} has a record of kind {unknown}: it was written by a newer version"
                    )

    def _reconcile(self, snapshot: SnapshotMeta, replay: _Replay) -> tuple[Stored, bool]:
        """Join the newest snapshot and the entries; answer also whether the log must be begun anew after the snapshot.

        A snapshot becomes durable before the log knows of it. When the two do not meet at the snapshot's index, a crash
        came in between: the snapshot is committed state, so what does not agree with it goes (paper, figure 13).
        """
        hard_state = replay.hard_state
        if hard_state.term < snapshot.term:
            hard_state = HardState(snapshot.term, "", snapshot.index)
        hard_state = HardState(hard_state.term, hard_state.vote, max(hard_state.commit, snapshot.index))
        entries = tuple(replay.entries)
        if replay.base > snapshot.index:
            raise LogDamagedError(
                f"the log in {self._files.describe('')} begins after entry {replay.base}, but the newest snapshot ends at {snapshot.index}. {REMEDY}"
            )
        meets = replay.last_index >= snapshot.index and (
            replay.base == snapshot.index or entries[snapshot.index - replay.base - 1].term == snapshot.term
        )
        if not meets:
            return Stored(hard_state, snapshot), True
        return Stored(hard_state, snapshot, entries), False

    # --- writing --------------------------------------------------------------------------------------------------------

    def save(self, batch: Batch) -> None:
        """Make a batch durable: its snapshot, its hard state, its entries.

        Raises:
            OSError: it is not durable, and nothing more will be until `recover`.
        """
        self._require_sound()
        try:
            if self._offset >= self._segment_bytes:
                self._begin_segment()
            parts = [_encode_hard_state(batch.hard_state)]
            if batch.snapshot is not None:
                self.snapshots.accept(batch.snapshot.meta)
                parts.append(RESET.pack(RECORD_RESET, batch.snapshot.meta.index, batch.snapshot.meta.term))
            for entry in batch.entries:
                parts += (ENTRY.pack(RECORD_ENTRY, entry.index, entry.term, entry.kind, len(entry.data)), entry.data)
            self._write(b"".join(parts), batch.entries[-1].index if batch.entries else 0)
            self._hard_state = batch.hard_state
        except OSError:
            self._failed = True
            raise

    def recover(self) -> None:
        """Cut the log back to what is known to be durable, and make sure that there is room to go on.

        The log is to be opened anew afterwards. Raises OSError while the disk still refuses.
        """
        try:
            if self._file is not None:
                self._file.truncate(self._offset)
                self._file.reserve(max(self._segment_bytes, self._offset))
                self._file.sync()
            if self._offset >= self._segment_bytes:
                self._begin_segment()
            self._check_room()
        except OSError:
            self._failed = True
            raise
        self.close()

    def roll(self) -> None:
        """Go on in a new segment, so that `compact` can remove what was written so far. Raises OSError, and nothing changed."""
        self._require_sound()
        self._begin_segment()

    def compact(self, upto: int) -> None:
        """Remove segments whose entries all have an index up to `upto`; the newest snapshot must stand for them."""
        removed = 0
        for segment in self._segments[:-1]:
            if segment.last_index > upto:
                break
            self._files.remove(segment.name)
            removed += 1
        if removed:
            del self._segments[:removed]
            self._files.sync_folder()

    def close(self) -> None:
        """Close the files. What was saved is durable already."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._failed = True

    def _begin_segment(self) -> None:
        """Reserve a new segment and make its first frame durable; only then leave the old one."""
        name = f"wal-{self._number:020d}"
        file = self._files.open(name)
        try:
            file.truncate(0)
            file.reserve(self._segment_bytes)
            frame = _encode_frame(self._number, _encode_hard_state(self._hard_state))
            file.write(0, frame)
            file.sync()
            self._files.sync_folder()
        except OSError:
            file.close()
            self._files.remove(name)
            raise
        if self._file is not None:
            self._file.close()
        self._segments.append(_Segment(name, self._number))
        self._file, self._offset = file, len(frame)
        self._number += 1

    def _write(self, records: bytes, last_index: int) -> None:
        assert self._file is not None
        frame = _encode_frame(self._number, records)
        self._file.write(self._offset, frame)
        self._file.sync()
        self._offset += len(frame)
        self._number += 1
        segment = self._segments[-1]
        segment.last_index = max(segment.last_index, last_index)

    def _check_room(self) -> None:
        """Raise OSError unless there is room for another segment: coming back to fail at the next write helps nobody."""
        try:
            with closing(self._files.open("room")) as file:
                file.reserve(self._segment_bytes)
        finally:
            self._files.remove("room")

    def _require_sound(self) -> None:
        if self._failed:
            raise OSError("the log is closed after a failed write")


def _encode_hard_state(hard_state: HardState) -> bytes:
    vote = hard_state.vote.encode()
    return HARD_STATE.pack(RECORD_HARD_STATE, hard_state.term, hard_state.commit, len(vote)) + vote


def _encode_frame(number: int, records: bytes) -> bytes:
    header = HEADER.pack(MAGIC, 0, len(records), 0, number)
    checksum = zlib.crc32(records, zlib.crc32(header[CHECKED_FROM:]))
    return b"".join((HEADER.pack(MAGIC, checksum, len(records), 0, number), records, bytes(-len(records) % ALIGN)))


def _frame_end(data: memoryview, offset: int, number: int) -> int | None:
    """Where the frame at `offset` ends; None when there is no good frame with that number."""
    if len(data) - offset < HEADER.size:
        return None
    header: tuple[int, int, int, int, int] = HEADER.unpack_from(data, offset)
    magic, checksum, length, _, found = header
    end = offset + HEADER.size + length
    if magic != MAGIC or found != number or end > len(data):
        return None
    if zlib.crc32(data[offset + CHECKED_FROM : end]) != checksum:
        return None
    return end + -length % ALIGN
