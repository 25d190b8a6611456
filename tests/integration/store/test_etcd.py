"""The store on a real etcd: the suite that every store passes, and what only this one must do."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from control.raft.interface import MembershipError, NotLeaderError
from control.store.encryption import EncryptionKey, Sealer
from control.store.etcd import election
from control.store.etcd import rpc_pb2 as rpc
from control.store.etcd.address import EtcdAddress
from control.store.etcd.client import EtcdUnsureError
from control.store.etcd.layout import end_of
from control.store.etcd.store import EtcdStore
from control.store.interface import (
    Cause,
    Committed,
    CompactedError,
    Delete,
    NoLeaderError,
    Put,
    StoreFullError,
    Txn,
)
from steersman.clock import SystemClock, SystemEntropy
from tests.integration.store.conftest import EtcdServers, until
from tests.unit.control.store.conformance import DOCUMENT, SPLICE, WEB, StoreConformance, collect, commit


async def opened(etcd: EtcdServers, address: EtcdAddress, name: str = "m0", **more) -> EtcdStore:
    store = EtcdStore(address, etcd.tls, name, SystemClock(), SystemEntropy(), advertise=f"{name}:7443", **more)
    await store.start()
    return store


async def die(store: EtcdStore) -> None:
    """End a member as kill -9 does: nothing is given back, the lease runs out."""
    for task in store._tasks:
        task.cancel()
    await asyncio.gather(*store._tasks, return_exceptions=True)
    await store._client.close()


@pytest.fixture
def address(etcd: EtcdServers) -> EtcdAddress:
    return etcd.address()


@pytest.fixture
async def store(etcd: EtcdServers, address: EtcdAddress) -> AsyncIterator[EtcdStore]:
    store = await opened(etcd, address)
    await until(lambda: store.is_leader)
    yield store
    await store.stop()


@pytest.fixture
async def other(etcd: EtcdServers, address: EtcdAddress, store: EtcdStore) -> AsyncIterator[EtcdStore]:
    other = await opened(etcd, address, "m1")
    await until(lambda: other.leader)
    yield other
    await other.stop()


class TestEtcdStore(StoreConformance):
    pass


async def test_every_member_shows_the_same_and_only_the_leader_writes(store: EtcdStore, other: EtcdStore) -> None:
    watches = [one.watch("/a/", one.revision) for one in (store, other)]
    await asyncio.gather(*(store.commit([Txn((Put(f"/a/x/{n % 7}", b"%d" % n),))]) for n in range(100)))
    told = [await collect(watch, 100) for watch in watches]
    assert told[0] == told[1]
    assert await other.range("") == await store.range("")
    with pytest.raises(NoLeaderError) as refused:
        await commit(other, Put("/a/x", b""))
    assert (refused.value.leader, refused.value.uncertain) == ("m0", False)
    status = other.raft.status()
    assert (status.leader, status.role) == ("m0", "follower")
    assert [(m.name, m.role, m.address, m.reachable) for m in status.members] == [
        ("m0", "leader", "m0:7443", True),
        ("m1", "follower", "m1:7443", True),
    ]


async def test_a_barrier_on_any_member_sees_what_another_acknowledged(store: EtcdStore, other: EtcdStore) -> None:
    for number in range(50):
        result = await commit(store, Put("/a/x/1", b"%d" % number))
        assert await other.barrier() >= result.revision
        assert (await other.get("/a/x/1")).value == b"%d" % number


async def test_other_users_of_the_etcd_disturb_nothing(etcd: EtcdServers, store: EtcdStore) -> None:
    neighbour = await opened(etcd, etcd.address())
    await until(lambda: neighbour.is_leader)
    start = store.revision
    watch = store.watch("", start)
    revisions = []
    for number in range(10):
        await commit(neighbour, Put("/a/theirs", b""))
        revisions.append((await commit(store, Put("/a/ours", b"%d" % number))).revision)
    assert [event.revision for event in await collect(watch, 10)] == revisions
    assert revisions[-1] - start >= 20
    assert [kv.key for kv in (await store.range("")).kvs] == ["/a/ours"]
    assert (await store.get("/a/ours", revisions[3] + 1)).value == b"3", "a revision of theirs shows our state"
    await neighbour.stop()


async def test_a_member_that_starts_has_the_history_the_others_have(
    etcd: EtcdServers, address: EtcdAddress, store: EtcdStore
) -> None:
    first = await commit(store, Put(WEB, DOCUMENT, SPLICE), cause=Cause(5, "user:ann"))
    await commit(store, Put("/core/pods/default/other", b"x"))
    await commit(store, Delete(WEB, first.revision, DOCUMENT, SPLICE), cause=Cause(6, "user:bob"))
    late = await opened(etcd, address, "m2")
    assert (late.revision, late.compacted) == (store.revision, store.compacted)
    assert late.history.of(WEB) == store.history.of(WEB)
    assert [past.cause.actor for past in late.history.of(WEB)] == ["user:bob", "user:ann"]
    events = await collect(late.watch("", first.revision - 1), 3)
    assert events == await collect(store.watch("", first.revision - 1), 3)
    assert events[-1].value == DOCUMENT.replace(b'""', b'"%d"' % events[-1].revision)
    await late.stop()


async def test_what_etcd_compacted_is_refused_and_the_rest_is_unchanged(
    etcd: EtcdServers, address: EtcdAddress, store: EtcdStore
) -> None:
    made = [(await commit(store, Put(WEB, b"%d" % number))).revision for number in range(5)]
    await commit(store, Put("/a/x", b""))
    await store.compact(made[2])
    late = await opened(etcd, address, "m2")
    assert late.compacted == made[2]
    assert (await late.get(WEB, made[3])).value == b"3"
    with pytest.raises(CompactedError) as refused:
        await late.get(WEB, made[2])
    assert refused.value.oldest == made[2] + 1
    with pytest.raises(CompactedError):
        await anext(late.watch("", made[1]))
    assert [event.value for event in await collect(late.watch(WEB, made[2]), 2)] == [b"3", b"4"]
    await late.stop()
    newest = store.revision
    await store.compact(newest)
    late = await opened(etcd, address, "m2")
    assert await late.range("", revision=newest) == await store.range(""), "the newest revision is never forgotten"
    assert late.watch("", newest) is not None
    await late.stop()


async def test_the_leader_has_etcd_forget_what_is_beyond_the_budget(store: EtcdStore) -> None:
    made = [(await commit(store, Put(WEB, b"%d" % number))).revision for number in range(5)]
    assert await store.compact(made[1]) == made[1]
    assert await store.compact(made[1]) == made[1], "again is no failure"


async def test_a_deposed_leader_writes_nothing_whatever_it_believes(store: EtcdStore, other: EtcdStore) -> None:
    await commit(store, Put(WEB, b"1"))
    voting = store._tasks[1]
    voting.cancel()  # it hears nothing of elections any more
    await asyncio.gather(voting, return_exceptions=True)
    fence = other._election._key[0]
    await other._client.revoke(store._election._lease)
    await until(lambda: other.is_leader)
    store._election.fence = fence  # and believes that it leads
    store._election._alive_until = SystemClock().monotonic() + 60
    store._election._tell(election.LeaderState("m0", 1, is_self=True))
    assert store.is_leader
    with pytest.raises(NoLeaderError) as refused:
        await commit(store, Put(WEB, b"2"))
    assert not refused.value.uncertain
    assert not store.is_leader
    assert (await other.get(WEB)).value == b"1"
    assert isinstance(await commit(other, Put(WEB, b"3")), Committed)


async def test_leadership_is_handed_over_at_a_stop_and_taken_over_after_a_death(
    etcd: EtcdServers, address: EtcdAddress
) -> None:
    stores = {name: await opened(etcd, address, name) for name in ("m0", "m1", "m2")}
    clock = SystemClock()

    def leader() -> str:
        return next((name for name, store in stores.items() if store.is_leader), "")

    first = await until(leader)
    begin = clock.monotonic()
    await stores.pop(first).stop()
    second = await until(leader)
    assert clock.monotonic() - begin < 1
    term = stores[second].raft.status().term
    await die(stores.pop(second))
    third = await until(leader)
    assert clock.monotonic() - begin < election.LEASE_S + 4
    last = stores.pop(third)
    assert last.raft.status().term > term
    assert isinstance(await commit(last, Put(WEB, b"")), Committed)
    await last.stop()


async def test_leadership_can_be_given_to_a_member_that_runs(store: EtcdStore, other: EtcdStore) -> None:
    with pytest.raises(MembershipError, match="m7 does not run"):
        await store.raft.transfer_leadership("m7")
    await store.raft.transfer_leadership("m1")
    await until(lambda: other.is_leader)
    assert not store.is_leader
    with pytest.raises(NotLeaderError):
        await store.raft.transfer_leadership("m1")
    assert isinstance(await commit(other, Put(WEB, b"")), Committed)
    await until(lambda: store.leader == "m1")


@pytest.mark.parametrize("applied", [True, False])
async def test_a_write_whose_answer_was_lost_is_settled_and_done_once(store: EtcdStore, applied: bool) -> None:
    real, calls = store._client.txn, 0

    async def broken(request, timeout=1.0):
        nonlocal calls
        if not any(op.request_put.key == store._layout.record for op in request.success):
            return await real(request)
        calls += 1
        if calls == 1:
            if applied:
                await real(request, timeout)
            raise EtcdUnsureError("the connection broke")
        return await real(request, timeout)

    store._client.txn = broken
    term = store.raft.status().term
    result = await commit(store, Put(WEB, DOCUMENT, SPLICE, expect=0))
    assert isinstance(result, Committed)
    assert (await store.get(WEB)).mod_revision == result.revision
    assert result.values == ((await store.get(WEB)).value,)
    assert calls == (1 if applied else 2)
    assert len(store.history.of(WEB)) == 1
    assert store.raft.status().term == term, "it went on leading"


async def test_a_write_on_its_way_can_not_arrive_after_it_was_settled(store: EtcdStore) -> None:
    """A request that lingers in the network while its sender gives it up: etcd refuses it when it arrives."""
    real, lingering = store._client.txn, []

    async def lost(request, timeout=1.0):
        if not lingering and any(op.request_put.key == store._layout.record for op in request.success):
            lingering.append(request)
            raise EtcdUnsureError("no answer")
        return await real(request)

    store._client.txn = lost
    await commit(store, Put(WEB, b"again"))
    late = await real(lingering[0])
    assert not late.succeeded
    assert len(store.history.of(WEB)) == 1


async def test_secrets_are_ciphertext_in_etcd(etcd: EtcdServers, address: EtcdAddress) -> None:
    keys = [EncryptionKey(b"k" * 32)]
    store = await opened(etcd, address, sealer=Sealer(keys, SystemEntropy()))
    await until(lambda: store.is_leader)
    secret = "/core/secrets/default/s"
    made = await commit(store, Put(secret, DOCUMENT.replace(b"web", b"hunter2"), SPLICE))
    gone = await commit(store, Delete("/core/secrets/default/none"), Put(WEB, b"plain"))
    assert (await store.get(secret)).value == made.values[0]
    late = await opened(etcd, address, "m1", sealer=Sealer(keys, SystemEntropy()))
    assert (await late.get(secret)).value == made.values[0]
    removed = await commit(store, Delete(secret, made.revision, DOCUMENT.replace(b"web", b"hunter2"), SPLICE))
    events = await collect(late.watch(secret, gone.revision), 1)
    assert b"hunter2" in events[0].value
    layout = store._layout
    for revision in (made.revision, removed.revision):
        request = rpc.RangeRequest(key=layout.store, range_end=end_of(layout.store), revision=revision)
        found = await store._client.range(request)
        assert len(found.kvs) >= 2
        assert not [kv for kv in found.kvs if b"hunter2" in kv.value]
    await late.stop()
    await store.stop()


async def test_writes_ride_over_the_loss_of_any_etcd_member(three_etcds: EtcdServers) -> None:
    etcd = three_etcds
    store = await opened(etcd, etcd.address())
    await until(lambda: store.is_leader)
    written = 0

    async def write(count: int) -> None:
        nonlocal written
        goal = written + count
        while written < goal:
            try:
                result = await commit(store, Put(f"/a/x/{written}", b"v", expect=0))
            except NoLeaderError as error:
                assert not error.uncertain, "what was said not to be written is written again below, expecting nothing"
                await until(lambda: store.is_leader)
                continue
            assert isinstance(result, Committed)
            written += 1

    await write(5)
    for name in list(etcd.names):
        async with asyncio.timeout(40):
            etcd.kill(name)
            await until(lambda: store.is_leader)
            await write(5)
            etcd.start(name)
            await store.barrier()
            await write(5)
            await asyncio.gather(*(healthy(etcd, one) for one in etcd.names))
    assert (await store.range("/a/x/")).count == written
    await store.stop()


async def test_a_silent_etcd_member_is_left_for_another(three_etcds: EtcdServers) -> None:
    etcd = three_etcds
    store = await opened(etcd, etcd.address())
    await until(lambda: store.is_leader)
    await commit(store, Put(WEB, b"1"))
    asked = store._client.endpoint.address
    silent = next(name for name, port in etcd.client_ports.items() if asked.endswith(f":{port}"))
    etcd.pause(silent, paused=True)
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    await commit(store, Put(WEB, b"2"))
                    break
                except NoLeaderError as error:
                    assert not error.uncertain
                    await until(lambda: store.is_leader)
            await store.barrier()
    finally:
        etcd.pause(silent, paused=False)
    assert (await store.get(WEB)).value == b"2"
    await store.stop()


async def test_without_a_majority_of_etcd_nothing_is_acknowledged(three_etcds: EtcdServers) -> None:
    etcd = three_etcds
    store = await opened(etcd, etcd.address())
    await until(lambda: store.is_leader)
    await commit(store, Put(WEB, b"1"))
    for name in etcd.names[1:]:
        etcd.kill(name)
    with pytest.raises(NoLeaderError):
        await commit(store, Put(WEB, b"2"))
    with pytest.raises(NoLeaderError):
        await store.barrier()
    await until(lambda: not store.is_leader)
    assert store.raft.status().problem
    for name in etcd.names[1:]:
        etcd.start(name)
    await until(lambda: store.is_leader, 30)
    await store.barrier()
    assert (await store.get(WEB)).value in (b"1", b"2")
    await commit(store, Put(WEB, b"3"))
    await until(lambda: not store.raft.status().problem)
    await store.stop()


async def test_a_full_etcd_is_told_as_such(tmp_path) -> None:
    etcd = EtcdServers(tmp_path, 1, "--quota-backend-bytes", str(2 << 20))
    etcd.start("e0")
    try:
        store = await opened(etcd, etcd.address())
        await until(lambda: store.is_leader)

        async def fill() -> None:
            for number in range(400):  # etcd looks at its size when it syncs
                await commit(store, Put(f"/a/x/{number}", b"v" * 100_000))

        with pytest.raises(StoreFullError, match="defragment etcd"):
            await fill()
        with pytest.raises(ValueError, match="too large"):
            await commit(store, Put("/a/x/big", b"v" * 2_000_000))
        assert await store.barrier() == store.revision, "reads go on"
        await store.stop()
    finally:
        etcd.stop()


async def healthy(etcd: EtcdServers, name: str) -> None:
    """Wait until an etcd member answers linearizable reads."""
    single = EtcdAddress((f"127.0.0.1:{etcd.client_ports[name]}",), "/health")
    from control.store.etcd.client import EtcdClient

    client = EtcdClient(single, etcd.tls)
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    await client.range(rpc.RangeRequest(key=b"x"))
                    return
                except EtcdUnsureError:
                    await asyncio.sleep(0.05)
    finally:
        await client.close()
