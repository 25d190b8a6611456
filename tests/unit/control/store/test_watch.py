import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.store import watch as module
from control.store.interface import CompactedError, Delete, EventBatch, NoLeaderError, Put, TooSlowError, Txn
from control.store.local import LocalStore
from control.store.mvcc import Budget, Mvcc
from control.store.watch import WatchHub


def put(key: str, value: bytes = b"v") -> Txn:
    return Txn((Put(key, value),))


class Bench:
    """A state with a hub."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.state = Mvcc(budget)
        self.hub = WatchHub(self.state)

    def write(self, *txns: Txn) -> None:
        for txn in txns:
            self.state.apply(txn, 1)
            self.hub.publish(self.state.revision - 1)


async def begun(watch) -> asyncio.Future[EventBatch]:
    """Start waiting for the next batch, and let the watch reach its wait."""
    task = asyncio.ensure_future(anext(watch))
    for _ in range(10):
        await asyncio.sleep(0)
    return task


async def test_watchers_elsewhere_are_not_touched() -> None:
    bench = Bench()
    watchers = [bench.hub.watch(f"/core/pods/ns{number}/", 0) for number in range(100)]
    tasks = [await begun(watch) for watch in watchers]
    assert len(bench.hub) == 100
    offered = []
    for watch in watchers:
        watch.offer = offered.append
    bench.write(put("/core/pods/ns7/web"), put("/core/nodes/ns7"), put("/core/pods/other/web"))
    assert [event.key for event in offered] == ["/core/pods/ns7/web"]
    for task in tasks:
        task.cancel()


async def test_a_slow_reader_reads_history_and_misses_nothing(monkeypatch) -> None:
    monkeypatch.setattr(module, "BUFFER_EVENTS", 3)
    monkeypatch.setattr(module, "STEP_REVISIONS", 4)
    bench = Bench()
    watch = bench.hub.watch("/a/", 0)
    task = await begun(watch)
    bench.write(*(put(f"/{'ab'[number % 2]}/x/{number}") for number in range(40)))
    assert len(bench.hub) == 0
    found = [event.revision for event in (await task).events]
    while len(found) < 20:
        found += [event.revision for event in (await anext(watch)).events]
    assert found == list(range(1, 41, 2))
    task = await begun(watch)
    assert len(bench.hub) == 1
    bench.write(put("/a/x/last"))
    assert [event.revision for event in (await task).events] == [41]


async def test_a_reader_slower_than_history_is_told_to_list_again(monkeypatch) -> None:
    monkeypatch.setattr(module, "BUFFER_EVENTS", 3)
    bench = Bench(Budget(changes=5))
    watch = bench.hub.watch("/a/", 0)
    task = await begun(watch)
    bench.write(put("/a/x/0"))
    await task
    bench.write(*(put(f"/a/x/{number}") for number in range(20)))
    with pytest.raises(TooSlowError, match="list again"):
        await anext(watch)


async def test_a_quiet_watch_is_not_too_slow_however_much_else_was_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(module, "BUFFER_EVENTS", 3)
    bench = Bench(Budget(changes=10))
    watch = bench.hub.watch("/a/", 0)
    task = await begun(watch)
    bench.write(*(put(f"/b/x/{number}") for number in range(50)))
    bench.hub.reset()
    bench.write(*(put(f"/b/x/{number}") for number in range(5)))
    for _ in range(10):
        await asyncio.sleep(0)
    bench.write(*(put(f"/b/x/{number}") for number in range(50)), *(put(f"/a/x/{number}") for number in range(6)))
    assert len((await task).events) == 6


async def test_a_watch_from_before_history_is_refused_with_what_is_left() -> None:
    bench = Bench(Budget(changes=5))
    bench.write(*(put(f"/a/x/{number}") for number in range(20)))
    with pytest.raises(CompactedError) as refused:
        await anext(bench.hub.watch("/a/", 14))
    assert (refused.value.revision, refused.value.oldest) == (14, 16)
    assert len((await anext(bench.hub.watch("/a/", 15))).events) == 5


async def test_progress_is_told_once_and_only_when_it_is_news() -> None:
    bench = Bench()
    watch = bench.hub.watch("/a/", 0)
    task = await begun(watch)
    bench.write(put("/b/x/1"))
    bench.hub.progress()
    assert await task == EventBatch((), 1)
    task = await begun(watch)
    bench.hub.progress()
    await asyncio.sleep(0)
    assert not task.done()
    bench.write(put("/b/x/2"), put("/a/x/1"))
    batch = await task
    assert ([event.key for event in batch.events], batch.revision) == (["/a/x/1"], 3)


async def test_a_restored_snapshot_lets_watches_go_on_where_its_history_reaches() -> None:
    ahead, behind = Bench(), Bench()
    for bench in (ahead, behind):
        bench.write(put("/a/x/1"), put("/a/x/2"))
    follower, stale = behind.hub.watch("/a/", 2), behind.hub.watch("/a/", 0)
    waiting = await begun(follower)
    await anext(stale)
    ahead.write(put("/a/x/3"), Txn((Delete("/a/x/1"),)))
    ahead.state.compact(2)
    behind.state.restore(ahead.state.snapshot())
    behind.hub.reset()
    assert [event.key for event in (await waiting).events] == ["/a/x/3", "/a/x/1"]
    assert [event.key for event in (await anext(stale)).events] == ["/a/x/3", "/a/x/1"]
    ahead.state.compact(3)
    ahead.write(put("/a/x/4"), put("/a/x/5"))
    ahead.state.compact(5)
    behind.state.restore(ahead.state.snapshot())
    behind.hub.reset()
    with pytest.raises(TooSlowError):
        await anext(stale)


async def test_closing_the_store_ends_every_watch() -> None:
    store = LocalStore()
    watch = store.watch("/", 0)
    task = await begun(watch)
    store.close()
    with pytest.raises(NoLeaderError):
        await task
    with pytest.raises(NoLeaderError):
        await anext(store.watch("/", 0))


async def test_a_cancelled_reader_loses_no_event() -> None:
    bench = Bench()
    watch = bench.hub.watch("/a/", 0)
    task = await begun(watch)
    bench.write(put("/a/x/1"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len((await anext(watch)).events) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.lists(st.sampled_from(["/a/x/1", "/a/y/1", "/b/x/1"]), min_size=1, max_size=3, unique=True),
            st.sampled_from(["read", "progress", "reset"]),
        ),
        max_size=60,
    ),
    st.sampled_from(["", "/a/", "/a/x/1", "/a/x"]),
    st.integers(0, 8),
)
def test_a_watch_delivers_every_event_once_in_order_in_whole_revisions(steps, prefix, after) -> None:
    async def run() -> None:
        bench = Bench()
        watch = bench.hub.watch(prefix, after)
        expected, found, reached = [], [], after
        reading: asyncio.Future[EventBatch] | None = None

        def take(batch: EventBatch) -> None:
            nonlocal reached
            assert all(reached < event.revision <= batch.revision for event in batch.events)
            assert batch.revision > reached
            reached = batch.revision
            found.extend((event.revision, event.key) for event in batch.events)
            assert found == [pair for pair in expected if pair[0] <= reached]  # nothing up to its revision is missing

        for step in [*steps, "read"]:
            if isinstance(step, list):
                bench.write(Txn(tuple(Put(key, b"") for key in step)))
                revision = bench.state.revision
                expected += [(revision, key) for key in step if key.startswith(prefix) and revision > after]
            elif step == "progress":
                bench.hub.progress()
            elif step == "reset":
                bench.hub.reset()
            if step == "read" or (reading is not None and reading.done()):
                reading = reading or await begun(watch)
                for _ in range(10):
                    await asyncio.sleep(0)
                if reading.done():
                    take(reading.result())
                    reading = None
        while found != expected:
            take(await (reading or anext(watch)))
            reading = None
        if reading is not None:
            reading.cancel()

    original, module.BUFFER_EVENTS = module.BUFFER_EVENTS, 2
    step, module.STEP_REVISIONS = module.STEP_REVISIONS, 3
    try:
        asyncio.run(run())
    finally:
        module.BUFFER_EVENTS, module.STEP_REVISIONS = original, step
