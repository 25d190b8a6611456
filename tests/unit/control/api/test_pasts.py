"""The past is read by revision, time or age, by whoever may read the present."""

import pytest

from control.identity import Caller
from steersman.clock import rfc3339
from steersman.errors import ApiError
from steersman.types import ConfigMap
from steersman.v1 import objects_pb2 as pb
from tests.unit.control.api.conftest import ApiUnderTest


async def changed_twice(api: ApiUnderTest) -> list[str]:
    """A ConfigMap in three states, a minute apart; answers their times."""
    times = []
    for value in ("1", "2", "3"):
        api.clock.advance(60)
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"v": value}}
        (result,) = await api.client.apply([manifest])
        assert result.error is None
        times.append(rfc3339(api.clock.now()))
    return times


async def test_get_and_list_show_the_state_at_a_moment(api: ApiUnderTest) -> None:
    times = await changed_twice(api)
    now = await api.client.moment()
    for at, value in ((times[1], "2"), ("60s", "2"), ("90s", "1"), (str(now.revision - 2), "1"), ("0s", "3")):
        assert (await api.client.get("configmaps", "c", at=at))["data"]["v"] == value
        assert [item["data"]["v"] for item in await api.client.list("configmaps", "default", at=at)] == [value]
    assert len(await api.client.list("configmaps", "default", at=str(now.revision - 3))) == 0
    with pytest.raises(ApiError) as refused:
        await api.client.get("configmaps", "c", at="151s")
    assert refused.value.reason == "NotFound"


async def test_ages_in_tables_are_as_of_the_moment(api: ApiUnderTest) -> None:
    await changed_twice(api)
    api.clock.advance(3600)
    request = pb.ListRequest(type=pb.Type(resource="configmaps"), namespace="default", at="1h")
    table = await api.client.table(request)
    assert table["rows"][0]["cells"][-1] == "2m"


async def test_a_compacted_past_is_gone_and_the_refusal_says_what_is_left(api: ApiUnderTest) -> None:
    times = await changed_twice(api)
    newest = api.store.revision
    api.store.compact(newest - 2)
    left = f"{newest - 1} of {times[1]}"
    for at in (times[0], str(newest - 2), "90s"):
        with pytest.raises(ApiError, match=left) as gone:
            await api.client.get(ConfigMap, "c", "default", at=at)
        assert (gone.value.reason, gone.value.code) == ("Expired", 410)
    with pytest.raises(ApiError, match=left):
        await api.client.list(ConfigMap, "default", revision=newest - 2)
    moment = await api.client.moment()
    assert (moment.oldest_revision, moment.revision) == (newest - 1, newest)


@pytest.mark.parametrize("at", ["tomorrow", "999999", "2126-01-01T00:00:00Z"])
async def test_no_moment_is_a_bad_request(api: ApiUnderTest, at: str) -> None:
    with pytest.raises(ApiError) as refused:
        await api.client.get(ConfigMap, "c", "default", at=at)
    assert refused.value.reason == "BadRequest"


async def test_history_tells_who_did_what_to_whom_and_survives_deletion(api: ApiUnderTest) -> None:
    times = await changed_twice(api)
    await api.client.delete("configmaps", "c", "default")
    answer = await api.client.history("configmaps", "c", "default")
    kinds = [pb.WatchEvent.Kind.Name(entry.kind) for entry in answer.entries]
    assert kinds == ["DELETED", "MODIFIED", "MODIFIED", "ADDED"]
    second = answer.entries[2]
    assert [(c.path, c.before, c.after) for c in second.changes] == [("data.v", '"1"', '"2"')]
    assert second.cause.actor == "user:admin"
    assert second.time.startswith(times[1][:-1])
    assert b'"2"' in second.object.json
    limited = await api.client.history("configmaps", "c", "default", limit=1)
    assert (len(limited.entries), limited.more) == (1, True)


async def test_history_asks_for_the_right_to_get(api: ApiUnderTest) -> None:
    await changed_twice(api)
    with pytest.raises(ApiError, match="cannot get resource") as refused:
        await api.client_of(Caller("eve")).history("configmaps", "c", "default")
    assert refused.value.reason == "Forbidden"
    with pytest.raises(ApiError) as missing:
        await api.client.history("configmaps", "nobody", "default")
    assert missing.value.reason == "NotFound"
