"""Deletion: at once where nothing holds the object, graceful where something does."""

from __future__ import annotations

import pytest

from steersman import ApiError
from steersman.v1 import objects_pb2 as pb


async def test_what_nothing_holds_goes_at_once(api):
    await api.config_map("a")
    assert (await api.client.delete("configmaps", "a")).outcome == "DELETED"
    assert await api.keys("/core/configmaps/default/") == []


async def test_a_pod_that_runs_nowhere_goes_at_once(api):
    await api.pod("a")
    assert (await api.client.delete("pods", "a")).outcome == "DELETED"


async def test_a_bound_pod_waits_for_its_agent(api):
    pod = await api.pod("a", "node-1")
    deleting = await api.client.delete("pods", "a", grace=7)
    assert deleting.outcome == "DELETING"
    metadata = deleting.document["metadata"]
    assert (metadata["deletionGracePeriodSeconds"], metadata["deletionTimestamp"]) == (7, "2026-01-01T00:00:07Z")
    assert (await api.client.delete("pods", "a")).outcome == "DELETING"
    gone = await api.client.delete("pods", "a", grace=0, uid=pod["metadata"]["uid"])
    assert gone.outcome == "DELETED"


async def test_asking_again_changes_nothing(api):
    await api.pod("a", "node-1")
    await api.client.delete("pods", "a")
    before = api.store.revision
    await api.client.delete("pods", "a")
    assert api.store.revision == before


async def test_preconditions_protect_the_successor(api):
    await api.config_map("a")
    for wrong in ({"uid": "another"}, {"revision": 1}):
        with pytest.raises(ApiError) as refused:
            await api.client.delete("configmaps", "a", **wrong)
        assert refused.value.reason == "Conflict"


async def test_the_last_finalizer_lets_go(api):
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "finalizers": ["example.com/hold"]}}
    await api.client.create(body)
    assert (await api.client.delete("configmaps", "a")).outcome == "DELETING"
    request = api.client.patch_request("configmaps", "a", {"metadata": {"finalizers": None}})
    (result,) = await api.client.batch([request])
    assert result.outcome == "DELETED"
    assert await api.keys("/core/configmaps/default/") == []


@pytest.mark.parametrize(("propagation", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")])
async def test_propagation_is_left_to_the_garbage_collector(api, propagation, finalizer):
    await api.config_map("a")
    deleting = await api.client.delete("configmaps", "a", propagation=propagation)
    assert (deleting.outcome, deleting.document["metadata"]["finalizers"]) == ("DELETING", [finalizer])


async def test_a_collection_is_deleted_by_selector(api):
    for name, app in (("a", "web"), ("b", "web"), ("c", "api")):
        await api.config_map(name, app=app)
    request = pb.DeleteCollectionRequest(
        list=pb.ListRequest(type=pb.Type(kind="ConfigMap"), namespace="default", label_selector="app=web")
    )
    deleted = await api.handlers.delete_collection(request, api.admin)
    assert [item.name for item in deleted.items] == ["a", "b"]
    assert await api.keys("/core/configmaps/default/") == ["c"]


async def test_an_eviction_deletes_the_pod_it_names(api):
    await api.pod("a", "node-1")
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "a"},
        "deleteOptions": {"gracePeriodSeconds": 3},
    }
    request = api.client.create_request(eviction, "default", subresource="eviction", name="a")
    (result,) = await api.client.batch([request])
    assert result.outcome == "DELETING"
    assert result.document["metadata"]["deletionGracePeriodSeconds"] == 3


async def test_a_namespace_is_terminating_until_it_is_finalized(api):
    await api.namespace("going")
    deleting = await api.client.delete("namespaces", "going", "")
    assert (deleting.outcome, deleting.document["status"]["phase"]) == ("DELETING", "Terminating")
    document = deleting.document
    document["spec"]["finalizers"] = []
    await api.client.update(document, subresource="finalize")
    with pytest.raises(ApiError):
        await api.client.get("namespaces", "going", "")
