"""The state of the store in memory, as etcd has it: what reads, watches and indexes are answered from.

Mechanism. `Mirror` is the state machine of the embedded store, moved by what etcd did instead of by commands: so history,
watches and indexes are the same code and behave the same. Revisions are etcd's; those at which this store did not
change are empty places in the history.

`Follower` loads it and keeps it current by one watch over everything. Loading begins where etcd was last compacted (or
where the store began) and replays what happened since, so a member that starts has the history that the others have;
it takes the place of the old state only when it has reached what was newest when loading began. etcd delivers each
revision's events together and in order, so the mirror moves from revision to revision as a whole.

Failure. A broken watch goes on from where it was, on the next etcd member. When etcd was compacted beyond that, the
state is loaded anew, and watchers learn from the history that is left whether they missed something. A watch that is
alive but stuck is given up by whoever waits for a revision in vain (`nudge`).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from control.store.engine import Engine
from control.store.etcd import mvcc_pb2
from control.store.etcd import rpc_pb2 as rpc
from control.store.etcd.client import EtcdClient, EtcdRefusedError, EtcdUnsureError
from control.store.etcd.layout import (
    Header,
    Layout,
    Removed,
    TxnRecord,
    decode_record,
    decode_value,
    end_of,
)
from control.store.etcd.txn import key_value
from control.store.interface import Cause, Delete, KeyValue, Put, StoreError
from control.store.keys import SortedKeys
from control.store.metrics import StoreMetrics
from control.store.mvcc import Budget, Mvcc, Version
from steersman.clock import Clock

log = logging.getLogger("control.store.etcd")

PAGE: Final = 1000  # keys asked for at once while loading: 1 MB of documents
RETRY_S: Final = 0.2  # before a broken watch is opened again: an etcd election takes about a second
BROKEN_S: Final = 5.0  # before trying again when etcd's content cannot be understood
NUDGE_S: Final = 1.0  # a revision known to be committed that the watch does not bring in this time: it is stuck

FOREIGN: Final = Cause(0, "etcd")  # of changes that no member made


class Written(NamedTuple):
    """A value was written."""

    key: str
    header: Header
    value: bytes
    splice: int


class Revision(NamedTuple):
    """What one revision of etcd did to the store."""

    number: int
    record: TxnRecord | None
    changes: Sequence[Written | str]  # in order; a string is a removed key


class Mirror(Mvcc):
    """The state machine, moved by etcd's revisions."""

    def __init__(self, budget: Budget | None = None) -> None:
        super().__init__(budget)
        self._eldest = 0  # no revision before it, of those kept, changed this store

    def load(self, base: Iterable[tuple[KeyValue, Header]], revision: int) -> None:
        """Begin with the state as of `revision`, whose history is not known."""
        for kv, header in base:
            self._latest[kv.key] = Version(kv, False, header.cause, header.time, None)
            self.live_bytes += len(kv.key) + len(kv.value)
            self.time = max(self.time, header.time)
        self._live = SortedKeys(self._latest)
        self.revision = self.compacted = revision

    def begin(self, revision: int) -> None:
        """Begin with nothing as of `revision`, before which there was nothing either."""
        self._skip_to(revision + 1)
        self.revision = revision

    def advance(self, done: Revision) -> list[str]:
        """Follow one revision; answers the keys that changed."""
        self._skip_to(done.number)
        record = done.record
        if record is not None:
            self.time = max(self.time, record.time)
        last = {} if record is None else {removed.key: removed for removed in record.removed}
        digits = b"%d" % done.number
        changed: list[Version] = []
        for change in done.changes:
            if isinstance(change, str):
                state = last.get(change, Removed(change, b"", -1))
                op = Delete(change, None, state.value, state.splice)
                tombstone = self._delete(op, done.number, digits, FOREIGN if record is None else record.cause)
                if tombstone is not None:
                    changed.append(tombstone)
            else:
                cause = change.header.cause
                changed.append(self._put(Put(change.key, change.value, change.splice), done.number, digits, cause))
        self.revision = done.number
        self._changes.append(tuple(changed))
        self._forget()
        return [version.kv.key for version in changed]

    def _skip_to(self, revision: int) -> None:
        """Leave empty places for the revisions before `revision` that changed other keys of etcd."""
        gap = revision - self.revision - 1
        if gap <= self.budget.changes:
            self._changes += [()] * gap
            return
        while self.compacted < self.revision:
            self._forget_oldest()
        self.compacted = revision - 1
        self._changes, self._head = [], 0

    def _expired(self, horizon: int) -> bool:
        """An empty revision is as old as the first after it that is not."""
        self._eldest = max(self._eldest, self.compacted + 1)
        first = self._head - self.compacted - 1
        while self._eldest < self.revision and not self._changes[first + self._eldest]:
            self._eldest += 1
        versions = self._changes[first + self._eldest]
        return bool(versions) and versions[0].time < horizon

    def become(self, fresh: Mirror) -> None:
        """Take over another mirror's state, in place: whoever holds this one sees it."""
        fresh.conflicts = self.conflicts
        self.__dict__.update(fresh.__dict__)


class CompactedAway(Exception):  # noqa: N818 - a turn of the procedure, not a failure
    """A watch began before `revision`, up to which etcd has forgotten."""

    def __init__(self, revision: int) -> None:
        super().__init__(revision)
        self.revision = revision


def revisions(events: Sequence[mvcc_pb2.Event], layout: Layout) -> list[Revision]:
    """The changes of the store in a watch's events, revision by revision. Raises LayoutError."""
    found: list[Revision] = []
    changes: list[Written | str] = []
    for event in events:
        kv = event.kv
        if not found or found[-1].number != kv.mod_revision:
            changes = []
            found.append(Revision(kv.mod_revision, None, changes))
        name = layout.name(kv.key)
        if name is not None:
            if event.type == mvcc_pb2.Event.DELETE:
                changes.append(name)
            else:
                header, value = decode_value(kv.value)
                changes.append(Written(name, header, *layout.opened(name, value, header.splice)))
        elif kv.key == layout.record and event.type == mvcc_pb2.Event.PUT:
            record = decode_record(kv.value)
            removed = tuple(Removed(r.key, *layout.opened(r.key, r.value, r.splice)) for r in record.removed)
            found[-1] = found[-1]._replace(record=msgspec.structs.replace(record, removed=removed))
    return found


class Follower:
    """Keeps an engine's state, a `Mirror`, equal to etcd's.

    Args:
        on_record: told of every transaction that is seen, with its revision, before anyone who waits for the revision.
    """

    def __init__(
        self,
        client: EtcdClient,
        layout: Layout,
        engine: Engine,
        on_record: Callable[[TxnRecord, int], None],
        metrics: StoreMetrics,
        clock: Clock,
    ) -> None:
        assert isinstance(engine.state, Mirror)
        self._client = client
        self._layout = layout
        self._engine = engine
        self._mirror: Mirror = engine.state
        self._on_record = on_record
        self._metrics = metrics
        self._clock = clock
        self._position = 0  # everything that etcd did up to it is in the mirror
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0
        self._following: asyncio.Task[None] | None = None
        self.loaded = asyncio.Event()
        self._since = 0  # where the history that was loaded began
        self.losses = 0  # how often the state was loaded anew with a part of the history missing
        self.problem = ""

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            self._following = asyncio.ensure_future(self._follow())
            try:
                await asyncio.wait((self._following,))
                if not self._following.cancelled():
                    self._following.result()
                continue
            except CompactedAway as error:
                log.warning("etcd was compacted to revision %d meanwhile: loading the state anew", error.revision)
                self.loaded.clear()
                continue
            except EtcdUnsureError as error:
                self.problem = str(error)
                pause = RETRY_S
            except StoreError as error:
                log.error("the state in etcd cannot be followed: %s", error)  # noqa: TRY400 - the message says it all
                self.problem = str(error)
                pause = BROKEN_S
            except Exception as error:
                log.exception("following etcd failed")
                self.problem = f"following etcd failed: {error!r}"
                self.loaded.clear()
                pause = BROKEN_S
            finally:
                self._following.cancel()
            await asyncio.sleep(pause)

    async def reached(self, revision: int) -> None:
        """Wait until the mirror has come to `revision`; a watch that does not get there in time is opened anew."""
        while self._mirror.revision < revision or not self.loaded.is_set():
            future = asyncio.get_running_loop().create_future()
            self._count += 1
            heapq.heappush(self._waiting, (revision, self._count, future))
            try:
                async with asyncio.timeout(NUDGE_S):
                    await future
            except TimeoutError:
                self.nudge()

    def complete_to(self, record: int, revision: int) -> None:
        """Note that etcd's newest record was of revision `record` when etcd was at `revision`."""
        if self._mirror.revision == record and self.loaded.is_set():
            self._position = max(self._position, revision)

    def nudge(self) -> None:
        """Give the present watch up and follow on another member."""
        if self._following is not None and self.loaded.is_set():
            self._client.turn_from(self._client.endpoint)
            self._following.cancel()

    def reload(self) -> None:
        """Load the state anew, with what can be opened now."""
        self.loaded.clear()
        if self._following is not None:
            self._following.cancel()

    async def head(self) -> tuple[mvcc_pb2.KeyValue | None, int]:
        """The newest record, and etcd's revision, by a linearizable read."""
        answer = await self._client.range(rpc.RangeRequest(key=self._layout.record))
        return (answer.kvs[0] if answer.kvs else None), answer.header.revision

    # Following

    async def _follow(self) -> None:
        if not self.loaded.is_set():
            await self._load()
        store = self._layout.store
        async with self._client.watch(store, end_of(store), self._position + 1) as following:
            while True:
                response = _checked(await following())
                self.problem = ""
                if response.events:
                    self._take(response)

    def _take(self, response: rpc.WatchResponse) -> None:
        started = self._clock.monotonic()
        engine, mirror = self._engine, self._mirror
        for done in revisions(response.events, self._layout):
            before = mirror.revision
            for key in mirror.advance(done):
                engine.index.mark(key)
            # Each revision is published while it is sure to be in the history, however small the budget.
            engine.hub.publish(max(before, mirror.compacted))
            self._position = max(self._position, done.number)
            if done.record is not None:
                self._on_record(done.record, done.number)
        self._metrics.apply_seconds.observe(self._clock.monotonic() - started)
        self._tell()

    def _tell(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._mirror.revision:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    # Loading

    async def _load(self) -> None:
        """Make the state anew and let it take the place of the present one."""
        while True:
            try:
                fresh, position = await self._loaded()
                break
            except EtcdRefusedError as error:
                if "compacted" not in str(error):
                    raise
        self._mirror.become(fresh)
        self._position = position
        if fresh.compacted > self._since:
            self.losses += 1
        self._since = fresh.compacted
        self._engine.index.mark_all(fresh.keys())
        self._engine.hub.reset()
        self.loaded.set()
        self.problem = ""
        log.info(
            "loaded %d keys from etcd at revision %d, history from %d", len(fresh), fresh.revision, fresh.compacted + 1
        )
        self._tell()

    async def _loaded(self) -> tuple[Mirror, int]:
        """A mirror that has reached what is newest now, and the revision of etcd up to which it is complete."""
        head, now = await self.head()
        fresh = Mirror(self._mirror.budget)
        if head is None:  # nothing was ever written
            fresh.begin(now)
            return fresh, now
        newest, begun = head.mod_revision, head.create_revision - 1
        fresh.begin(begun)
        position = begun
        while fresh.revision < newest:
            try:
                await self._replay(fresh, newest)
                position = fresh.revision
            except CompactedAway as error:
                position = error.revision if error.revision < newest else now
                fresh = Mirror(self._mirror.budget)
                fresh.load(await self._base(position), min(position, newest))
        return fresh, position

    async def _replay(self, fresh: Mirror, newest: int) -> None:
        store = self._layout.store
        async with self._client.watch(store, end_of(store), fresh.revision + 1) as following:
            while fresh.revision < newest:
                for done in revisions(_checked(await following()).events, self._layout):
                    fresh.advance(done)
                    if done.record is not None:
                        self._on_record(done.record, done.number)

    async def _base(self, revision: int) -> list[tuple[KeyValue, Header]]:
        """Every object as of a revision."""
        found: list[tuple[KeyValue, Header]] = []
        key, end = self._layout.data, end_of(self._layout.data)
        while True:
            page = await self._client.range(rpc.RangeRequest(key=key, range_end=end, limit=PAGE, revision=revision))
            for kv in page.kvs:
                found.append(key_value(self._layout, self._layout.name(kv.key) or "", kv))
            if not page.more:
                return found
            key = page.kvs[-1].key + b"\0"

    async def close(self, error: StoreError) -> None:
        """Tell whoever waits that nothing more will come."""
        while self._waiting:
            future = self._waiting.pop()[2]
            if not future.done():
                future.set_exception(error)
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError, StoreError, CompactedAway):
                await self._following


def _checked(response: rpc.WatchResponse) -> rpc.WatchResponse:
    """Raises CompactedAway, EtcdUnsureError for a watch that etcd ended."""
    if response.compact_revision:
        raise CompactedAway(response.compact_revision)
    if response.canceled:
        raise EtcdUnsureError(f"etcd ended a watch: {response.cancel_reason or 'no reason given'}")
    return response
