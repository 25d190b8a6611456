"""Processes added to a running container: exec with and without a terminal.

As with containers, the shim moves bytes between the process and FIFOs, here read and written by the event loop itself.
A stream ends when the shim closes its FIFO. A process may leave children behind that hold its output open; `output`
therefore also ends a little after the process has.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec

from node.runtime.client import CALL_S, Containerd, failure, ignoring, wrap
from node.runtime.containerd import containers_pb2, tasks_pb2
from node.runtime.interface import ExecProcess, RuntimeFailure, Stream

READ_BYTES = 64 << 10
BUFFERED_CHUNKS = 64  # of output that nobody takes; then the process waits
LINGER_S = 1.0  # for output after the process has ended, while its children still hold the stream

_PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"


async def start(
    client: Containerd, container_id: str, name: str, home: Path, argv: Sequence[str], *, tty: bool, stdin: bool
) -> ExecProcess:
    """Run argv in a container, with the user, environment and directory of its first process.

    Raises:
        RuntimeFailure: ExecError: there is no such program, or the container is ending.
        grpc.aio.AioRpcError: containerd does not answer.
    """
    record = await client.containers.Get(
        containers_pb2.GetContainerRequest(id=container_id), metadata=client.metadata, timeout=CALL_S
    )
    process = msgspec.json.decode(record.container.spec.value)["process"]
    process["args"], process["terminal"] = list(argv), tty
    if tty:
        process["env"].append("TERM=xterm")
    exec_ = _Exec(client, container_id, name, home / name, tty=tty, stdin=stdin)
    await exec_.begin(msgspec.json.encode(process))
    return exec_


class _Exec:
    def __init__(self, client: Containerd, container_id: str, name: str, home: Path, *, tty: bool, stdin: bool) -> None:
        self._client = client
        self._container_id = container_id
        self._name = name
        self._home = home
        self._tty = tty
        self._stdin_wanted = stdin
        self._stdin = -1
        self._chunks: asyncio.Queue[tuple[Stream, bytes] | None] = asyncio.Queue()
        self._open: dict[int, Stream] = {}
        self._paused = False
        self._waiting: asyncio.Task[int] | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = False

    # --- beginning --------------------------------------------------------------------------------------------------

    async def begin(self, process: bytes) -> None:
        paths = self._make_fifos()
        try:
            await self._client.tasks.Exec(
                tasks_pb2.ExecProcessRequest(
                    container_id=self._container_id,
                    exec_id=self._name,
                    stdin=paths.get("stdin", ""),
                    stdout=paths["stdout"],
                    stderr=paths.get("stderr", ""),
                    terminal=self._tty,
                    spec=wrap(_PROCESS_TYPE, process),
                ),
                metadata=self._client.metadata,
                timeout=CALL_S,
            )
            request = tasks_pb2.StartRequest(container_id=self._container_id, exec_id=self._name)
            await self._client.tasks.Start(request, metadata=self._client.metadata, timeout=CALL_S)
        except BaseException as error:
            await asyncio.shield(self.close())
            if isinstance(error, grpc.aio.AioRpcError):
                raise failure(error, "ExecError", "exec") from error
            raise
        self._waiting = asyncio.create_task(self._wait(), name=self._name)

    def _make_fifos(self) -> dict[str, str]:
        names = ["stdout", *([] if self._tty else ["stderr"]), *(["stdin"] if self._stdin_wanted else [])]
        try:
            self._home.mkdir()
            for name in names:
                os.mkfifo(self._home / name, 0o600)
        except OSError as error:
            raise RuntimeFailure("ExecError", f"exec: {error}") from error
        streams: tuple[Stream, ...] = ("stdout",) if self._tty else ("stdout", "stderr")
        for stream in streams:
            fd = os.open(self._home / stream, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._open[fd] = stream
            self._loop.add_reader(fd, self._readable, fd)
        if self._stdin_wanted:
            # Open for both: so that opening does not wait for the shim, and writing is no error before it has come.
            self._stdin = os.open(self._home / "stdin", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        return {name: str(self._home / name) for name in names}

    # --- output -----------------------------------------------------------------------------------------------------

    def _readable(self, fd: int) -> None:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end_stream(fd)
            return
        self._chunks.put_nowait((self._open[fd], data))
        if self._chunks.qsize() >= BUFFERED_CHUNKS and not self._paused:
            self._paused = True
            for each in self._open:
                self._loop.remove_reader(each)

    def _end_stream(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        os.close(fd)
        del self._open[fd]
        if not self._open:
            self._chunks.put_nowait(None)

    def _end_streams(self) -> None:
        for fd in list(self._open):
            self._end_stream(fd)

    async def output(self) -> AsyncIterator[tuple[Stream, bytes]]:
        while (chunk := await self._chunks.get()) is not None:
            yield chunk
            if self._paused and self._chunks.empty():
                self._paused = False
                for fd in self._open:
                    self._loop.add_reader(fd, self._readable, fd)

    # --- input ------------------------------------------------------------------------------------------------------

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._stdin >= 0:
            try:
                view = view[os.write(self._stdin, view) :]
            except BlockingIOError:
                await self._writable()
            except OSError:
                return

    async def _writable(self) -> None:
        """Wait for room in the pipe, or for the process to end: then there will never be any."""
        ready: asyncio.Future[None] = self._loop.create_future()
        fd = self._stdin
        self._loop.add_writer(fd, _settle, ready)
        try:
            waited: set[asyncio.Future[Any]] = {ready}
            if self._waiting is not None:
                waited.add(self._waiting)
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                await self.close_stdin()
        finally:
            self._loop.remove_writer(fd)

    async def close_stdin(self) -> None:
        if self._stdin < 0:
            return
        # The shim copies until its end closes, and tells the process then. It is asked to close only when all is copied.
        fd, self._stdin = self._stdin, -1
        os.close(fd)
        request = tasks_pb2.CloseIORequest(container_id=self._container_id, exec_id=self._name, stdin=True)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self._client.tasks.CloseIO(request, metadata=self._client.metadata, timeout=CALL_S)

    async def resize(self, width: int, height: int) -> None:
        if not self._tty:
            return
        request = tasks_pb2.ResizePtyRequest(
            container_id=self._container_id, exec_id=self._name, width=width, height=height
        )
        with contextlib.suppress(grpc.aio.AioRpcError):  # it may have ended: a terminal's size is then of no concern
            await self._client.tasks.ResizePty(request, metadata=self._client.metadata, timeout=CALL_S)

    # --- ending -----------------------------------------------------------------------------------------------------

    async def _wait(self) -> int:
        request = tasks_pb2.WaitRequest(container_id=self._container_id, exec_id=self._name)
        try:
            answer = await self._client.tasks.Wait(request, metadata=self._client.metadata)
        except grpc.aio.AioRpcError as error:
            self._end_streams()
            raise failure(error, "ExecError", "exec: wait") from error
        # Children that hold the output open are given a moment; if not, both streams have ended by now or soon.
        self._loop.call_later(LINGER_S, self._end_streams)
        return int(answer.exit_status)

    async def wait(self) -> int:
        assert self._waiting is not None
        return await asyncio.shield(self._waiting)

    async def close(self) -> None:
        """Kill what still runs and let everything go. Idempotent."""
        if self._closed:
            return
        self._closed = True
        metadata = self._client.metadata
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1
        if self._waiting is not None and not self._waiting.done():
            kill = tasks_pb2.KillRequest(container_id=self._container_id, exec_id=self._name, signal=9)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._client.tasks.Kill(kill, metadata=metadata, timeout=CALL_S)
            await asyncio.wait([self._waiting], timeout=CALL_S)
        if self._waiting is not None:
            if self._waiting.done() and not self._waiting.cancelled():
                self._waiting.exception()
            else:
                self._waiting.cancel()
        self._end_streams()
        request = tasks_pb2.DeleteProcessRequest(container_id=self._container_id, exec_id=self._name)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await ignoring(
                self._client.tasks.DeleteProcess(request, metadata=metadata, timeout=CALL_S), grpc.StatusCode.NOT_FOUND
            )
        shutil.rmtree(self._home, ignore_errors=True)

    async def __aenter__(self) -> ExecProcess:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
