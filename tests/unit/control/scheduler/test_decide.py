from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from control.scheduler.decide import Profile, Verdicts, place, schedule
from control.scheduler.nodes import NodeTable
from control.scheduler.pod import facts, pod_requests
from control.scheduler.scores import inter_pod_affinity
from control.views import Pod
from steersman.types import Node

ZONE = "topology.kubernetes.io/zone"


def test_pods_of_an_owner_spread_over_nodes_and_zones(table: Any, node: Any, pod: Any) -> None:
    nodes = table(*(node(f"n{i}", labels={ZONE: f"z{i % 3}"}) for i in range(6)))
    decided = schedule(nodes, [pod(f"p{i}", owner="rs") for i in range(6)], Profile())
    assert Counter(one.node for one in decided) == {f"n{i}": 1 for i in range(6)}
    first_three = [nodes.labels[nodes.rows[one.node]][ZONE] for one in decided[:3]]
    assert sorted(first_three) == ["z0", "z1", "z2"]


def test_preferences_decide_among_nodes_that_fit(table: Any, node: Any, pod: Any) -> None:
    soft = {"key": "slow", "effect": "PreferNoSchedule"}
    nodes = table(node("a", taints=[soft]), node("b"), node("c", labels={"disk": "ssd"}))
    term = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "preference": term}]}
    (one,) = schedule(nodes, [pod(affinity={"nodeAffinity": preferred})], Profile())
    assert one.node == "c"
    spread = schedule(nodes, [pod(f"p{i}") for i in range(4)], Profile())
    assert "a" not in {one.node for one in spread}


def test_the_emptier_node_is_better(table: Any, node: Any, pod: Any) -> None:
    nodes = table(node("full"), node("empty"))
    nodes.place(pod("busy", cpu="3", memory="6Gi"), "full")
    assert [one.node for one in schedule(nodes, [pod(cpu="500m")], Profile())] == ["empty"]


def test_the_same_pods_get_the_same_nodes(table: Any, node: Any, pod: Any) -> None:
    def decide() -> list[str]:
        nodes = table(*(node(f"n{i}") for i in range(20)))
        return [one.node for one in schedule(nodes, [pod(f"p{i}") for i in range(50)], Profile())]

    assert decide() == decide()
    assert len(set(decide())) == 20


@given(
    cpus=st.lists(st.integers(1, 8), min_size=1, max_size=6),
    asked=st.lists(st.integers(100, 4_000), max_size=40),
)
def test_no_node_is_ever_overbooked(cpus: list[int], asked: list[int]) -> None:
    nodes = NodeTable()
    for number, cpu in enumerate(cpus):
        status = {"allocatable": {"cpu": str(cpu), "memory": "64Gi", "pods": "10"}}
        nodes.set_node(Node.from_dict({"metadata": {"name": f"n{number}"}, "status": status}))
    pods = []
    for number, milli in enumerate(asked):
        container = {"name": "c", "resources": {"requests": {"cpu": f"{milli}m"}}}
        meta = {"name": f"p{number}", "uid": f"u{number}", "namespace": "d"}
        pods.append(facts(Pod.from_dict({"metadata": meta, "spec": {"containers": [container]}})))
    decided = schedule(nodes, pods, Profile())
    booked: Counter[str] = Counter()
    for one in decided:
        if one.node:
            booked[one.node] += one.pod.requests["cpu"]
        else:
            need = one.pod.requests["cpu"]
            assert all(refused.count for refused in one.refused)
            assert sum(refused.count for refused in one.refused) >= len(cpus)
            assert (nodes.free("cpu")[: len(cpus)] < need).any() or len(asked) > 10 * len(cpus)
    assert all(amount <= cpus[int(name[1:])] * 1000 for name, amount in booked.items())


def test_init_containers_and_sidecars_count_as_kubernetes_counts_them() -> None:
    def container(cpu: str, **more: Any) -> dict[str, Any]:
        return {"name": "c", "resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "containers": [container("200m"), container("300m")],
        "initContainers": [container("100m", restartPolicy="Always"), container("900m")],
        "overhead": {"cpu": "50m"},
    }
    assert pod_requests(Pod.from_dict({"metadata": {"name": "p"}, "spec": spec})) == {"cpu": 1050, "pods": 1}
    spec["initContainers"] = [container("900m"), container("100m", restartPolicy="Always")]
    assert pod_requests(Pod.from_dict({"metadata": {"name": "p"}, "spec": spec}))["cpu"] == 950


def leaning(kind: str, app: str, weight: int) -> dict[str, Any]:
    term = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}}
    preferred = [{"weight": weight, "podAffinityTerm": term}]
    return {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}


def test_pods_go_near_those_they_prefer_and_far_from_others(table: Any, node: Any, pod: Any) -> None:
    nodes = table(*(node(f"{zone}{n}", labels={"zone": zone}) for zone in "abc" for n in (1, 2)), node("none"))
    nodes.place(pod("db", labels={"app": "db"}), "a1")
    nodes.place(pod("noisy", labels={"app": "noisy"}), "b1")
    near = pod("near", **leaning("podAffinity", "db", 10))
    assert place(nodes, near, Profile(), Verdicts()).node in ("a1", "a2")
    for kind, app, bad in (("podAntiAffinity", "noisy", "b"), ("podAntiAffinity", "db", "a")):
        far = pod("far", **leaning(kind, app, 10))
        rated = inter_pod_affinity.rate(far, nodes, nodes.alive)
        worst = {name for name, score in zip(nodes.names, rated, strict=False) if score == 0}
        assert worst == {f"{bad}1", f"{bad}2"}


def test_placed_pods_pull_and_push_those_that_come(table: Any, node: Any, pod: Any) -> None:
    nodes = table(*(node(zone, labels={"zone": zone}) for zone in "abc"))
    web = pod("web", labels={"app": "web"})
    assert inter_pod_affinity.rate(web, nodes, nodes.alive) == 0.0
    nodes.place(pod("fond", **leaning("podAffinity", "web", 5)), "a")
    nodes.place(pod("shy", **leaning("podAntiAffinity", "web", 5)), "b")
    rated = inter_pod_affinity.rate(web, nodes, nodes.alive)
    assert [float(rated[nodes.rows[name]]) for name in "abc"] == [100.0, 0.0, 50.0]
    nodes.remove("uid-fond")
    nodes.remove("uid-shy")
    assert not nodes.leanings
