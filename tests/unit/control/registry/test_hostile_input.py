"""Whatever a client sends is stored, or refused with an ApiError: never a traceback."""

from __future__ import annotations

import copy
import datetime as dt
import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.registry import (
    REGISTRY,
    WARN,
    Context,
    apply_patch,
    encode,
    fields,
    prepare_create,
    prepare_update,
    table,
    three_way_apply,
)
from steersman.errors import ApiError

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
CONTEXT = Context(NOW, "uid-1", "abcde")

FULL_CONTAINER = {
    "name": "c",
    "image": "x",
    "command": ["a"],
    "ports": [{"containerPort": 80, "hostPort": 80, "name": "web"}],
    "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    "envFrom": [{"configMapRef": {"name": "x"}}],
    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}},
    "volumeMounts": [{"name": "a", "mountPath": "/a"}],
    "livenessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"name": "a", "value": "b"}]}},
    "readinessProbe": {"exec": {"command": ["a"]}},
    "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
    "securityContext": {"runAsUser": 1, "privileged": True},
}
FULL_SPEC = {
    "containers": [FULL_CONTAINER],
    "initContainers": [{"name": "i", "image": "x", "restartPolicy": "Always"}],
    "volumes": [
        {"name": "a", "configMap": {"name": "x", "items": [{"key": "a", "path": "b"}]}},
        {"name": "b", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
        {"name": "c", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "d", "emptyDir": {"sizeLimit": "1Gi"}},
    ],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]
            }
        },
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"topologyKey": "a", "labelSelector": {"matchLabels": {"a": "b"}}}}
            ]
        },
    },
    "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}],
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"}],
    "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "a"}]},
    "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a"]}],
    "securityContext": {"sysctls": [{"name": "a", "value": "b"}], "supplementalGroups": [1]},
    "nodeSelector": {"a": "b"},
    "schedulingGates": [{"name": "a"}],
    "readinessGates": [{"conditionType": "a"}],
}
META = {"name": "a", "namespace": "ka", "labels": {"a": "b"}, "annotations": {"c": "d"}}
SEEDS: list[Any] = [
    {"apiVersion": "v1", "kind": "Pod", "metadata": META, "spec": FULL_SPEC},
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": META,
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [FULL_CONTAINER], "volumes": FULL_SPEC["volumes"]},
            },
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": META,
        "spec": {
            "type": "NodePort",
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1"],
            "externalIPs": ["1.1.1.1"],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 3}},
            "ports": [{"name": "a", "port": 80, "targetPort": "web", "nodePort": 30000}],
        },
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": META,
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["1.1.1.1"], "conditions": {"ready": True}}],
        "ports": [{"name": "a", "port": 80}],
    },
    {"apiVersion": "v1", "kind": "Secret", "metadata": META, "data": {"a": "YQ=="}, "stringData": {"b": "c"}},
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": META, "data": {"a": "b"}, "binaryData": {"c": "YQ=="}},
    {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n", "ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "b", "uid": "c"}]},
        "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}], "podCIDRs": ["10.0.0.0/24"]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": META,
        "involvedObject": {"kind": "Pod", "name": "a", "namespace": "ka"},
    },
    {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": META, "spec": {"leaseDurationSeconds": 3}},
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "finalizers": ["a.b/c"]}},
]

hostile = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", " ", "-", "..", "/", "a" * 300, "é", "1Gi", "-1", "1e99", "%", "None", "\u0000", "0.0.0.0/0"]),
    st.text(max_size=20),
    st.sampled_from([[], {}, [None], [[]], [{}], {"a": None}, {"": ""}, {"$patch": "delete"}, {"name": "a"}]).map(
        copy.deepcopy
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a document."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, member in members for inner in places(member, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    document = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(document)[1:]))
        holder = document
        try:
            for part in path[:-1]:
                holder = holder[part]
            holder[path[-1]] = draw(hostile)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier mutation took the place away
    return document


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed["kind"])
def test_seeds_are_valid(seed: Any) -> None:
    resource, document, _ = REGISTRY.decode(msgspec.json.encode(seed))
    prepare_create(resource, document, CONTEXT)
    assert resource.check.is_valid(document)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_a_mutilated_document_is_stored_or_refused(document: Any) -> None:
    try:
        resource, decoded, _ = REGISTRY.decode(json.dumps(document).encode(), WARN)
        resource.place(decoded, "ka")
        prepare_create(resource, decoded, CONTEXT)
    except ApiError as error:
        assert error.code in (400, 404, 413, 422)
        return
    encode(decoded)
    table(resource, [decoded], NOW)
    fields.extract(resource, decoded)
    stored = copy.deepcopy(decoded)
    assert resource.conform(decoded) == []
    assert decoded == stored  # what is stored is in its final form


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(SEEDS), mutated(), st.sampled_from(["merge", "strategic", "apply"]))
def test_a_mutilated_patch_is_applied_or_refused(seed: Any, patch: Any, form: str) -> None:
    resource, old, _ = REGISTRY.decode(msgspec.json.encode(seed))
    prepare_create(resource, old, CONTEXT)
    before = copy.deepcopy(old)
    try:
        if form == "apply":
            document, _ = three_way_apply(resource, old, patch)
        else:
            document, _ = apply_patch(resource, old, json.dumps(patch).encode(), form)
        prepare_update(resource, document, old, CONTEXT)
    except ApiError as error:
        assert error.code in (400, 404, 409, 413, 422)
    assert old == before


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,0a\\u', max_size=60).map(str.encode))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ApiError):
        REGISTRY.decode(data)


STATUSES: dict[str, Any] = {
    "Pod": {
        "phase": "Running",
        "podIP": "10.244.0.3",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "initContainerStatuses": [
            {
                "name": "i",
                "image": "x",
                "imageID": "",
                "ready": True,
                "restartCount": 1,
                "started": True,
                "state": {"running": {}},
            }
        ],
        "containerStatuses": [
            {
                "name": "c",
                "image": "x",
                "imageID": "",
                "ready": False,
                "restartCount": 2,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"}},
            }
        ],
    },
    "Node": {
        "capacity": {"cpu": "2"},
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": {"kubeletVersion": "v1"},
    },
    "Deployment": {"replicas": 1, "readyReplicas": 1, "conditions": [{"type": "Available", "status": "True"}]},
    "Service": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}},
}


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_mutilated_status_is_stored_or_refused(data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from([seed for seed in SEEDS if seed["kind"] in STATUSES]))
    resource, old, _ = REGISTRY.decode(msgspec.json.encode(seed))
    prepare_create(resource, old, CONTEXT)
    document = copy.deepcopy(old)
    document["status"] = copy.deepcopy(STATUSES[seed["kind"]])
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(document["status"])[1:] or [("x",)]))
        holder = document["status"]
        for part in path[:-1]:
            holder = holder[part]
        holder[path[-1]] = data.draw(hostile)
    try:
        resource, decoded, _ = REGISTRY.decode(json.dumps(document).encode(), WARN)
        prepare_update(resource, decoded, old, CONTEXT, "status")
    except ApiError as error:
        assert error.code in (400, 422)
        return
    encode(decoded)
    table(resource, [decoded], NOW)
    fields.extract(resource, decoded)
