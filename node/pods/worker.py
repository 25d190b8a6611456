"""The life of one pod on its node: one task, driven by events.

    sandbox ─► network ─► volumes ─► init containers, one by one ─► all containers ─► … ─► stop ─► clean up

A pod ends in one of three ways: its containers end for good (Succeeded, Failed), the API wants it gone (deletion with a
grace, or absence at once), or the agent must end it (deadline, a volume over its limit, fence). All of them go the same road: stop what runs,
wait for its exits, give back network, volumes and namespaces. The record stays until the API has forgotten the pod,
so that a pod that ended is not started again.

Everything on the way is idempotent, and every step that leaves something behind (an address, a namespace, an instance)
is in the record first: after a crash of the agent at any point the same road is walked again and finds what is there.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from msgspec import UNSET

from node import podfiles
from node.pods import backoff
from node.pods.container import ContainerLife, Stopping
from node.pods.host import NoAddressError, PodHost
from node.pods.state import ContainerLocal, PodLocal, Running, Terminated, Waiting
from node.runtime import interface as rt
from node.status import pod_status, sidecar
from node.volumes import VolumeError, limited_on_disk
from steersman.clock import parse_time, rfc3339
from steersman.types.core import Pod

log = logging.getLogger(__name__)
T = TypeVar("T")

USAGE_PERIOD_S = 10.0  # between looks at emptyDirs with a limit, as the kubelet; a look walks their directories
TEARDOWN_RETRY_S = 1.0  # between tries to give back what a runtime or kernel that is away still holds


class PodWorker:
    """One pod. `run` is its task; the other methods tell it what changed."""

    def __init__(self, host: PodHost, pod: Pod, document: bytes, local: PodLocal | None = None) -> None:
        self.host = host
        self.pod = pod
        self.document = document
        self.local = local or _first_local(pod, rfc3339(host.clock.now()))
        self.sandbox: rt.Sandbox | None = None
        self.torn_down = False  # nothing of the pod is left but its record and its logs
        self._assigned_at = host.clock.monotonic()
        self._adopted = local is not None
        self._lives: dict[str, ContainerLife] = {}
        self._stop = asyncio.Event()
        self._kick = asyncio.Event()
        self._stop_until = 0.0  # monotonic; when the grace of a stopping pod is over
        self._stopping_task: asyncio.Task[None] | None = None
        self._running: list[asyncio.Task[None]] = []  # the containers' lives
        self._failures = 0

    # --- what is told ---

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def grace(self) -> float:
        return max(0.0, self._stop_until - self.host.clock.monotonic())

    def update(self, pod: Pod, document: bytes) -> None:
        """The pod's document changed (perhaps only in what others, or this agent, wrote into its status)."""
        old, self.pod, self.document = self.pod, pod, document
        if pod.deleting:
            self.stop(_grace_of(pod))
            if self.torn_down:
                self.host.report(pod.uid, True)
            return
        same = (old.spec, old.metadata.labels, old.metadata.annotations) == (
            pod.spec,
            pod.metadata.labels,
            pod.metadata.annotations,
        )
        if same:
            if old.status.conditions != pod.status.conditions and pod.spec.readiness_gates:
                self.host.report(pod.uid, True)
            return
        for spec in (*pod.spec.init_containers, *pod.spec.containers):
            life = self._lives.get(spec.name)
            if life is not None and life.replace(spec):
                self._spawn(life.restart(f"Container {spec.name} definition changed, will be restarted"))
        if not self.torn_down:
            self.changed()
        self.surroundings_changed()

    def surroundings_changed(self) -> None:
        """Something that the pod names changed: bring its files up to date, and try again what failed."""
        if self.sandbox is not None and not self.stopping:
            self.host.volumes.refresh(self.pod, self.host.surroundings(self.local.ip))
        self._kick.set()

    def stop(self, grace: float) -> None:
        """Stop the pod within `grace` seconds; called again, it may only become sooner."""
        until = self.host.clock.monotonic() + grace
        if self.stopping and until >= self._stop_until:
            return
        self._stop_until = until
        self._stop.set()
        if not self.torn_down:
            self._stopping_task = self._spawn(self._stop_containers(grace))

    def end(self, reason: str, message: str, grace: float) -> None:
        """Stop the pod for a reason of the node's own: its phase becomes Failed."""
        if self.local.ended is None and not self.torn_down:
            self.local.ended = (reason, message)
            self.changed(urgent=True)
        self.stop(grace)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"pod {self.pod.key}")
        _tasks.add(task)
        task.add_done_callback(_finished)
        return task

    # --- what container lives ask ---

    def directory(self) -> Path:
        return self.host.checkpoint.directory(self.pod.uid)

    def changed(self, *, urgent: bool = False) -> None:
        self.host.checkpoint.save(self.document, self.local)
        self.host.report(self.pod.uid, urgent)

    async def unless_stopping(self, work: Awaitable[T]) -> T:
        if self.stopping:
            if asyncio.iscoroutine(work):
                work.close()
            raise Stopping
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Stopping
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def pause(self, seconds: float) -> None:
        if seconds <= 0:
            return
        self._kick.clear()
        timer = asyncio.ensure_future(self.host.sleep(seconds))
        waiters = {timer, asyncio.ensure_future(self._stop.wait()), asyncio.ensure_future(self._kick.wait())}
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
        if self.stopping:
            raise Stopping

    # --- the road ---

    async def run(self) -> None:
        """Walk the whole road. Returns when nothing of the pod is left on the node but its record and logs."""
        watches: list[asyncio.Task[None]] = []
        try:
            if not self._over():
                self.changed()
                if self.pod.spec.active_deadline_seconds is not None:
                    watches.append(self._spawn(self._deadline(self.pod.spec.active_deadline_seconds)))
                if any(limited_on_disk(volume) for volume in self.pod.spec.volumes):
                    watches.append(self._spawn(self._watch_usage()))
                with suppress(Stopping):
                    await self._set_up()
                    await self._init_containers()
                    await self._containers()
        finally:
            for watch in watches:
                watch.cancel()
        await self._tear_down()

    def _over(self) -> bool:
        """Whether a restarted agent finds the pod at its end."""
        states = self.local.containers
        ended = all(spec.name in states and states[spec.name].done for spec in self.pod.spec.containers)
        return self.local.ended is not None or ended or self._init_failed()

    def _init_failed(self) -> bool:
        plain = [
            self.local.init[c.name]
            for c in self.pod.spec.init_containers
            if not sidecar(c) and c.name in self.local.init
        ]
        return any(state.done and not state.succeeded for state in plain)

    async def _deadline(self, seconds: int) -> None:
        age = self.host.clock.now().timestamp() - parse_time(self.local.start_time).timestamp()
        await self.host.sleep(max(0.0, seconds - age))
        message = "Pod was active on the node longer than the specified deadline"
        self.host.events.pod(self.pod, "DeadlineExceeded", message, warning=True)
        self.end("DeadlineExceeded", message, float(self.pod.spec.termination_grace_period_seconds))

    async def _watch_usage(self) -> None:
        """Evict the pod when a volume outgrows its limit."""
        excess = ""
        while not excess:
            await self.host.sleep(USAGE_PERIOD_S)
            excess = await asyncio.to_thread(self.host.volumes.excess, self.pod)
        self.host.events.pod(self.pod, "Evicted", excess, warning=True)
        self.end("Evicted", excess, 0.0)

    async def _set_up(self) -> None:
        """Namespaces, address, network, files and volumes; tried again until they are there or the pod stops."""
        while True:
            try:
                await self._sandbox()
                return
            except Stopping:
                raise
            except NoAddressError as error:
                self._failed("FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            except VolumeError as error:
                self._failed("FailedMount", str(error))
            except rt.RuntimeFailure as error:
                self._failed("FailedCreatePodSandBox", f"Failed to create pod sandbox: {error.message}")
            except Exception as error:
                log.exception("pod %s could not be set up", self.pod.key)
                self._failed("FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            self._failures += 1
            await self.pause(backoff.setup_delay(self._failures))

    def _failed(self, reason: str, message: str) -> None:
        self.host.events.pod(self.pod, reason, message, warning=True)

    async def _sandbox(self) -> None:
        host, pod, local = self.host, self.pod, self.local
        clock, phase = host.clock.monotonic, host.metrics.phase
        own_network = not pod.spec.host_network
        if own_network and not local.ip:
            local.ip = host.addresses.allocate(pod.uid)
            host.checkpoint.save(self.document, local)  # an address is on disk before it is used
        async with host.starts:
            if self.stopping:
                raise Stopping
            began = clock()
            self.sandbox = await host.runtime.create_sandbox(
                rt.SandboxSpec(
                    pod_uid=pod.uid,
                    hostname=podfiles.hostname(pod),
                    host_network=pod.spec.host_network,
                    host_ipc=pod.spec.host_ipc,
                    host_pid=pod.spec.host_pid,
                )
            )
            local.netns = self.sandbox.netns
            made = clock()
            phase.labels("sandbox").observe(made - began)
            if own_network:
                await host.network.attach(pod.uid, self.sandbox.netns, local.ip)
                phase.labels("network").observe(clock() - made)
        attached = clock()
        host.volumes.set_up(pod, host.surroundings(local.ip))
        self._files()
        phase.labels("volumes").observe(clock() - attached)
        local.sandbox_ready = True

    def _files(self) -> None:
        """/etc/hostname, /etc/hosts, /etc/resolv.conf for the containers to mount."""
        pod, facts = self.pod, self.host.cluster
        directory = self.directory()
        contents = {
            "resolv.conf": podfiles.resolv_conf(pod, facts.dns_ip, facts.cluster_domain, self.host.node.resolver)
        }
        if pod.spec.host_network:
            contents["hosts"] = Path("/etc/hosts").read_text(encoding="utf-8")
        else:
            contents["hosts"] = podfiles.hosts(pod, self.local.ip, facts.cluster_domain)
            contents["hostname"] = podfiles.hostname(pod) + "\n"
        for name, text in contents.items():
            path = directory / name
            if not path.exists():
                path.write_text(text)
                path.chmod(0o644)

    async def _init_containers(self) -> None:
        """One after the other; a sidecar is only waited for until it has started."""
        for spec in self.pod.spec.init_containers:
            local = self.local.init.setdefault(
                spec.name, ContainerLocal(spec.name, image=spec.image, state=Waiting("PodInitializing"))
            )
            if local.done and not sidecar(spec):
                if local.succeeded:
                    continue
                raise Stopping
            life = self._lives[spec.name] = ContainerLife(self, spec, local, init=True)
            task = self._spawn(life.run())
            self._running.append(task)
            if sidecar(spec):
                await self.unless_stopping(life.running.wait())
                continue
            await task
            if self.stopping or not local.succeeded:
                self._stop_until = self.host.clock.monotonic() + self.pod.spec.termination_grace_period_seconds
                raise Stopping

    async def _containers(self) -> None:
        """All at once, until every one ended for good."""
        tasks = []
        for spec in self.pod.spec.containers:
            local = self.local.containers.setdefault(spec.name, ContainerLocal(spec.name, image=spec.image))
            if local.done:
                continue
            if isinstance(local.state, Waiting) and local.state.reason == "PodInitializing":
                local.state = Waiting("ContainerCreating")
            life = self._lives[spec.name] = ContainerLife(self, spec, local, init=False)
            tasks.append(self._spawn(life.run()))
        if not self._adopted:
            self._spawn(self._observe_start())
        self._running += tasks
        await asyncio.gather(*tasks)

    async def _observe_start(self) -> None:
        lives = [self._lives[spec.name] for spec in self.pod.spec.containers if spec.name in self._lives]
        with suppress(Stopping):
            for life in lives:
                await self.unless_stopping(life.running.wait())
            self.host.metrics.phase.labels("total").observe(self.host.clock.monotonic() - self._assigned_at)

    # --- the end ---

    async def _stop_containers(self, grace: float) -> None:
        """The containers first, then the sidecars in the reverse of their order."""
        init = {spec.name for spec in self.pod.spec.init_containers}
        plain = [life for name, life in self._lives.items() if name not in init or not sidecar(life.spec)]
        beside = [
            self._lives[spec.name]
            for spec in reversed(self.pod.spec.init_containers)
            if sidecar(spec) and spec.name in self._lives
        ]
        until = self.host.clock.monotonic() + grace
        for group in (plain, *([life] for life in beside)):
            left = min(until, self._stop_until) - self.host.clock.monotonic()
            await asyncio.gather(*(life.stop(max(0.0, left)) for life in group))

    async def _tear_down(self) -> None:
        """Stop what still runs, then give everything back; tried again until it is done."""
        if not self.stopping:
            self._stop_until = self.host.clock.monotonic() + self.pod.spec.termination_grace_period_seconds
            self._stop.set()
        while True:
            try:
                if self._stopping_task is None or self._stopping_task.done():
                    await self._stop_containers(self.grace)
                await asyncio.gather(*self._running, return_exceptions=True)
                await self._remove_everything()
                break
            except Exception:
                log.exception("pod %s could not be cleaned up yet", self.pod.key)
                await self.host.sleep(TEARDOWN_RETRY_S)
        self.torn_down = True
        self.changed(urgent=True)

    async def _remove_everything(self) -> None:
        host, uid = self.host, self.pod.uid
        left = [container for container in await host.runtime.containers() if container.key.pod_uid == uid]
        # No life looks after these: the agent was restarted while the pod was stopping. They still get their grace.
        await asyncio.gather(*(host.runtime.stop(c.id, self.grace) for c in left if c.running), return_exceptions=True)
        for container in left:
            await host.runtime.remove(container.id)
            host.exits.forget(container.id)
        if self.local.netns or self.local.ip:
            await host.network.detach(uid)
        await host.runtime.remove_sandbox(uid)
        host.volumes.tear_down(uid)
        self.sandbox = None
        self.local.sandbox_ready = False
        self.local.netns = ""
        host.addresses.release(uid)
        for state in self.local.every():
            if isinstance(
                state.state, Running
            ):  # its life never came to record the end: the agent was restarted meanwhile
                now = rfc3339(host.clock.now())
                state.state = Terminated(
                    137,
                    "ContainerStatusUnknown",
                    now,
                    state.state.started_at,
                    "The container was removed with its pod",
                    container_id=state.container_id,
                )
            state.ready, state.started = state.ready and state.succeeded, False

    def remove_logs(self) -> None:
        """Delete the pod's log files: the API has forgotten the pod."""
        key = rt.ContainerKey(self.pod.uid, self.pod.namespace, self.pod.name, "any")
        shutil.rmtree(rt.log_directory(self.host.node.logs_root, key).parent, ignore_errors=True)

    # --- what is reported ---

    @property
    def terminated(self) -> bool:
        """Whether a deleted pod may leave the store."""
        return self.torn_down and self.pod.deleting

    def status(self) -> dict[str, Any]:
        """The PodStatus document of this moment."""
        return pod_status(self.pod, self.local, host_ip=self.host.node.ip, now=rfc3339(self.host.clock.now()))


_tasks: set[asyncio.Task[None]] = set()  # asyncio holds tasks weakly; these must live until they are done


def _finished(task: asyncio.Task[None]) -> None:
    _tasks.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task %s failed", task.get_name(), exc_info=error)


def _grace_of(pod: Pod) -> float:
    """The grace that a deletion gave."""
    given = pod.metadata.deletion_grace_period_seconds
    return float(pod.spec.termination_grace_period_seconds if given is None else given)


def _first_local(pod: Pod, now: str) -> PodLocal:
    """The state of a pod that is new here. A pod that ran before (its record was lost) goes on counting its restarts."""
    local = PodLocal(uid=pod.uid, namespace=pod.namespace, name=pod.name, start_time=pod.status.start_time or now)
    for statuses, target in (
        (pod.status.init_container_statuses, local.init),
        (pod.status.container_statuses, local.containers),
    ):
        for status in statuses:
            if status.restart_count or status.container_id is not UNSET:
                restarts = status.restart_count + 1
                target[status.name] = ContainerLocal(status.name, restart_count=restarts, attempt=restarts)
    return local
