"""Promises of the control plane as a whole, kept by real handlers, controllers and scheduler under one clock."""

from __future__ import annotations

from typing import Any

import pytest

from steersman import ApiError
from steersman.types import Deployment, EndpointSlice, Event, Namespace, Node, ReplicaSet


def deployment(name: str = "web", replicas: int = 4, image: str = "web:1", **spec: Any) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [
                        {
                            "name": "c",
                            "image": image,
                            "ports": [{"name": "http", "containerPort": 8080}],
                            "resources": {"requests": {"cpu": "100m"}},
                        }
                    ]
                },
            },
            **spec,
        },
    }


def service(name: str = "web") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": "http"}]},
    }


async def three_nodes(world: Any) -> None:
    for number in (1, 2, 3):
        await world.add_node(f"node-{number}")
    await world.fixpoint()


async def test_a_deployment_comes_up_spread_over_the_nodes_and_behind_its_service(world: Any) -> None:
    await three_nodes(world)
    await world.apply(deployment(replicas=6), service())
    await world.fixpoint()

    assert len(world.ready(app="web")) == 6
    assert sorted(pod.spec.node_name for pod in world.ready()) == [f"node-{n}" for n in (1, 1, 2, 2, 3, 3)]
    found = await world.client.get(Deployment, "web")
    assert (found.status.available_replicas, found.status.observed_generation) == (6, found.metadata.generation)
    assert {c.type: c.reason for c in found.status.conditions} == {
        "Available": "MinimumReplicasAvailable",
        "Progressing": "NewReplicaSetAvailable",
    }
    (one,) = (await world.client.list(EndpointSlice)).items
    assert {e.addresses[0] for e in one.endpoints} == {pod.status.pod_ip for pod in world.ready()}
    assert [(p.name, p.port) for p in one.ports] == [("", 8080)]
    reasons = {event.reason for event in (await world.client.list(Event)).items}
    assert {"ScalingReplicaSet", "SuccessfulCreate", "Scheduled"} <= reasons


@pytest.mark.parametrize("seed", range(1, 9))
async def test_a_rolling_update_keeps_within_surge_and_availability_in_any_order(simulation: Any, seed: int) -> None:
    async with simulation(seed) as world:
        world.shuffled = True
        await three_nodes(world)
        limits = {"strategy": {"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}}}
        await world.apply(deployment(replicas=8, **limits))
        await world.fixpoint()

        def within_limits() -> None:
            alive = [pod for pod in world.pods(app="web") if pod.active]
            assert len(world.ready(app="web")) >= 7, "maxUnavailable was broken"
            assert len(alive) <= 10, "maxSurge was broken"

        world.invariants.append(within_limits)
        for image in ("web:2", "web:3"):
            await world.apply(deployment(replicas=8, image=image, **limits))
            await world.fixpoint()
            assert {pod.spec.containers[0].image for pod in world.ready()} == {image}
        sets = (await world.client.list(ReplicaSet)).items
        revisions = {rs.metadata.annotations["deployment.kubernetes.io/revision"]: rs.spec.replicas for rs in sets}
        assert revisions == {"1": 0, "2": 0, "3": 8}


async def test_undo_brings_the_old_replica_set_back_with_a_new_revision(world: Any) -> None:
    await three_nodes(world)
    for image in ("web:1", "web:2", "web:1"):
        await world.apply(deployment(image=image))
        await world.fixpoint()
    sets = (await world.client.list(ReplicaSet)).items
    assert sorted((rs.spec.replicas, rs.metadata.annotations["deployment.kubernetes.io/revision"]) for rs in sets) == [
        (0, "2"),
        (4, "3"),
    ]


async def test_recreate_never_runs_two_templates_at_once(world: Any) -> None:
    await three_nodes(world)
    await world.apply(deployment(strategy={"type": "Recreate"}))
    await world.fixpoint()

    def one_image_at_a_time() -> None:
        assert len({pod.spec.containers[0].image for pod in world.pods(app="web")}) <= 1

    world.invariants.append(one_image_at_a_time)
    await world.apply(deployment(image="web:2", strategy={"type": "Recreate"}))
    await world.fixpoint()
    assert {pod.spec.containers[0].image for pod in world.ready()} == {"web:2"}
    assert len(world.ready()) == 4


async def test_a_rollout_that_cannot_get_ready_is_reported_and_harms_nobody(world: Any) -> None:
    await three_nodes(world)
    await world.apply(deployment(progressDeadlineSeconds=30))
    await world.fixpoint()
    world.starts = lambda pod: pod.spec.containers[0].image != "web:bad"
    await world.apply(deployment(image="web:bad", progressDeadlineSeconds=30))
    await world.fixpoint()
    await world.advance(35, step=5)
    found = await world.client.get(Deployment, "web")
    conditions = {c.type: (c.status, c.reason) for c in found.status.conditions}
    assert conditions["Progressing"] == ("False", "ProgressDeadlineExceeded")
    assert conditions["Available"] == ("True", "MinimumReplicasAvailable")
    assert len(world.ready()) >= 3


async def test_a_lost_node_gives_its_pods_up_only_after_lease_margin_and_toleration(world: Any) -> None:
    await three_nodes(world)
    await world.apply(deployment(replicas=6), service())
    await world.fixpoint()
    await world.advance(3)
    lost = {pod.uid for pod in world.pods() if pod.spec.node_name == "node-2"}
    assert len(lost) == 2
    world.beating.discard("node-2")
    heard = world.beats["node-2"]

    def not_before_the_fence() -> None:
        fenced = heard + 8.0 + 5.0  # lease and default toleration
        there = {pod.uid for pod in world.pods()}
        assert lost <= there or world.clock.monotonic() > fenced

    world.invariants.append(not_before_the_fence)
    await world.advance(11)
    node = await world.client.get(Node, "node-2")
    assert node.condition("Ready").status == "Unknown"
    assert {(t.key, t.effect) for t in node.spec.taints} == {
        ("node.kubernetes.io/unreachable", "NoSchedule"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
    }
    (one,) = (await world.client.list(EndpointSlice)).items
    assert sum(bool(e.conditions.ready) for e in one.endpoints) == 4, "lost pods must not be served"
    await world.advance(6)
    assert len(world.ready(app="web")) == 6, "not replaced within 17 s"
    assert {pod.spec.node_name for pod in world.pods()} == {"node-1", "node-3"}


async def test_a_node_that_is_back_takes_pods_again(world: Any) -> None:
    await three_nodes(world)
    world.beating.discard("node-2")
    await world.advance(12)
    world.beating.add("node-2")
    world.beat()
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    await world.client.patch(
        Node, "node-2", {"status": {"conditions": [ready]}}, format="strategic", subresource="status"
    )
    await world.fixpoint()
    assert (await world.client.get(Node, "node-2")).spec.taints == ()


async def test_pods_of_a_deleted_node_are_replaced(world: Any) -> None:
    await three_nodes(world)
    await world.apply(deployment(replicas=3))
    await world.fixpoint()
    world.beating.discard("node-3")
    await world.client.delete(Node, "node-3")
    await world.fixpoint()
    await world.advance(17)
    assert len(world.ready(app="web")) == 3
    assert {pod.spec.node_name for pod in world.pods()} <= {"node-1", "node-2"}


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
async def test_deleting_a_deployment_leaves_nothing(world: Any, propagation: Any) -> None:
    await three_nodes(world)
    await world.apply(deployment(), service())
    await world.fixpoint()
    await world.client.delete(Deployment, "web", propagation=propagation)
    await world.client.delete("services", "web")
    await world.fixpoint()
    assert world.pods() == []
    for kind in (Deployment, ReplicaSet, EndpointSlice):
        assert (await world.client.list(kind)).items == ()


async def test_orphaned_pods_go_on_and_are_adopted_again(world: Any) -> None:
    await three_nodes(world)
    await world.apply(deployment())
    await world.fixpoint()
    before = {pod.uid for pod in world.ready()}
    await world.client.delete(Deployment, "web", propagation="Orphan")
    await world.fixpoint()
    assert {pod.uid for pod in world.ready()} == before
    await world.apply(deployment())
    await world.fixpoint()
    assert {pod.uid for pod in world.ready()} == before
    (rs,) = (await world.client.list(ReplicaSet)).items
    assert rs.metadata.controller.kind == "Deployment"


async def test_a_deleted_namespace_empties_and_goes(world: Any) -> None:
    await three_nodes(world)
    await world.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})
    documents = [deployment(), service(), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}]
    for document in documents:
        document["metadata"]["namespace"] = "team"
    await world.apply(*documents)
    await world.fixpoint()
    assert len(world.ready(app="web")) == 4
    await world.client.delete(Namespace, "team")
    await world.fixpoint()
    with pytest.raises(ApiError, match="not found"):
        await world.client.get(Namespace, "team")
    assert world.pods() == []
    assert (await world.client.list("configmaps", "team")).items == ()


async def test_a_pod_that_fits_nowhere_says_why_and_is_placed_when_room_comes(world: Any) -> None:
    await world.add_node("node-1", cpu="1")
    big = deployment(replicas=1)
    big["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "3"
    await world.apply(big)
    await world.fixpoint()
    (pod,) = world.pods()
    condition = pod.condition("PodScheduled")
    assert (condition.status, condition.reason) == ("False", "Unschedulable")
    assert condition.message == (
        "0/1 nodes are available: 1 Insufficient cpu (3 requested, at most 1 of 1 free on node-1)."
    )
    await world.add_node("node-2", cpu="4")
    await world.fixpoint()
    await world.advance(2)
    assert [pod.spec.node_name for pod in world.ready()] == ["node-2"]


async def test_events_expire_after_an_hour(world: Any) -> None:
    await three_nodes(world)
    await world.apply(deployment())
    await world.fixpoint()
    assert len(await world.client.list(Event)) > 0
    await world.advance(3_700, step=100)
    assert [e.reason for e in (await world.client.list(Event)).items] == []


async def test_the_same_seed_gives_the_same_cluster(simulation: Any) -> None:
    states = []
    for _ in range(2):
        async with simulation(7) as world:
            await three_nodes(world)
            await world.apply(deployment(replicas=5), service())
            await world.fixpoint()
            await world.apply(deployment(replicas=5, image="web:2"), service())
            await world.fixpoint()
            states.append([(pod.name, pod.uid, pod.spec.node_name, pod.metadata.revision) for pod in world.pods()])
    assert states[0] == states[1]
