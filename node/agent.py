"""The agent: one process per node that makes its part of the cluster's state true and says what it observed.

`Agent` joins the parts: the session brings assignments, `assignments.plan` says what to do, one worker per pod does
it, the reporter tells the outcome. The order of a start matters for what a crash left behind:

1. the runtime is asked what runs, and the records are read: every recorded pod gets its worker back, which adopts its
   containers. This needs no control plane, so a node that is cut off keeps its pods' containers running and restarts
   them.
2. the lease of the time before is looked at: pods whose fence was due while the agent was away are stopped first.
3. the session begins. When its first state is complete, pods that are no longer assigned are ended and whatever
   belongs to no record (containers, namespaces, links, directories) is cleaned up.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc.aio
import msgspec

from net.view import NetworkView
from node import fencing
from node.addresses import AddressBook
from node.assignments import Assignments, Kill, ReportGone, Start, Update, plan
from node.checkpoint import Checkpoint, LeaseRecord, NetworkRecord
from node.events import EventRecorder
from node.imagecollection import ENOUGH, FULL, ImageUse, too_full
from node.metrics import NodeMetrics
from node.nodestatus import AGENT_VERSION, HostFacts, NodeStatus, Observer, allocatable
from node.podfiles import ResolverConfig
from node.pods.exits import ExitWatch
from node.pods.host import ClusterFacts, NodeFacts, PodHost
from node.pods.state import PodLocal
from node.pods.worker import PodWorker
from node.reporter import Observation, Reporter
from node.runtime import reference
from node.runtime.interface import Image, Runtime, RuntimeFailure
from node.session import Connect, ControlPlane, Lease
from node.streams import StreamServer
from node.volumes import Volumes
from steersman.clock import Clock, Entropy, rfc3339
from steersman.types.core import Pod
from steersman.v1 import node_pb2

log = logging.getLogger(__name__)

NODE_STATUS_PERIOD_S = 10.0  # how often the node's own status is looked at; it is sent only when it changed
LEASE_SAVE_PERIOD_S = 1.0  # how stale the lease on disk may be; stale means fencing too early, never too late
CLEANUP_PERIOD_S = 60.0  # between looks for what belongs to nobody
NETWORK_RETRY_S = 1.0
RUNTIME_GRACE_S = 5.0  # a runtime that is away for less does not make the node NotReady
FENCE_PERIOD_S = 0.5  # between looks at the lease while no fence is near: what a pod that just came may be fenced late
SPARE_STARTS = (
    2  # pods being set up beyond one per core: they fill the waits of the others; the runtime bounds runc itself
)
CONCURRENT_PULLS = 4  # mostly waiting for the registry and unpacking


class PodNetworking(Protocol):
    """`net.PodNetwork`, as the agent uses it."""

    async def start(self, pod_cidr: str) -> None: ...
    async def attach(self, pod_uid: str, netns_path: str, ip: str) -> None: ...
    async def detach(self, pod_uid: str) -> None: ...
    async def retain(self, pod_uids: list[str]) -> tuple[str, ...]: ...
    async def sync(self, view: NetworkView) -> None: ...
    async def stop(self) -> None: ...


MakeNetwork = Callable[[NetworkRecord], PodNetworking]


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What the agent is told on its command line."""

    name: str
    address: str
    data_dir: Path
    resolver: ResolverConfig = field(default_factory=ResolverConfig)


class Agent:
    """One node's agent. `run` until cancelled; injected are the runtime, the network and the way to the control plane."""

    def __init__(
        self,
        config: AgentConfig,
        runtime: Runtime,
        make_network: MakeNetwork,
        members: list[str],
        connect: Connect,
        clock: Clock,
        entropy: Entropy,
        *,
        metrics: NodeMetrics | None = None,
        observer: Observer | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.config = config
        self.metrics = metrics or NodeMetrics()
        self.assignments = Assignments()
        self.workers: dict[str, PodWorker] = {}
        self._clock = clock
        self._sleep = sleep
        self._runtime = runtime
        self._make_network = make_network
        self._network: PodNetworking | None = None
        self._network_facts: NetworkRecord | None = None
        self._runtime_lost = -math.inf
        self._network_problem = "the pod network is not set up yet"
        self._network_changed = asyncio.Event()
        self._observer = observer or Observer(config.data_dir)
        self._facts: HostFacts = self._observer.facts()
        self._checkpoint = Checkpoint(config.data_dir)
        self._addresses = AddressBook()
        self._lease = Lease(0.0, -math.inf)
        self._lease_saved = -math.inf
        self._cleanup = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone: dict[str, Observation] = {}
        self._exits = ExitWatch(runtime)
        self._cluster = ClusterFacts()
        self.control = ControlPlane(members, connect, self, self._lease, self.metrics, clock, entropy, sleep)
        self.reporter = Reporter(self._observe, self.control.send, self.metrics, sleep)
        logs_root = config.data_dir / "logs"
        self._streams = StreamServer(runtime, self._find, logs_root, clock)
        self._status: NodeStatus | None = None
        self._images: list[Image] = []
        self._image_use = ImageUse()
        self._host = PodHost(
            node=NodeFacts(
                config.name,
                config.address,
                self._facts.memory,
                allocatable(self._facts),
                logs_root,
                config.resolver,
            ),
            cluster=self._cluster,
            runtime=runtime,
            network=self,
            addresses=self._addresses,
            volumes=Volumes(config.data_dir / "pods"),
            checkpoint=self._checkpoint,
            assignments=self.assignments,
            exits=self._exits,
            events=EventRecorder(config.name, clock, self.reporter.event),
            metrics=self.metrics,
            clock=clock,
            report=self.reporter.changed,
            starts=asyncio.Semaphore(self._facts.cpus + SPARE_STARTS),
            pulls=asyncio.Semaphore(CONCURRENT_PULLS),
            sleep=sleep,
        )

    # --- running ---

    async def run(self) -> None:
        """Run until cancelled. Pods go on when the agent ends."""
        await self._runtime.start()
        events = await self._exits.start()
        self._exits.on_connection = self._runtime_connection
        self._status = NodeStatus(self.config.name, self.config.address, self._facts, await self._runtime.version())
        self._node_status()
        await self._adopt()
        self.metrics.pods.labels("running").set_function(lambda: sum(not w.torn_down for w in self.workers.values()))
        self.metrics.pods.labels("finished").set_function(lambda: sum(w.torn_down for w in self.workers.values()))
        try:
            async with asyncio.TaskGroup() as group:
                for work in (
                    self._exits.follow(events),
                    self.reporter.run(),
                    self.reporter.run_events(),
                    self._fencing(),
                    self._networking(),
                    self._node_statuses(),
                    self._cleaning(),
                    self.control.run(),
                ):
                    group.create_task(work)
        finally:
            await self._streams.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._network is not None:
                await self._network.stop()
            await self._runtime.close()

    @property
    def problem(self) -> str:
        """Why the node cannot run pods; "" when it can."""
        if not self._exits.connected and self._clock.monotonic() - self._runtime_lost >= RUNTIME_GRACE_S:
            return "container runtime is down"
        if self._network_problem:
            return f"container runtime network not ready: {self._network_problem}"
        return ""

    def _start_task(self, work: Awaitable[None], name: str) -> None:
        task = asyncio.ensure_future(work)
        task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    # --- a start ---

    async def _adopt(self) -> None:
        """Take up what the agent before this one left, by its records."""
        self._network_facts = self._checkpoint.load_network()
        if self._network_facts is not None:
            await self._start_network(self._network_facts)
        records = self._checkpoint.load()
        for uid, record in records.items():
            if record.local.ip:
                self._addresses.adopt(uid, record.local.ip)
        lease = self._checkpoint.load_lease(self._facts.boot_id)
        if lease is not None:
            self._lease.lease_s, self._lease.acknowledged = lease.lease_s, lease.acknowledged
        for record in records.values():
            document = bytes(record.document)
            self._begin(PodWorker(self._host, self.assignments.seed(document), document, record.local))
        self._fence()
        if records:
            log.info("%d pods adopted", len(records))

    def _begin(self, worker: PodWorker) -> None:
        self.workers[worker.pod.uid] = worker
        if worker.pod.deleting:
            worker.update(worker.pod, worker.document)
        self._start_task(self._run_worker(worker), f"pod {worker.pod.key}")

    async def _run_worker(self, worker: PodWorker) -> None:
        try:
            await worker.run()
        finally:
            self._forget_if_gone(worker)

    # --- the session's side ---

    def hello(self) -> node_pb2.Hello:
        assert self._status is not None
        status, _ = self._current_status()
        return node_pb2.Hello(
            node_name=self.config.name,
            node_json=msgspec.json.encode(self._status.node(status)),
            agent_version=AGENT_VERSION,
        )

    async def welcomed(self, welcome: node_pb2.Welcome) -> None:
        """A session is up: the network's ranges are known, everything is reported anew."""
        facts = NetworkRecord(
            welcome.pod_cidr, welcome.cluster_cidr, welcome.service_cidr, welcome.dns_ip, welcome.cluster_domain
        )
        if facts != self._network_facts or self._network_problem:
            self._checkpoint.save_network(facts)
            self._network_facts = facts
            await self._start_network(facts)
        self.assignments.begin()
        self.reporter.begin([*self.workers, *self._gone])

    def changes(self, changes: node_pb2.Changes) -> None:
        difference = self.assignments.apply(changes)
        if difference.network:
            self._network_changed.set()
        if difference.pods or changes.synced:
            self._act()
        for pod in self.assignments.naming(difference):
            worker = self.workers.get(pod.uid)
            if worker is not None:
                worker.surroundings_changed()
        if changes.synced:
            self._cleanup.set()

    def status_ack(self, ack: node_pb2.StatusAck) -> None:
        for error in ack.errors:
            log.debug("a status was refused: %s", error.message)
        self.reporter.acknowledged(ack)

    def heartbeat_acked(self) -> None:
        now = self._clock.monotonic()
        if now - self._lease_saved >= LEASE_SAVE_PERIOD_S:
            self._lease_saved = now
            self._checkpoint.save_lease(LeaseRecord(self._facts.boot_id, self._lease.acknowledged, self._lease.lease_s))

    def open_stream(self, command: node_pb2.OpenStream, channel: grpc.aio.Channel) -> None:
        self._streams.open(command, channel)

    def disconnected(self) -> None:
        log.info("the session ended")

    # --- pods ---

    def _act(self) -> None:
        """Make the workers what the assignments ask for."""
        for action in plan(self.assignments.pods, self.workers, synced=self.assignments.synced):
            match action:
                case Start(pod=pod):
                    self._begin(PodWorker(self._host, pod, self.assignments.documents[pod.key]))
                case Update(pod=pod):
                    worker = self.workers[pod.uid]
                    if worker.pod is not pod:
                        worker.update(pod, self.assignments.documents[pod.key])
                case Kill(uid=uid, reason=reason):
                    worker = self.workers[uid]
                    if not worker.torn_down:
                        log.info("pod %s ends: %s", worker.pod.key, reason)
                    worker.stop(0.0)
                    self._forget_if_gone(worker)
                case ReportGone(pod=pod):
                    self._gone[pod.uid] = Observation(
                        pod.namespace, pod.name, pod.uid, pod.status.encode(), True, pod.metadata.revision
                    )
                    self.reporter.changed(pod.uid, True)
        assigned = {pod.uid for pod in self.assignments.pods.values()}
        for uid in [uid for uid in self._gone if uid not in assigned]:
            del self._gone[uid]
            self.reporter.forget(uid)

    def _forget_if_gone(self, worker: PodWorker) -> None:
        """Forget a pod that nothing is left of, here or in the API."""
        uid = worker.pod.uid
        held = self.assignments.pods.get(worker.pod.key)
        if not worker.torn_down or not self.assignments.synced or (held is not None and held.uid == uid):
            return
        if self.workers.pop(uid, None) is not None:
            self.reporter.forget(uid)
            self._checkpoint.remove(uid)
            worker.remove_logs()

    def _find(self, namespace: str, name: str) -> tuple[Pod, PodLocal] | None:
        pod = self.assignments.pods.get(f"{namespace}/{name}")
        worker = self.workers.get(pod.uid) if pod is not None else None
        return (worker.pod, worker.local) if worker is not None else None

    def _observe(self, uid: str) -> Observation | None:
        worker = self.workers.get(uid)
        if worker is None:
            return self._gone.get(uid)
        pod = worker.pod
        return Observation(
            pod.namespace,
            pod.name,
            pod.uid,
            msgspec.json.encode(worker.status()),
            worker.terminated,
            pod.metadata.revision,
        )

    # --- fencing ---

    async def _fencing(self) -> None:
        """Stop pods whose fence is due."""
        while True:
            due = self._fence()
            await self._sleep(min(FENCE_PERIOD_S, max(0.02, due - self._clock.monotonic())))

    def _fence(self) -> float:
        """Stop the pods whose fence is due; answers when the next one will be."""
        if self._lease.lease_s <= 0:
            return math.inf  # no control plane ever counted on this node
        live = {uid: w.pod for uid, w in self.workers.items() if not w.torn_down and w.local.ended is None}
        acknowledged, lease_s = self._lease.acknowledged, self._lease.lease_s
        for fence in fencing.fence(live, acknowledged, lease_s, self._clock.monotonic()):
            self._fence_one(fence.uid, fence.reason)
            del live[fence.uid]
        return fencing.next_deadline(live.values(), acknowledged, lease_s)

    def _fence_one(self, uid: str, reason: str) -> None:
        worker = self.workers[uid]
        log.warning("pod %s is fenced: %s", worker.pod.key, reason)
        self.metrics.fenced.inc()
        worker.end("NodeLost", f"The node stopped the pod: {reason}", 0.0)

    # --- the network ---

    async def attach(self, pod_uid: str, netns_path: str, ip: str) -> None:
        """For the workers: the network once it is there."""
        if self._network is None:
            raise RuntimeError("the pod network is not set up yet")
        await self._network.attach(pod_uid, netns_path, ip)

    async def detach(self, pod_uid: str) -> None:
        if self._network is not None:
            await self._network.detach(pod_uid)

    async def _start_network(self, facts: NetworkRecord) -> None:
        try:
            if self._network is None:
                self._network = self._make_network(facts)
            await self._network.start(facts.pod_cidr)
            self._addresses.serve(facts.pod_cidr)
        except Exception as error:
            log.exception("the pod network cannot be set up")
            self._network_problem = str(error)
        else:
            self._network_problem = ""
            self._cluster.dns_ip, self._cluster.cluster_domain = facts.dns_ip, facts.cluster_domain
        self._look_at_node()

    async def _networking(self) -> None:
        """Bring routes and Service rules in line after every change; changes meanwhile make one more round."""
        while True:
            await self._network_changed.wait()
            self._network_changed.clear()
            if self._network is None:
                await self._sleep(NETWORK_RETRY_S)
                self._network_changed.set()
                continue
            objects = self.assignments.objects
            view = NetworkView(
                nodes=dict(objects["Node"]),
                services=dict(objects["Service"]),
                endpoint_slices=dict(objects["EndpointSlice"]),
                namespaces=list(objects["Namespace"]),
            )
            try:
                await self._network.sync(view)
            except Exception:
                log.exception("the pod network could not follow; trying again")
                await self._sleep(NETWORK_RETRY_S)
                self._network_changed.set()

    # --- the node ---

    def _current_status(self) -> tuple[dict[str, Any], bool]:
        assert self._status is not None
        return self._status.document(
            self._observer.load(), self._images, problem=self.problem, now=rfc3339(self._clock.now())
        )

    def _node_status(self) -> None:
        status, changed = self._current_status()
        if changed:
            self.reporter.node_changed(msgspec.json.encode(status))

    def _runtime_connection(self, connected: bool) -> None:
        """The runtime was lost or found. A short absence, as of a restart, is nobody's business."""
        if connected:
            self._look_at_node()
        else:
            self._runtime_lost = self._clock.monotonic()
            self._start_task(self._look_later(RUNTIME_GRACE_S), "look at the runtime")

    async def _look_later(self, seconds: float) -> None:
        await self._sleep(seconds)
        self._look_at_node()

    def _look_at_node(self) -> None:
        if self._status is not None:
            self._node_status()

    async def _node_statuses(self) -> None:
        while True:
            try:
                await self._look_at_images()
            except Exception as error:
                log.debug("the images cannot be looked after: %s", error)
            self._node_status()
            await self._sleep(NODE_STATUS_PERIOD_S)

    async def _look_at_images(self) -> None:
        """List them; remove some when the disk is full, until it is no longer."""
        self._images = await self._runtime.images()
        self._image_use.observe(
            [image.name for image in self._images], await self._images_in_use(), self._clock.monotonic()
        )
        if not self.assignments.synced or not self._disk_fuller_than(FULL):
            return
        for name in self._image_use.removable(self._clock.monotonic()):
            if not self._disk_fuller_than(ENOUGH):
                return
            if name not in await self._images_in_use():
                log.info("image %s is removed: the disk is full and nothing uses it", name)
                await self._runtime.remove_image(name)
        if self._disk_fuller_than(FULL):
            self._host.events.node(
                "FreeDiskSpaceFailed",
                f"More than {FULL:.0%} of the disk is taken, and no unused image is left to remove",
                warning=True,
            )

    def _disk_fuller_than(self, share: float) -> bool:
        return too_full(self._observer.load().disk_available, self._facts.disk, share)

    async def _images_in_use(self) -> set[str]:
        """Of containers that are here, and of pods that are assigned."""
        used = {container.image for container in await self._runtime.containers()}
        for pod in self.assignments.pods.values():
            for container in (*pod.spec.init_containers, *pod.spec.containers):
                with suppress(RuntimeFailure):  # a name that is none
                    used.add(str(reference.parse(container.image)))
        return used

    # --- what belongs to nobody ---

    async def _cleaning(self) -> None:
        """After each sync, and now and then, remove what no record accounts for."""
        while True:
            waiter = asyncio.ensure_future(self._cleanup.wait())
            timer = asyncio.ensure_future(self._sleep(CLEANUP_PERIOD_S))
            await asyncio.wait({waiter, timer}, return_when=asyncio.FIRST_COMPLETED)
            waiter.cancel()
            timer.cancel()
            self._cleanup.clear()
            if not self.assignments.synced:
                continue
            try:
                await self._clean()
            except Exception:
                log.exception("cleaning up failed; it will be tried again")

    async def _clean(self) -> None:
        for container in await self._runtime.containers():
            if container.key.pod_uid not in self.workers:
                log.info(
                    "container %s of unknown pod %s/%s is removed",
                    container.id[:12],
                    container.key.namespace,
                    container.key.pod,
                )
                await self._runtime.remove(container.id)
                self._exits.forget(container.id)
        for uid in await self._runtime.sandboxes():
            if uid not in self.workers:
                log.info("the sandbox of unknown pod %s is removed", uid)
                await self._runtime.remove_sandbox(uid)
        if self._network is not None and not self._network_problem:
            await self._network.retain([uid for uid, worker in self.workers.items() if not worker.torn_down])
        for uid in self._checkpoint.directories():
            if uid not in self.workers:
                self._host.volumes.tear_down(uid)
                self._checkpoint.remove(uid)
