"""A leader dies, a node dies: how long until writes are acknowledged again, and until the pods run elsewhere."""

from __future__ import annotations

import asyncio
from statistics import median

from bench.harness import CLOCK, Figure, at_most, raised
from lab import cluster, hosts
from lab.topology import Topology
from steersman.client import AsyncClient
from steersman.errors import ApiError
from steersman.types import Node, Pod

LEADER_ROUNDS, NODE_ROUNDS = 10, 3
IMAGE = "registry.lab/library/busybox:latest"


async def _write(client: AsyncClient, number: int) -> None:
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "beat"}, "data": {"n": str(number)}}
    await client.apply([document], timeout=10.0)


async def _acknowledged(client: AsyncClient, number: int) -> None:
    while True:
        try:
            document = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "beat", "namespace": "default"},
                "data": {"n": str(number)},
            }
            (result,) = await client.apply([document], timeout=1.0)
        except ApiError:
            continue
        if result.error is None:
            return
        await asyncio.sleep(0.005)


async def leader_killed(topology: Topology) -> list[float]:
    """Seconds from the leader's power cut to the next acknowledged write, `LEADER_ROUNDS` times."""
    times = []
    async with AsyncClient.connect(topology.name) as client:
        for number in range(LEADER_ROUNDS):
            await _acknowledged(client, 2 * number)
            leader = topology.host((await client.cluster_status()).leader)
            hosts.kill(topology, leader)
            begin = CLOCK.monotonic()
            await _acknowledged(client, 2 * number + 1)
            times.append(CLOCK.monotonic() - begin)
            cluster.start(topology, leader)
            while not all(member.reachable for member in (await client.cluster_status()).members):
                await asyncio.sleep(0.1)
    return times


async def node_killed(topology: Topology) -> list[float]:
    """Seconds from a node's power cut until its pods are Ready elsewhere."""
    times = []
    container = {"name": "c", "image": IMAGE, "command": ["sleep", "3600"]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "spread"},
        "spec": {
            "replicas": 6,
            "selector": {"matchLabels": {"app": "spread"}},
            "template": {"metadata": {"labels": {"app": "spread"}}, "spec": {"containers": [container]}},
        },
    }
    async with AsyncClient.connect(topology.name) as client:
        await client.apply([deployment])
        for round_ in range(NODE_ROUNDS):
            while len(await _ready(client)) < 6:
                await asyncio.sleep(0.05)
            victim = topology.workers[round_ % len(topology.workers)]
            while not [pod for pod in await _ready(client) if pod.spec.node_name == victim.name]:
                for pod in (await _ready(client))[:3]:  # spread again over the node that came back
                    await client.delete(Pod, pod.name, "default", grace=0)
                await asyncio.sleep(1.0)
            hosts.kill(topology, victim)
            begin = CLOCK.monotonic()
            while len([pod for pod in await _ready(client) if pod.spec.node_name != victim.name]) < 6:
                await asyncio.sleep(0.05)
            times.append(CLOCK.monotonic() - begin)
            cluster.start(topology, victim)
            while not (await client.get(Node, victim.name)).ready:
                await asyncio.sleep(0.05)
    return times


async def _ready(client: AsyncClient) -> list[Pod]:
    pods = (await client.list(Pod, "default", labels="app=spread")).items
    return [pod for pod in pods if pod.ready and not pod.deleting]


def run() -> list[Figure]:
    with raised(3, 3) as topology:
        leader = asyncio.run(leader_killed(topology))
        node = asyncio.run(node_killed(topology))
    return [
        at_most(f"leader killed to next acknowledged write, median of {LEADER_ROUNDS}", median(leader), "s", 2.0),
        at_most(f"node killed to its pods Ready elsewhere, median of {NODE_ROUNDS}", median(node), "s", 20.0),
    ]
