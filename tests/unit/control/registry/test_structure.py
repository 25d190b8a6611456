"""Documents are pruned and spelt canonically, or refused with the exact place."""

from __future__ import annotations

from typing import Any

import pytest

from control.registry import IGNORE, REGISTRY, STRICT, WARN
from control.registry.schemas import published
from steersman.errors import ApiError


def test_unknown_fields_are_refused_warned_of_or_passed_over(client: Any, pod: Any) -> None:
    pod["spec"]["containers"][0]["imag"] = "x"
    pod["spec"]["foo"] = {"a": 1}
    with pytest.raises(ApiError) as refused:
        client.decode(pod, STRICT)
    assert refused.value.code == 400
    assert str(refused.value) == (
        'Pod in version "v1" cannot be handled as a Pod: strict decoding error: '
        'unknown field "spec.containers[0].imag", unknown field "spec.foo"'
    )
    _, document, warnings = client.decode(pod, WARN)
    assert warnings == ['unknown field "spec.containers[0].imag"', 'unknown field "spec.foo"']
    assert "foo" not in document["spec"]
    _, document, warnings = client.decode(pod, IGNORE)
    assert warnings == []
    assert "imag" not in document["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spec", "containers"), "none", "cannot unmarshal string into field spec.containers of type []Container"),
        (("spec",), [], "cannot unmarshal array into field spec of type PodSpec"),
        (("metadata", "labels"), {"a": 1}, "cannot unmarshal number 1 into field metadata.labels.a of type string"),
        (
            ("spec", "containers", 0, "stdin"),
            "yes",
            "cannot unmarshal string into field spec.containers.stdin of type bool (at spec.containers[0].stdin)",
        ),
        (
            ("spec", "activeDeadlineSeconds"),
            1.5,
            "cannot unmarshal number 1.5 into field spec.activeDeadlineSeconds of type int64",
        ),
        (("spec", "containers", 0, "ports", 0, "containerPort"), 1 << 40, "of type int32"),
        (("spec", "containers", 0, "ports", 0, "containerPort"), True, "cannot unmarshal bool"),
        (("metadata", "creationTimestamp"), "yesterday", 'parsing time "yesterday"'),
        (("spec", "containers", 0, "resources"), {"limits": {"cpu": "two"}}, "quantities must match"),
    ],
)
def test_a_wrong_type_is_refused_where_it_is(
    client: Any, pod: Any, path: tuple[Any, ...], value: Any, message: str
) -> None:
    holder = pod
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value
    with pytest.raises(ApiError) as refused:
        client.decode(pod)
    assert refused.value.code == 400
    assert message in str(refused.value)


def test_documents_get_their_final_spelling(client: Any, pod: Any) -> None:
    pod["metadata"] |= {
        "annotations": {},
        "finalizers": [],
        "labels": {"a": None},
        "deletionTimestamp": "2026-01-01T01:00:00+01:00",
    }
    pod["spec"] |= {"volumes": [], "nodeSelector": {}, "hostname": None, "nodeName": None}
    pod["spec"]["containers"][0]["resources"] = {
        "limits": {"cpu": 0.5, "memory": "1024Mi"},
        "requests": {"cpu": 1, "memory": "0"},
    }
    _, document, _ = client.decode(pod)
    assert document["metadata"] == {
        "name": "web",
        "namespace": "ka",
        "labels": {"a": ""},
        "deletionTimestamp": "2026-01-01T00:00:00Z",
    }
    assert not {"volumes", "nodeSelector", "hostname", "nodeName"} & document["spec"].keys()
    resources = document["spec"]["containers"][0]["resources"]
    assert resources == {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "0"}}


def test_binary_data_must_be_base64(client: Any, config_map: Any) -> None:
    config_map["data"], config_map["binaryData"] = {}, {"a": "YQ=="}
    assert client.create(config_map)["binaryData"] == {"a": "YQ=="}
    for bad in ("YQ", "é", "%%%%"):
        config_map["binaryData"] = {"a": bad}
        with pytest.raises(ApiError, match=r"illegal base64 data at binaryData\.a"):
            client.decode(config_map)


@pytest.mark.parametrize("name", ["pods", "pod", "po", "Pod", "PODS"])
def test_a_kind_is_found_by_all_its_names(name: str) -> None:
    assert REGISTRY.find(name=name).kind == "Pod"


def test_kinds_are_found_by_group_and_version() -> None:
    assert REGISTRY.find(name="deployments.apps").kind == "Deployment"
    assert REGISTRY.find(name="deploy", api_version="apps/v1").kind == "Deployment"
    assert REGISTRY.find(kind="Deployment").api_version == "apps/v1"
    for wanted in ({"kind": "Deployment", "api_version": "v1"}, {"name": "nosuch"}, {"kind": "Pods"}):
        with pytest.raises(ApiError) as refused:
            REGISTRY.find(**wanted)
        assert refused.value.code == 404
    with pytest.raises(ApiError, match="name a kind"):
        REGISTRY.find()


def test_keys_lead_back_to_their_resource() -> None:
    for resource in REGISTRY.resources:
        key = resource.key("ns", "name")
        assert key.startswith(resource.namespace_prefix("ns"))
        assert REGISTRY.of_key(key) is resource
    assert REGISTRY.find(kind="Pod").key("ka", "a") == "/core/pods/ka/a"
    assert REGISTRY.find(kind="Node").key("", "n") == "/core/nodes/n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"kind":"Pod"}', "'apiVersion' is missing"),
        (b'{"apiVersion":"v1"}', "'kind' is missing"),
        (b'{"apiVersion":"v1","kind":3}', "'kind'"),
    ],
)
def test_a_document_says_what_it_is(body: bytes, message: str) -> None:
    with pytest.raises(ApiError, match=message):
        REGISTRY.decode(body)


def test_the_namespace_of_the_request_counts(client: Any, pod: Any) -> None:
    pod["metadata"]["namespace"] = "other"
    with pytest.raises(ApiError, match="does not match the namespace sent on the request"):
        client.decode(pod)


def test_every_kind_has_its_published_schema_and_a_table() -> None:
    for resource in REGISTRY.resources:
        assert resource.node.type == "object"
        assert resource.row is not None
        assert resource.columns
        assert "description" in published().raw(resource.node.definition)
