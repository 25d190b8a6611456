"""Gets and lists: bytes as stored, one revision per list, linearizable."""

from __future__ import annotations

import asyncio

import pytest

from control.api import paging
from control.api.barrier import Barrier
from steersman import ApiError
from steersman.v1 import objects_pb2 as pb


async def test_a_get_hands_on_the_stored_bytes(api):
    await api.config_map("a")
    stored = await api.store.get("/core/configmaps/default/a")
    answer = await api.handlers.get(
        pb.GetRequest(type=pb.Type(kind="ConfigMap"), namespace="default", name="a"), api.admin
    )
    assert answer.object.json == stored.value
    assert answer.object.revision == stored.mod_revision
    assert (answer.object.namespace, answer.object.name) == ("default", "a")
    assert f'"uid":"{answer.object.uid}"'.encode() in stored.value


async def test_an_old_revision_shows_the_old_state(api):
    await api.config_map("a")
    before = api.store.revision
    await api.client.patch("configmaps", "a", {"data": {"k": "v"}})
    assert "data" not in await api.client.get("configmaps", "a", revision=before)
    assert (await api.client.get("configmaps", "a"))["data"] == {"k": "v"}


async def test_pages_show_the_revision_of_the_first(api):
    for number in range(5):
        await api.config_map(f"c{number}")
    first = await api.client.list("configmaps", limit=2)
    await api.config_map("c01")
    await api.client.delete("configmaps", "c4")
    second = await api.client.list("configmaps", limit=2, continue_token=first.continue_token)
    third = await api.client.list("configmaps", limit=2, continue_token=second.continue_token)
    names = [item["metadata"]["name"] for page in (first, second, third) for item in page]
    assert names == ["c0", "c1", "c2", "c3", "c4"]
    assert first.revision == second.revision == third.revision
    assert third.continue_token == ""


async def test_the_first_page_tells_how_many_remain(api):
    for number in range(5):
        await api.config_map(f"c{number}")
    page = await api.handlers.list(pb.ListRequest(type=pb.Type(kind="ConfigMap"), limit=2), api.admin)
    assert page.remaining == 3


async def test_a_list_whose_revision_is_compacted_must_start_again(api):
    for number in range(3):
        await api.config_map(f"c{number}")
    page = await api.client.list("configmaps", limit=1)
    for number in range(3):
        await api.client.patch("configmaps", f"c{number}", {"data": {"k": "v"}})
    api.store.compact(api.store.revision - 1)
    with pytest.raises(ApiError) as refused:
        await api.client.list("configmaps", limit=1, continue_token=page.continue_token)
    assert (refused.value.code, refused.value.reason) == (410, "Expired")
    assert f"revisions {api.store.revision} and newer are available" in refused.value.message


@pytest.mark.parametrize("token", ["!", "bm9uc2Vuc2U", paging.encode(0, "x"), "WzIsNSwieCJd"])
async def test_a_token_that_is_not_ours_is_a_bad_request(api, token):
    with pytest.raises(ApiError) as refused:
        await api.client.list("configmaps", continue_token=token)
    assert refused.value.code == 400


@pytest.mark.parametrize(
    ("labels", "fields", "names"),
    [
        ("app=web", "", ["a", "b"]),
        ("app=web,tier!=db", "", ["a"]),
        ("app in (web,api)", "", ["a", "b", "c"]),
        ("!app", "", ["d"]),
        ("", "metadata.name=c", ["c"]),
        ("app=web", "metadata.name!=a", ["b"]),
        ("", "spec.nodeName=node-1", ["a", "c"]),
        ("app=web", "spec.nodeName=node-1", ["a"]),
        ("", "status.phase=Running", []),
    ],
)
async def test_selectors_select(api, labels, fields, names):
    await api.pod("a", "node-1", app="web")
    await api.pod("b", app="web", tier="db")
    await api.pod("c", "node-1", app="api")
    await api.pod("d")
    found = await api.client.list("pods", labels=labels, fields=fields)
    assert [item["metadata"]["name"] for item in found] == names
    limited = await api.client.list("pods", labels=labels, fields=fields, limit=1)
    assert [item["metadata"]["name"] for item in limited] == names[:1]


async def test_selectors_select_the_same_in_the_past(api):
    await api.pod("a", app="web")
    before = api.store.revision
    await api.client.patch("pods", "a", {"metadata": {"labels": {"app": "api"}}})
    assert len(await api.client.list("pods", labels="app=web", revision=before)) == 1
    assert len(await api.client.list("pods", labels="app=web")) == 0


async def test_a_table_is_made_by_the_server(api):
    await api.pod("a")
    table = await api.client.table(pb.ListRequest(type=pb.Type(resource="po")))
    assert table["columnDefinitions"][0]["name"] == "Name"
    assert table["rows"][0]["cells"][0] == "a"


async def test_without_a_leader_only_stale_reads_are_answered(api):
    await api.config_map("a")
    api.store.lead("")
    with pytest.raises(ApiError) as refused:
        await api.client.list("configmaps")
    assert refused.value.reason == "ServiceUnavailable"
    assert refused.value.retry_after > 0
    assert len(await api.client.list("configmaps", stale_ok=True)) == 1


async def test_a_reader_never_shares_a_barrier_that_began_before_it_came():
    begun: list[asyncio.Future[int]] = []

    def begin() -> asyncio.Future[int]:
        begun.append(asyncio.get_running_loop().create_future())
        return begun[-1]

    async def barrier() -> int:
        return await begin()

    shared = Barrier(barrier)
    first = asyncio.ensure_future(shared.wait())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.ensure_future(shared.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert len(begun) == 1
    begun[0].set_result(1)
    assert await first == 1
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(begun) == 2
    assert not any(reader.done() for reader in later)
    begun[1].set_result(2)
    assert await asyncio.gather(*later) == [2, 2, 2]
