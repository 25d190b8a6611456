"""Creates, updates, applies, patches, bindings, batches."""

from __future__ import annotations

import asyncio

import pytest

from control.store.interface import NoLeaderError, Put, Txn
from steersman import ApiError
from steersman.v1 import objects_pb2 as pb

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        },
    },
}


async def refusal(awaitable) -> ApiError:
    with pytest.raises(ApiError) as refused:
        await awaitable
    return refused.value


async def test_a_created_object_is_complete_and_stored_as_answered(api):
    created = await api.config_map("a")
    metadata = created["metadata"]
    assert metadata["resourceVersion"] == str(api.store.revision)
    assert metadata["creationTimestamp"] == "2026-01-01T00:00:00Z"
    assert len(metadata["uid"]) == 36
    assert await api.client.get("configmaps", "a") == created


async def test_a_name_can_be_had_once(api):
    await api.config_map("a")
    error = await refusal(api.config_map("a"))
    assert (error.code, error.reason, error.message) == (409, "AlreadyExists", 'configmaps "a" already exists')


async def test_of_two_creations_at_once_one_wins(api):
    results = await asyncio.gather(*(api.config_map("a") for _ in range(4)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["ApiError", "ApiError", "ApiError", "dict"]


async def test_generated_names_differ(api):
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "c-"}}
    names = {(await api.client.create(body))["metadata"]["name"] for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("c-") and len(name) == 7 for name in names)


async def test_a_generated_name_that_is_taken_is_generated_again(api):
    suffixes = iter(["aaaaa", "aaaaa", "bbbbb"])
    api.context.entropy.suffix = lambda length=5: next(suffixes)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "c-"}}
    names = [(await api.client.create(body))["metadata"]["name"] for _ in range(2)]
    assert names == ["c-aaaaa", "c-bbbbb"]


async def test_nothing_is_created_in_a_namespace_that_is_missing_or_going(api):
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "lost"}}
    assert (await refusal(api.client.create(body))).message == 'namespaces "lost" not found'
    await api.namespace("lost")
    await api.client.delete("namespaces", "lost", "")
    error = await refusal(api.client.create(body))
    assert error.reason == "Forbidden"
    assert "because it is being terminated" in error.message


async def test_a_creation_that_races_with_its_namespaces_end_is_refused(api):
    """Admission saw the namespace alive; the write expects it unchanged, so it is planned again and refused."""
    await api.namespace("going")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "going"}}
    commit = api.store.commit

    async def first_the_namespace(txns):
        api.store.commit = commit
        await api.client.delete("namespaces", "going", "")
        return await commit(txns)

    api.store.commit = first_the_namespace
    assert "because it is being terminated" in (await refusal(api.client.create(body))).message
    assert await api.keys("/core/configmaps/going/") == []


async def test_a_stale_update_is_a_conflict(api):
    created = await api.config_map("a")
    await api.client.patch("configmaps", "a", {"data": {"k": "v"}})
    error = await refusal(api.client.update({**created, "data": {"k": "w"}}))
    assert (error.code, error.reason) == (409, "Conflict")
    assert "please apply your changes to the latest version" in error.message


async def test_an_update_of_another_object_by_that_name_is_a_conflict(api):
    created = await api.config_map("a")
    await api.client.delete("configmaps", "a")
    await api.config_map("a")
    del created["metadata"]["resourceVersion"]
    assert (await refusal(api.client.update(created))).reason == "Conflict"


async def test_what_changes_nothing_writes_nothing(api):
    created = await api.config_map("a")
    before = api.store.revision
    assert await api.client.update(created) == created
    await api.client.patch("configmaps", "a", {"metadata": {"labels": None}})
    assert api.store.revision == before


async def test_concurrent_patches_of_different_fields_all_succeed(api):
    await api.config_map("a")
    await asyncio.gather(*(api.client.patch("configmaps", "a", {"data": {f"k{n}": "v"}}) for n in range(8)))
    assert len((await api.client.get("configmaps", "a"))["data"]) == 8


async def test_a_patch_that_lost_a_race_is_planned_again(api):
    await api.config_map("a")
    commit = api.store.commit

    async def first_another(txns):
        api.store.commit = commit
        await api.client.patch("configmaps", "a", {"data": {"other": "1"}})
        return await commit(txns)

    api.store.commit = first_another
    patched = await api.client.patch("configmaps", "a", {"data": {"mine": "1"}})
    assert patched["data"] == {"other": "1", "mine": "1"}


async def test_an_update_with_a_revision_that_lost_a_race_is_a_conflict(api):
    created = await api.config_map("a")
    commit = api.store.commit

    async def first_another(txns):
        api.store.commit = commit
        await api.client.patch("configmaps", "a", {"data": {"other": "1"}})
        return await commit(txns)

    api.store.commit = first_another
    assert (await refusal(api.client.update({**created, "data": {"mine": "1"}}))).reason == "Conflict"


async def test_apply_creates_then_changes_then_leaves_alone(api):
    async def apply(document):
        (result,) = await api.client.apply(document)
        return result.outcome, result.document

    assert (await apply(DEPLOYMENT))[0] == "CREATED"
    assert (await apply(DEPLOYMENT))[0] == "UNCHANGED"
    outcome, document = await apply({**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], "replicas": 3}})
    assert (outcome, document["spec"]["replicas"], document["metadata"]["generation"]) == ("CHANGED", 3, 2)


async def test_a_status_update_changes_nothing_else(api):
    await api.client.apply(DEPLOYMENT)
    document = await api.client.get("deployments", "web")
    document["spec"]["replicas"] = 9
    document["status"] = {"replicas": 2}
    stored = await api.client.update(document, subresource="status")
    assert (stored["spec"]["replicas"], stored["status"]["replicas"]) == (2, 2)


async def test_scale_is_read_and_changed_by_itself(api):
    await api.client.apply(DEPLOYMENT)
    patched = await api.client.patch("deployments", "web", {"spec": {"replicas": 5}}, subresource="scale")
    assert (patched["kind"], patched["spec"]["replicas"]) == ("Scale", 5)
    request = pb.GetRequest(type=pb.Type(kind="Deployment"), namespace="default", name="web", subresource="scale")
    assert b'"replicas":5' in (await api.handlers.get(request, api.admin)).object.json
    assert (await api.client.get("deployments", "web"))["spec"]["replicas"] == 5


async def test_a_pod_is_bound_once(api):
    pod = await api.pod("a", "node-1")
    bound = await api.client.get("pods", "a")
    assert bound["spec"]["nodeName"] == "node-1"
    assert any(c["type"] == "PodScheduled" and c["status"] == "True" for c in bound["status"]["conditions"])
    binding = {"metadata": {"name": "a", "uid": pod["metadata"]["uid"]}, "target": {"name": "node-2"}}
    request = api.client.create_request(binding, "default", subresource="binding", name="a")
    (result,) = await api.client.batch([request])
    assert result.error.reason == "Conflict"
    assert 'already assigned to node "node-1"' in result.error.message


async def test_a_binding_is_for_the_pod_it_was_decided_for(api):
    await api.pod("a")
    binding = {"metadata": {"name": "a", "uid": "another"}, "target": {"name": "node-2"}}
    request = api.client.create_request(binding, "default", subresource="binding", name="a")
    (result,) = await api.client.batch([request])
    assert result.error.reason == "Conflict"


async def test_a_dry_run_answers_and_writes_nothing(api):
    before = api.store.revision
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}}
    answer = await api.client.create(body, dry_run=True)
    assert answer["spec"]["clusterIP"]
    (result,) = await api.client.apply(DEPLOYMENT, dry_run=True)
    assert result.outcome == "CREATED"
    assert api.store.revision == before
    assert (await refusal(api.client.get("services", "s"))).reason == "NotFound"


async def test_a_batch_is_one_trip_through_the_log(api):
    trips = []
    commit = api.store.commit

    async def counted(txns):
        trips.append(len(txns))
        return await commit(txns)

    api.store.commit = counted
    requests = [
        api.client.create_request({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{n}"}})
        for n in range(50)
    ]
    results = await api.client.batch(requests)
    assert trips == [50]
    assert {result.outcome for result in results} == {"CREATED"}


async def test_a_batch_keeps_the_order_of_writes_to_one_object(api):
    requests = [
        api.client.create_request({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new"}}),
        api.client.create_request(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "new"}}
        ),
        api.client.patch_request("configmaps", "a", {"data": {"k": "1"}}, "new"),
        api.client.patch_request("configmaps", "a", {"data": {"k": "2"}}, "new"),
        api.client.delete_request("configmaps", "gone", "new"),
    ]
    results = await api.client.batch(requests)
    assert [result.outcome for result in results] == ["CREATED", "CREATED", "CHANGED", "CHANGED", ""]
    assert results[4].error.reason == "NotFound"
    assert (await api.client.get("configmaps", "a", "new"))["data"] == {"k": "2"}


async def test_causes_name_the_user_and_what_they_say_they_are(api):
    await api.client.acting_as("deployer").create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}, cause=1
    )
    watch = api.handlers.watch(pb.WatchRequest(type=pb.Type(kind="ConfigMap"), revision=1), api.admin)
    response = await anext(watch)
    assert response.events[0].object.cause == pb.Cause(revision=1, actor="user:admin/deployer")
    await watch.aclose()


# --- without a leader, and when it is lost ---


async def test_a_member_that_does_not_lead_refuses_to_write(api):
    api.leadership.is_self, api.leadership.leader = False, "other"
    error = await refusal(api.config_map("a"))
    assert error.reason == "ServiceUnavailable"
    assert "other" in error.message


async def test_a_write_that_was_applied_though_leadership_was_lost_succeeds(api):
    commit = api.store.commit

    async def applied_then_lost(txns):
        await commit(txns)
        raise NoLeaderError("deposed", uncertain=True)

    api.store.commit = applied_then_lost
    created = await api.config_map("a")
    assert created["metadata"]["resourceVersion"] == str(api.store.revision)


async def test_a_write_that_was_not_applied_may_be_repeated(api):
    api.store.fail_next(NoLeaderError("deposed", uncertain=True))
    assert (await refusal(api.config_map("a"))).reason == "ServiceUnavailable"


async def test_a_write_of_which_nobody_knows_is_never_called_repeatable(api):
    await api.config_map("a")
    commit = api.store.commit

    async def overtaken_then_lost(txns):
        await commit(txns)
        await commit([Txn((Put("/core/configmaps/default/a", b'{"metadata":{"resourceVersion":""}}', 32),))])
        raise NoLeaderError("deposed", uncertain=True)

    api.store.commit = overtaken_then_lost
    error = await refusal(api.client.patch("configmaps", "a", {"data": {"k": "v"}}))
    assert error.reason == "Timeout"
    assert "may or may not be applied" in error.message


async def test_a_refusal_made_on_an_old_state_is_not_told(api):
    """A leader that was deposed without noticing must not say NotFound of what the new leader acknowledged."""

    async def catch_up():
        if not caught_up:
            caught_up.append(True)
            await api.config_map("late")
        return api.store.revision

    caught_up: list[bool] = []
    api.store.barrier = catch_up
    await api.client.delete("configmaps", "late")
    assert caught_up


async def test_a_repeated_creation_is_known_again(api):
    from dataclasses import replace

    caller = replace(api.admin, request_id="00000000-0000-4000-8000-000000000001")
    for metadata in ({"name": "a"}, {"generateName": "b-"}):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        caller = replace(caller, request_id=api.context.entropy.uid())
        client = api.client_of(caller)
        first, again = await client.create(body), await client.create(body)
        assert first == again
        assert first["metadata"]["uid"] == caller.request_id
    assert len(await api.client.list("configmaps")) == 2
