"""The runtime that runs on containerd's own API.

Starting takes four calls: prepare a snapshot, create the container's record, create its task, start the task; the first
two go side by side. The snapshot needs no lease: it is labelled as a root of garbage collection and removed by hand.

Whose word counts
-----------------
containerd's events say when something ended, but only to those who listen at that moment. So each (re)connection first
proves that its subscription stands (it publishes a probe and waits to see it) and then reads the whole state: every
exit is either in that state or in the stream after it. What an exit was is kept in a file beside the container's pipes
before its task is deleted, so that the agent, at any later time, can say how the container ended.

    <state>/containers/<id>/stdout, stderr   FIFOs between the shim and the log keeper
    <state>/containers/<id>/started          process id and time; absent: it never ran
    <state>/containers/<id>/exit             how it ended
    <state>/sandboxes/<pod uid>/             see `namespaces`

This module is the life of a container, from start over events and adoption to its end; it is long because these share
what is known of one container at each moment. What can be told apart is: `records` (what is kept), `removal`,
`namespaces`, `pull`, `execs`, `logs`.

Calls that change a container run to their end even when their caller is cancelled: half a start is never left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import os
import resource
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import msgspec
from google.protobuf import empty_pb2

from node.runtime import cgroups, execs, logreader, metrics, records, removal, rootfs, users
from node.runtime import spec as oci
from node.runtime.client import CALL_S, RUNTIME, Containerd, failure, ignoring, wrap
from node.runtime.containerd import (
    containers_pb2,
    events_pb2,
    runc_options_pb2,
    snapshots_pb2,
    task_events_pb2,
    task_pb2,
    tasks_pb2,
    types_pb2,
)
from node.runtime.interface import (
    CREATE_CONTAINER_ERROR,
    CREATE_SANDBOX_ERROR,
    RUN_CONTAINER_ERROR,
    RUNTIME_UNAVAILABLE,
    ConnectionChanged,
    Container,
    ContainerSpec,
    ExecProcess,
    Exit,
    Exited,
    Image,
    LogLine,
    LogOptions,
    NotFound,
    RegistryAuth,
    Runtime,
    RuntimeEvent,
    RuntimeFailure,
    Sandbox,
    SandboxSpec,
    Stats,
    Stream,
)
from node.runtime.logs import LogKeeper
from node.runtime.namespaces import Namespaces
from node.runtime.pull import Images
from node.runtime.records import LABEL
from node.runtime.registry import Registries
from steersman.clock import Clock, Entropy, SystemClock, SystemEntropy
from steersman.logs import fields

log = logging.getLogger("node.runtime.containers")

GC_ROOT = "containerd.io/gc.root"
PROBE_TOPIC = "/steersman/probe"
PROBE_S = 0.02  # between probes of a new subscription
RETRY_S = 0.2  # between attempts to connect
KILL_S = 15.0  # from SIGKILL until we say that the container does not end
CLEAR_S = 10.0  # until containerd has undone, or done, what an agent that died had asked it for
DRAIN_S = 2.0  # for output after the task is gone; the shim has then closed its end, so nearly none is needed
UNKNOWN_EXIT_CODE = 137  # as Kubernetes has it for a container whose end nobody saw


@dataclass(slots=True)
class _Entry:
    """A container that was started."""

    container: Container
    stop_signal: int
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    finishing: asyncio.Task[None] | None = None


class ContainerdRuntime:
    """`Runtime` on containerd. One per node and `state` directory."""

    def __init__(
        self,
        socket: str,
        state: Path,
        *,
        cgroup_parent: str = "steersman",
        mirrors: dict[str, str] | None = None,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        starts_at_once: int | None = None,
        binary: str | None = None,
        limits: oci.HostLimits | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._entropy = entropy or SystemEntropy()
        self._client = Containerd(socket)
        self._state = state
        self._homes = state / "containers"
        self._homes.mkdir(parents=True, exist_ok=True)
        self._scratch = state / "scratch"
        self._scratch.mkdir(exist_ok=True)
        self._namespaces = Namespaces(state / "sandboxes")
        self._cgroup_parent = cgroup_parent
        self._cgroups = cgroups.Cgroups()
        self._limits = limits or oci.read_host_limits(cgroup_parent)
        self._images = Images(self._client, Registries(mirrors), self._clock, self._entropy)
        self._logs = LogKeeper(self._clock)
        # runc is the cost. One more than there are processors fills their waits; measured, more gain nothing.
        self._slots = asyncio.Semaphore(starts_at_once or 1 + (os.cpu_count() or 1))
        if binary is None:  # crun is the faster one, and refuses hosts with cgroups of version 1
            binary = "crun" if self._limits.cgroup_version == 2 and shutil.which("crun") else ""
        options = runc_options_pb2.Options(binary_name=binary, root=str(state / "runc"))
        self._options = wrap("containerd.runc.v1.Options", options.SerializeToString())
        self._entries: dict[str, _Entry] = {}
        self._starting: dict[str, asyncio.Task[Container]] = {}
        self._early_exits: dict[tuple[str, int], tuple[int, dt.datetime]] = {}  # by container and process id
        self._removing: dict[str, asyncio.Task[None]] = {}
        self._passwd: dict[str, tuple[str, str]] = {}  # by chain id
        self._subscribers: set[asyncio.Queue[RuntimeEvent | None]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._held: list[int] = []  # FIFOs, see `_free_waiting_shims`
        self._connected = False
        self._reconciled = 0  # how often; a call that spans one may have missed an event
        self._ready = asyncio.Event()

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        # Three descriptors a container; the soft limit is often 1,024.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._logs.start()
        self._free_waiting_shims()
        self._spawn(self._watch(), "runtime events")
        await self._ready.wait()
        self._spawn(self._sweep_tasks(), "late sweep")

    def _free_waiting_shims(self) -> None:
        """Open the FIFOs of all containers for reading, for a while.

        A shim that was told to create a container by an agent which then died waits for a reader, and with it waits all
        that is asked of it, containerd's own undoing of that container included. Nothing is read here.
        """
        for fifo in (*self._homes.glob("*/stdout"), *self._homes.glob("*/stderr")):
            with contextlib.suppress(OSError):
                self._held.append(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    def _let_go(self) -> None:
        while self._held:
            os.close(self._held.pop())

    async def close(self) -> None:
        self._let_go()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._images.close()
        await self._client.close()
        self._logs.stop()
        for queue in self._subscribers:
            queue.put_nowait(None)

    async def version(self) -> str:
        with _explained(RUNTIME_UNAVAILABLE, "version"):
            answer = await self._client.version.Version(empty_pb2.Empty(), metadata=self._client.metadata, timeout=5)
        return f"containerd://{answer.version.partition('~')[0]}"

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- images ---------------------------------------------------------------------------------------------------

    async def pull(self, reference: str, auths: Sequence[RegistryAuth] = ()) -> Image:
        return await self._images.pull(reference, auths)

    async def image(self, reference: str) -> Image | None:
        return self._images.get(reference)

    async def images(self) -> list[Image]:
        return self._images.list()

    async def remove_image(self, reference: str) -> None:
        with _explained("RemoveImageError", f"remove image {reference}"):
            await self._images.remove(reference)

    # --- sandboxes ------------------------------------------------------------------------------------------------

    async def create_sandbox(self, spec: SandboxSpec) -> Sandbox:
        with metrics.OPERATION_SECONDS.labels("create_sandbox").time():
            return await self._namespaces.create(spec)

    async def remove_sandbox(self, pod_uid: str) -> None:
        try:
            self._namespaces.remove(pod_uid)
            self._cgroups.remove(cgroups.pod_path(self._cgroup_parent, pod_uid))
        except OSError as error:
            raise RuntimeFailure(CREATE_SANDBOX_ERROR, f"remove sandbox of pod {pod_uid}: {error}") from error

    async def sandboxes(self) -> list[str]:
        return self._namespaces.list()

    # --- starting -------------------------------------------------------------------------------------------------

    async def start_container(self, spec: ContainerSpec) -> Container:
        container_id = spec.key.id
        entry = self._entries.get(container_id)
        if entry is not None:
            return entry.container
        task = self._starting.get(container_id)
        if task is None:
            task = self._spawn(self._start(spec), f"start {container_id[:12]}")
            self._starting[container_id] = task
            task.add_done_callback(lambda done: self._start_ended(container_id, done))
        return await asyncio.shield(task)

    def _start_ended(self, container_id: str, task: asyncio.Task[Container]) -> None:
        self._starting.pop(container_id, None)
        for key in [key for key in self._early_exits if key[0] == container_id]:
            del self._early_exits[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            metrics.FAILURES.labels(error.reason if isinstance(error, RuntimeFailure) else type(error).__name__).inc()

    async def _start(self, spec: ContainerSpec) -> Container:
        container_id = spec.key.id
        async with self._slots:
            reconciled = self._reconciled
            with metrics.OPERATION_SECONDS.labels("start_container").time():
                try:
                    pid = await self._create(spec)
                except BaseException:
                    await asyncio.shield(self._discard(container_id))
                    raise
        started_at = self._clock.now()
        records.write(self._homes / container_id / "started", {"pid": pid, "at": started_at})
        container = Container(
            id=container_id,
            key=spec.key,
            image=spec.image.name,
            image_id=spec.image.repo_digest,
            log_path=spec.log_path,
            pid=pid,
            started_at=started_at,
            labels=spec.labels,
        )
        entry = _Entry(container, records.signal_number(spec.image.stop_signal))
        self._entries[container_id] = entry
        early = self._early_exits.pop((container_id, pid), None)
        if early is not None:
            self._finish_soon(entry, *early)
        elif reconciled != self._reconciled:
            self._spawn(self._recheck(entry), f"recheck {container_id[:12]}")
        return container

    async def _recheck(self, entry: _Entry) -> None:
        """Events were lost while this container started: has it ended already?"""
        request = tasks_pb2.GetRequest(container_id=entry.container.id)
        try:
            answer = await self._client.tasks.Get(request, metadata=self._client.metadata, timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                self._check(entry, None)
            return  # else it is lost again, and the next reconciliation knows the entry
        self._check(entry, answer.process)

    async def _create(self, spec: ContainerSpec) -> int:
        """The four calls; returns the process id."""
        container_id, doing = spec.key.id, f"container {spec.key.container}"
        client, metadata = self._client, self._client.metadata
        fifos = self._make_home(spec)
        users_known = spec.image.chain_id in self._passwd
        with _explained(CREATE_CONTAINER_ERROR, doing):
            if users_known:
                mounts, _ = await _both(self._prepare(spec), self._create_record(spec))
            else:
                mounts = await self._prepare(spec)
                await self._learn_users(spec.image.chain_id, mounts)
                await self._create_record(spec)
        with _explained(RUN_CONTAINER_ERROR, doing):
            pid = await self._create_task(
                lambda: self._open_logs(spec, fifos),
                tasks_pb2.CreateTaskRequest(
                    container_id=container_id,
                    rootfs=mounts,
                    stdout=str(fifos["stdout"]),
                    stderr=str(fifos["stderr"]) if "stderr" in fifos else "",
                    terminal=spec.tty,
                    options=self._options,
                ),
            )
            await client.tasks.Start(
                tasks_pb2.StartRequest(container_id=container_id), metadata=metadata, timeout=CALL_S
            )
        return pid

    def _open_logs(self, spec: ContainerSpec, fifos: dict[Stream, Path]) -> None:
        """Anew, if they were open: the end of another shim's writing has ended the reading, and a shim waits for a reader."""
        self._logs.close(spec.key.id)
        try:
            self._logs.open(spec.key.id, spec.log_path, fifos)
        except OSError as error:
            raise RuntimeFailure(
                CREATE_CONTAINER_ERROR, f"container {spec.key.container}: log file: {error}"
            ) from error

    async def _create_task(self, open_logs: Callable[[], None], request: tasks_pb2.CreateTaskRequest) -> int:
        """Create a task, when need be after one of the same name that an agent which died had asked for is out of the way."""
        deadline = self._clock.monotonic() + CLEAR_S
        while True:
            open_logs()
            try:
                answer = await self._client.tasks.Create(request, metadata=self._client.metadata, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                left_over = error.code() is grpc.StatusCode.ALREADY_EXISTS or "file exists" in (error.details() or "")
                if not left_over or self._clock.monotonic() > deadline:
                    raise
                await removal.delete_task(self._client, request.container_id)
                await asyncio.sleep(RETRY_S)
            else:
                return int(answer.pid)

    def _make_home(self, spec: ContainerSpec) -> dict[Stream, Path]:
        home = self._homes / spec.key.id
        streams: tuple[Stream, ...] = ("stdout",) if spec.tty else ("stdout", "stderr")
        try:
            home.mkdir(exist_ok=True)
            for stream in streams:
                with contextlib.suppress(FileExistsError):
                    os.mkfifo(home / stream, 0o600)
        except OSError as error:
            raise RuntimeFailure(CREATE_CONTAINER_ERROR, f"container {spec.key.container}: {error}") from error
        return {stream: home / stream for stream in streams}

    async def _prepare(self, spec: ContainerSpec) -> Sequence[types_pb2.Mount]:
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=self._client.snapshotter,
            key=spec.key.id,
            parent=spec.image.chain_id,
            labels={GC_ROOT: "true", LABEL + "pod-uid": spec.key.pod_uid},
        )
        for first in (True, False):
            try:
                answer = await self._client.snapshots.Prepare(request, metadata=self._client.metadata, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.ALREADY_EXISTS and first:
                    await removal.remove_snapshot(self._client, spec.key.id)  # of a start that a crash cut off
                    continue
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    self._images.forget(spec.image.name)
                raise
            return list(answer.mounts)
        raise AssertionError  # pragma: no cover - the second time returns or raises

    async def _learn_users(self, chain_id: str, mounts: Sequence[types_pb2.Mount]) -> None:
        passwd, group = await rootfs.read_files(mounts, self._scratch, ("/etc/passwd", "/etc/group"))
        self._passwd[chain_id] = (passwd, group)

    async def _create_record(self, spec: ContainerSpec) -> None:
        user = users.resolve(spec.image.user, spec.security, *self._passwd[spec.image.chain_id])
        document = msgspec.json.encode(oci.build(spec, user, self._limits))
        key = spec.key
        request = containers_pb2.CreateContainerRequest(
            container=containers_pb2.Container(
                id=key.id,
                labels=records.labels(spec),
                image=spec.image.name,
                runtime=containers_pb2.Container.Runtime(name=RUNTIME, options=self._options),
                spec=wrap("types.containerd.io/opencontainers/runtime-spec/1/Spec", document),
                snapshotter=self._client.snapshotter,
                snapshot_key=key.id,
            )
        )
        for first in (True, False):
            try:
                await self._client.containers.Create(request, metadata=self._client.metadata, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.ALREADY_EXISTS and first:
                    await removal.delete_task(self._client, key.id)
                    await removal.delete_record(self._client, key.id)
                    continue
                raise
            return

    # --- ending ---------------------------------------------------------------------------------------------------

    def _finish_soon(self, entry: _Entry, code: int, at: dt.datetime, unknown: str = "") -> None:
        if entry.finishing is None:
            entry.finishing = self._spawn(self._finish(entry, code, at, unknown), f"finish {entry.container.id[:12]}")

    async def _finish(self, entry: _Entry, code: int, at: dt.datetime, unknown: str) -> None:
        """A container's process has ended: collect what is left of it and say so."""
        container = entry.container
        path = cgroups.container_path(self._cgroup_parent, container.key.pod_uid, container.id)
        if unknown:
            reason = "ContainerStatusUnknown"
        elif code != 0 and self._cgroups.oom_kills(path):
            reason = "OOMKilled"
        else:
            reason = "Error" if code else "Completed"
        exit_ = Exit(code, reason, at, unknown)
        home = self._homes / container.id
        try:
            records.write(home / "exit", {"code": code, "reason": reason, "at": at, "message": unknown})
        except OSError as error:  # it can then be told only as long as we live
            log.warning("exit not kept %s", fields(container=container.id, why=str(error)))
        try:
            await removal.delete_task(self._client, container.id)
        except grpc.aio.AioRpcError as error:
            log.warning("task not deleted %s", fields(container=container.id, why=error.details()))
        await self._logs.drained(container.id, DRAIN_S)
        self._logs.close(container.id)
        entry.container = replace(container, pid=0, exit=exit_)
        entry.exited.set()
        metrics.EXITS.labels(reason).inc()
        self._publish(Exited(entry.container))

    async def stop(self, container_id: str, grace_seconds: float, signal: int | None = None) -> Exit:
        entry = self._entry(container_id)
        if grace_seconds > 0 and not entry.exited.is_set():
            await self._kill(entry, signal or entry.stop_signal)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await entry.exited.wait()
        if not entry.exited.is_set():
            await self._kill(entry, _SIGKILL)
            try:
                async with asyncio.timeout(KILL_S):
                    await entry.exited.wait()
            except TimeoutError:
                await self._reconcile()  # never seen: an event that did not come
                if entry.finishing is None:
                    name = entry.container.key.container
                    raise RuntimeFailure("KillContainerError", f"container {name} does not end on SIGKILL") from None
                await entry.exited.wait()
        exit_ = entry.container.exit
        assert exit_ is not None
        return exit_

    async def _kill(self, entry: _Entry, number: int) -> None:
        """Send a signal to a container's first process: directly, which spares a run of runc, if it is surely still the same one."""
        if entry.finishing is not None:
            return
        container = entry.container
        try:
            handle = os.pidfd_open(container.pid)
        except OSError:
            handle = -1
        if handle >= 0:
            try:
                if container.id in _cgroups_of(container.pid):
                    _send_signal(handle, number)
                    return
            except OSError:
                pass  # it has just ended
            finally:
                os.close(handle)
        request = tasks_pb2.KillRequest(container_id=container.id, signal=number)
        with _explained("KillContainerError", f"container {container.key.container}"):
            await ignoring(
                self._client.tasks.Kill(request, metadata=self._client.metadata, timeout=CALL_S),
                grpc.StatusCode.NOT_FOUND,
                grpc.StatusCode.UNKNOWN,  # the shim is going, or the process has; if not, `stop` says so in the end
            )

    async def remove(self, container_id: str) -> None:
        task = self._removing.get(container_id)
        if task is None:
            task = self._spawn(self._remove(container_id), f"remove {container_id[:12]}")
            self._removing[container_id] = task
            task.add_done_callback(lambda _: self._removing.pop(container_id, None))
        await asyncio.shield(task)

    async def _remove(self, container_id: str) -> None:
        starting = self._starting.get(container_id)
        if starting is not None:
            await asyncio.wait([starting])
        with metrics.OPERATION_SECONDS.labels("remove").time(), _explained("RemoveContainerError", "remove container"):
            if container_id in self._entries:
                await self.stop(container_id, 0)
                await asyncio.gather(
                    removal.delete_record(self._client, container_id),
                    removal.remove_snapshot(self._client, container_id),
                )
                self._forget(container_id)
            else:
                await self._discard(container_id)

    def _forget(self, container_id: str) -> None:
        self._entries.pop(container_id, None)
        self._logs.close(container_id)
        shutil.rmtree(self._homes / container_id, ignore_errors=True)

    async def _discard(self, container_id: str) -> None:
        """Leave nothing of a container, whatever there is."""
        try:
            await removal.delete_task(self._client, container_id)
            await removal.delete_record(self._client, container_id)
            await removal.remove_snapshot(self._client, container_id)
        except grpc.aio.AioRpcError as error:
            # What there is of it is found again when containerd is: its record by `_adopt`, the rest by `_sweep`.
            log.warning("container left behind %s", fields(container=container_id, why=error.details()))
            self._logs.close(container_id)
        else:
            self._forget(container_id)

    # --- what there is ----------------------------------------------------------------------------------------------

    def _entry(self, container_id: str) -> _Entry:
        entry = self._entries.get(container_id)
        if entry is None:
            raise NotFound(f"container {container_id} is not there")
        return entry

    async def containers(self) -> list[Container]:
        return [entry.container for entry in self._entries.values()]

    def events(self) -> AsyncIterator[RuntimeEvent]:
        queue: asyncio.Queue[RuntimeEvent | None] = asyncio.Queue()
        self._subscribers.add(queue)
        return self._deliver(queue)

    async def _deliver(self, queue: asyncio.Queue[RuntimeEvent | None]) -> AsyncIterator[RuntimeEvent]:
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._subscribers.discard(queue)

    def _publish(self, event: RuntimeEvent) -> None:
        for queue in self._subscribers:
            queue.put_nowait(event)

    async def exec(
        self, container_id: str, argv: Sequence[str], *, tty: bool = False, stdin: bool = False
    ) -> ExecProcess:
        entry = self._entry(container_id)
        if not entry.container.running:
            raise NotFound(f"container {entry.container.key.container} has exited")
        name = f"exec-{self._entropy.token(16)}"
        home = self._homes / container_id
        with _explained("ExecError", f"container {entry.container.key.container}"):
            return await execs.start(self._client, container_id, name, home, argv, tty=tty, stdin=stdin)

    def logs(self, log_path: str, options: LogOptions = LogOptions()) -> AsyncIterator[LogLine]:  # noqa: B008 - immutable
        return logreader.read(Path(log_path), options, self._logs)

    async def stats(self, container_id: str) -> Stats:
        key = self._entry(container_id).container.key
        stats = self._cgroups.stats(cgroups.container_path(self._cgroup_parent, key.pod_uid, container_id))
        if stats is None:
            raise NotFound(f"container {key.container} has no cgroup: it has exited")
        return stats

    # --- events and adoption ----------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Follow containerd's events for as long as the runtime lives."""
        while True:
            try:
                await self._follow()
            except grpc.aio.AioRpcError as error:
                if self._connected:
                    log.warning("containerd is gone %s", fields(why=error.details()))
            except Exception:
                log.exception("lost containerd's events")
            self._set_connected(False)
            await asyncio.sleep(RETRY_S)

    def _set_connected(self, connected: bool) -> None:
        if self._connected != connected:
            self._connected = connected
            self._publish(ConnectionChanged(connected))

    async def _follow(self) -> None:
        namespace = self._client.metadata[0][1]
        topics = ("/tasks/exit", PROBE_TOPIC)
        filters = [f'topic=="{topic}",namespace=="{namespace}"' for topic in topics]
        call = self._client.events.Subscribe(
            events_pb2.SubscribeRequest(filters=filters), metadata=self._client.metadata
        )
        prober = asyncio.create_task(self._probe())
        try:
            async for envelope in call:
                if envelope.topic == PROBE_TOPIC:
                    if not self._connected and not prober.done():
                        prober.cancel()
                        await self._reconcile()
                        self._set_connected(True)
                        self._ready.set()
                    continue
                event = task_events_pb2.TaskExit.FromString(envelope.event.value)
                if event.id == event.container_id:
                    self._on_exit(event, records.moment(event.exited_at, self._clock))
        finally:
            prober.cancel()
            call.cancel()

    async def _probe(self) -> None:
        """Publish until it is seen. Its failures are the subscription's too, and reported there."""
        event = wrap("containerd.events.TaskOOM", task_events_pb2.TaskOOM(container_id="probe").SerializeToString())
        request = events_pb2.PublishRequest(topic=PROBE_TOPIC, event=event)
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._client.events.Publish(request, metadata=self._client.metadata, timeout=5)
            await asyncio.sleep(PROBE_S)

    def _on_exit(self, event: task_events_pb2.TaskExit, at: dt.datetime) -> None:
        """The process id tells a container from an earlier one of the same name, whose end may be told late."""
        entry = self._entries.get(event.container_id)
        if entry is not None:
            if entry.container.pid == event.pid:
                self._finish_soon(entry, event.exit_status, at)
        elif event.container_id in self._starting:
            self._early_exits[event.container_id, event.pid] = (event.exit_status, at)

    async def _reconcile(self) -> None:
        """Compare what we know with what there is; adopt, and find exits that nobody told us of."""
        self._reconciled += 1
        expected = [entry for entry in self._entries.values() if entry.finishing is None and entry.container.running]
        metadata = self._client.metadata
        records = await self._client.containers.List(
            containers_pb2.ListContainersRequest(), metadata=metadata, timeout=CALL_S
        )
        listed = await self._client.tasks.List(tasks_pb2.ListTasksRequest(), metadata=metadata, timeout=CALL_S)
        tasks = {task.container_id or task.id: task for task in listed.tasks}
        if not self._ready.is_set():
            await self._images.load()
        for record in records.containers:
            known = record.id in self._entries or record.id in self._starting
            if LABEL + "pod-uid" in record.labels and not known:
                await self._adopt(record, tasks.get(record.id))
        for entry in expected:
            self._check(entry, tasks.get(entry.container.id))
        if not self._ready.is_set():
            await self._sweep({record.id for record in records.containers})

    def _check(self, entry: _Entry, task: task_pb2.Process | None) -> None:
        if task is None:
            self._finish_soon(
                entry, UNKNOWN_EXIT_CODE, self._clock.now(), "containerd no longer knows this container's process"
            )
        elif task.status == task_pb2.STOPPED:
            self._finish_soon(entry, task.exit_status, records.moment(task.exited_at, self._clock))

    async def _adopt(self, record: containers_pb2.Container, task: task_pb2.Process | None) -> None:
        home = self._homes / record.id
        started, exit_ = records.read(home / "started"), records.read(home / "exit")
        running = task is not None and task.status not in (task_pb2.CREATED, task_pb2.UNKNOWN)
        if not running and started is None:
            await self._discard(record.id)
            return
        container = records.container(record, started, task.pid if task is not None else 0, self._clock)
        entry = _Entry(container, records.signal_number(record.labels[LABEL + "stop-signal"]))
        self._entries[record.id] = entry
        fifos: dict[Stream, Path] = {s: home / s for s in ("stdout", "stderr") if (home / s).is_fifo()}
        if task is not None and fifos:
            self._logs.open(record.id, container.log_path, fifos)
        if exit_ is not None:
            if task is not None:
                await removal.delete_task(self._client, record.id)
                await self._logs.drained(record.id, DRAIN_S)
                self._logs.close(record.id)
            ended = Exit(exit_["code"], exit_["reason"], dt.datetime.fromisoformat(exit_["at"]), exit_["message"])
            entry.container = replace(container, pid=0, exit=ended)
            entry.exited.set()
        else:
            self._check(entry, task)
            if entry.finishing is not None and not self._ready.is_set():
                await entry.finishing  # so that containers() tells the whole truth once start() has returned
        log.info("container adopted %s", fields(id=record.id, container=container.key.container, running=running))

    async def _sweep_tasks(self) -> None:
        """A while after the start: end tasks without a container's record, made by calls of an agent that died before us."""
        await asyncio.sleep(CLEAR_S)
        self._let_go()
        metadata = self._client.metadata
        with contextlib.suppress(grpc.aio.AioRpcError):
            tasks = await self._client.tasks.List(tasks_pb2.ListTasksRequest(), metadata=metadata, timeout=CALL_S)
            records = await self._client.containers.List(
                containers_pb2.ListContainersRequest(), metadata=metadata, timeout=CALL_S
            )
            keep = {*(record.id for record in records.containers), *self._entries, *self._starting}
            for task in tasks.tasks:
                container_id = task.container_id or task.id
                if container_id not in keep:
                    log.info("task without a container ended %s", fields(id=container_id))
                    await removal.delete_task(self._client, container_id)

    async def _sweep(self, records: Iterable[str]) -> None:
        """Remove what starts that a crash cut off have left: snapshots and directories without a container's record."""
        keep = {*records, *self._entries, *self._starting}
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=self._client.snapshotter)
        async for answer in self._client.snapshots.List(request, metadata=self._client.metadata, timeout=CALL_S):
            for info in answer.info:
                if LABEL + "pod-uid" in info.labels and info.name.rpartition("/")[2] not in keep:
                    await removal.remove_snapshot(self._client, info.name)
        for home in self._homes.iterdir():
            if home.name not in keep:
                shutil.rmtree(home, ignore_errors=True)


_SIGKILL = int(signal.SIGKILL)


def _cgroups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def _send_signal(handle: int, number: int) -> None:
    signal.pidfd_send_signal(handle, number)


async def _both(first: Coroutine[Any, Any, Any], second: Coroutine[Any, Any, Any]) -> tuple[Any, Any]:
    """Two calls side by side; both have ended when this returns or raises."""
    results = await asyncio.gather(first, second, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results[0], results[1]


class _explained(contextlib.AbstractContextManager[None]):  # noqa: N801 - reads as a phrase
    """Turns containerd's errors into RuntimeFailure."""

    def __init__(self, reason: str, doing: str) -> None:
        self._reason, self._doing = reason, doing

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, grpc.aio.AioRpcError):
            raise failure(error, self._reason, self._doing) from error


if TYPE_CHECKING:
    _conforms: type[Runtime] = ContainerdRuntime
