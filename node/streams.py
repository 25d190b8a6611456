"""Logs and exec: byte streams that the agent opens towards whoever asked.

The gateway says `OpenStream`; the agent dials `NodeGateway.Stream` on the session's channel, names the stream and
serves it. A request that cannot be served is answered with a `Refused` frame that says why in Kubernetes' words. A
stream that breaks takes its process with it: an exec whose client is gone is killed.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from node.pods.state import ContainerLocal, PodLocal, Running, Waiting
from node.runtime.interface import ContainerKey, ExecProcess, LogOptions, Runtime, RuntimeFailure, log_directory
from steersman.clock import Clock, parse_time
from steersman.types.core import Pod
from steersman.v1 import node_pb2, node_pb2_grpc, streams_pb2

log = logging.getLogger(__name__)

CHUNK = 32 << 10  # bytes per frame: larger ones gain nothing, smaller ones cost a call each
BUFFERED = 1 << 20  # bytes of log read ahead of a slow reader
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
QUEUED = 64  # frames of input that wait for a slow process
LINGER_S = 5.0  # how long to wait for the other side to take the last frame

Frame = streams_pb2.StreamFrame
Lookup = Callable[[str, str], tuple[Pod, PodLocal] | None]


class RefusedError(Exception):
    """The request cannot be served."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.frame = Frame(refused=Frame.Refused(code=code, reason=reason, message=message))


def choose_container(pod: Pod, name: str) -> str:
    """The container that a request means.

    Raises:
        RefusedError: the pod has no container of that name.
    """
    every = [spec.name for spec in (*pod.spec.containers, *pod.spec.init_containers)]
    if not name:
        wanted = pod.metadata.annotations.get(DEFAULT_CONTAINER, "")
        return wanted if wanted in every else every[0]
    if name not in every:
        raise RefusedError(
            400, "BadRequest", f"container {name} is not valid for pod {pod.name} (it has {', '.join(every)})"
        )
    return name


def log_attempt(pod: Pod, name: str, state: ContainerLocal | None, *, previous: bool) -> int:
    """Which instance's log is meant.

    Raises:
        RefusedError: there is none yet, or none before the present one.
    """
    if state is None:
        raise RefusedError(
            400, "BadRequest", f'container "{name}" in pod "{pod.name}" is waiting to start: PodInitializing'
        )
    if previous:
        wanted = state.last.container_id if state.last is not None else ""
    elif isinstance(state.state, Waiting):
        wanted = state.last.container_id if state.last is not None else ""
        if not wanted:
            why = f"{state.state.reason}" + (
                f": {state.state.message}" if state.state.reason != "ContainerCreating" and state.state.message else ""
            )
            raise RefusedError(400, "BadRequest", f'container "{name}" in pod "{pod.name}" is waiting to start: {why}')
    else:
        wanted = state.container_id
    for attempt in range(state.attempt, max(-1, state.attempt - 3), -1):
        if ContainerKey(pod.uid, pod.namespace, pod.name, name, attempt).id == wanted:
            return attempt
    raise RefusedError(400, "BadRequest", f'previous terminated container "{name}" in pod "{pod.name}" not found')


class _Peer:
    """The other side of one stream. One task reads all along: a cancelled read would cancel the whole call."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._frames: asyncio.Queue[Any] = asyncio.Queue(QUEUED)
        self.gone = asyncio.Event()  # the other side has ended its half, or the connection broke
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while (frame := await self._call.read()) is not grpc.aio.EOF:
                await self._frames.put(frame)
        except grpc.aio.AioRpcError:
            pass
        finally:
            self.gone.set()

    async def send(self, frame: Frame) -> None:
        await self._call.write(frame)

    async def receive(self) -> Frame:
        frame: Frame = await self._frames.get()
        return frame

    async def finish(self) -> None:
        """Nothing more will be sent; wait until the other side has taken everything."""
        await self._call.done_writing()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self.gone.wait()


class StreamServer:
    """Serves the streams of one node. `lookup(namespace, name)` finds a pod that is here."""

    def __init__(self, runtime: Runtime, lookup: Lookup, logs_root: Path, clock: Clock) -> None:
        self._runtime = runtime
        self._lookup = lookup
        self._logs_root = logs_root
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, command: node_pb2.OpenStream, channel: grpc.aio.Channel) -> None:
        """Serve a stream in a task of its own."""
        task = asyncio.create_task(self._serve(command, channel), name=f"stream {command.stream_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every stream."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, command: node_pb2.OpenStream, channel: grpc.aio.Channel) -> None:
        call = node_pb2_grpc.NodeGatewayStub(channel).Stream()
        peer: _Peer | None = None
        try:
            await call.write(Frame(opened=Frame.StreamOpened(stream_id=command.stream_id)))
            peer = _Peer(call)
            try:
                match command.start.WhichOneof("frame"):
                    case "exec":
                        await self._exec(command.start.exec, peer)
                    case "logs":
                        await self._logs(command.start.logs, peer)
                    case other:
                        raise RefusedError(400, "BadRequest", f"this agent serves exec and logs, not {other}")
            except RefusedError as error:
                await peer.send(error.frame)
            except RuntimeFailure as error:
                await peer.send(RefusedError(500, "InternalError", error.message).frame)
            await peer.finish()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            log.debug("stream %s broke: %s", command.stream_id, error)
        finally:
            call.cancel()
            if peer is not None:
                peer.reader.cancel()
                await asyncio.gather(peer.reader, return_exceptions=True)

    def _find(self, namespace: str, name: str, container: str) -> tuple[Pod, str, ContainerLocal | None]:
        found = self._lookup(namespace, name)
        if found is None:
            raise RefusedError(404, "NotFound", f'pod "{namespace}/{name}" is not on this node')
        pod, local = found
        chosen = choose_container(pod, container)
        return pod, chosen, local.containers.get(chosen) or local.init.get(chosen)

    # --- exec ---

    async def _exec(self, start: streams_pb2.ExecStart, peer: _Peer) -> None:
        _, name, state = self._find(start.namespace, start.pod, start.container)
        if state is None or not isinstance(state.state, Running):
            raise RefusedError(500, "InternalError", f'container not found ("{name}"): it is not running')
        if not start.command:
            raise RefusedError(400, "BadRequest", "you must specify at least one command for the container")
        try:
            process = await self._runtime.exec(state.container_id, start.command, tty=start.tty, stdin=start.stdin)
        except RuntimeFailure as error:
            await peer.send(Frame(exit=streams_pb2.ExitStatus(code=126, error=error.message)))
            return
        async with process:
            feeding = asyncio.create_task(_feed(process, peer))
            draining = asyncio.create_task(_drain(process, peer))
            gone = asyncio.create_task(peer.gone.wait())
            try:
                await asyncio.wait({draining, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not draining.done():
                    return  # nobody listens any more: leaving kills the process
                draining.result()
                code = await process.wait()
            finally:
                await _cancel(feeding, draining, gone)
        await peer.send(Frame(exit=streams_pb2.ExitStatus(code=code)))

    # --- logs ---

    async def _logs(self, request: streams_pb2.LogsRequest, peer: _Peer) -> None:
        pod, name, state = self._find(request.namespace, request.pod, request.container)
        attempt = log_attempt(pod, name, state, previous=request.previous)
        key = ContainerKey(pod.uid, pod.namespace, pod.name, name, attempt)
        path = str(log_directory(self._logs_root, key) / f"{attempt}.log")
        options = LogOptions(
            follow=request.follow and not request.previous,
            tail_lines=request.tail_lines if request.HasField("tail_lines") else None,
            since=self._since(request),
        )
        reading = asyncio.create_task(self._send_lines(path, options, request, peer))
        gone = asyncio.create_task(peer.gone.wait())
        try:
            await asyncio.wait({reading, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                return
            reading.result()
        finally:
            await _cancel(reading, gone)
        await peer.send(Frame(exit=streams_pb2.ExitStatus()))

    def _since(self, request: streams_pb2.LogsRequest) -> dt.datetime | None:
        if request.HasField("since_seconds"):
            return self._clock.now() - dt.timedelta(seconds=request.since_seconds)
        try:
            return parse_time(request.since_time) if request.since_time else None
        except ValueError as error:
            raise RefusedError(
                400, "BadRequest", f"sinceTime {request.since_time!r} is not an RFC 3339 time"
            ) from error

    async def _send_lines(self, path: str, options: LogOptions, request: streams_pb2.LogsRequest, peer: _Peer) -> None:
        """Send lines as they come: many at once when there are many, each at once when someone follows."""
        buffer = bytearray()
        filled, emptied = asyncio.Event(), asyncio.Event()
        ended = False
        left = request.limit_bytes or None

        async def read() -> None:
            nonlocal ended, left
            try:
                async for line in self._runtime.logs(path, options):
                    text = f"{line.time} ".encode() + line.text if request.timestamps else line.text
                    if left is not None:
                        text = text[:left]
                        left -= len(text)
                    buffer.extend(text)
                    filled.set()
                    if left == 0:
                        return
                    while len(buffer) > BUFFERED:
                        emptied.clear()
                        await emptied.wait()
            finally:
                ended = True
                filled.set()

        reader = asyncio.create_task(read())
        try:
            while not ended or buffer:
                await filled.wait()
                filled.clear()
                while buffer:
                    chunk = bytes(buffer[:CHUNK])
                    del buffer[:CHUNK]
                    emptied.set()
                    await peer.send(Frame(stdout=chunk))
                if ended:
                    filled.set()
            await reader
        finally:
            await _cancel(reader)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _feed(process: ExecProcess, peer: _Peer) -> None:
    """Carry input to a process until cancelled."""
    while True:
        frame = await peer.receive()
        match frame.WhichOneof("frame"):
            case "stdin":
                await process.write(frame.stdin)
            case "close_stdin":
                await process.close_stdin()
            case "resize":
                await process.resize(frame.resize.width, frame.resize.height)


async def _drain(process: ExecProcess, peer: _Peer) -> None:
    """Carry a process' output to the other side until both its streams are closed."""
    async for stream, data in process.output():
        for at in range(0, len(data), CHUNK):
            part = data[at : at + CHUNK]
            await peer.send(Frame(stdout=part) if stream == "stdout" else Frame(stderr=part))
