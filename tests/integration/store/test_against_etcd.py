"""The store's own state machine against etcd: the same operations on both, every answer and every event compared.

Three ways of reading are compared: the state machine in memory (`LocalStore`), the etcd backend, and etcd itself, asked
directly for ranges at old revisions and watches from old revisions. Revisions differ by what else etcd counts, so each
revision of etcd is translated to that of the same transaction in memory before anything is compared; a revision that a
value carries is translated too.
"""

import asyncio
import random
import re
from bisect import bisect_right

import pytest

from control.store.etcd import mvcc_pb2
from control.store.etcd import rpc_pb2 as rpc
from control.store.etcd.layout import decode_record, decode_value, end_of, spliced
from control.store.etcd.store import EtcdStore
from control.store.interface import (
    Cause,
    Check,
    Committed,
    CompactedError,
    Conflicted,
    Delete,
    Event,
    FutureRevisionError,
    KeyValue,
    Put,
    Range,
    Txn,
)
from control.store.local import LocalStore
from tests.integration.store.conftest import EtcdServers, until
from tests.integration.store.test_etcd import opened

KEYS = [f"/core/pods/{namespace}/{name}" for namespace in ("a", "b") for name in ("x", "xy", "y")] + [
    "/core/nodes/n",
    "/z",
]
PREFIXES = ["", "/", "/core/", "/core/pods/", "/core/pods/a/", "/core/pods/a/x", "/core/nodes/n", "/none/"]
STEPS = 200
BEYOND = 1 << 40
CARRIED = re.compile(rb'"rv":"(\d+)"')


class Revisions:
    """Which revision of etcd is which of the memory."""

    def __init__(self, local: int, etcd: int) -> None:
        self.local = [local]
        self.etcd = [etcd]

    def add(self, local: int, etcd: int) -> None:
        if local != self.local[-1]:
            assert local == self.local[-1] + 1
            assert etcd > self.etcd[-1]
            self.local.append(local)
            self.etcd.append(etcd)
        else:
            assert etcd == self.etcd[-1]

    def to_etcd(self, local: int) -> int:
        if local > self.local[-1]:
            return BEYOND
        return self.etcd[local - self.local[0]]

    def of(self, etcd: int) -> int:
        """The state at a revision of etcd is that of the newest transaction not after it."""
        return self.local[bisect_right(self.etcd, etcd) - 1]

    def exact(self, etcd: int) -> int:
        if etcd == 0:
            return 0
        at = bisect_right(self.etcd, etcd) - 1
        assert self.etcd[at] == etcd, f"revision {etcd} of etcd is none of ours"
        return self.local[at]

    # What an answer would be in memory

    def value(self, value: bytes | None) -> bytes | None:
        return None if value is None else CARRIED.sub(lambda m: b'"rv":"%d"' % self.exact(int(m[1])), value)

    def kv(self, kv: KeyValue | None) -> KeyValue | None:
        if kv is None:
            return None
        return KeyValue(kv.key, self.value(kv.value), self.exact(kv.create_revision), self.exact(kv.mod_revision))

    def range(self, found: Range) -> Range:
        return Range(tuple(map(self.kv, found.kvs)), self.of(found.revision), found.more, found.count)

    def event(self, event: Event) -> Event:
        return Event(
            event.key,
            self.value(event.value),
            self.kv(event.previous),
            self.exact(event.revision),
            self.exact(event.create_revision),
            event.cause,
            event.deleted,
        )


class Pair:
    """Both stores, and the random hand that moves them."""

    def __init__(self, local: LocalStore, etcd: EtcdStore, seed: int) -> None:
        self.local = local
        self.etcd = etcd
        self.random = random.Random(seed)
        self.revisions = Revisions(local.revision, etcd.revision)
        self.compared = {"answers": 0, "events": 0}

    def document(self) -> tuple[bytes, int]:
        value = b'{"rv":"","n":%d}' % self.random.randrange(1000)
        return (value, 7) if self.random.random() < 0.7 else (b"%d" % self.random.randrange(1000), -1)

    def past(self) -> int:
        """A revision: mostly one that can be read, sometimes forgotten or to come."""
        return self.random.randint(max(self.local.compacted - 3, 1), self.local.revision + 1)

    async def expectation(self, key: str) -> int | None:
        chance = self.random.random()
        if chance < 0.3:
            return None
        current = await self.local.get(key)
        if chance < 0.8:
            return 0 if current is None else current.mod_revision
        return self.random.choice([0, self.random.randint(1, max(self.local.revision, 1))])

    async def transaction(self) -> None:
        ops: list[Put | Delete | Check] = []
        for key in self.random.sample(KEYS, self.random.choice([1, 1, 1, 2, 3])):
            kind = self.random.random()
            expect = await self.expectation(key)
            if kind < 0.6:
                ops.append(Put(key, *self.document(), expect))
            elif kind < 0.9:
                value, splice = self.document() if self.random.random() < 0.6 else (None, -1)
                ops.append(Delete(key, expect, value, splice))
            else:
                ops.append(Check(key, expect or 0))
        cause = Cause(self.random.randrange(100), self.random.choice(["", "user:ann", "controller:x"]))
        theirs = tuple(
            op
            if op.expect in (None, 0)
            else type(op)(
                **{**{f: getattr(op, f) for f in op.__struct_fields__}, "expect": self.revisions.to_etcd(op.expect)}
            )
            for op in ops
        )
        (expected,) = await self.local.commit([Txn(tuple(ops), cause)])
        (found,) = await self.etcd.commit([Txn(theirs, cause)])
        self.revisions.add(self.local.revision, self.etcd.revision)
        if isinstance(found, Committed):
            found = Committed(self.revisions.exact(found.revision), tuple(map(self.revisions.value, found.values)))
        else:
            found = Conflicted(found.key, self.revisions.kv(found.current), self.revisions.exact(found.revision))
        assert found == expected, ops
        self.compared["answers"] += 1

    async def range(self) -> None:
        prefix = self.random.choice(PREFIXES)
        revision = self.random.choice([0, self.past()])
        limit = self.random.choice([0, 0, 1, 2, 5])
        after = self.random.choice(["", "", *KEYS])
        after = after if after.startswith(prefix) else ""
        theirs = self.revisions.to_etcd(revision) if revision else 0
        expected = await refusal(self.local.range(prefix, revision=revision, limit=limit, after=after))
        found = await refusal(self.etcd.range(prefix, revision=theirs, limit=limit, after=after))
        assert type(found) is type(expected), (found, expected)
        if isinstance(expected, Range):
            assert self.revisions.range(found) == expected
            asked = await self.ask_range(prefix, theirs, limit, after)
            assert self.revisions.range(asked) == expected, "etcd itself"
        key = self.random.choice(KEYS)
        expected, found = await refusal(self.local.get(key, revision)), await refusal(self.etcd.get(key, theirs))
        if isinstance(expected, Exception):
            assert type(found) is type(expected)
        else:
            assert self.revisions.kv(found) == expected
        self.compared["answers"] += 2

    async def watch(self) -> None:
        prefix = self.random.choice(PREFIXES)
        after = min(self.past(), self.local.revision)
        theirs = self.revisions.to_etcd(after)
        expected = await refusal(drain(self.local, prefix, after))
        found = await refusal(drain(self.etcd, prefix, theirs))
        assert type(found) is type(expected), (found, expected)
        if isinstance(expected, list):
            assert [self.revisions.event(event) for event in found] == expected
            asked = await self.ask_watch(prefix, theirs)
            assert [self.revisions.event(event) for event in asked] == expected, "etcd itself"
            self.compared["events"] += len(expected)
        self.compared["answers"] += 1

    async def compact(self) -> None:
        revision = self.random.randint(self.local.compacted, max(self.local.revision - 20, self.local.compacted))
        if revision > self.local.compacted:
            self.local.compact(revision)
            self.etcd._engine.state.compact(self.revisions.to_etcd(revision))
            await self.etcd.compact(self.revisions.to_etcd(revision))

    # etcd itself

    async def ask_range(self, prefix: str, revision: int, limit: int, after: str) -> Range:
        layout = self.etcd._layout
        everything = layout.key(prefix), end_of(layout.key(prefix))
        revision = revision or self.etcd.revision
        start = layout.key(after) + b"\0" if after else everything[0]
        request = rpc.RangeRequest(key=start, range_end=everything[1], revision=revision, limit=limit)
        answer = await self.etcd._client.range(request)
        request = rpc.RangeRequest(key=everything[0], range_end=everything[1], revision=revision, count_only=True)
        counted = await self.etcd._client.range(request)
        return Range(tuple(map(self.read, answer.kvs)), revision, answer.more, counted.count)

    async def ask_watch(self, prefix: str, after: int) -> list[Event]:
        layout, client = self.etcd._layout, self.etcd._client
        call = client.endpoint.watch.Watch()
        create = rpc.WatchCreateRequest(
            key=layout.store, range_end=end_of(layout.store), start_revision=after + 1, prev_kv=True
        )
        await call.write(rpc.WatchRequest(create_request=create))
        found: list[Event] = []
        reached = after
        while reached < self.etcd.revision:
            response = await call.read()
            assert not response.canceled
            for event in response.events:
                kv = event.kv
                if kv.mod_revision > reached:
                    reached = kv.mod_revision
                    record = decode_record(kv.value)
                    continue
                name = layout.name(kv.key)
                previous = self.read(event.prev_kv) if event.HasField("prev_kv") else None
                if event.type == mvcc_pb2.Event.DELETE:
                    last = next((r for r in record.removed if r.key == name), None)
                    value = None if last is None else spliced(last.value, last.splice, reached)
                    created = previous.create_revision
                else:
                    value, created = self.read(kv).value, kv.create_revision
                if name.startswith(prefix):
                    deleted = event.type == mvcc_pb2.Event.DELETE
                    found.append(Event(name, value, previous, reached, created, record.cause, deleted))
        call.cancel()
        return found

    def read(self, kv: mvcc_pb2.KeyValue) -> KeyValue:
        header, value = decode_value(kv.value)
        name = self.etcd._layout.name(kv.key)
        return KeyValue(name, spliced(value, header.splice, kv.mod_revision), kv.create_revision, kv.mod_revision)


async def refusal(asked):
    """An answer, or the refusal in its place."""
    try:
        return await asked
    except (CompactedError, FutureRevisionError) as error:
        return error


async def drain(store: LocalStore | EtcdStore, prefix: str, after: int) -> list[Event]:
    """Everything that a watch from `after` tells up to now."""
    watch = store.watch(prefix, after)
    events: list[Event] = []
    while after < store.revision:
        step = asyncio.ensure_future(anext(watch))
        while not step.done():
            store._engine.hub.progress()  # so that a watch with nothing more to tell says so
            await asyncio.sleep(0)
        events += step.result().events
        after = step.result().revision
    await watch.aclose()
    return events


@pytest.mark.parametrize("seed", range(3))
async def test_the_same_operations_give_the_same_answers_and_events(etcd: EtcdServers, seed: int) -> None:
    address = etcd.address()
    store = await opened(etcd, address)
    await until(lambda: store.is_leader)
    pair = Pair(LocalStore(), store, seed)
    for _ in range(12):
        await pair.transaction()
    for step in range(STEPS):
        await pair.transaction()
        await pair.random.choices((pair.range, pair.watch, pair.compact), (10, 4, 1))[0]()
        if step % 100 == 99:  # a member that starts afresh has the same state and history
            pair.etcd = await opened(etcd, address, f"m{step}")
            await store.stop()
            store = pair.etcd
            assert pair.revisions.of(store.compacted) == pair.local.compacted
            async with asyncio.timeout(20):
                async for state in store.leadership():
                    if state.is_self:
                        break
    compacted, whole = pair.local.compacted, await drain(pair.local, "", pair.local.compacted)
    told = await drain(store, "", pair.revisions.to_etcd(compacted))
    assert [pair.revisions.event(event) for event in told] == whole
    for key in KEYS:
        kept = [(past.deleted, past.cause) for past in pair.local.history.of(key) if past.kv.mod_revision > compacted]
        theirs = [past for past in store.history.of(key) if past.kv.mod_revision > store.compacted]
        assert [(past.deleted, past.cause) for past in theirs] == kept
    assert pair.compared["answers"] > 2 * STEPS
    assert pair.compared["events"] > STEPS
    await store.stop()
