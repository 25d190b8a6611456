"""What every store must do: one suite for every backend. Subclass it and give a `store` fixture with an empty, writable Store."""

import asyncio

import pytest

from control.store.interface import (
    Cause,
    Check,
    Committed,
    CompactedError,
    Conflicted,
    Delete,
    Event,
    FutureRevisionError,
    Put,
    Store,
    Txn,
)

DOCUMENT = b'{"metadata":{"resourceVersion":"","name":"web"}}'
SPLICE = DOCUMENT.index(b'""') + 1
WEB = "/core/pods/default/web"


def put(key: str, value: bytes = b"v", **more) -> Txn:
    return Txn((Put(key, value, **more),))


async def commit(store: Store, *ops, cause: Cause = Cause()) -> Committed | Conflicted:  # noqa: B008 - immutable
    (result,) = await store.commit([Txn(tuple(ops), cause)])
    return result


async def commit_each(store: Store, *txns: Txn) -> None:
    """One after the other: a store may apply the independent transactions of one commit in any order."""
    for txn in txns:
        (result,) = await store.commit([txn])
        assert isinstance(result, Committed)


async def collect(watch, count: int) -> list[Event]:
    """Take events until there are `count`; check that batches hold whole revisions, in order."""
    events: list[Event] = []
    reached = 0
    async with asyncio.timeout(10):
        while len(events) < count:
            batch = await anext(watch)
            assert all(reached < event.revision <= batch.revision for event in batch.events)
            reached = batch.revision
            events += batch.events
    revisions = [event.revision for event in events]
    assert revisions == sorted(revisions)
    return events


class StoreConformance:
    async def test_a_put_carries_its_own_revision(self, store: Store) -> None:
        before = store.revision
        result = await commit(store, Put(WEB, DOCUMENT, SPLICE, expect=0))
        assert isinstance(result, Committed)
        assert result.revision > before
        stored = DOCUMENT.replace(b'""', b'"%d"' % result.revision)
        assert result.values == (stored,)
        kv = await store.get(WEB)
        assert kv is not None
        assert (kv.value, kv.create_revision, kv.mod_revision) == (stored, result.revision, result.revision)

    async def test_a_stale_expectation_changes_nothing_and_shows_the_current_state(self, store: Store) -> None:
        first = await commit(store, Put(WEB, b"1", expect=0))
        second = await commit(store, Put(WEB, b"2", expect=first.revision))
        for op in (
            Put(WEB, b"3", expect=first.revision),
            Put(WEB, b"3", expect=0),
            Delete(WEB, expect=first.revision),
            Check(WEB, 0),
        ):
            result = await commit(store, Put("/core/pods/default/other", b"x"), op)
            assert isinstance(result, Conflicted)
            assert result.key == WEB
            assert result.current == await store.get(WEB)
        assert store.revision == second.revision
        assert await store.get("/core/pods/default/other") is None
        missing = await commit(store, Put("/core/pods/default/none", b"", expect=7))
        assert isinstance(missing, Conflicted)
        assert missing.current is None

    async def test_a_transaction_is_one_revision(self, store: Store) -> None:
        watch = store.watch("", store.revision)
        result = await commit(store, Put("/a/x/1", b"1"), Put("/b/y/2", b"2"), Check("/c/z/3", 0), cause=Cause(7, "me"))
        events = await collect(watch, 2)
        assert [(event.key, event.revision) for event in events] == [
            ("/a/x/1", result.revision),
            ("/b/y/2", result.revision),
        ]
        assert {event.cause for event in events} == {Cause(7, "me")}
        await watch.aclose()

    async def test_transactions_of_one_commit_are_independent(self, store: Store) -> None:
        results = await store.commit([put("/a/x/1"), put("/a/x/2", expect=99), put("/a/x/3"), put("/a/x/1", expect=0)])
        assert [type(result) for result in results] == [Committed, Conflicted, Committed, Conflicted]
        assert [kv.key for kv in (await store.range("/a/x/")).kvs] == ["/a/x/1", "/a/x/3"]

    async def test_what_changes_nothing_makes_no_revision(self, store: Store) -> None:
        before = store.revision
        assert await commit(store, Delete("/a/x/none")) == Committed(before, ())
        assert await commit(store, Check("/a/x/none", 0)) == Committed(before, ())
        assert store.revision == before

    async def test_a_removed_and_recreated_key_is_a_new_one(self, store: Store) -> None:
        first = await commit(store, Put(WEB, b"1"))
        removed = await commit(store, Delete(WEB, expect=first.revision))
        assert await store.get(WEB) is None
        again = await commit(store, Put(WEB, b"2", expect=0))
        kv = await store.get(WEB)
        assert (kv.create_revision, kv.mod_revision) == (again.revision, again.revision)
        assert (await store.get(WEB, first.revision)).value == b"1"
        assert await store.get(WEB, removed.revision) is None

    async def test_a_range_is_ordered_paged_and_counted_at_its_revision(self, store: Store) -> None:
        names = [f"/core/pods/default/p{number:02}" for number in range(25)]
        await store.commit([put(name) for name in reversed(names)] + [put("/core/podsets/default/x")])
        at = store.revision
        await store.commit([Txn((Delete(names[3]),)), put("/core/pods/default/p05x"), put(names[7], b"new")])
        found: list[str] = []
        after = ""
        while True:
            page = await store.range("/core/pods/", revision=at, limit=10, after=after)
            assert (page.revision, page.count) == (at, 25)
            found += [kv.key for kv in page.kvs]
            assert {kv.value for kv in page.kvs} == {b"v"}
            after = found[-1]
            if not page.more:
                break
            assert len(page.kvs) == 10
        assert found == names
        now = await store.range("/core/pods/", limit=5, after=names[2])
        assert [kv.key[-4:] for kv in now.kvs] == ["/p04", "/p05", "p05x", "/p06", "/p07"]
        assert (now.count, now.more, now.revision) == (25, True, store.revision)
        assert (await store.range("/core/pods/default/p05")).count == 2
        assert await store.range("/none/") == type(now)((), store.revision)

    async def test_the_future_is_refused(self, store: Store) -> None:
        await commit(store, Put(WEB, b""))
        with pytest.raises(FutureRevisionError):
            await store.get(WEB, store.revision + 1)
        with pytest.raises(FutureRevisionError):
            await store.range("/", revision=store.revision + 1)

    async def test_a_watch_from_the_past_and_into_the_future_misses_nothing(self, store: Store) -> None:
        start = store.revision
        await commit_each(store, *(put(f"/core/pods/a/{number}") for number in range(5)), put("/core/nodes/n"))
        watch = store.watch("/core/pods/", start)
        assert [event.key for event in await collect(watch, 5)] == [f"/core/pods/a/{number}" for number in range(5)]
        await commit_each(store, *(put(f"/core/pods/b/{number}") for number in range(5)))
        assert [event.key for event in await collect(watch, 5)] == [f"/core/pods/b/{number}" for number in range(5)]
        await watch.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(watch)

    async def test_a_watch_from_a_revision_to_come_begins_there(self, store: Store) -> None:
        first = await commit(store, Put("/a/y/0", b""))
        watch = store.watch("/a/", first.revision + 2)
        await commit_each(store, *(put(f"/a/x/{number}") for number in range(4)))
        assert [event.key for event in await collect(watch, 2)] == ["/a/x/2", "/a/x/3"]
        await watch.aclose()

    async def test_a_prefix_is_a_prefix_not_a_folder(self, store: Store) -> None:
        watch = store.watch("/core/pods/default/we", store.revision)
        await commit_each(store, put("/core/pods/default/wa"), put(WEB), put("/core/pods/default"), put(WEB + "-2"))
        assert [event.key for event in await collect(watch, 2)] == [WEB, WEB + "-2"]
        await watch.aclose()

    async def test_events_tell_what_was_before(self, store: Store) -> None:
        watch = store.watch("/core/pods/", store.revision)
        one = await commit(store, Put(WEB, b"1"))
        two = await commit(store, Put(WEB, b"2"))
        three = await commit(store, Delete(WEB, value=DOCUMENT, splice=SPLICE))
        four = await commit(store, Put(WEB, b"4"))
        await commit(store, Delete(WEB))
        added, modified, removed, again, gone = await collect(watch, 5)
        assert (added.previous, added.value, added.deleted) == (None, b"1", False)
        assert (modified.previous.value, modified.previous.mod_revision) == (b"1", one.revision)
        assert (modified.create_revision, modified.revision) == (one.revision, two.revision)
        assert removed.deleted
        assert removed.value == DOCUMENT.replace(b'""', b'"%d"' % three.revision)
        assert removed.previous.value == b"2"
        assert (again.previous, again.create_revision) == (None, four.revision)
        assert (gone.deleted, gone.value, gone.previous.value) == (True, None, b"4")
        await watch.aclose()

    async def test_concurrent_compare_and_put_has_one_winner(self, store: Store) -> None:
        results = await asyncio.gather(*(store.commit([put(WEB, b"%d" % n, expect=0)]) for n in range(40)))
        winners = [n for n, (result,) in enumerate(results) if isinstance(result, Committed)]
        assert len(winners) == 1
        assert (await store.get(WEB)).value == b"%d" % winners[0]

    async def test_a_barrier_sees_every_acknowledged_write(self, store: Store) -> None:
        result = await commit(store, Put(WEB, b"1"))
        assert await store.barrier() >= result.revision

    async def test_writing_a_key_twice_in_one_transaction_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="twice"):
            await commit(store, Put(WEB, b"1"), Delete(WEB))
        assert await store.get(WEB) is None


class CompactionConformance:
    """For stores whose history can be cut by a call: `store` has `compact(revision)`."""

    async def test_what_is_compacted_is_refused_and_the_rest_is_unchanged(self, store) -> None:
        for value in (b"1", b"2", b"3", b"4"):
            await commit(store, Put(WEB, value))
        await commit(store, Put("/a/x/other", b""))
        base = store.revision
        store.compact(base - 3)
        assert store.compacted == base - 3
        assert (await store.get(WEB, base - 2)).value == b"3"
        with pytest.raises(CompactedError) as refused:
            await store.get(WEB, base - 3)
        assert refused.value.oldest == base - 2
        with pytest.raises(CompactedError):
            await anext(store.watch("/", base - 4))
        watch = store.watch("/core/", base - 3)
        events = await collect(watch, 2)
        assert [event.value for event in events] == [b"3", b"4"]
        await watch.aclose()
