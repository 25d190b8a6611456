"""What was: a key's past revisions, who wrote them and why, and which revision was the newest at a time.

All of it is read from the state machine's version chains and list of changes; nothing is kept twice. What the history
budget has forgotten is gone: `oldest` says from where on the answers are whole.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right

import msgspec

from control.store.interface import Cause, KeyValue
from control.store.mvcc import Mvcc, moment


class Past(msgspec.Struct, frozen=True, gc=False):
    """One write of a key. `kv` of a removal holds the last state that was told, or an empty value."""

    kv: KeyValue
    deleted: bool
    cause: Cause
    time: dt.datetime  # by the clock of the member that proposed it


class History:
    """The past of one state."""

    def __init__(self, state: Mvcc) -> None:
        self._state = state

    @property
    def oldest(self) -> int:
        """The oldest revision that can be read (1 while nothing is forgotten)."""
        return self._state.compacted + 1

    def of(self, key: str, limit: int = 0) -> list[Past]:
        """A key's writes, newest first, at most `limit` (0: all that is kept); a removed key's too, while remembered."""
        found: list[Past] = []
        version = self._state.version(key)
        while version is not None and not (limit and len(found) == limit):
            found.append(Past(version.kv, version.deleted, version.cause, moment(version.time)))
            version = version.previous
        return found

    def cause_of(self, revision: int) -> tuple[Cause, dt.datetime, tuple[str, ...]]:
        """Why a revision came about, when, and which keys it changed.

        Raises:
            CompactedError: it is forgotten.
            KeyError: it has not happened here.
        """
        changes = self._state.changes(revision - 1, 1)
        if not changes or not changes[0]:
            raise KeyError(revision)
        versions = changes[0]
        return versions[0].cause, moment(versions[0].time), tuple(version.kv.key for version in versions)

    @property
    def since(self) -> dt.datetime | None:
        """When `oldest` was written; None while nothing was."""
        state = self._state
        changes = state.changes(state.compacted, 1)
        if changes and not changes[0]:  # on etcd, revisions may change nothing here
            changes = [versions for versions in state.changes(state.compacted) if versions]
        return moment(changes[0][0].time) if changes else None

    def at(self, when: dt.datetime) -> int:
        """The revision that was the newest at `when`.

        Raises:
            CompactedError: that is before the oldest revision kept.
        """
        state = self._state
        changes = [versions for versions in state.changes(state.compacted) if versions]
        at = bisect_right(changes, int(when.timestamp() * 1000), key=lambda versions: versions[0].time)
        if at == 0 and state.compacted:
            raise state.forgotten(state.compacted)
        return changes[at - 1][0].kv.mod_revision if at else state.compacted
