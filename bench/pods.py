"""Pods started and deleted on one node, beside the bare runtime doing the same containers, two at a time.

The floor is `ctr run -d` on the same containerd and the same image. Ours does more with each: schedules, gives it an
address and a network, volumes and logs, and reports it Ready through a durable log.
"""

from __future__ import annotations

import asyncio
from statistics import median

from bench.harness import CLOCK, Figure, at_most, on_host, raised, timed
from lab.topology import REGISTRY_ADDRESS, REGISTRY_PORT, Topology
from steersman.client import AsyncClient
from steersman.types import Pod

IMAGE = "registry.lab/library/busybox:latest"
FLOOR_IMAGE = f"{REGISTRY_ADDRESS}:{REGISTRY_PORT}/library/busybox:latest"
ROUNDS = 3
START_LIMIT = DELETE_LIMIT = 1.4


def _deployment(count: int) -> dict[str, object]:
    container = {"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "3600"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "many"},
        "spec": {
            "replicas": count,
            "selector": {"matchLabels": {"app": "many"}},
            "template": {
                "metadata": {"labels": {"app": "many"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
            },
        },
    }


async def _started(client: AsyncClient, count: int) -> float:
    """Seconds from apply until all pods are Ready in the API."""
    begin = CLOCK.monotonic()
    (result,) = await client.apply([_deployment(count)])
    assert result.document["kind"] == "Deployment"
    ready: set[str] = set()
    async for event in client.watch(Pod, "default", labels="app=many"):
        if event.type != "DELETED" and event.object.ready:
            ready.add(event.object.name)
            if len(ready) == count:
                return CLOCK.monotonic() - begin
    raise AssertionError("the watch ended")


async def _cleared(client: AsyncClient, topology: Topology) -> None:
    await client.delete("apps/v1/Deployment", "many", "default", propagation="Foreground")
    await _gone(client, topology)


async def _gone(client: AsyncClient, topology: Topology) -> None:
    while (await client.list(Pod, "default")).items:
        await asyncio.sleep(0.01)
    while on_host(topology, "node-1", "ctr -n steersman containers ls -q").split():
        await asyncio.sleep(0.01)


async def _deleted(client: AsyncClient, topology: Topology, count: int) -> float:
    """Seconds from the deletion of `count` pods with grace 0 until API and runtime hold none."""
    container = {"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "3600"]}
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"bare-{i}"}, "spec": {"containers": [container]}}
        for i in range(count)
    ]
    await client.batch([client.create_request(pod, "default") for pod in pods])
    waiting = {f"bare-{i}" for i in range(count)}
    async for event in client.watch(Pod, "default"):
        if event.type != "DELETED" and event.object.ready:
            waiting.discard(event.object.name)
            if not waiting:
                break
    begin = CLOCK.monotonic()
    await client.batch([client.delete_request(Pod, f"bare-{i}", "default", grace=0) for i in range(count)])
    await _gone(client, topology)
    return CLOCK.monotonic() - begin


def _floor_start(topology: Topology, count: int) -> float:
    script = f"seq {count} | xargs -P 2 -I'{{}}' ctr -n floor run -d {FLOOR_IMAGE} 'f{{}}' sleep 3600"
    return timed(lambda: on_host(topology, "node-1", script))


def _floor_delete(topology: Topology, count: int) -> float:
    one = "ctr -n floor task kill -s KILL $0 && until ctr -n floor task rm $0 2>/dev/null; do :; done; ctr -n floor container rm $0"
    return timed(lambda: on_host(topology, "node-1", f"seq {count} | sed s/^/f/ | xargs -P 2 -n 1 sh -c '{one}'"))


async def measure(topology: Topology) -> list[Figure]:
    """Alternate ours and the floor, `ROUNDS` times each; medians."""
    figures = []
    on_host(topology, "node-1", f"ctr -n floor images pull --plain-http {FLOOR_IMAGE} >/dev/null")
    async with AsyncClient.connect(topology.name) as client:
        await _started(client, 2)
        await _cleared(client, topology)
        for count in (50, 100):
            ours, floor, floor_deletes = [], [], []
            for _ in range(ROUNDS):
                floor.append(_floor_start(topology, count))
                floor_deletes.append(_floor_delete(topology, count))
                ours.append(await _started(client, count))
                await _cleared(client, topology)
            figures.append(
                at_most(
                    f"{count} pods on one node, apply to all Ready",
                    median(ours),
                    "s",
                    START_LIMIT,
                    beside="ctr run -d",
                    beside_value=median(floor),
                )
            )
            if count == 50:
                deletes = [await _deleted(client, topology, count) for _ in range(ROUNDS)]
                figures.append(
                    at_most(
                        "50 pods deleted with grace 0, gone from API and runtime", median(deletes), "s", DELETE_LIMIT,
                        beside="ctr kill + rm", beside_value=median(floor_deletes),
                    )
                )  # fmt: skip
    return figures


def run() -> list[Figure]:
    with raised(1, 1) as topology:
        return asyncio.run(measure(topology))
