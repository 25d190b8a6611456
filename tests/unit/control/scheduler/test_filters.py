"""Each filter: which nodes it refuses, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from control.scheduler import filters
from control.scheduler.decide import Profile, Verdicts, place
from control.scheduler.explain import explain

ZONE = "topology.kubernetes.io/zone"


def verdict(table: Any, pod: Any) -> tuple[set[str], str]:
    """The nodes that are left, and what is said when there is none."""
    left = table.alive.copy()
    for rule in filters.DEFAULT:
        for refusal in rule.refuse(pod, table):
            left &= ~refusal.nodes
    decision = place(table, pod, Profile(), Verdicts())
    assert bool(decision.node) == bool(left.any())
    return set(table.named(left)), "" if decision.node else explain(decision)


def labelled(*terms: Any, **more: Any) -> dict[str, Any]:
    required = {"nodeSelectorTerms": list(terms)}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}, **more}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"nodeSelector": {"disk": "ssd"}}, {"a"}),
        (labelled(expression("disk", "In", "ssd", "hdd")), {"a", "b"}),
        (labelled(expression("disk", "NotIn", "ssd")), {"b", "c"}),
        (labelled(expression("disk", "Exists")), {"a", "b"}),
        (labelled(expression("disk", "DoesNotExist")), {"c"}),
        (labelled(expression("cores", "Gt", "4")), {"b"}),
        (labelled(expression("cores", "Lt", "5")), {"a"}),
        (labelled(expression("disk", "In", "ssd"), expression("cores", "In", "8")), {"a", "b"}),
        (labelled(expression("disk", "Exists"), nodeSelector={"disk": "hdd"}), {"b"}),
        (labelled({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["c"]}]}), {"c"}),
        (labelled({}), set()),
        ({"nodeName": "b"}, {"b"}),
        ({"nodeSelector": {"kubernetes.io/hostname": "c"}}, {"c"}),
    ],
)
def test_nodes_by_name_and_label(table: Any, node: Any, pod: Any, spec: Any, expected: set[str]) -> None:
    nodes = table(
        node("a", labels={"disk": "ssd", "cores": "4"}),
        node("b", labels={"disk": "hdd", "cores": "8"}),
        node("c", labels={"cores": "many"}),
    )
    assert verdict(nodes, pod(**spec))[0] == expected


@pytest.mark.parametrize(
    ("toleration", "left"),
    [
        (None, {"plain"}),
        ({"key": "gpu", "operator": "Exists"}, {"plain", "tainted"}),
        ({"key": "gpu", "value": "yes"}, {"plain", "tainted"}),
        ({"key": "gpu", "value": "no"}, {"plain"}),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, {"plain"}),
        ({"operator": "Exists"}, {"plain", "tainted", "cordoned"}),
    ],
)
def test_taints_and_cordons(table: Any, node: Any, pod: Any, toleration: Any, left: set[str]) -> None:
    nodes = table(
        node("plain", taints=[{"key": "soft", "effect": "PreferNoSchedule"}]),
        node("tainted", taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]),
        node("cordoned", unschedulable=True),
    )
    assert verdict(nodes, pod(tolerations=[toleration] if toleration else []))[0] == left


def test_the_explanation_counts_every_node_and_gives_the_numbers(table: Any, node: Any, pod: Any) -> None:
    nodes = table(
        node("n1", cpu="2"),
        node("n2", taints=[{"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}]),
        node("n3", taints=[{"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}]),
    )
    nodes.place(pod("busy", cpu="500m"), "n1")
    assert verdict(nodes, pod(cpu="4"))[1] == (
        "0/3 nodes are available: 1 Insufficient cpu (4 requested, at most 1500m of 2 free on n1), "
        "2 node(s) had untolerated taint {node.kubernetes.io/unreachable: }."
    )


def test_every_short_resource_is_named(table: Any, node: Any, pod: Any) -> None:
    nodes = table(node("n1", cpu="1", memory="1Gi", pods="0"))
    message = verdict(nodes, pod(cpu="2", memory="2Gi", requests={"example.com/gpu": "1"}))[1]
    assert message == (
        "0/1 nodes are available: 1 Insufficient cpu (2 requested, at most 1 of 1 free on n1), "
        "1 Insufficient example.com/gpu (1 requested, at most 0 of 0 free on n1), "
        "1 Insufficient memory (2Gi requested, at most 1Gi of 1Gi free on n1), "
        "1 Too many pods (n1 has 0 of 0)."
    )


def test_without_nodes_it_says_so(table: Any, pod: Any) -> None:
    assert verdict(table(), pod())[1] == "no nodes available to schedule pods"


@pytest.mark.parametrize(
    ("taken", "wanted", "fits"),
    [
        ({"hostPort": 80}, {"hostPort": 80}, False),
        ({"hostPort": 80}, {"hostPort": 81}, True),
        ({"hostPort": 80}, {"hostPort": 80, "protocol": "UDP"}, True),
        ({"hostPort": 80, "hostIP": "10.0.0.1"}, {"hostPort": 80, "hostIP": "10.0.0.2"}, True),
        ({"hostPort": 80, "hostIP": "10.0.0.1"}, {"hostPort": 80}, False),
    ],
)
def test_host_ports(table: Any, node: Any, pod: Any, taken: Any, wanted: Any, fits: bool) -> None:
    nodes = table(node("n1"))
    nodes.place(pod("first", ports=[{"containerPort": 1, **taken}]), "n1")
    assert bool(verdict(nodes, pod("second", ports=[{"containerPort": 1, **wanted}]))[0]) == fits
    nodes.remove("uid-first")
    assert verdict(nodes, pod("second", ports=[{"containerPort": 1, **wanted}]))[0] == {"n1"}


def zoned(table: Any, node: Any) -> Any:
    return table(
        node("a1", labels={ZONE: "a"}), node("a2", labels={ZONE: "a"}), node("b1", labels={ZONE: "b"}), node("none")
    )


def test_topology_spread_refuses_the_fuller_domain(table: Any, node: Any, pod: Any) -> None:
    nodes = zoned(table, node)
    constraint = {
        "maxSkew": 1,
        "topologyKey": ZONE,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    web = {"labels": {"app": "web"}, "topologySpreadConstraints": [constraint]}
    assert verdict(nodes, pod("p", **web))[0] == {"a1", "a2", "b1"}
    nodes.place(pod("p1", labels={"app": "web"}), "a1")
    assert verdict(nodes, pod("p", **web))[0] == {"b1"}
    web["topologySpreadConstraints"] = [constraint | {"minDomains": 3}]
    nodes.place(pod("p2", labels={"app": "web"}), "b1")
    message = verdict(nodes, pod("p", **web))[1]
    assert message == (
        "0/4 nodes are available: 3 node(s) didn't match pod topology spread constraints "
        f"(maxSkew 1 over {ZONE}, the emptiest domain has 0), "
        "1 node(s) didn't match pod topology spread constraints (missing required label)."
    )


def affinity(kind: str, app: str, key: str = ZONE) -> dict[str, Any]:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}


def test_pod_affinity_and_anti_affinity(table: Any, node: Any, pod: Any) -> None:
    nodes = zoned(table, node)
    assert verdict(nodes, pod("p", **affinity("podAffinity", "db")))[0] == set()
    attracted_to_itself = pod("p", labels={"app": "db"}, **affinity("podAffinity", "db"))
    assert verdict(nodes, attracted_to_itself)[0] == {"a1", "a2", "b1"}
    nodes.place(pod("db", labels={"app": "db"}), "a1")
    assert verdict(nodes, pod("p", **affinity("podAffinity", "db")))[0] == {"a1", "a2"}
    assert verdict(nodes, pod("p", **affinity("podAntiAffinity", "db")))[0] == {"b1", "none"}
    loner = pod("loner", labels={"app": "loner"}, **affinity("podAntiAffinity", "web", "kubernetes.io/hostname"))
    nodes.place(loner, "b1")
    assert verdict(nodes, pod("p", labels={"app": "web"}))[0] == {"a1", "a2", "none"}
