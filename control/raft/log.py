"""The log as the core sees it: entries in memory, and how far they are durable, committed and handed out for applying.

    compacted |  offset  < entries ................................ last
              |                applied <= commit        stable <= last

- `offset`: the last entry that is no longer held; its term is still known, for the check of the entry after it.
- `stable`: entries up to here are on this member's disk.
- `commit`: a majority has them on disk; they never change. May run ahead of `stable` on this member.
- `applied`: handed out to the state machine. Never beyond min(commit, stable).

Entries in memory are the price for never waiting for the disk when a follower asks for old ones; the snapshot policy of
the node bounds them.
"""

from __future__ import annotations

from collections.abc import Sequence

from control.raft.messages import Entry, SnapshotMeta, size


class LostEntriesError(Exception):
    """The leader says that this member holds entries which it does not: its disk lost what it had acknowledged."""


class Log:
    """Entries after `offset`, contiguous."""

    def __init__(self, snapshot: SnapshotMeta, entries: Sequence[Entry] = ()) -> None:
        """Begin with what the disk holds: a snapshot, and entries of which some may come before its end."""
        self._entries: list[Entry] = list(entries)
        if self._entries and self._entries[0].index <= snapshot.index:
            base = self._entries.pop(0)
            self.offset, self.offset_term = base.index, base.term
        else:
            self.offset, self.offset_term = snapshot.index, snapshot.term
        self.stable = self.last_index
        self.commit = snapshot.index
        self.applied = snapshot.index

    @property
    def last_index(self) -> int:
        """Index of the newest entry."""
        return self.offset + len(self._entries)

    @property
    def last_term(self) -> int:
        """Term of the newest entry."""
        return self._entries[-1].term if self._entries else self.offset_term

    def term(self, index: int) -> int | None:
        """Term of the entry at `index`; None when it is compacted or not there yet."""
        position = index - self.offset
        if position == 0:
            return self.offset_term
        if 0 < position <= len(self._entries):
            return self._entries[position - 1].term
        return None

    def slice(self, after: int, upto: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries after `after` up to `upto`, at most `max_bytes` of them but always one if there is one."""
        found = self._entries[after - self.offset : upto - self.offset]
        total = 0
        for count, entry in enumerate(found):
            total += size(entry)
            if total > max_bytes and count > 0:
                return tuple(found[:count])
        return tuple(found)

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries right after the last one."""
        assert not entries or entries[0].index == self.last_index + 1
        self._entries.extend(entries)

    def truncate(self, index: int) -> None:
        """Drop the entries from `index` on: another leader's log has others there."""
        assert index > self.commit, f"entry {index} is committed (up to {self.commit}) and cannot be cut"
        del self._entries[index - self.offset - 1 :]
        self.stable = min(self.stable, index - 1)

    def find_conflict(self, entries: Sequence[Entry]) -> int | None:
        """Position in `entries` of the first that this log does not have; None when it has them all."""
        for position, entry in enumerate(entries):
            if self.term(entry.index) != entry.term:
                return position
        return None

    def find_agreement(self, index: int, term: int) -> int:
        """Find the highest index, at most `index`, whose term is at most `term`: logs cannot agree above it (§5.3)."""
        index = min(index, self.last_index)
        while index > self.offset:
            found = self.term(index)
            if found is not None and found <= term:
                break
            index -= 1
        return index

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so is at least as new as this one (§5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def commit_to(self, index: int) -> bool:
        """Move the commit index forward; answer whether it moved.

        Raises:
            LostEntriesError: there is no such entry.
        """
        if index <= self.commit:
            return False
        if index > self.last_index:
            raise LostEntriesError(
                f"entry {index} is committed and was acknowledged here, but the log ends at {self.last_index}"
            )
        self.commit = index
        return True

    def unstable(self) -> tuple[Entry, ...]:
        """Entries that are not on the disk yet."""
        return tuple(self._entries[self.stable - self.offset :])

    def stable_to(self, index: int, term: int) -> None:
        """The disk holds entries up to (`index`, `term`), unless they were replaced here while they were written."""
        if self.term(index) == term and index > self.stable:
            self.stable = index

    def take_committed(self, max_bytes: int) -> tuple[Entry, ...]:
        """Hand out the next entries to apply."""
        upto = min(self.commit, self.stable)
        if self.applied >= upto:
            return ()
        entries = self.slice(self.applied, upto, max_bytes)
        self.applied = entries[-1].index
        return entries

    def restore(self, snapshot: SnapshotMeta) -> None:
        """Forget everything: a snapshot takes its place."""
        self._entries.clear()
        self.offset, self.offset_term = snapshot.index, snapshot.term
        self.stable = self.commit = self.applied = snapshot.index

    def compact(self, index: int) -> None:
        """Let go of entries up to `index`, all of them applied."""
        assert index <= self.applied
        term = self.term(index)
        if term is None or index == self.offset:
            return
        del self._entries[: index - self.offset]
        self.offset, self.offset_term = index, term

    def trailing(self, before: int, max_entries: int, max_bytes: int) -> int:
        """Find how far the log may be compacted so that at most so much is kept up to `before`."""
        index, total = before, 0
        while index > self.offset and before - index < max_entries:
            total += size(self._entries[index - self.offset - 1])
            if total > max_bytes:
                break
            index -= 1
        return index
