from __future__ import annotations

import base64
from typing import Any

import pytest

from node.environment import ConfigError, Surroundings, command_line, environment, expand
from steersman.types import ConfigMap, Pod, Secret, Service


def around(**objects: Any) -> Surroundings:
    conf = ConfigMap.from_dict(
        {"metadata": {"name": "conf", "namespace": "default"}, "data": {"a": "1", "bad key": "x"}}
    )
    encoded = base64.b64encode(b"hunter2").decode()
    secret = Secret.from_dict({"metadata": {"name": "sec", "namespace": "default"}, "data": {"password": encoded}})
    service = Service.from_dict(
        {
            "metadata": {"name": "redis-master", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.11", "ports": [{"port": 6379, "name": "db"}]},
        }
    )
    return Surroundings(
        config_maps={conf.key: conf},
        secrets={secret.key: secret},
        services={service.key: service},
        allocatable={"memory": "8Gi", "cpu": "2"},
        pod_ip="10.244.1.5",
        host_ip="172.29.0.101",
        **objects,
    )


def resolve(document: dict[str, Any]) -> dict[str, str]:
    pod = Pod.from_dict(document)
    return environment(pod, pod.spec.containers[0], around())


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$(A)-$(B)", "1-$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("cost: 5$", "cost: 5$"),
        ("$(A", "$(A"),
    ],
)
def test_references_are_replaced_as_kubernetes_does(text: str, result: str) -> None:
    assert expand(text, {"A": "1"}) == result


def test_later_sources_win_and_see_earlier_ones(pod: Any) -> None:
    env = [
        {"name": "A", "value": "$(X_a)!"},
        {"name": "WHERE", "value": "$(REDIS_MASTER_SERVICE_HOST):$(REDIS_MASTER_SERVICE_PORT)"},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "TIER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['tier']"}}},
        {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "password"}}},
        {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "nope", "optional": True}}},
        {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Gi"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
    ]
    source = [{"prefix": "X_", "configMapRef": {"name": "conf"}}]
    container = {"name": "c", "image": "i", "env": env, "envFrom": source, "resources": {"requests": {"cpu": "250m"}}}
    found = resolve(pod(containers=[container], metadata={"labels": {"tier": "back"}}))
    assert found["A"] == "1!"
    assert found["WHERE"] == "10.96.0.11:6379"
    assert found["IP"] == "10.244.1.5"
    assert found["TIER"] == "back"
    assert found["PASS"] == "hunter2"
    assert "GONE" not in found
    assert found["MEM"] == "8"
    assert found["CPU"] == "250"
    assert found["REDIS_MASTER_PORT_6379_TCP_ADDR"] == "10.96.0.11"
    assert "X_bad key" not in found


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"configMapKeyRef": {"name": "no", "key": "a"}}, 'configmap "no" not found'),
        ({"secretKeyRef": {"name": "sec", "key": "b"}}, "couldn't find key b in Secret default/sec"),
        ({"fieldRef": {"fieldPath": "spec.nope"}}, "unsupported fieldPath: spec.nope"),
    ],
)
def test_what_is_missing_is_named(pod: Any, entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(pod(containers=[{"name": "c", "env": [{"name": "X", "valueFrom": entry}]}]))


def test_without_service_links_only_the_api_is_announced(pod: Any) -> None:
    assert not any(name.startswith("REDIS") for name in resolve(pod(enableServiceLinks=False)))


def test_command_and_args_see_the_variables(pod: Any) -> None:
    found = Pod.from_dict(pod(containers=[{"name": "c", "command": ["run", "$(A)"], "args": ["$(B)"]}]))
    assert command_line(found.spec.containers[0], {"A": "x"}) == (("run", "x"), ("$(B)",))
