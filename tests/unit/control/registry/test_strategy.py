"""Who may write what, and what a deletion leads to."""

from __future__ import annotations

import copy
import datetime as dt
import json
from typing import Any

import pytest

from control.registry import (
    REGISTRY,
    Context,
    bind,
    check_preconditions,
    finished,
    from_scale,
    prepare_create,
    prepare_delete,
    prepare_update,
    to_scale,
)
from control.registry.pods.lifecycle import qos_class
from steersman.errors import ApiError

PODS = REGISTRY.find(kind="Pod")


def test_a_client_cannot_set_what_the_server_writes(client: Any, deployment: Any) -> None:
    deployment["metadata"] |= {
        "uid": "mine",
        "resourceVersion": "99",
        "generation": 7,
        "creationTimestamp": "2020-01-01T00:00:00Z",
        "deletionTimestamp": "2020-01-01T00:00:00Z",
    }
    deployment["status"] = {"replicas": 5}
    document = client.create(deployment)
    assert document["metadata"] == {
        "name": "web",
        "namespace": "ka",
        "uid": "uid-1",
        "creationTimestamp": "2026-03-01T12:00:00Z",
        "generation": 1,
        "resourceVersion": "7",
    }
    assert document["status"] == {}


def test_generate_name_keeps_names_short(client: Any, pod: Any) -> None:
    pod["metadata"] = {"generateName": "a" * 62 + "-"}
    assert client.create(pod)["metadata"]["name"] == "a" * 58 + "abcde"


def test_a_node_registers_with_its_status(client: Any) -> None:
    status = {"capacity": {"cpu": "2"}, "conditions": [{"type": "Ready", "status": "True"}]}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": status}
    resource, document, _ = REGISTRY.decode(json.dumps(node).encode())
    prepare_create(resource, document, client.context)
    assert document["status"] == status


def test_an_update_keeps_the_status_and_counts_changes_of_the_spec(client: Any, deployment: Any) -> None:
    resource, old = client.resource(deployment), client.create(deployment)
    old["status"] = {"replicas": 3}
    new = copy.deepcopy(old)
    new["status"] = {"replicas": 9}
    new["metadata"]["labels"] = {"a": "b"}
    prepare_update(resource, new, old, client.context)
    assert (new["status"], new["metadata"]["generation"]) == ({"replicas": 3}, 1)
    new["spec"]["replicas"] = 5
    prepare_update(resource, new, old, client.context)
    assert new["metadata"]["generation"] == 2
    assert old["metadata"]["generation"] == 1


def test_a_status_update_keeps_everything_else(client: Any, deployment: Any) -> None:
    resource, old = client.resource(deployment), client.create(deployment)
    new = copy.deepcopy(old)
    new["spec"]["replicas"] = 9
    new["metadata"]["finalizers"] = ["a.b/c"]
    new["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
    new["status"] = {"replicas": 3}
    prepare_update(resource, new, old, client.context, "status")
    assert (new["spec"], new["status"]) == (old["spec"], {"replicas": 3})
    assert new["metadata"] == {**old["metadata"], "annotations": {"deployment.kubernetes.io/revision": "1"}}


def test_what_an_update_sends_unchanged_changes_nothing(client: Any, manifest: Any) -> None:
    old = client.create(manifest)
    resource, new, _ = client.decode(old)
    prepare_update(resource, new, old, client.context)
    assert new == old
    resource, bare, _ = client.decode(manifest)  # as the client wrote it, without anything that was filled in
    prepare_update(resource, bare, old, client.context)
    assert bare == old


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [("resourceVersion", "6", 409), ("uid", "other", 409), ("name", "other", 400), ("namespace", "other", 400)],
)
def test_an_update_meant_for_another_object_or_state_is_refused(
    client: Any, config_map: Any, field: str, value: str, code: int
) -> None:
    old = client.create(config_map)
    new = copy.deepcopy(old)
    new["metadata"][field] = value
    with pytest.raises(ApiError) as refused:
        prepare_update(client.resource(config_map), new, old, client.context)
    assert refused.value.code == code


def test_leases_are_only_updated_from_a_known_state(client: Any) -> None:
    old = client.create({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"}})
    new = copy.deepcopy(old)
    del new["metadata"]["resourceVersion"]
    with pytest.raises(ApiError, match="must be specified for an update"):
        prepare_update(client.resource(old), new, old, client.context)


def test_deleting_objects_take_no_new_finalizers(client: Any, config_map: Any) -> None:
    config_map["metadata"]["finalizers"] = ["a.b/c"]
    resource, old = client.resource(config_map), client.create(config_map)
    held = prepare_delete(resource, old, client.context)
    assert not held.remove
    assert held.reason == "held by finalizers a.b/c"
    more = copy.deepcopy(held.document)
    more["metadata"]["finalizers"].append("d.e/f")
    with pytest.raises(ApiError, match="no new finalizers"):
        prepare_update(resource, more, held.document, client.context)
    free = copy.deepcopy(held.document)
    del free["metadata"]["finalizers"]
    assert not finished(resource, held.document)
    prepare_update(resource, free, held.document, client.context)
    assert finished(resource, free)


def test_nothing_holds_a_plain_object(client: Any, config_map: Any) -> None:
    deletion = prepare_delete(client.resource(config_map), client.create(config_map), client.context, grace=30)
    assert (deletion.remove, deletion.reason) == (True, "")


@pytest.mark.parametrize(
    ("propagation", "finalizers"),
    [("Foreground", ["foregroundDeletion"]), ("Orphan", ["orphan"]), ("Background", None)],
)
def test_propagation_becomes_a_finalizer(client: Any, deployment: Any, propagation: str, finalizers: Any) -> None:
    deletion = prepare_delete(
        client.resource(deployment), client.create(deployment), client.context, propagation=propagation
    )
    assert deletion.document["metadata"].get("finalizers") == finalizers
    assert deletion.remove is (finalizers is None)
    if finalizers:
        assert deletion.document["metadata"]["generation"] == 2
    with pytest.raises(ApiError, match="unknown"):
        prepare_delete(client.resource(deployment), deployment, client.context, propagation="Sideways")


def bound(client: Any, pod: Any, **status: Any) -> Any:
    document = client.create(pod)
    document["spec"]["nodeName"] = "node-1"
    document["status"] |= status
    return document


def test_a_bound_pod_is_stopped_before_it_goes(client: Any, pod: Any) -> None:
    pod["spec"]["terminationGracePeriodSeconds"] = 20
    document = bound(client, pod, phase="Running")
    deletion = prepare_delete(PODS, document, client.context)
    assert deletion.reason == "stopping within 20 s"
    metadata = deletion.document["metadata"]
    assert metadata["deletionTimestamp"] == "2026-03-01T12:00:20Z"
    assert metadata["deletionGracePeriodSeconds"] == 20
    assert not finished(PODS, deletion.document)


def test_a_second_deletion_may_only_hurry(client: Any, pod: Any) -> None:
    first = prepare_delete(PODS, bound(client, pod), client.context).document
    later = Context(client.now + dt.timedelta(seconds=5))
    assert prepare_delete(PODS, first, later, grace=100).document["metadata"] == first["metadata"]
    hurried = prepare_delete(PODS, first, later, grace=2).document["metadata"]
    assert (hurried["deletionTimestamp"], hurried["deletionGracePeriodSeconds"]) == ("2026-03-01T12:00:07Z", 2)
    assert hurried["generation"] == 2  # counted once
    assert prepare_delete(PODS, first, later, grace=0).remove


def test_a_pod_that_runs_nowhere_goes_at_once(client: Any, pod: Any) -> None:
    assert prepare_delete(PODS, client.create(pod), client.context).remove
    assert prepare_delete(PODS, bound(client, pod, phase="Succeeded"), client.context).remove
    assert prepare_delete(PODS, bound(client, pod, phase="Running"), client.context, grace=0).remove


def test_a_namespace_goes_when_it_is_empty(client: Any) -> None:
    resource, namespace, _ = REGISTRY.decode(b'{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}')
    prepare_create(resource, namespace, client.context)
    deletion = prepare_delete(resource, namespace, client.context)
    assert deletion.document["status"]["phase"] == "Terminating"
    assert not deletion.remove
    update = copy.deepcopy(deletion.document)
    update["spec"]["finalizers"] = []
    unchanged = copy.deepcopy(update)
    prepare_update(resource, unchanged, deletion.document, client.context)
    assert not finished(resource, unchanged)  # a plain update may not let it go
    prepare_update(resource, update, deletion.document, client.context, "finalize")
    assert finished(resource, update)


def test_preconditions_name_one_object_in_one_state() -> None:
    old = {"name": "a", "uid": "u", "resourceVersion": "7"}
    check_preconditions(PODS, old, uid="u", revision=7)
    for wrong in ({"uid": "v"}, {"revision": 6}):
        with pytest.raises(ApiError) as refused:
            check_preconditions(PODS, old, **wrong)
        assert refused.value.code == 409


def test_binding_is_once_and_for_all(client: Any, pod: Any) -> None:
    old = client.create(pod)
    document = bind(old, {"target": {"kind": "Node", "name": "node-1"}}, client.context)
    assert document["spec"]["nodeName"] == "node-1"
    assert document["status"]["conditions"] == [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-03-01T12:00:00Z"}
    ]
    assert "nodeName" not in old["spec"]
    with pytest.raises(ApiError, match="already assigned to node") as refused:
        bind(document, {"target": {"name": "node-2"}}, client.context)
    assert refused.value.code == 409
    for wrong in ({}, {"target": {"kind": "Pod", "name": "x"}}, {"target": "node-1"}):
        with pytest.raises(ApiError) as refused:
            bind(old, wrong, client.context)
        assert refused.value.code == 422


def test_a_gated_pod_is_not_bound(client: Any, pod: Any) -> None:
    pod["spec"]["schedulingGates"] = [{"name": "a.b/c"}]
    document = client.create(pod)
    assert document["status"]["conditions"][0]["reason"] == "SchedulingGated"
    with pytest.raises(ApiError, match="gates"):
        bind(document, {"target": {"name": "n"}}, client.context)


def test_scale_is_a_view_of_one_number(client: Any, deployment: Any, config_map: Any) -> None:
    resource, old = client.resource(deployment), client.create(deployment)
    old["status"] = {"replicas": 1}
    scale = to_scale(resource, old)
    assert (scale["spec"], scale["status"]) == ({"replicas": 1}, {"replicas": 1, "selector": "app=web"})
    scale["spec"]["replicas"] = 0
    document = from_scale(resource, old, scale)
    prepare_update(resource, document, old, client.context)
    assert (document["spec"]["replicas"], document["metadata"]["generation"]) == (0, 2)
    for wrong, code in (
        ({"spec": {"replicas": -1}}, 422),
        ({"spec": {"replicas": "3"}}, 422),
        ({"metadata": {"resourceVersion": "1"}}, 409),
    ):
        with pytest.raises(ApiError) as refused:
            from_scale(resource, old, wrong)
        assert refused.value.code == code
    with pytest.raises(ApiError) as refused:
        to_scale(client.resource(config_map), config_map)
    assert refused.value.code == 404


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([{}], "BestEffort"),
        ([{"requests": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1m"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}], "Burstable"),
    ],
)
def test_the_class_follows_from_requests_and_limits(resources: Any, expected: str) -> None:
    assert qos_class({"containers": [{"name": str(i), "resources": r} for i, r in enumerate(resources)]}) == expected


def test_a_finished_pod_stays_finished(client: Any, pod: Any) -> None:
    old = bound(client, pod, phase="Failed")
    new = copy.deepcopy(old)
    new["status"]["phase"] = "Running"
    with pytest.raises(ApiError, match="can't become Running"):
        prepare_update(PODS, new, old, client.context, "status")


def test_a_service_keeps_its_address_through_updates_that_leave_it_out(client: Any, service: Any) -> None:
    old = client.create({**service, "spec": {**service["spec"], "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"]}})
    resource, new, _ = client.decode(service)
    prepare_update(resource, new, old, client.context)
    assert (new["spec"]["clusterIP"], new["spec"]["clusterIPs"]) == ("10.96.0.7", ["10.96.0.7"])
    outside = copy.deepcopy(old)
    outside["spec"] |= {"type": "ExternalName", "externalName": "example.com"}
    prepare_update(resource, outside, old, client.context)
    assert "clusterIP" not in outside["spec"]


def test_a_service_that_turns_inward_lets_its_node_ports_go(client: Any, service: Any) -> None:
    spec = {"type": "NodePort", "clusterIP": "10.96.0.7", "ports": [{"port": 80, "nodePort": 31000}]}
    old = client.create({**service, "spec": spec})
    new = copy.deepcopy(old)
    new["spec"]["type"] = "ClusterIP"
    prepare_update(client.resource(service), new, old, client.context)
    assert "nodePort" not in new["spec"]["ports"][0]
    assert "externalTrafficPolicy" not in new["spec"]
    asked = copy.deepcopy(old)
    asked["spec"] |= {"type": "ClusterIP", "ports": [{**old["spec"]["ports"][0], "nodePort": 31001}]}
    with pytest.raises(ApiError, match="may not be used when type is ClusterIP"):
        prepare_update(client.resource(service), asked, old, client.context)


def test_fields_that_nobody_acts_on_are_told_of(client: Any, pod: Any) -> None:
    pod["spec"]["hostUsers"] = False
    pod["spec"]["volumes"] = [{"name": "a", "nfs": {"server": "s", "path": "/"}}]
    resource, document, _ = client.decode(pod)
    warnings = prepare_create(resource, document, client.context)
    assert warnings == [
        "spec.hostUsers is kept but not acted on yet",
        "spec.volumes[*].nfs is kept but not acted on yet",
    ]
    assert document["spec"]["volumes"] == [{"name": "a", "nfs": {"server": "s", "path": "/"}}]


def test_a_host_port_is_told_of_only_where_the_pod_has_its_own_network(client: Any, pod: Any) -> None:
    pod["spec"]["containers"][0]["ports"] = [{"containerPort": 80, "hostPort": 80}]
    told = "spec.containers[*].ports[*].hostPort is kept but not acted on yet"
    for host_network, expected in ((False, [told]), (True, [])):
        pod["spec"]["hostNetwork"] = host_network
        resource, document, _ = client.decode(pod)
        assert prepare_create(resource, document, client.context) == expected


def test_what_is_acted_on_brings_no_warning(client: Any, pod: Any, service: Any) -> None:
    pod["spec"]["volumes"] = [{"name": "a", "projected": {"sources": [{"configMap": {"name": "c"}}]}}]
    pod["spec"]["shareProcessNamespace"] = False
    service["spec"] |= {"type": "NodePort", "internalTrafficPolicy": "Local", "externalIPs": ["192.0.2.7"]}
    for whole in (pod, service):
        resource, document, _ = client.decode(whole)
        assert prepare_create(resource, document, client.context) == []
