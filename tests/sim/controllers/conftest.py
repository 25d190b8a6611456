"""A whole control plane without wires or waiting: real API handlers over the in-memory store, real controllers and
scheduler, agents that do as they are told, and a clock that moves only when nothing is left to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from control import identity
from control.api.context import ApiContext
from control.api.handlers import Handlers
from control.api.leadership import Leadership
from control.api.local import LocalTransport
from control.controllers.manager import Controllers
from control.store.local import LocalStore
from control.views import Pod
from steersman import ApiError, AsyncClient
from steersman.clock import ManualClock, SeededEntropy, rfc3339
from steersman.types import Node

TURNS = 40  # turns of the event loop in which a change surely went through store, watch and cache
RETRY_S = 0.2  # delays below this are back-offs


class World:
    """The cluster under simulation.

    `beating` are the nodes whose agents run; `starts` decides whether a pod's containers come up ready; `shuffled`
    lets everyone act in an order that changes from turn to turn, by the seed.
    """

    def __init__(self, seed: int = 1) -> None:
        self.clock = ManualClock()
        self.entropy = SeededEntropy(seed)
        self.store = LocalStore(self.clock)
        context = ApiContext(self.store, Leadership("sim", alone=True), self.clock, self.entropy)
        self.client = AsyncClient(
            LocalTransport(Handlers(context), identity.member("sim")), entropy=self.entropy, actor="sim"
        )
        self.beats: dict[str, float] = {}
        self.beating: set[str] = set()
        self.starts: Callable[[Pod], bool] = lambda pod: True
        self.invariants: list[Callable[[], None]] = []
        self.controllers = Controllers(self.client, self, self.clock, self.entropy)
        self.addresses = 0
        self.shuffled = False

    # what the gateway would say
    def last(self, node_name: str) -> float | None:
        return self.beats.get(node_name)

    async def add_node(self, name: str, cpu: str = "4", **labels: str) -> None:
        now = rfc3339(self.clock.now())
        document = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
        }
        await self.client.create(document)
        amounts = {"cpu": cpu, "memory": "8Gi", "pods": "110"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": now}
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
        await self.client.patch(Node, name, {"status": status}, subresource="status")
        self.beating.add(name)
        self.beat()

    def beat(self) -> None:
        for name in self.beating:
            self.beats[name] = self.clock.monotonic()

    async def apply(self, *documents: dict[str, Any]) -> None:
        for result in await self.client.apply(list(documents)):
            if result.error is not None:
                raise result.error

    def pods(self, **labels: str) -> list[Pod]:
        found = self.controllers.caches["Pod"].list()
        return sorted((p for p in found if labels.items() <= p.metadata.labels.items()), key=lambda p: p.key)

    def ready(self, **labels: str) -> list[Pod]:
        return [pod for pod in self.pods(**labels) if pod.ready and not pod.deleting]

    async def agents(self) -> bool:
        """Every running agent brings one of its pods a step further; answers whether there was anything to do."""
        acted = False
        for pod in self.pods():
            if pod.spec.node_name not in self.beating:
                continue
            if pod.deleting:
                try:
                    await self.client.delete(Pod, pod.name, pod.namespace, grace=0, uid=pod.uid)
                except ApiError as error:
                    assert error.reason == "NotFound"
                acted = True
            elif pod.status.phase == "Pending" and self.starts(pod):
                self.addresses += 1
                await self._report(pod, f"10.244.{self.addresses // 250}.{self.addresses % 250 + 2}")
                acted = True
            if acted:
                return True
        return False

    async def _report(self, pod: Pod, ip: str) -> None:
        now = rfc3339(self.clock.now())
        condition = {"type": "Ready", "status": "True", "lastTransitionTime": now}
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition]}
        await self.client.patch(
            Pod, pod.name, {"status": status}, pod.namespace, format="strategic", subresource="status"
        )

    async def turn(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        for invariant in self.invariants:
            invariant()

    async def fixpoint(self, rounds: int = 4_000) -> None:
        """Let everyone act until nobody has anything to do; the clock moves only over back-offs of retries."""
        for _ in range(rounds):
            await self.turn()
            acted = False
            scheduler = self.controllers.scheduler
            assert scheduler is not None
            parts = [*(runtime.round for runtime in self.controllers.runtimes), scheduler.round, self.agents]
            if self.shuffled:
                parts.sort(key=lambda _: self.entropy.jitter())
            for act in parts:
                if await act():
                    acted = True
                    await self.turn()
            for recorder in self.controllers.recorders:
                acted = bool(await recorder.flush()) or acted
            if acted:
                continue
            soon = self._next_retry()
            if soon is None:
                return
            self.clock.advance(soon)
            self.beat()
        raise AssertionError("no fixpoint: the controllers keep acting")

    def _next_retry(self) -> float | None:
        queues = [runtime.queue for runtime in self.controllers.runtimes]
        delays = [delay for queue in queues if (delay := queue.next_delay()) is not None and delay < RETRY_S]
        return min(delays, default=None)

    async def advance(self, seconds: float, step: float = 0.5) -> None:
        """Let time pass, heartbeats and all."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end - 1e-9:
            self.clock.advance(min(step, end - self.clock.monotonic()))
            self.beat()
            await self.fixpoint()


@asynccontextmanager
async def running(seed: int = 1) -> AsyncIterator[World]:
    world = World(seed)
    await world.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    started = asyncio.Event()

    async def keep_caches() -> None:
        async with asyncio.TaskGroup() as group:
            await world.controllers.prepare(group)
            started.set()

    caches = asyncio.create_task(keep_caches())
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait((caches, waiting), return_when=asyncio.FIRST_COMPLETED)
    try:
        if caches.done():
            await caches
        await world.fixpoint()
        yield world
    finally:
        caches.cancel()
        waiting.cancel()
        await asyncio.gather(caches, waiting, return_exceptions=True)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running() as one:
        yield one


@pytest.fixture
def simulation() -> Callable[[int], AbstractAsyncContextManager[World]]:
    """Makes a cluster from a seed."""
    return running
