"""A node without a host: the fake runtime, a fake network, time that moves when the test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from node.addresses import AddressBook
from node.assignments import Assignments
from node.checkpoint import Checkpoint
from node.events import EventRecorder
from node.metrics import NodeMetrics
from node.pods.exits import ExitWatch
from node.pods.host import ClusterFacts, NodeFacts, PodHost
from node.pods.state import PodLocal
from node.pods.worker import PodWorker
from node.runtime.fake import FakeRuntime
from node.runtime.interface import Container
from node.volumes import Volumes
from steersman.clock import ManualClock
from steersman.types import ConfigMap, Pod, Secret


async def settle(rounds: int = 60) -> None:
    """Let everything that can go on without time passing go on."""
    for _ in range(rounds):
        await asyncio.sleep(0)


class ManualTime:
    """A clock and the sleeps that it ends."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self._sleeping: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = itertools.count()

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleeping, (self.clock.monotonic() + seconds, next(self._number), waiter))
        await waiter

    async def advance(self, seconds: float) -> None:
        """Let time pass, waking each sleeper at its moment."""
        end = self.clock.monotonic() + seconds
        await settle()
        while self._sleeping and self._sleeping[0][0] <= end + 1e-9:
            at, _, waiter = heapq.heappop(self._sleeping)
            if waiter.done():
                continue
            self.clock.advance(max(0.0, at - self.clock.monotonic()))
            waiter.set_result(None)
            await settle()
        self.clock.advance(max(0.0, end - self.clock.monotonic()))
        await settle()


class FakeNetwork:
    def __init__(self) -> None:
        self.attached: dict[str, str] = {}
        self.problem: Exception | None = None

    async def attach(self, pod_uid: str, netns_path: str, ip: str) -> None:
        if self.problem is not None:
            raise self.problem
        assert netns_path
        self.attached[pod_uid] = ip

    async def detach(self, pod_uid: str) -> None:
        self.attached.pop(pod_uid, None)


def make_pod(name: str = "web", *, containers: list[dict[str, Any]] | None = None, **spec: Any) -> dict[str, Any]:
    """A pod document bound to node-1, as the API would store it."""
    metadata = spec.pop("metadata", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "resourceVersion": "7",
            "generation": 1,
            **metadata,
        },
        "spec": {
            "nodeName": "node-1",
            "containers": containers or [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent"}],
            **spec,
        },
        "status": {"conditions": [{"type": "PodScheduled", "status": "True"}]},
    }


class Node:
    """A `PodHost` and the workers on it. `restart` is a kill -9 of the agent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.time = ManualTime()
        self.runtime = FakeRuntime(self.time.clock, images=("busybox", "nginx"))
        self.network = FakeNetwork()
        self.checkpoint = Checkpoint(root)
        self.tasks: list[asyncio.Task[None]] = []
        self.workers: dict[str, PodWorker] = {}
        self.reports: list[tuple[str, bool]] = []
        self.events: list[dict[str, Any]] = []

    async def boot(self) -> None:
        self.assignments = Assignments()
        self.addresses = AddressBook()
        self.addresses.serve("10.244.1.0/24")
        self.exits = ExitWatch(self.runtime)
        clock = self.time.clock
        self.host = PodHost(
            node=NodeFacts("node-1", "172.29.0.101", 8 << 30, {"cpu": "2", "memory": "8Gi"}, self.root / "logs"),
            cluster=ClusterFacts("10.96.0.10", "cluster.local"),
            runtime=self.runtime,
            network=self.network,
            addresses=self.addresses,
            volumes=Volumes(self.root / "pods"),
            checkpoint=self.checkpoint,
            assignments=self.assignments,
            exits=self.exits,
            events=EventRecorder("node-1", clock, lambda document: self.events.append(msgspec.json.decode(document))),
            metrics=NodeMetrics(),
            clock=clock,
            report=lambda uid, urgent: self.reports.append((uid, urgent)),
            starts=asyncio.Semaphore(2),
            pulls=asyncio.Semaphore(2),
            sleep=self.time.sleep,
        )
        self.tasks.append(asyncio.ensure_future(self.exits.follow(await self.exits.start())))

    async def start(self, document: dict[str, Any]) -> PodWorker:
        return await self.begin(msgspec.json.encode(document))

    async def begin(self, raw: bytes, local: PodLocal | None = None) -> PodWorker:
        pod = Pod.decode(raw)
        worker = self.workers[pod.uid] = PodWorker(self.host, pod, raw, local)
        self.tasks.append(asyncio.ensure_future(worker.run()))
        await settle()
        return worker

    async def update(self, worker: PodWorker, document: dict[str, Any]) -> None:
        raw = msgspec.json.encode(document)
        worker.update(Pod.decode(raw), raw)
        await settle()

    async def restart(self) -> dict[str, PodWorker]:
        """The agent dies and comes back; the runtime goes on."""
        await self.kill()
        self.workers = {}
        await self.boot()
        for uid, record in self.checkpoint.load().items():
            if record.local.ip:
                self.addresses.adopt(uid, record.local.ip)
            await self.begin(bytes(record.document), record.local)
        return self.workers

    async def kill(self) -> None:
        from node.pods import worker as module

        for task in [*self.tasks, *list(module._tasks)]:
            task.cancel()
        await asyncio.gather(*self.tasks, *list(module._tasks), return_exceptions=True)
        self.tasks = []

    def add(self, obj: ConfigMap | Secret) -> None:
        self.assignments.objects[obj.KIND][obj.key] = obj

    async def running(self, name: str = "main") -> Container:
        (found,) = [c for c in await self.runtime.containers() if c.key.container == name and c.running]
        return found

    async def exit(self, name: str = "main", code: int = 0, reason: str = "") -> None:
        self.runtime.exit((await self.running(name)).id, code, reason)
        await settle()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until something holds that also needs a thread to get its turn."""
        async with asyncio.timeout(10):
            while not condition():
                await self.time.advance(1)

    def told(self, reason: str) -> list[str]:
        return [event["message"] for event in self.events if event["reason"] == reason]


@pytest.fixture
async def node(tmp_path: Path) -> Any:
    node = Node(tmp_path)
    await node.boot()
    yield node
    await node.kill()


@pytest.fixture
def pod() -> Callable[..., dict[str, Any]]:
    return make_pod


__all__ = ["Awaitable"]
