"""The embedded store over a log without consensus: three members share a list. The real thing is in tests/integration/store."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from control.raft.interface import BusyError, LeaderState, NotLeaderError, RaftStatus
from control.raft.messages import Entry, EntryKind
from control.store import grouping
from control.store.embedded import EmbeddedStore
from control.store.interface import Delete, NoLeaderError, OverloadedError, Put, StoreFullError, Txn
from steersman.clock import ManualClock
from tests.unit.control.store.conformance import StoreConformance


class SharedLog:
    """A log that every node applies at once, or when `release` is set."""

    def __init__(self) -> None:
        self.nodes: list[LogNode] = []
        self.entries = [Entry(1, 1, b"", EntryKind.EMPTY)]
        self.release = asyncio.Event()
        self.release.set()

    def append(self, data: bytes, proposer: "LogNode") -> object:
        entry = Entry(len(self.entries) + 1, 1, data)
        self.entries.append(entry)
        return [node.machine.apply([entry])[0] for node in self.nodes][self.nodes.index(proposer)]


class LogNode:
    """What EmbeddedStore uses of a RaftNode."""

    def __init__(self, log: SharedLog, machine, name: str) -> None:
        self.log, self.machine, self.name = log, machine, name
        self.leader, self.problem = "m0", ""
        self.error: Exception | None = None
        log.nodes.append(self)

    async def start(self) -> None:
        self.machine.apply(self.log.entries)

    async def stop(self) -> None:
        self.error = NotLeaderError("stopped", uncertain=True)
        self.log.release.set()

    @property
    def is_leader(self) -> bool:
        return self.leader == self.name

    async def propose(self, data: bytes) -> object:
        await self.log.release.wait()
        if self.error is not None:
            raise self.error
        return self.log.append(data, self)

    async def barrier(self, timeout_s: float = 5.0) -> int:
        if not self.leader:
            raise NotLeaderError("nobody confirms")
        return len(self.log.entries)

    def status(self) -> RaftStatus:
        return RaftStatus(self.name, "c", "leader", 1, self.leader, 1, 1, 1, 1, 0, (), self.problem)

    async def leadership(self) -> AsyncIterator[LeaderState]:
        yield LeaderState(self.leader, 1, is_self=self.is_leader)


async def opened(log: SharedLog, name: str, **more) -> EmbeddedStore:
    store = EmbeddedStore(lambda machine: LogNode(log, machine, name), ManualClock(), **more)
    await store.start()
    return store


@pytest.fixture
async def log() -> SharedLog:
    return SharedLog()


@pytest.fixture
async def store(log: SharedLog):
    store = await opened(log, "m0")
    yield store
    await store.stop()


def put(key: str, value: bytes = b"v", **more) -> Txn:
    return Txn((Put(key, value, **more),))


class TestEmbeddedStore(StoreConformance):
    pass


async def test_every_member_applies_the_same(log: SharedLog, store: EmbeddedStore) -> None:
    other = await opened(log, "m1")
    watch = other.watch("/a/", 0)
    await store.commit([put("/a/x/1"), put("/a/x/2", expect=5), put("/a/x/3")])
    batch = await anext(watch)
    assert [event.key for event in batch.events] == ["/a/x/1", "/a/x/3"]
    assert await other.range("") == await store.range("")
    assert (other.leader, other.is_leader, store.is_leader) == ("m0", False, True)
    assert (await anext(store.leadership())).is_self
    with pytest.raises(NoLeaderError) as refused:
        await other.commit([put("/a/x/4")])
    assert (refused.value.leader, refused.value.uncertain) == ("m0", False)
    await other.stop()
    with pytest.raises(NoLeaderError):
        await anext(watch)


async def test_concurrent_commits_share_entries_and_keep_their_order(log: SharedLog, store: EmbeddedStore) -> None:
    before = len(log.entries)
    results = await asyncio.gather(*(store.commit([put(f"/a/x/{n}"), put(f"/a/y/{n}")]) for n in range(100)))
    assert len(log.entries) == before + 1
    revisions = [result.revision for pair in results for result in pair]
    assert revisions == list(range(1, 201))


async def test_a_busy_log_gathers_larger_groups_in_bounded_proposals(
    log: SharedLog, store: EmbeddedStore, monkeypatch
) -> None:
    monkeypatch.setattr(grouping, "GROUP_BYTES", 5000)
    monkeypatch.setattr(grouping, "FULL_GROUP_BYTES", 5000)
    log.release.clear()
    before = len(log.entries)
    tasks = []
    for n in range(40):
        tasks.append(asyncio.ensure_future(store.commit([put(f"/a/x/{n}", b"v" * 1000)])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(log.entries) - before <= grouping.MAX_IN_FLIGHT
    log.release.set()
    await asyncio.gather(*tasks)
    assert 1 + 39 / 4 <= len(log.entries) - before < 40 / 2
    assert max(len(entry.data) for entry in log.entries) <= 5000
    large = await store.commit([put(f"/b/x/{n}", b"v" * 1000) for n in range(20)])
    assert [result.revision for result in large] == list(range(41, 61))
    assert max(len(entry.data) for entry in log.entries) <= 5000


async def test_a_lost_leadership_reaches_every_call_of_the_group(log: SharedLog, store: EmbeddedStore) -> None:
    log.nodes[0].error = NotLeaderError("lost it", leader="m2", uncertain=True)
    outcomes = await asyncio.gather(*(store.commit([put(f"/a/{n}")]) for n in range(3)), return_exceptions=True)
    assert all(isinstance(error, NoLeaderError) and error.uncertain and error.leader == "m2" for error in outcomes)
    log.nodes[0].error = BusyError("too much waits")
    with pytest.raises(OverloadedError):
        await store.commit([put("/a/1")])


async def test_a_caller_that_goes_away_disturbs_nobody(log: SharedLog, store: EmbeddedStore) -> None:
    log.release.clear()
    leaving = asyncio.ensure_future(store.commit([put("/a/1")]))
    staying = asyncio.ensure_future(store.commit([put("/a/2")]))
    await asyncio.sleep(0)
    leaving.cancel()
    log.release.set()
    assert (await staying)[0].revision == 2
    assert leaving.cancelled()


async def test_a_full_disk_is_named_unless_another_member_can_help(log: SharedLog, store: EmbeddedStore) -> None:
    node = log.nodes[0]
    node.problem = "disk full: cannot reserve 16 MiB in /data"
    node.leader = ""
    with pytest.raises(StoreFullError, match="16 MiB"):
        await store.commit([put("/a/1")])
    node.leader = "m1"
    with pytest.raises(NoLeaderError) as refused:
        await store.commit([put("/a/1")])
    assert refused.value.leader == "m1"
    node.leader = ""
    with pytest.raises(NoLeaderError):
        await store.barrier()


async def test_over_its_quota_the_store_still_updates_and_removes(log: SharedLog) -> None:
    store = await opened(log, "m0", quota_bytes=10_000)
    for number in range(9):
        await store.commit([put(f"/a/x/{number}", b"v" * 1000)])
    with pytest.raises(StoreFullError, match="delete objects or raise the quota"):
        await store.commit([put("/a/x/new", b"v" * 1000, expect=0)])
    await store.commit([put("/a/x/1", b"w" * 1000)])
    with pytest.raises(StoreFullError):
        await store.commit([put("/a/x/1", b"w" * 3000)])
    await store.commit([Txn((Delete("/a/x/1"), Delete("/a/x/2")))])
    await store.commit([put("/a/x/new", b"v" * 1000, expect=0)])
    await store.stop()


async def test_an_oversized_transaction_is_refused_before_the_log(log: SharedLog) -> None:
    store = await opened(log, "m0", max_txn_bytes=2000)
    with pytest.raises(ValueError, match="too large"):
        await store.commit([put("/a/x/1", b"v" * 2000)])
    assert len(log.entries) == 1
    await store.stop()


async def test_stopping_ends_pending_commits_and_watches(log: SharedLog) -> None:
    store = await opened(log, "m0")
    log.release.clear()
    flying = asyncio.ensure_future(store.commit([put("/a/1")]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(store.commit([put("/a/2")]))
    await asyncio.sleep(0)
    await store.stop()
    outcomes = await asyncio.gather(flying, waiting, return_exceptions=True)
    assert [(type(error), error.uncertain) for error in outcomes] == [(NoLeaderError, True), (NoLeaderError, False)]
    with pytest.raises(NoLeaderError):
        await store.commit([put("/a/3")])


async def test_metrics_tell_sizes_and_latencies(log: SharedLog) -> None:
    registry = CollectorRegistry()
    store = await opened(log, "m0", registry=registry)
    await store.commit([put("/a/1"), put("/a/1", expect=0)])
    text = generate_latest(registry).decode()
    for line in (
        "steersman_store_keys 1.0",
        "steersman_store_revision 1.0",
        "steersman_store_live_bytes 5.0",
        "steersman_store_conflicts_total 1.0",
        "steersman_store_commit_seconds_count 1.0",
        "steersman_store_group_txns_sum 2.0",
    ):
        assert line in text
    await store.stop()
