"""The promises of a watch cache: whole states, no gap after a break, indexes that follow."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

from steersman import AsyncClient, Cache, errors
from steersman.clock import SeededEntropy
from steersman.types import Pod


@asynccontextmanager
async def following(transport: Any, **options: Any) -> Any:
    cache: Cache[Pod] = Cache(AsyncClient(transport), Pod, entropy=SeededEntropy(), **options)
    task = asyncio.create_task(cache.run())
    try:
        yield cache
    finally:
        task.cancel()


async def test_nothing_is_shown_before_the_first_state_is_whole(make: Any, scripted: Any) -> None:
    transport = scripted(
        [
            make.response(5, make.change("ADDED", make.pod("a", 3)), synced=False),
            make.response(5, make.change("ADDED", make.pod("b", 4))),
        ]
    )
    async with following(transport) as cache:
        seen: list[int] = []
        cache.subscribe(lambda old, new: seen.append(len(cache)))
        await cache.synced()
        assert seen == [2, 2]
        assert cache.revision == 5


async def test_a_broken_stream_is_resumed_where_it_broke(make: Any, scripted: Any) -> None:
    transport = scripted(
        [make.response(5, make.change("ADDED", make.pod("a", 3))), errors.unavailable("gone")],
        [make.response(7, make.change("MODIFIED", make.pod("a", 7)))],
    )
    async with following(transport) as cache:
        await cache.reached(7)
        assert transport.watched_from == [0, 5]
        assert cache.get("default", "a").metadata.revision == 7


async def test_after_compaction_subscribers_are_told_the_difference(make: Any, scripted: Any) -> None:
    transport = scripted(
        [
            make.response(5, make.change("ADDED", make.pod("a", 3)), make.change("ADDED", make.pod("b", 4))),
            errors.expired("compacted"),
        ],
        [make.response(90, make.change("ADDED", make.pod("b", 80)), make.change("ADDED", make.pod("c", 81)))],
    )
    async with following(transport) as cache:
        told: list[tuple[str, str]] = []
        cache.subscribe(lambda old, new: told.append((old.name if old else "", new.name if new else "")))
        await cache.reached(90)
        assert told == [("", "a"), ("", "b"), ("a", ""), ("b", "b"), ("", "c")]
        assert transport.watched_from == [0, 0]


async def test_indexes_follow_changes_and_removals(make: Any, scripted: Any) -> None:
    transport = scripted(
        [
            make.response(5, make.change("ADDED", make.pod("a", 3, app="web"))),
            make.response(6, make.change("MODIFIED", make.pod("a", 6, app="db"))),
            make.response(7, make.change("ADDED", make.pod("b", 7, app="db"))),
            make.response(8, make.change("DELETED", make.pod("a", 8, app="db"))),
        ]
    )
    indexes = {"app": lambda obj: [obj.metadata.labels["app"]]}
    async with following(transport, indexes=indexes) as cache:
        await cache.reached(6)
        await cache.reached(8)
        assert cache.by_index("app", "web") == []
        assert [obj.name for obj in cache.by_index("app", "db")] == ["b"]
        assert [obj.name for obj in cache.list("default")] == ["b"]


async def test_a_watch_resumes_after_a_break_without_repeating_or_missing(make: Any, scripted: Any) -> None:
    transport = scripted(
        [make.response(5, make.change("ADDED", make.pod("a", 3))), errors.unavailable("gone")],
        [make.response(6, make.change("MODIFIED", make.pod("a", 6)))],
    )
    client = AsyncClient(transport, entropy=SeededEntropy())
    events = []
    async for event in client.watch(Pod):
        events.append((event.type, event.revision))
        if len(events) == 2:
            break
    assert events == [("ADDED", 3), ("MODIFIED", 6)]
