"""What `get` prints is what kubectl's users know."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from control.registry import REGISTRY, fields, human_duration, table
from steersman.errors import ApiError

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (-0.5, "0s"), (0, "0s"), (1, "1s"), (119, "119s"), (120, "2m"), (121, "2m1s"), (599, "9m59s"),
        (600, "10m"), (3 * HOUR - 1, "179m"), (3 * HOUR, "3h"), (3 * HOUR + 61, "3h1m"), (8 * HOUR, "8h"),
        (2 * DAY - 1, "47h"), (2 * DAY, "2d"), (3 * DAY + 4 * HOUR, "3d4h"), (8 * DAY, "8d"), (700 * DAY, "700d"),
        (730 * DAY, "2y"), (735 * DAY, "2y5d"), (9 * 365 * DAY, "9y"),
    ],
)  # fmt: skip
def test_ages_have_at_most_two_units(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def columns(kind: str, *, wide: bool) -> list[str]:
    document = table(REGISTRY.find(kind=kind), [], dt.datetime.now(dt.UTC), wide=wide)
    return [column["name"].upper() for column in document["columnDefinitions"]]


@pytest.mark.parametrize(
    ("kind", "header", "more"),
    [
        ("Pod", "NAME READY STATUS RESTARTS AGE", "IP NODE NOMINATED NODE READINESS GATES"),
        ("ReplicaSet", "NAME DESIRED CURRENT READY AGE", "CONTAINERS IMAGES SELECTOR"),
        ("Deployment", "NAME READY UP-TO-DATE AVAILABLE AGE", "CONTAINERS IMAGES SELECTOR"),
        ("Service", "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE", "SELECTOR"),
        ("Node", "NAME STATUS ROLES AGE VERSION", "INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME"),
        ("ConfigMap", "NAME DATA AGE", ""),
        ("Secret", "NAME TYPE DATA AGE", ""),
        ("Namespace", "NAME STATUS AGE", ""),
        ("EndpointSlice", "NAME ADDRESSTYPE PORTS ENDPOINTS AGE", ""),
        ("Lease", "NAME HOLDER AGE", ""),
        ("Event", "LAST SEEN TYPE REASON OBJECT MESSAGE", None),
    ],
)
def test_columns_are_kubectls(kind: str, header: str, more: str | None) -> None:
    assert " ".join(columns(kind, wide=False)) == header
    if more is not None:
        assert " ".join(columns(kind, wide=True)) == f"{header} {more}".strip()


def cells(client: Any, document: Any) -> Any:
    return table(client.resource(document), [document], client.now, wide=True)["rows"][0]["cells"]


def test_rows_carry_metadata_the_object_or_nothing(client: Any, config_map: Any) -> None:
    resource, document = client.resource(config_map), client.create(config_map)
    row = table(resource, [document], client.now)["rows"][0]
    assert row["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": document["metadata"],
    }
    assert table(resource, [document], client.now, include="Object")["rows"][0]["object"] == document
    assert "object" not in table(resource, [document], client.now, include="None")["rows"][0]
    listed = table(resource, [], client.now, revision=9, continue_token="t", remaining=3)
    assert listed["metadata"] == {"resourceVersion": "9", "continue": "t", "remainingItemCount": 3}


def test_a_deployments_row(client: Any, deployment: Any) -> None:
    document = client.create(deployment)
    document["status"] = {"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    document["metadata"]["creationTimestamp"] = "2026-03-01T11:55:00Z"
    assert cells(client, document) == ["web", "1/1", 1, 1, "5m", "main", "nginx:1.27", "app=web"]


def test_a_services_row(client: Any, service: Any) -> None:
    document = client.create({**service, "spec": {**service["spec"], "clusterIP": "10.96.0.7"}})
    assert cells(client, document) == ["web", "ClusterIP", "10.96.0.7", "<none>", "80/TCP", "0s", "app=web"]
    document["spec"] |= {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 31000, "protocol": "TCP"}]}
    assert cells(client, document)[3:5] == ["<pending>", "80:31000/TCP"]


def test_a_nodes_row(client: Any) -> None:
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": "n",
            "creationTimestamp": None,
            "labels": {"node-role.kubernetes.io/edge": "", "node-role.kubernetes.io/a": ""},
        },
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "Unknown"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1", "osImage": "Debian"},
        },
    }
    assert cells(client, node) == [
        "n", "NotReady,SchedulingDisabled", "a,edge", "<unknown>", "v1", "10.0.0.1", "<none>", "Debian", "<unknown>", "<unknown>",
    ]  # fmt: skip


RUNNING = {"ready": True, "state": {"running": {}}}
WAITING = {"ready": False, "state": {"waiting": {"reason": "ContainerCreating"}}}
DONE = {"ready": False, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
READY = [{"type": "Ready", "status": "True"}]


def container(name: str, **status: Any) -> dict[str, Any]:
    return {"name": name, "restartCount": 0, **status}


@pytest.mark.parametrize(
    ("status", "extra", "expected"),
    [
        ({"phase": "Pending"}, {}, ("0/2", "Pending", "0")),
        (
            {"phase": "Pending", "containerStatuses": [container("a", **WAITING), container("b", **WAITING)]},
            {},
            ("0/2", "ContainerCreating", "0"),
        ),
        (
            {"phase": "Running", "containerStatuses": [container("a", **RUNNING), container("b", **RUNNING)]},
            {},
            ("2/2", "Running", "0"),
        ),
        (
            {
                "phase": "Running",
                "containerStatuses": [
                    container("a", **RUNNING),
                    container(
                        "b",
                        ready=False,
                        state={"waiting": {"reason": "CrashLoopBackOff"}},
                        lastState={"terminated": {"exitCode": 2, "finishedAt": "2026-03-01T11:59:00Z"}},
                    )
                    | {"restartCount": 3},
                ],
            },
            {},
            ("1/2", "CrashLoopBackOff", "3 (60s ago)"),
        ),
        (
            {"phase": "Running", "containerStatuses": [container("a", **DONE), container("b", **RUNNING)]},
            {},
            ("1/2", "NotReady", "0"),
        ),
        (
            {
                "phase": "Running",
                "conditions": READY,
                "containerStatuses": [container("a", **DONE), container("b", **RUNNING)],
            },
            {},
            ("1/2", "Running", "0"),
        ),
        (
            {"phase": "Succeeded", "containerStatuses": [container("a", **DONE), container("b", **DONE)]},
            {},
            ("0/2", "Completed", "0"),
        ),
        (
            {"phase": "Failed", "containerStatuses": [container("a", state={"terminated": {"exitCode": 3}})]},
            {},
            ("0/2", "ExitCode:3", "0"),
        ),
        (
            {
                "phase": "Failed",
                "containerStatuses": [container("a", state={"terminated": {"exitCode": 137, "signal": 9}})],
            },
            {},
            ("0/2", "Signal:9", "0"),
        ),
        ({"phase": "Failed", "reason": "Evicted"}, {}, ("0/2", "Evicted", "0")),
        (
            {
                "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}],
            },
            {},
            ("0/2", "SchedulingGated", "0"),
        ),
        (
            {
                "phase": "Pending",
                "initContainerStatuses": [container("i", **DONE), container("j", state={"running": {}})],
            },
            {"initContainers": [{"name": "i"}, {"name": "j"}]},
            ("0/2", "Init:1/2", "0"),
        ),
        (
            {
                "phase": "Pending",
                "initContainerStatuses": [container("i", state={"waiting": {"reason": "ImagePullBackOff"}})],
            },
            {"initContainers": [{"name": "i"}]},
            ("0/2", "Init:ImagePullBackOff", "0"),
        ),
        (
            {
                "phase": "Pending",
                "initContainerStatuses": [container("i", state={"terminated": {"exitCode": 1, "reason": "Error"}})],
            },
            {"initContainers": [{"name": "i"}]},
            ("0/2", "Init:Error", "0"),
        ),
        (
            {
                "phase": "Running",
                "initContainerStatuses": [container("s", started=True, **RUNNING)],
                "containerStatuses": [container("a", **RUNNING), container("b", **RUNNING)],
            },
            {"initContainers": [{"name": "s", "restartPolicy": "Always"}]},
            ("3/3", "Running", "0"),
        ),
    ],
)
def test_a_pods_status_in_a_word(client: Any, status: Any, extra: Any, expected: tuple[str, str, str]) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], **extra},
        "status": status,
    }
    assert tuple(cells(client, pod)[1:4]) == expected


def test_a_deleted_pod_is_terminating_until_it_ended(client: Any) -> None:
    metadata = {"name": "p", "deletionTimestamp": "2026-03-01T12:00:00Z"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": []},
        "status": {"phase": "Running"},
    }
    assert cells(client, pod)[2] == "Terminating"
    pod["status"] = {"phase": "Succeeded"}
    assert cells(client, pod)[2] == "Succeeded"
    pod["status"] = {"phase": "Running", "reason": "NodeLost"}
    assert cells(client, pod)[2] == "Unknown"


def test_an_events_row(client: Any) -> None:
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "web"},
        "type": "Warning",
        "reason": "Failed",
        "message": " no room \n",
        "source": {"component": "scheduler"},
        "firstTimestamp": "2026-03-01T11:50:00Z",
        "lastTimestamp": "2026-03-01T11:59:30Z",
        "count": 4,
    }
    assert cells(client, event) == ["30s", "Warning", "Failed", "pod/web", "", "scheduler", "no room", "10m", 4, "e"]


def test_long_endpoint_lists_are_counted(client: Any) -> None:
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "s"},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [f"10.0.0.{i}"]} for i in range(5)],
    }
    assert cells(client, slice_)[1:4] == ["IPv4", "<unset>", "10.0.0.0,10.0.0.1,10.0.0.2 + 2 more..."]


def test_fields_can_be_selected_by_what_stands_there_or_its_default(client: Any, pod: Any) -> None:
    resource, document = client.resource(pod), client.create(pod)
    found = fields.extract(resource, document)
    assert found["metadata.name"] == "web"
    assert found["status.phase"] == "Pending"
    assert found["spec.nodeName"] == ""
    assert found["spec.hostNetwork"] == "false"
    assert fields.parse(resource, "status.phase=Pending,spec.nodeName=").matches(found)
    assert not fields.parse(resource, "status.phase!=Pending").matches(found)


@pytest.mark.parametrize("text", ["spec.foo=1", "nonsense"])
def test_other_fields_cannot_be_selected_by(client: Any, pod: Any, text: str) -> None:
    with pytest.raises(ApiError) as refused:
        fields.parse(client.resource(pod), text)
    assert refused.value.code == 400
