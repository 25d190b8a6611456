"""The store's interface: etcd's model, narrowed to what the API needs.

One revision counter orders every change. A transaction compares and puts; a range reads at a revision; a watch follows
from a revision; compaction forgets old revisions. The embedded backend keeps this over Raft, another over an etcd
cluster; one test suite holds both to it.

Promises:
- A transaction is acknowledged only when it is durable on a majority; it is applied whole or not at all, at one
  revision, the same on every member.
- `barrier` followed by a read sees every write acknowledged before the barrier was called (linearizable).
- A watch delivers every event after its start revision once, in order, all events of one revision together.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec


class Record(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Base of what goes in and out of the store: immutable, made in a fraction of a microsecond, encoded as an array.

    The operations and the cause are encoded into the log as they are, so fields are only ever added at the end, with
    defaults. Records hold no cycles and are not tracked by the garbage collector: hundreds of thousands may be alive.
    """


class Cause(Record, frozen=True):
    """What led to a write: the revision that was observed (0: none) and who decided."""

    revision: int = 0
    actor: str = ""


class Put(Record, frozen=True, tag=1):
    """Write `value` at `key`.

    The revision of the write, in decimal digits, is inserted into the value at byte offset `splice` when it is
    applied (`splice` < 0: nothing is inserted), so that stored documents carry their own resourceVersion and are never encoded again.
    `expect` is the revision of the key's last write that must still be current: 0 the key must not exist, None anything.
    """

    key: str
    value: bytes
    splice: int = -1
    expect: int | None = None


class Delete(Record, frozen=True, tag=2):
    """Remove `key`; `expect` as for Put (None: also when the key does not exist, which then changes nothing).

    `value` with `splice`, when given, is the last state that watchers are told, carrying the revision of the removal.
    """

    key: str
    expect: int | None = None
    value: bytes | None = None
    splice: int = -1


class Check(Record, frozen=True, tag=3):
    """Require that the last write of `key` has revision `expect` (0: the key does not exist); changes nothing."""

    key: str
    expect: int


class Txn(Record, frozen=True):
    """Operations that are applied together at one revision, or not at all."""

    ops: tuple[Put | Delete | Check, ...]
    cause: Cause = Cause()


class KeyValue(Record, frozen=True):
    """A key's state. `value` has its revision spliced in."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int


class Committed(Record, frozen=True):
    """The transaction is in the log, at `revision`; `values` holds the stored bytes of its puts, in order."""

    revision: int
    values: tuple[bytes, ...]


class Conflicted(Record, frozen=True):
    """An expectation did not hold and nothing was changed; `current` is the key's state (None: it does not exist)."""

    key: str
    current: KeyValue | None
    revision: int


TxnResult = Committed | Conflicted


class Range(Record, frozen=True):
    """Part of the state at `revision`, in key order."""

    kvs: tuple[KeyValue, ...]
    revision: int
    more: bool = False  # whether keys follow after the last of kvs
    count: int = 0  # keys under the prefix at that revision, whatever the limit


class Event(Record, frozen=True):
    """One change. A removal has value None, or the last state that Delete.value gave."""

    key: str
    value: bytes | None
    previous: KeyValue | None
    revision: int
    create_revision: int
    cause: Cause
    deleted: bool = False


class EventBatch(Record, frozen=True):
    """Events of one or more whole revisions; everything up to `revision` was delivered (`events` may be empty: progress)."""

    events: tuple[Event, ...]
    revision: int


class StoreError(Exception):
    """Base of what the store refuses with."""


class NoLeaderError(StoreError):
    """No leader is known, or leadership was lost while the write was under way: it may or may not be applied."""

    def __init__(self, message: str, *, leader: str = "", uncertain: bool = False) -> None:
        super().__init__(message)
        self.leader = leader  # name of the member to try, if known
        self.uncertain = uncertain  # whether the write may still be applied


class CompactedError(StoreError):
    """The revision asked for was forgotten; `oldest`, written at `since` if that is known, is still there."""

    def __init__(self, revision: int, oldest: int, since: dt.datetime | None = None) -> None:
        told = f" ({since:%Y-%m-%dT%H:%M:%SZ})" if since is not None else ""
        super().__init__(f"revision {revision} was compacted: revisions from {oldest}{told} on are available")
        self.revision = revision
        self.oldest = oldest
        self.since = since


class FutureRevisionError(StoreError):
    """The revision asked for has not happened yet."""


class StoreFullError(StoreError):
    """The disk has no room for writes; deletes may still go through."""


class OverloadedError(StoreError):
    """Too much waits to be committed: nothing was written, try again shortly."""


class TooSlowError(StoreError):
    """A watcher fell so far behind that the changes it still has to see are forgotten: it must list again."""


class Watch(Protocol):
    """A watch under way: iterate it; `aclose` it when the reader is done."""

    def __aiter__(self) -> AsyncIterator[EventBatch]:
        """Follow the watch."""
        ...

    async def __anext__(self) -> EventBatch:
        """Wait for the next batch."""
        ...

    async def aclose(self) -> None:
        """End the watch; whoever waits for its next batch sees the end."""
        ...


class Store(Protocol):
    """What the API layer needs of a backend."""

    @property
    def revision(self) -> int:
        """The newest revision applied here."""
        ...

    @property
    def compacted(self) -> int:
        """Revisions up to and including this one are forgotten (0: none are)."""
        ...

    async def commit(self, txns: Sequence[Txn]) -> list[TxnResult]:
        """Propose independent transactions in one trip through the log; results in their order.

        Raises NoLeaderError (this member does not lead, or stopped leading meanwhile) and StoreFullError.
        """
        ...

    async def barrier(self) -> int:
        """Wait until this member has applied every write acknowledged anywhere before the call; answer its revision.

        Raises NoLeaderError when no leader confirms in time.
        """
        ...

    async def get(self, key: str, revision: int = 0) -> KeyValue | None:
        """Read a key as of a revision (0: the newest applied here). Raises CompactedError, FutureRevisionError."""
        ...

    async def range(self, prefix: str, *, revision: int = 0, limit: int = 0, after: str = "") -> Range:
        """Read the keys that begin with `prefix`, in key order, those after `after` only, at most `limit` (0: all)."""
        ...

    def watch(self, prefix: str, after: int) -> Watch:
        """Follow changes under a prefix, from the revision after `after`, which may still be to come.

        Nothing that happens after the call is missed. The iterator raises CompactedError (at its first step: `after`
        is forgotten), TooSlowError, and NoLeaderError when the store stops; `aclose` ends it.
        """
        ...
