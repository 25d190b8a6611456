"""The store's state machine: transactions in, revisions out; pure and synchronous.

Mechanism. One counter, the revision, is raised by every transaction that changes something. A write makes a `Version`
that points to the one it replaced, so that a key is a chain from its newest version back; a removal is a version too (a
tombstone). `_changes[i]` holds the versions of revision `compacted + 1 + i`: revisions are dense, so finding the
changes after any revision is an index into a list (the mirror of an external store leaves places empty). Live keys and
keys that only history knows are in two sorted sets, so a read of the present never meets the past.

History is kept to a budget of age, number and bytes. Forgetting revision C cuts what its versions replaced out of
their chains and drops its tombstones: O(1) a write, never a pause. The newest revision is never forgotten.

Invariants:
- The state is a function of the commands applied: time comes from the commands, and never runs backwards.
- Reads at any revision in (compacted, revision] give exactly what a read gave when that revision was the newest.
- A version is never changed, but for the link to what it replaced being cut, and an encrypted value being revealed when its key
  comes; values may be shared with readers.

Failure. A snapshot is checked chunk by chunk and as a whole before the state is replaced: a damaged one leaves it as
it was and raises `SnapshotDamagedError`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice

import msgspec

from control.store import snapshot
from control.store.interface import (
    Cause,
    Check,
    Committed,
    CompactedError,
    Conflicted,
    Delete,
    FutureRevisionError,
    KeyValue,
    Put,
    Range,
    Txn,
    TxnResult,
)
from control.store.keys import SortedKeys

MIB = 1 << 20
VERSION_BYTES = (
    400  # what a version costs beside its key and value: structs, tuple, dictionary and list slots (measured)
)
TRIM = 4096  # forgotten slots at the head of the list of changes before they are cut off: amortises moving the rest


Seal = Callable[[str, bytes], bytes]  # key, value -> what is written
Unseal = Callable[[str, bytes, int], bytes]  # key, what was written, revision of the write -> value


class Version(msgspec.Struct, gc=False):
    """A key's state from one revision on, and how it came about."""

    kv: KeyValue  # of a tombstone: value is what watchers are told, b"" for nothing
    deleted: bool
    cause: Cause
    time: int  # milliseconds since the epoch, as the proposing member's clock said
    previous: Version | None  # what it replaced; None also when that is forgotten


class Budget(msgspec.Struct, frozen=True):
    """How much history is kept; whichever is exceeded first counts. Members should agree, or they remember differently far back."""

    age_s: float = 3600.0  # an hour of `--at` and `why`; watchers come back after seconds
    changes: int = 200_000  # bounds the time that a watcher may take to catch up
    bytes: int = 64 * MIB  # of replaced values: half of a member's memory goal


class Mvcc:
    """Keys, their revisions, and nothing else. Not thread-safe, except for what `snapshot` returns."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget or Budget()
        self.revision = 0  # the newest
        self.compacted = 0  # revisions up to and including this one are forgotten
        self.time = 0  # newest time of a command, ms
        self.live_bytes = 0  # keys and values of live keys
        self.history_bytes = 0  # what would be free if history were forgotten
        self.conflicts = 0  # transactions refused since this process started
        self._latest: dict[str, Version] = {}  # newest version by key, tombstones that history still needs included
        self._live = SortedKeys()
        self._dead = SortedKeys()  # keys whose newest version is a tombstone
        self._changes: list[tuple[Version, ...]] = []
        self._head = 0  # slots at the start of _changes that are forgotten

    def __len__(self) -> int:
        return len(self._live)

    def keys(self) -> Iterator[str]:
        """Every live key, in order."""
        return self._live.under("")

    # Writing

    def apply(self, txn: Txn, time: int) -> TxnResult:
        """Apply a transaction that `validate` accepts, at `time` (ms since the epoch), whole or not at all."""
        latest = self._latest
        for op in txn.ops:
            if op.expect is None:
                continue
            version = latest.get(op.key)
            alive = version is not None and not version.deleted
            if (version.kv.mod_revision if version is not None and alive else 0) != op.expect:
                self.conflicts += 1
                return Conflicted(op.key, version.kv if version is not None and alive else None, self.revision)
        self.time = max(self.time, time)
        revision = self.revision + 1
        digits = b"%d" % revision
        changed: list[Version] = []
        values: list[bytes] = []
        for op in txn.ops:
            if isinstance(op, Put):
                version = self._put(op, revision, digits, txn.cause)
                values.append(version.kv.value)
                changed.append(version)
            elif isinstance(op, Delete):
                tombstone = self._delete(op, revision, digits, txn.cause)
                if tombstone is not None:
                    changed.append(tombstone)
        if not changed:
            return Committed(self.revision, ())
        self.revision = revision
        self._changes.append(tuple(changed))
        self._forget()
        return Committed(revision, tuple(values))

    def _put(self, op: Put, revision: int, digits: bytes, cause: Cause) -> Version:
        key = op.key
        value = _spliced(op.value, op.splice, digits)
        old = self._latest.get(key)
        if old is None or old.deleted:
            created = revision
            self._live.add(key)
            if old is not None:
                self._dead.discard(key)
                key = old.kv.key  # one string per key, however often it is written
        else:
            created = old.kv.create_revision
            key = old.kv.key
            self.live_bytes -= _size(old.kv)
            self.history_bytes += _size(old.kv) + VERSION_BYTES
        version = Version(KeyValue(key, value, created, revision), False, cause, self.time, old)
        self._latest[key] = version
        self.live_bytes += _size(version.kv)
        return version

    def _delete(self, op: Delete, revision: int, digits: bytes, cause: Cause) -> Version | None:
        old = self._latest.get(op.key)
        if old is None or old.deleted:
            return None
        key = old.kv.key
        value = b"" if op.value is None else _spliced(op.value, op.splice, digits)
        version = Version(KeyValue(key, value, old.kv.create_revision, revision), True, cause, self.time, old)
        self._latest[key] = version
        self._live.discard(key)
        self._dead.add(key)
        self.live_bytes -= _size(old.kv)
        self.history_bytes += _size(old.kv) + _size(version.kv) + 2 * VERSION_BYTES
        return version

    # Forgetting

    def _forget(self) -> None:
        """Forget the oldest revisions until the budget holds; the newest stays."""
        budget = self.budget
        horizon = self.time - int(budget.age_s * 1000)
        while self.revision - self.compacted > 1 and (
            self.revision - self.compacted > budget.changes
            or self.history_bytes > budget.bytes
            or self._expired(horizon)
        ):
            self._forget_oldest()

    def _expired(self, horizon: int) -> bool:
        """Whether the oldest revision kept is from before `horizon` (ms since the epoch)."""
        return self._changes[self._head][0].time < horizon

    def compact(self, revision: int) -> None:
        """Forget revisions up to and including `revision`, but never the newest."""
        while self.compacted < min(revision, self.revision - 1):
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        for version in self._changes[self._head]:
            old = version.previous
            if old is not None and not old.deleted:
                self.history_bytes -= _size(old.kv) + VERSION_BYTES
            version.previous = None
            if version.deleted:
                self.history_bytes -= _size(version.kv) + VERSION_BYTES
                key = version.kv.key
                if self._latest[key] is version:
                    del self._latest[key]
                    self._dead.discard(key)
        self._changes[self._head] = ()
        self._head += 1
        self.compacted += 1
        if self._head > TRIM and self._head * 2 > len(self._changes):
            del self._changes[: self._head]
            self._head = 0

    # Reading

    def get(self, key: str, revision: int = 0) -> KeyValue | None:
        """Read a key as of a revision (0: the newest). Raises CompactedError, FutureRevisionError."""
        version = self.version(key, revision)
        return None if version is None or version.deleted else version.kv

    def version(self, key: str, revision: int = 0) -> Version | None:
        """Read a key's version as of a revision, which may be a tombstone. Raises as `get`."""
        revision = self._readable(revision)
        version = self._latest.get(key)
        while version is not None and version.kv.mod_revision > revision:
            version = version.previous
        return version

    def range(self, prefix: str, *, revision: int = 0, limit: int = 0, after: str = "") -> Range:
        """Read keys under a prefix as of a revision, in key order. Raises as `get`.

        Costs the keys returned; `count` costs the changes since `revision` or the keys under the prefix, the fewer.
        """
        revision = self._readable(revision)
        latest = self._latest
        if revision == self.revision:
            keys = self._live.under(prefix, after)
            kvs = [latest[key].kv for key in (islice(keys, limit + 1) if limit else keys)]
            count = self._live.count(prefix)
        else:
            found = self._past(prefix, after, revision)
            kvs = list(islice(found, limit + 1) if limit else found)
            if not limit and not after:
                count = len(kvs)
            elif self.revision - revision < self._live.count(prefix) + self._dead.count(prefix):
                count = self._live.count(prefix) - self._growth(prefix, revision)
            else:
                count = sum(1 for _ in self._past(prefix, "", revision))
        more = bool(limit) and len(kvs) > limit
        return Range(tuple(kvs[:limit] if more else kvs), revision, more, count)

    def _past(self, prefix: str, after: str, revision: int) -> Iterator[KeyValue]:
        latest = self._latest
        for key in merge(self._live.under(prefix, after), self._dead.under(prefix, after)):
            version: Version | None = latest[key]
            while version is not None and version.kv.mod_revision > revision:
                version = version.previous
            if version is not None and not version.deleted:
                yield version.kv

    def _growth(self, prefix: str, revision: int) -> int:
        """How many more keys there are under the prefix now than at `revision`."""
        growth = 0
        for changed in self.changes(revision):
            for version in changed:
                if version.kv.key.startswith(prefix):
                    if version.deleted:
                        growth -= 1
                    elif version.kv.create_revision == version.kv.mod_revision:
                        growth += 1
        return growth

    def changes(self, after: int, limit: int = 0) -> Sequence[tuple[Version, ...]]:
        """The versions of each revision after `after`, at most `limit` revisions (0: all). Raises CompactedError."""
        if after < self.compacted:
            raise self.forgotten(after)
        start = self._head + after - self.compacted
        return self._changes[start : start + limit] if limit else self._changes[start:]

    def holds(self, version: Version) -> bool:
        """Whether a version can still be read at some revision."""
        found = self._latest.get(version.kv.key)
        while found is not None and found is not version:
            found = found.previous
        return found is not None

    def reveal(self, version: Version, value: bytes) -> None:
        """Put the plaintext in the place of a value of this state that was kept encrypted."""
        kv = version.kv
        grown = len(value) - len(kv.value)
        if self._latest.get(kv.key) is version and not version.deleted:
            self.live_bytes += grown
        else:
            self.history_bytes += grown
        version.kv = msgspec.structs.replace(kv, value=value)

    def versions(self) -> Iterator[Version]:
        """Everything that can be read at some revision, in no order."""
        for version in self._latest.values():
            found: Version | None = version
            while found is not None:
                yield found
                found = found.previous

    def _readable(self, revision: int) -> int:
        if revision == 0:
            return self.revision
        if revision > self.revision:
            raise FutureRevisionError(f"revision {revision} has not happened here yet: the newest is {self.revision}")
        if revision <= self.compacted and revision != self.revision:
            raise self.forgotten(revision)
        return revision

    def forgotten(self, revision: int) -> CompactedError:
        """The refusal of a read at a revision that was compacted."""
        kept = islice(self._changes, self._head, None)
        oldest = next((versions[0].time for versions in kept if versions), self.time)
        return CompactedError(revision, self.compacted + 1, moment(oldest))

    # Snapshots

    def snapshot(self, seal: Seal | None = None) -> Iterator[bytes]:
        """Begin a snapshot of the state as of now, history included; the chunks may be taken later, by another thread.

        `seal` makes of each value what is written; `restore` is given its inverse.
        """
        compacted = self.compacted
        changes = self.changes(compacted)
        base = [version for version in self._latest.values() if version.kv.mod_revision <= compacted]
        for changed in changes:
            for version in changed:
                old = version.previous
                if old is not None and not old.deleted and old.kv.mod_revision <= compacted:
                    base.append(old)
        header = snapshot.Header(self.revision, compacted, self.time, len(base), sum(map(len, changes)))

        def records() -> Iterator[snapshot.Record]:
            for version in base:
                yield _record(version)
            for changed in changes:
                for version in changed:
                    yield _record(version)

        if seal is None:
            return snapshot.write(header, records())
        sealed = (
            (key, seal(key, value), created, revision, deleted, actor, observed, time)
            for key, value, created, revision, deleted, actor, observed, time in records()
        )
        return snapshot.write(header, sealed)

    def restore(self, chunks: Iterable[bytes], unseal: Unseal | None = None) -> None:
        """Replace the state by a snapshot. Raises SnapshotDamagedError, and then the state is as before."""
        header, records = snapshot.read(chunks)
        fresh = Mvcc(self.budget)
        fresh.compacted = header.compacted
        fresh.time = header.time
        fresh.conflicts = self.conflicts
        latest = fresh._latest
        causes: dict[Cause, Cause] = {}
        for position, (key, value, created, revision, deleted, actor, observed, time) in enumerate(records):
            cause = Cause(observed, actor)
            cause = causes.setdefault(cause, cause)
            old = latest.get(key)
            if unseal is not None:
                value = unseal(key, value, revision)
            version = Version(KeyValue(old.kv.key if old else key, value, created, revision), deleted, cause, time, old)
            if position >= header.base:
                fresh._replay(version, old)
            latest[version.kv.key] = version
        fresh.revision = header.revision
        fresh._live = SortedKeys(key for key, version in latest.items() if not version.deleted)
        fresh._dead = SortedKeys(key for key, version in latest.items() if version.deleted)
        fresh.live_bytes = sum(_size(version.kv) for version in latest.values() if not version.deleted)
        if len(fresh._changes) != header.revision - header.compacted:
            raise snapshot.SnapshotDamagedError("the snapshot's revisions have gaps: fetch it again")
        self.__dict__.update(fresh.__dict__)

    def _replay(self, version: Version, old: Version | None) -> None:
        changes = self._changes
        if changes and changes[-1][0].kv.mod_revision == version.kv.mod_revision:
            changes[-1] = (*changes[-1], version)
        else:
            changes.append((version,))
        if old is not None and not old.deleted:
            self.history_bytes += _size(old.kv) + VERSION_BYTES
        if version.deleted:
            self.history_bytes += _size(version.kv) + VERSION_BYTES


def validate(txn: Txn) -> None:
    """Raise ValueError for a transaction whose meaning would be unclear; call it before the transaction enters the log."""
    written: set[str] = set()
    for op in txn.ops:
        if isinstance(op, Check):
            continue
        if op.key in written:
            raise ValueError(f"a transaction writes {op.key!r} twice: merge the two writes")
        written.add(op.key)
        if op.value is not None and op.splice > len(op.value):
            raise ValueError(f"splice {op.splice} lies outside the value of {op.key!r} ({len(op.value)} bytes)")


def _spliced(value: bytes, splice: int, digits: bytes) -> bytes:
    return value if splice < 0 else b"".join((value[:splice], digits, value[splice:]))


def moment(milliseconds: int) -> dt.datetime:
    """A version's time."""
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


def _size(kv: KeyValue) -> int:
    return len(kv.key) + len(kv.value)


def _record(version: Version) -> snapshot.Record:
    kv, cause = version.kv, version.cause
    return (
        kv.key,
        kv.value,
        kv.create_revision,
        kv.mod_revision,
        version.deleted,
        cause.actor,
        cause.revision,
        version.time,
    )
