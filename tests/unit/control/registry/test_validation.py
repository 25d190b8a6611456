"""Every refusal names the field and the kind of fault, all faults at once."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from control.registry import prepare_create, prepare_update
from steersman.errors import ApiError


def faults(client: Any, document: Any) -> set[tuple[str, str]]:
    """(path, reason) of everything that is wrong with a new object."""
    resource, decoded, _ = client.decode(document)
    with pytest.raises(ApiError) as refused:
        prepare_create(resource, decoded, client.context)
    assert refused.value.code == 422
    assert refused.value.message.startswith(f"{resource.kind}{'.' + resource.group if resource.group else ''} ")
    return {(cause.field, cause.reason.removeprefix("FieldValue")) for cause in refused.value.causes}


def change_faults(client: Any, old: Any, new: Any) -> set[tuple[str, str]]:
    with pytest.raises(ApiError) as refused:
        prepare_update(client.resource(old), new, old, client.context)
    return {(cause.field, cause.reason.removeprefix("FieldValue")) for cause in refused.value.causes}


def test_what_kubernetes_finds_wrong_with_a_pod_is_found(client: Any) -> None:
    """The three bad manifests that a real API server was asked to create."""
    assert faults(
        client,
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "a b", "labels": {"x y": "z"}},
            "spec": {"containers": []},
        },
    ) == {("metadata.name", "Invalid"), ("metadata.labels", "Invalid"), ("spec.containers", "Required")}
    container = {
        "name": "C_1",
        "image": "",
        "env": [{"name": "1=a"}],
        "volumeMounts": [{"name": "nov", "mountPath": "/x"}],
        "livenessProbe": {"periodSeconds": -1},
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": -5, "dnsPolicy": "Nope"}
    assert faults(client, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}) == {
        ("spec.containers[0].name", "Invalid"),
        ("spec.containers[0].image", "Required"),
        ("spec.containers[0].env[0].name", "Invalid"),
        ("spec.containers[0].volumeMounts[0].name", "NotFound"),
        ("spec.containers[0].livenessProbe", "Required"),
        ("spec.containers[0].livenessProbe.periodSeconds", "Invalid"),
        ("spec.dnsPolicy", "NotSupported"),
    }


def test_what_kubernetes_finds_wrong_with_a_deployment_is_found(client: Any, deployment: Any) -> None:
    deployment["spec"] |= {
        "replicas": -1,
        "selector": {},
        "strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}},
    }
    deployment["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    assert faults(client, deployment) == {
        ("spec.replicas", "Invalid"),
        ("spec.selector", "Invalid"),
        ("spec.template.spec.restartPolicy", "NotSupported"),
        ("spec.strategy.rollingUpdate", "Forbidden"),
    }


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"restartPolicy": "Sometimes"}, "spec.restartPolicy", "NotSupported"),
        ({"activeDeadlineSeconds": 0}, "spec.activeDeadlineSeconds", "Invalid"),
        ({"nodeName": "Not A Node"}, "spec.nodeName", "Invalid"),
        ({"nodeSelector": {"a": "b c"}}, "spec.nodeSelector", "Invalid"),
        ({"volumes": [{"name": "a"}, {"name": "a"}]}, "spec.volumes[1].name", "Duplicate"),
        ({"volumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}]}, "spec.volumes[0].hostPath", "Forbidden"),
        ({"volumes": [{"name": "a", "configMap": {}}]}, "spec.volumes[0].configMap.name", "Required"),
        ({"volumes": [{"name": "a", "secret": {"secretName": "s", "defaultMode": 512}}]}, "spec.volumes[0].secret.defaultMode", "Invalid"),
        ({"volumes": [{"name": "a", "hostPath": {"path": "/a/../b"}}]}, "spec.volumes[0].hostPath.path", "Invalid"),
        (
            {"volumes": [{"name": "a", "configMap": {"name": "c", "items": [{"key": "k", "path": "../x"}]}}]},
            "spec.volumes[0].configMap.items[0].path",
            "Invalid",
        ),
        ({"tolerations": [{"operator": "Equal"}]}, "spec.tolerations[0].operator", "Invalid"),
        ({"tolerations": [{"key": "a", "operator": "Like"}]}, "spec.tolerations[0].operator", "NotSupported"),
        ({"tolerations": [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 3}]}, "spec.tolerations[0].effect", "Invalid"),
        ({"dnsPolicy": "None"}, "spec.dnsConfig.nameservers", "Required"),
        ({"dnsConfig": {"nameservers": ["a", "1.1.1.1", "1.1.1.1", "1.1.1.1"]}}, "spec.dnsConfig.nameservers", "TooMany"),
        ({"ephemeralContainers": [{"name": "e", "image": "x"}]}, "spec.ephemeralContainers", "Forbidden"),
        ({"schedulingGates": [{"name": "a"}, {"name": "a"}]}, "spec.schedulingGates[1]", "Duplicate"),
        ({"initContainers": [{"name": "main", "image": "x"}]}, "spec.initContainers[0].name", "Duplicate"),
        (
            {"initContainers": [{"name": "i", "image": "x", "livenessProbe": {"exec": {"command": ["a"]}}}]},
            "spec.initContainers[0].livenessProbe",
            "Forbidden",
        ),
        ({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}},
         "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms", "Required"),
        (
            {"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"}]},
            "spec.topologySpreadConstraints[0].maxSkew",
            "Invalid",
        ),
    ],
)  # fmt: skip
def test_pod_rules(client: Any, pod: Any, change: dict[str, Any], path: str, reason: str) -> None:
    pod["spec"] |= change
    assert (path, reason) in faults(client, pod)


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"imagePullPolicy": "Maybe"}, "imagePullPolicy", "NotSupported"),
        ({"ports": [{"containerPort": 0}]}, "ports[0].containerPort", "Required"),
        ({"ports": [{"containerPort": 70000}]}, "ports[0].containerPort", "Invalid"),
        ({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}, "ports[1].name", "Duplicate"),
        ({"ports": [{"containerPort": 1, "name": "Not-Valid-And-Long"}]}, "ports[0].name", "Invalid"),
        ({"ports": [{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]}, "ports[1].hostPort", "Duplicate"),
        ({"env": [{"name": "A", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}, "env[0].valueFrom", "Invalid"),
        ({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.secret"}}}]}, "env[0].valueFrom.fieldRef.fieldPath", "NotSupported"),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a"}}}]}, "env[0].valueFrom.secretKeyRef.key", "Required"),
        ({"envFrom": [{}]}, "envFrom[0]", "Invalid"),
        ({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}, "resources.requests", "Invalid"),
        ({"resources": {"limits": {"memory": "-1"}}}, "resources.limits[memory]", "Invalid"),
        ({"resources": {"limits": {"bananas": "1"}}}, "resources.limits[bananas]", "Invalid"),
        ({"livenessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2}}, "livenessProbe.successThreshold", "Invalid"),
        ({"livenessProbe": {"exec": {"command": ["a"]}, "grpc": {"port": 1}}}, "livenessProbe.grpc", "Forbidden"),
        ({"readinessProbe": {"httpGet": {"port": 0}}}, "readinessProbe.httpGet.port", "Invalid"),
        ({"lifecycle": {"postStart": {}}}, "lifecycle.postStart", "Required"),
        ({"securityContext": {"privileged": True, "allowPrivilegeEscalation": False}}, "securityContext.allowPrivilegeEscalation", "Invalid"),
    ],
)  # fmt: skip
def test_container_rules_hold_in_pods_and_in_templates(
    client: Any, pod: Any, deployment: Any, change: dict[str, Any], path: str, reason: str
) -> None:
    pod["spec"]["containers"][0] |= copy.deepcopy(change)
    assert (f"spec.containers[0].{path}", reason) in faults(client, pod)
    deployment["spec"]["template"]["spec"]["containers"][0] |= change
    assert (f"spec.template.spec.containers[0].{path}", reason) in faults(client, deployment)


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"ports": []}, "spec.ports", "Required"),
        ({"ports": [{"port": 80}, {"port": 81}]}, "spec.ports[0].name", "Required"),
        ({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}, "spec.ports[1].name", "Duplicate"),
        ({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}, "spec.ports[1]", "Duplicate"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port", "Invalid"),
        ({"ports": [{"port": 80, "nodePort": 30000}]}, "spec.ports[0].nodePort", "Forbidden"),
        ({"sessionAffinity": "Always"}, "spec.sessionAffinity", "NotSupported"),
        ({"type": "Magic"}, "spec.type", "NotSupported"),
        ({"type": "ExternalName"}, "spec.externalName", "Required"),
        ({"type": "NodePort", "clusterIP": "None"}, "spec.clusterIPs[0]", "Invalid"),
        ({"clusterIP": "here"}, "spec.clusterIPs[0]", "Invalid"),
        ({"externalTrafficPolicy": "Local"}, "spec.externalTrafficPolicy", "Invalid"),
    ],
)
def test_service_rules(client: Any, service: Any, change: dict[str, Any], path: str, reason: str) -> None:
    service["spec"] |= change
    assert (path, reason) in faults(client, service)


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}}},
         "spec.template.metadata.labels", "Invalid"),
        ({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}, "spec.strategy.rollingUpdate.maxUnavailable", "Invalid"),
        ({"strategy": {"rollingUpdate": {"maxSurge": "0%", "maxUnavailable": "0%"}}}, "spec.strategy.rollingUpdate.maxUnavailable", "Invalid"),
        ({"strategy": {"rollingUpdate": {"maxUnavailable": "150%"}}}, "spec.strategy.rollingUpdate.maxUnavailable", "Invalid"),
        ({"strategy": {"rollingUpdate": {"maxSurge": "many"}}}, "spec.strategy.rollingUpdate.maxSurge", "Invalid"),
        ({"strategy": {"type": "Blue"}}, "spec.strategy.type", "NotSupported"),
        ({"minReadySeconds": 600}, "spec.progressDeadlineSeconds", "Invalid"),
        ({"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, "spec.selector.matchExpressions[0].values", "Required"),
    ],
)  # fmt: skip
def test_deployment_rules(client: Any, deployment: Any, change: dict[str, Any], path: str, reason: str) -> None:
    deployment["spec"] |= change
    assert (path, reason) in faults(client, deployment)


def test_a_selector_is_required(client: Any, deployment: Any) -> None:
    del deployment["spec"]["selector"]
    assert faults(client, deployment) == {("spec.selector", "Required")}


@pytest.mark.parametrize(
    ("document", "path", "reason"),
    [
        ({"kind": "ConfigMap", "data": {"bad key": "x"}}, "data[bad key]", "Invalid"),
        ({"kind": "ConfigMap", "data": {"a": "x"}, "binaryData": {"a": "eA=="}}, "data[a]", "Invalid"),
        ({"kind": "ConfigMap", "data": {"a": "x" * ((1 << 20) + 1)}}, "data", "TooLong"),
        ({"kind": "Secret", "type": "kubernetes.io/tls", "data": {"tls.crt": ""}}, "data[tls.key]", "Required"),
        ({"kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "eA=="}},
         "data[.dockerconfigjson]", "Invalid"),
        ({"kind": "Node", "spec": {"taints": [{"key": "a", "effect": "x"}]}}, "spec.taints[0].effect", "NotSupported"),
        ({"kind": "Event", "involvedObject": {"namespace": "other"}}, "involvedObject.namespace", "Invalid"),
        ({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "spec": {"leaseDurationSeconds": 0}}, "spec.leaseDurationSeconds", "Invalid"),
        ({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "endpoints": [{"addresses": []}]}, "addressType", "Required"),
        ({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}]},
         "endpoints[0].addresses[0]", "Invalid"),
        ({"kind": "Namespace", "metadata": {"name": "Big.Name"}}, "metadata.name", "Invalid"),
        ({"kind": "Service", "metadata": {"name": "1a"}, "spec": {"ports": [{"port": 1}]}}, "metadata.name", "Invalid"),
        ({"kind": "ConfigMap", "metadata": {}}, "metadata.name", "Required"),
        ({"kind": "ConfigMap", "metadata": {"generateName": "Bad-"}}, "metadata.generateName", "Invalid"),
        ({"kind": "ConfigMap", "metadata": {"name": "a", "finalizers": ["mine"]}}, "metadata.finalizers[0]", "Invalid"),
        ({"kind": "ConfigMap", "metadata": {"name": "a", "annotations": {"a": "x" * (1 << 18)}}}, "metadata.annotations", "TooLong"),
        ({"kind": "ConfigMap", "metadata": {"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]}},
         "metadata.ownerReferences[0].uid", "Invalid"),
        ({"kind": "ConfigMap", "metadata": {"name": "a" * 254}}, "metadata.name", "Invalid"),
    ],
)  # fmt: skip
def test_rules_of_other_kinds_and_of_metadata(client: Any, document: Any, path: str, reason: str) -> None:
    assert (path, reason) in faults(client, {"apiVersion": "v1", "metadata": {"name": "a"}, **document})


def test_a_pod_may_change_only_in_few_ways(client: Any, pod: Any) -> None:
    pod["spec"]["tolerations"] = [{"key": "a", "operator": "Exists"}]
    old = client.create(pod)
    new = copy.deepcopy(old)
    new["spec"]["containers"][0]["image"] = "nginx:2"
    new["spec"]["tolerations"].append({"key": "b", "operator": "Exists"})
    new["spec"]["activeDeadlineSeconds"] = 5
    assert prepare_update(client.resource(pod), new, old, client.context) == []
    for change, path in [
        ({"tolerations": []}, "spec.tolerations"),
        ({"restartPolicy": "Never"}, "spec"),
        ({"containers": []}, "spec.containers"),
        ({"nodeName": "elsewhere"}, "spec"),
    ]:
        refused = copy.deepcopy(old)
        refused["spec"] |= change
        assert (path, "Forbidden") in change_faults(client, old, refused)


def test_immutable_config_stays(client: Any, config_map: Any) -> None:
    old = client.create({**config_map, "immutable": True})
    assert change_faults(client, old, {**copy.deepcopy(old), "data": {"x": "1"}}) == {("data", "Forbidden")}
    unset = copy.deepcopy(old)
    del unset["immutable"]
    assert change_faults(client, old, unset) == {("immutable", "Forbidden")}


def test_selectors_and_addresses_stay(client: Any, deployment: Any, service: Any) -> None:
    old = client.create(deployment)
    new = copy.deepcopy(old)
    new["spec"]["selector"] = {"matchLabels": {"app": "other"}}
    new["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    assert change_faults(client, old, new) == {("spec.selector", "Invalid")}
    service["spec"]["clusterIP"] = "10.96.0.7"
    old = client.create(service)
    new = copy.deepcopy(old)
    new["spec"]["clusterIP"] = "10.96.0.8"
    assert change_faults(client, old, new) == {("spec.clusterIPs[0]", "Invalid")}
