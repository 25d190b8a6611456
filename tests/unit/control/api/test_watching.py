"""Watches: what a selector sees, in order, from any revision that is remembered."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from control.api import reads
from steersman import ApiError
from steersman.v1 import objects_pb2 as pb

KINDS = pb.WatchEvent.Kind


class Watch:
    """A watch that is read step by step."""

    def __init__(self, api, **request):
        request = {"type": pb.Type(kind="Pod"), **request}
        self.stream = api.handlers.watch(pb.WatchRequest(**request), api.admin)

    async def next(self):
        response = await asyncio.wait_for(anext(self.stream), 5)
        return [(KINDS.Name(event.kind), event.object.name) for event in response.events], response


async def until_waiting() -> None:
    """Let the tasks that were begun run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_watch_begins_with_the_present_state_and_goes_on(api):
    await api.pod("a")
    watch = Watch(api)
    async with aclosing(watch.stream):
        events, response = await watch.next()
        assert (events, response.synced, response.revision) == ([("ADDED", "a")], True, api.store.revision)
        await api.pod("b")
        assert (await watch.next())[0] == [("ADDED", "b")]
        await api.client.patch("pods", "b", {"metadata": {"labels": {"x": "y"}}})
        assert (await watch.next())[0] == [("MODIFIED", "b")]
        await api.client.delete("pods", "b")
        events, response = await watch.next()
        assert events == [("DELETED", "b")]
        assert response.events[0].object.revision == api.store.revision
        assert f'"resourceVersion":"{api.store.revision}"'.encode() in response.events[0].object.json


async def test_a_watch_that_begins_with_much_lets_others_have_their_turn(api, monkeypatch):
    monkeypatch.setattr(reads, "PAGE", 2)
    for number in range(7):
        await api.pod(f"p-{number}")
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    busy = asyncio.ensure_future(others())
    seen = []
    async with aclosing(api.handlers.watch(pb.WatchRequest(type=pb.Type(kind="Pod")), api.admin)) as stream:
        async for response in stream:
            seen += [event.object.name for event in response.events]
            if response.synced:
                break
    busy.cancel()
    assert seen == [f"p-{number}" for number in range(7)]
    assert turns >= 3


async def test_an_empty_kind_is_synced_at_once(api):
    watch = Watch(api)
    async with aclosing(watch.stream):
        events, response = await watch.next()
        assert (events, response.synced) == ([], True)


async def test_objects_enter_and_leave_a_selector(api):
    await api.pod("a", app="api")
    watch = Watch(api, label_selector="app=web", revision=api.store.revision)
    async with aclosing(watch.stream):
        await api.client.patch("pods", "a", {"metadata": {"labels": {"app": "web"}}})
        assert (await watch.next())[0] == [("ADDED", "a")]
        await api.client.patch("pods", "a", {"metadata": {"annotations": {"n": "1"}}})
        assert (await watch.next())[0] == [("MODIFIED", "a")]
        await api.client.patch("pods", "a", {"metadata": {"labels": {"app": "api"}}})
        events, response = await watch.next()
        assert events == [("DELETED", "a")]
        left = response.events[0].object
        assert b'"app":"web"' in left.json  # the last state that matched
        assert f'"resourceVersion":"{api.store.revision}"'.encode() in left.json


async def test_a_field_selector_follows_one_node(api):
    watch = Watch(api, field_selector="spec.nodeName=node-1", revision=api.store.revision)
    async with aclosing(watch.stream):
        await api.pod("elsewhere", "node-2")
        await api.pod("here", "node-1")
        assert (await watch.next())[0] == [("ADDED", "here")]


async def test_one_name_is_not_confused_with_its_prefix(api):
    watch = Watch(api, field_selector="metadata.name=web", revision=api.store.revision, namespace="default")
    async with aclosing(watch.stream):
        await api.pod("web-2")
        await api.pod("web")
        assert (await watch.next())[0] == [("ADDED", "web")]


async def test_a_watch_from_a_revision_misses_nothing_after_it(api):
    start = api.store.revision
    await api.pod("a")
    await api.client.delete("pods", "a")
    await api.pod("b")
    watch = Watch(api, revision=start)
    seen = []
    async with aclosing(watch.stream):
        while len(seen) < 3:
            seen += (await watch.next())[0]
    assert seen == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "b")]


async def test_events_tell_what_caused_them(api):
    watch = Watch(api, revision=api.store.revision)
    async with aclosing(watch.stream):
        await api.pod("a")
        _, response = await watch.next()
        assert response.events[0].object.cause.actor == "user:admin"


async def test_a_forgotten_revision_is_expired(api):
    for number in range(4):
        await api.pod(f"p{number}")
    api.store.compact(api.store.revision - 1)
    with pytest.raises(ApiError) as refused:
        await Watch(api, revision=1).next()
    assert refused.value.reason == "Expired"


async def test_a_revision_that_never_was_is_refused(api):
    with pytest.raises(ApiError) as refused:
        await Watch(api, revision=10_000).next()
    assert refused.value.reason == "Timeout"
    assert "Too large resource version" in refused.value.message


async def test_bookmarks_tell_of_progress_without_events(api):
    watch = Watch(api, revision=api.store.revision, bookmarks=True)
    async with aclosing(watch.stream):
        step = asyncio.ensure_future(watch.next())
        await until_waiting()
        await api.config_map("other")
        api.store.progress()
        events, response = await step
        assert events == [("BOOKMARK", "")]
        assert response.revision == api.store.revision


async def test_a_stopping_member_ends_its_watches_so_that_clients_go_elsewhere(api):
    watch = Watch(api, revision=api.store.revision)
    async with aclosing(watch.stream):
        step = asyncio.ensure_future(watch.next())
        await until_waiting()
        api.store.close()
        with pytest.raises(ApiError) as refused:
            await step
        assert refused.value.reason == "ServiceUnavailable"
