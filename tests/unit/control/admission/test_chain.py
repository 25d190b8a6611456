"""What admission refuses, and what it fills in."""

from __future__ import annotations

from typing import Any

import pytest

from control.admission import CREATE, DELETE, UPDATE, Config, Request, View, admit
from control.registry import REGISTRY
from steersman.errors import ApiError

HOME = View({"metadata": {"name": "ka"}, "status": {"phase": "Active"}})
GONE = View(None)
GOING = View({"metadata": {"name": "ka", "deletionTimestamp": "2026-01-01T00:00:00Z"}})


def request(
    kind: str,
    operation: str = CREATE,
    *,
    spec: Any = None,
    name: str = "a",
    old: Any = None,
    sub: str = "",
    user: str = "",
) -> Request:
    resource = REGISTRY.find(kind=kind)
    metadata = {"name": name, "namespace": "ka"} if resource.namespaced else {"name": name}
    document = {"metadata": metadata, "spec": spec if spec is not None else {}}
    return Request(
        operation,
        resource,
        None if operation == DELETE else document,
        old or (None if operation == CREATE else document),
        sub,
        user,
    )


def refused(wish: Request, view: View = HOME) -> ApiError:
    with pytest.raises(ApiError) as error:
        admit(wish, view)
    return error.value


def test_nothing_is_created_in_a_namespace_that_is_missing_or_going() -> None:
    assert admit(request("ConfigMap"), HOME) == []
    missing = refused(request("ConfigMap"), GONE)
    assert (missing.code, missing.message) == (404, 'namespaces "ka" not found')
    going = refused(request("ConfigMap"), GOING)
    assert (going.code, going.causes[0].reason) == (403, "NamespaceTerminating")
    assert admit(request("ConfigMap", UPDATE), GOING) == []
    assert admit(request("ConfigMap", DELETE), GOING) == []
    assert admit(request("Node"), GONE) == []


def test_the_clusters_own_namespaces_stay() -> None:
    for name in ("default", "kube-system", "kube-public"):
        assert refused(request("Namespace", DELETE, name=name)).code == 403
    assert admit(request("Namespace", DELETE, name="mine"), View()) == []


def test_a_pod_is_completed() -> None:
    wish = request("Pod", spec={"tolerations": [{"key": "gpu", "operator": "Exists"}]})
    admit(wish, View(HOME.namespace, Config(not_ready_seconds=7, unreachable_seconds=9)))
    assert wish.document is not None
    spec = wish.document["spec"]
    assert (spec["serviceAccountName"], spec["priority"], spec["preemptionPolicy"]) == (
        "default",
        0,
        "PreemptLowerPriority",
    )
    assert [(t["key"], t.get("tolerationSeconds")) for t in spec["tolerations"]] == [
        ("gpu", None),
        ("node.kubernetes.io/not-ready", 7),
        ("node.kubernetes.io/unreachable", 9),
    ]


@pytest.mark.parametrize(
    ("toleration", "added"),
    [
        ({"operator": "Exists"}, []),
        ({"key": "node.kubernetes.io/unreachable", "operator": "Exists"}, ["node.kubernetes.io/not-ready"]),
        ({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoSchedule"},
         ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]),
    ],
)  # fmt: skip
def test_a_pod_that_says_how_long_it_waits_is_believed(toleration: Any, added: list[str]) -> None:
    wish = request("Pod", spec={"tolerations": [toleration]})
    admit(wish, HOME)
    assert wish.document is not None
    assert [t["key"] for t in wish.document["spec"]["tolerations"][1:]] == added


def test_priority_comes_from_a_class() -> None:
    wish = request("Pod", spec={"priorityClassName": "system-node-critical"})
    admit(wish, HOME)
    assert wish.document is not None
    assert wish.document["spec"]["priority"] == 2_000_001_000
    assert "no PriorityClass" in refused(request("Pod", spec={"priorityClassName": "mine"})).message
    assert "leave priority out" in refused(request("Pod", spec={"priority": 5})).message


MINE = {"metadata": {"name": "a", "namespace": "ka"}, "spec": {"nodeName": "node-1"}}
THEIRS = {"metadata": {"name": "a", "namespace": "ka"}, "spec": {"nodeName": "node-2"}}
AGENT = "system:node:node-1"


@pytest.mark.parametrize(
    "wish",
    [
        request("Pod", UPDATE, old=MINE, sub="status", user=AGENT),
        request("Pod", DELETE, old=MINE, user=AGENT),
        request("Node", CREATE, name="node-1", user=AGENT),
        request("Node", UPDATE, name="node-1", sub="status", user=AGENT),
        request("Event", CREATE, user=AGENT),
    ],
    ids=lambda wish: f"{wish.operation} {wish.resource.kind}",
)
def test_a_node_writes_what_is_its_own(wish: Request) -> None:
    assert admit(wish, HOME) == []


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        (request("Pod", UPDATE, old=THEIRS, sub="status", user=AGENT), "bound to 'node-2'"),
        (request("Pod", UPDATE, old=MINE, user=AGENT), "only change the status"),
        (request("Pod", DELETE, old={"metadata": {"name": "a"}, "spec": {}}, user=AGENT), "not bound"),
        (request("Pod", CREATE, user=AGENT), "may not create pods"),
        (request("Node", UPDATE, name="node-2", user=AGENT), "not allowed to modify node 'node-2'"),
        (request("Node", DELETE, name="node-1", user=AGENT), "may not delete itself"),
        (
            request(
                "Node",
                UPDATE,
                name="node-1",
                spec={"taints": []},
                old={"metadata": {"name": "node-1"}, "spec": {"taints": [1]}},
                user=AGENT,
            ),
            "taints",
        ),
        (request("Secret", UPDATE, user=AGENT), "may not write secrets"),
        (request("Lease", UPDATE, user=AGENT), "its own lease"),
    ],
)
def test_a_node_writes_nothing_else(wish: Request, why: str) -> None:
    error = refused(wish)
    assert error.code == 403
    assert why in error.message
