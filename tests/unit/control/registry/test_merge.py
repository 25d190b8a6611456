"""Strategic merge and apply: lists of named things merge, what others wrote stays, what the manifest drops goes."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from control.registry import IGNORE, JSON, MERGE, STRATEGIC, apply_patch, prepare_update, three_way_apply
from control.registry.merge import LAST_APPLIED
from steersman.errors import ApiError


def patched(client: Any, current: Any, patch: Any, form: str = STRATEGIC) -> Any:
    document, warnings = apply_patch(client.resource(current), current, json.dumps(patch).encode(), form)
    assert warnings == []
    return document


def names(members: Any) -> list[str]:
    return [member["name"] for member in members]


def with_containers(pod: Any, *containers: str) -> Any:
    pod["spec"]["containers"] = [{"name": name, "image": f"{name}:1"} for name in containers]
    return pod


def test_containers_merge_by_name(client: Any, pod: Any) -> None:
    current = client.create(with_containers(pod, "a", "b"))
    document = patched(
        client, current, {"spec": {"containers": [{"name": "b", "image": "b:2"}, {"name": "c", "image": "c:1"}]}}
    )
    assert [(c["name"], c["image"]) for c in document["spec"]["containers"]] == [
        ("a", "a:1"),
        ("b", "b:2"),
        ("c", "c:1"),
    ]
    assert document["spec"]["containers"][1]["imagePullPolicy"] == "IfNotPresent"  # merged, not replaced


def test_the_current_object_is_not_changed(client: Any, pod: Any) -> None:
    current = client.create(with_containers(pod, "a", "b"))
    before = copy.deepcopy(current)
    for form, patch in (
        (STRATEGIC, {"spec": {"containers": [{"name": "b", "$patch": "delete"}]}}),
        (MERGE, {"spec": {"containers": []}}),
        (JSON, [{"op": "remove", "path": "/spec/containers/0"}]),
    ):
        patched(client, current, patch, form)
    assert current == before


def test_directives(client: Any, pod: Any) -> None:
    pod["spec"]["tolerations"] = [{"key": "a", "operator": "Exists"}]
    pod["metadata"]["finalizers"] = ["a.b/1", "a.b/2"]
    current = client.create(with_containers(pod, "a", "b", "c"))
    spec = patched(client, current, {"spec": {"containers": [{"name": "b", "$patch": "delete"}]}})["spec"]
    assert names(spec["containers"]) == ["a", "c"]
    spec = patched(client, current, {"spec": {"containers": [{"$patch": "replace"}, {"name": "z", "image": "z"}]}})[
        "spec"
    ]
    assert names(spec["containers"]) == ["z"]
    document = patched(client, current, {"metadata": {"labels": {"$patch": "replace", "only": "this"}}})
    assert document["metadata"]["labels"] == {"only": "this"}
    document = patched(client, current, {"metadata": {"labels": {"$patch": "delete"}}})
    assert "labels" not in document["metadata"]
    document = patched(client, current, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a.b/1"]}})
    assert document["metadata"]["finalizers"] == ["a.b/2"]
    document = patched(client, current, {"metadata": {"finalizers": ["a.b/3"]}})
    assert document["metadata"]["finalizers"] == ["a.b/3", "a.b/1", "a.b/2"]  # new members go first, as in Kubernetes
    document = patched(client, current, {"spec": {"tolerations": [{"key": "z", "operator": "Exists"}]}})
    assert document["spec"]["tolerations"] == [{"key": "z", "operator": "Exists"}]  # an atomic list
    document = patched(client, current, {"metadata": {"labels": {"app": None, "new": None}}})
    assert "labels" not in document["metadata"]


@pytest.mark.parametrize(
    ("order", "patch", "expected"),
    [
        (["c", "b", "a"], [], ["c", "b", "a"]),
        (["d", "a"], ["d"], ["d", "a", "b", "c"]),
        (["b", "new"], ["new"], ["a", "b", "new", "c"]),
    ],
)
def test_set_element_order(client: Any, pod: Any, order: list[str], patch: list[str], expected: list[str]) -> None:
    current = client.create(with_containers(pod, "a", "b", "c"))
    body: Any = {"spec": {"$setElementOrder/containers": [{"name": name} for name in order]}}
    if patch:
        body["spec"]["containers"] = [{"name": name, "image": "x"} for name in patch]
    assert names(patched(client, current, body)["spec"]["containers"]) == expected


def test_retain_keys_switches_a_union(client: Any, deployment: Any) -> None:
    current = client.create(deployment)
    body = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert patched(client, current, body)["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize(
    ("form", "patch", "code"),
    [
        (STRATEGIC, {"spec": {"containers": [{"image": "x"}]}}, 400),
        (STRATEGIC, {"spec": {"$patch": "explode"}}, 400),
        (STRATEGIC, {"spec": {"foo": 1}}, 400),
        (MERGE, {"data": {"x": 1}}, 400),
        (MERGE, [], 400),
        (JSON, {}, 400),
        (JSON, [{"op": "nope"}], 422),
        (JSON, [{"op": "replace", "path": "", "value": 3}], 400),
        ("yaml", {}, 400),
    ],
)
def test_bad_patches_are_refused(client: Any, pod: Any, config_map: Any, form: str, patch: Any, code: int) -> None:
    current = client.create(config_map if form == MERGE else pod)
    with pytest.raises(ApiError) as refused:
        apply_patch(client.resource(current), current, json.dumps(patch).encode(), form)
    assert refused.value.code == code


def test_renaming_by_patch_is_refused(client: Any, config_map: Any) -> None:
    current = client.create(config_map)
    document = patched(client, current, {"metadata": {"name": "other"}}, MERGE)
    with pytest.raises(ApiError, match=r"name of the object \(other\) does not match"):
        prepare_update(client.resource(current), document, current, client.context)


# --- apply ---


def applied(client: Any, current: Any, manifest: Any) -> Any:
    manifest = copy.deepcopy(manifest)
    manifest["metadata"]["namespace"] = "ka"
    document, warnings = three_way_apply(client.resource(manifest), current, manifest)
    assert warnings == []
    if current is None:
        return client.create(document)
    prepare_update(client.resource(manifest), document, current, client.context)
    return document


def test_applying_the_same_again_changes_nothing(client: Any, manifest: Any) -> None:
    first = applied(client, None, manifest)
    assert applied(client, first, manifest) == first


def test_the_manifest_is_kept_as_kubectl_keeps_it(client: Any, config_map: Any) -> None:
    document = applied(client, None, config_map)
    assert document["metadata"]["annotations"][LAST_APPLIED] == (
        '{"apiVersion":"v1","data":{"a":"1"},"kind":"ConfigMap","metadata":{"annotations":{},"name":"web","namespace":"ka"}}\n'
    )


def test_apply_removes_what_it_once_set_and_keeps_what_others_set(client: Any, deployment: Any) -> None:
    deployment["metadata"]["labels"] = {"mine": "1", "gone": "1"}
    deployment["spec"]["replicas"] = 3
    template = deployment["spec"]["template"]["spec"]
    template["containers"] += [{"name": "old", "image": "old"}]
    template["containers"][0]["env"] = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    current = applied(client, None, deployment)
    current["metadata"]["labels"]["theirs"] = "1"
    live = current["spec"]["template"]["spec"]["containers"]
    live.append({**copy.deepcopy(live[0]), "name": "injected"})
    live[0]["env"].append({"name": "C", "value": "3"})
    del deployment["metadata"]["labels"]["gone"]
    del deployment["spec"]["replicas"]
    template["containers"] = [{"name": "main", "image": "nginx:2", "env": [{"name": "B", "value": "4"}]}]
    document = applied(client, current, deployment)
    assert document["metadata"]["labels"] == {"mine": "1", "theirs": "1"}
    assert document["spec"]["replicas"] == 1  # back to the default
    containers = document["spec"]["template"]["spec"]["containers"]
    assert names(containers) == ["main", "injected"]
    assert containers[0]["image"] == "nginx:2"
    assert containers[0]["env"] == [{"name": "B", "value": "4"}, {"name": "C", "value": "3"}]


def test_one_port_number_may_serve_two_protocols(client: Any, service: Any) -> None:
    ports = [{"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "tcp", "port": 53}]
    service["spec"]["ports"] = ports
    current = applied(client, None, service)
    assert applied(client, current, service) == current
    one = patched(client, current, {"spec": {"ports": [{"port": 53, "protocol": "UDP", "targetPort": 5353}]}})
    assert [(p["name"], p["targetPort"]) for p in one["spec"]["ports"]] == [("udp", 5353), ("tcp", 53)]
    service["spec"]["ports"] = ports[1:]
    current = applied(client, current, service)
    assert names(current["spec"]["ports"]) == ["tcp"]
    only = client.create({**service, "spec": {"ports": [{"port": 53, "protocol": "UDP"}]}})
    changed = patched(client, only, {"spec": {"ports": [{"port": 53, "name": "dns"}]}})
    assert [(p["name"], p["protocol"]) for p in changed["spec"]["ports"]] == [("dns", "UDP")]


def test_a_manifest_with_two_members_of_one_name_is_not_quietly_halved(client: Any, deployment: Any) -> None:
    current = applied(client, None, deployment)
    containers = deployment["spec"]["template"]["spec"]["containers"]
    containers.append(copy.deepcopy(containers[0]))
    with pytest.raises(ApiError, match=r"containers\[1\]\.name: Duplicate value"):
        applied(client, current, deployment)
    del containers[1]
    containers[0]["env"] = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
    current = applied(client, None, deployment)
    assert applied(client, current, deployment) == current


def test_apply_switches_a_union_without_naming_what_goes(client: Any, deployment: Any, pod: Any) -> None:
    current = applied(client, None, deployment)
    assert "rollingUpdate" in current["spec"]["strategy"]
    deployment["spec"]["strategy"] = {"type": "Recreate"}
    assert applied(client, current, deployment)["spec"]["strategy"] == {"type": "Recreate"}
    template = deployment["spec"]["template"]["spec"]
    template["volumes"] = [{"name": "a", "emptyDir": {}}]
    current = applied(client, None, deployment)
    template["volumes"] = [{"name": "a", "configMap": {"name": "x"}}]
    volumes = applied(client, current, deployment)["spec"]["template"]["spec"]["volumes"]
    assert volumes == [{"name": "a", "configMap": {"name": "x", "defaultMode": 420}}]


def test_a_manifest_with_its_defaults_omitted_keeps_them(client: Any, deployment: Any) -> None:
    deployment["spec"]["strategy"] = {"type": "RollingUpdate"}
    current = applied(client, None, deployment)
    current["spec"]["strategy"]["rollingUpdate"]["maxSurge"] = 5
    document = applied(client, current, deployment)
    assert document["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 5


def test_an_object_that_was_not_applied_is_merged_into_with_a_warning(client: Any, config_map: Any) -> None:
    current = client.create({**config_map, "data": {"theirs": "1"}})
    document, warnings = three_way_apply(client.resource(current), current, copy.deepcopy(config_map))
    assert document["data"] == {"theirs": "1", "a": "1"}
    assert len(warnings) == 1
    assert "was not made by apply" in warnings[0]
    current["metadata"]["annotations"] = {LAST_APPLIED: "{"}
    _, warnings = three_way_apply(client.resource(current), current, copy.deepcopy(config_map))
    assert "is not a manifest" in warnings[0]


def test_null_in_a_manifest_removes(client: Any, config_map: Any) -> None:
    current = applied(client, None, {**config_map, "data": {"a": "1", "b": "2"}})
    assert applied(client, current, {**config_map, "data": {"a": "1", "b": None}})["data"] == {"a": "1"}


def test_a_wrong_manifest_is_refused(client: Any, config_map: Any) -> None:
    current = applied(client, None, config_map)
    resource = client.resource(config_map)
    with pytest.raises(ApiError, match='unknown field "dat"'):
        three_way_apply(resource, current, {**copy.deepcopy(config_map), "dat": 1})
    document, _ = three_way_apply(resource, current, {**copy.deepcopy(config_map), "dat": 1}, IGNORE)
    assert "dat" not in document
    with pytest.raises(ApiError, match="of type map"):
        three_way_apply(resource, current, {**copy.deepcopy(config_map), "data": []})
