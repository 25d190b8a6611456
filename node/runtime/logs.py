"""Containers' output: from pipes to log files, and never lost in between.

The way of a line
-----------------
    container ─pipe─► shim ─FIFO─► this thread ─► <log path> in the form of Kubernetes' CRI logs:
                                                  2026-01-02T03:04:05.678901000Z stdout F text

One thread waits on the FIFOs of all containers. The shim holds each FIFO open in both directions, so when the agent
ends, output waits in the FIFO (1 MiB; after that the container's writes block, as they do under any node agent) and
the next agent reads on where this one stopped: nothing is lost, and nothing but the agent need survive.

Nothing is kept back either: what a read ends in the middle of a line is written at once as a part (tag P instead of F),
and readers join parts. Only a kill between the read and the write just after it can lose what that one read took.

A file that would grow past 10 MiB is renamed to `<log path>.1`, that one to `.2`, and so on to `.4`. When the disk is
full, output is counted and thrown away: containers must not stop because their log cannot be kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import fcntl
import logging
import os
import select
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from node.runtime import metrics
from node.runtime.interface import Stream
from steersman.clock import Clock
from steersman.logs import fields

log = logging.getLogger("node.runtime.logs")

MAX_FILE_BYTES = 10 << 20  # kubelet's containerLogMaxSize
MAX_FILES = 5  # with the current one; kubelet's containerLogMaxFiles
MAX_PART_BYTES = 16 << 10  # of text in one line of the file, as other writers of this form have it
PIPE_BYTES = 1 << 20  # what may wait while no agent runs; the kernel's default pipe-max-size
READ_BYTES = 64 << 10  # at once from one FIFO, then it is the next one's turn


def timestamp(moment: dt.datetime) -> str:
    """RFC 3339 with nanoseconds, always of the same width, so that times compare as text."""
    return f"{moment.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"


def frame(data: bytes, stream: Stream, time: str) -> bytes:
    """Write raw output as lines of a log file."""
    full = f"{time} {stream} F ".encode()
    part = f"{time} {stream} P ".encode()
    *lines, rest = data.split(b"\n")
    out: list[bytes] = []
    for line in lines:
        while len(line) > MAX_PART_BYTES:
            out += (part, line[:MAX_PART_BYTES], b"\n")
            line = line[MAX_PART_BYTES:]
        out += (full, line, b"\n")
    while rest:
        out += (part, rest[:MAX_PART_BYTES], b"\n")
        rest = rest[MAX_PART_BYTES:]
    return b"".join(out)


def rotated(path: Path, number: int) -> Path:
    """The name of the file that is `number` rotations old."""
    return path if number == 0 else path.with_name(f"{path.name}.{number}")


class LogFile:
    """A file that is appended to and rotated."""

    def __init__(self, path: Path, max_bytes: int = MAX_FILE_BYTES, max_files: int = MAX_FILES) -> None:
        self.path = path
        self._max_bytes, self._max_files = max_bytes, max_files
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._size = self._file.tell()

    def write(self, data: bytes) -> None:
        """Append whole lines. Raises OSError."""
        if self._size and self._size + len(data) > self._max_bytes:
            self._rotate()
        self._size += self._file.write(data)

    def _rotate(self) -> None:
        for number in range(self._max_files - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                rotated(self.path, number - 1).rename(rotated(self.path, number))
        self._file.close()
        self._file = self.path.open("ab", buffering=0)
        self._size = self._file.tell()

    def close(self) -> None:
        self._file.close()


@dataclass(slots=True)
class _Output:
    """The output of one container."""

    container_id: str
    file: LogFile
    open: dict[int, Stream] = field(default_factory=dict)  # FIFO descriptors that have not ended
    drained: threading.Event = field(default_factory=threading.Event)
    waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = field(default_factory=list)
    failing: bool = False


class LogKeeper:
    """The thread that writes all logs of this node."""

    def __init__(self, clock: Clock, *, max_bytes: int = MAX_FILE_BYTES, max_files: int = MAX_FILES) -> None:
        self._clock = clock
        self._max_bytes, self._max_files = max_bytes, max_files
        self._epoll = select.epoll()
        self._lock = threading.Lock()  # guards everything below
        self._by_fd: dict[int, _Output] = {}
        self._by_id: dict[str, _Output] = {}
        self._by_path: dict[str, _Output] = {}
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread. What was not read stays in the FIFOs."""
        os.eventfd_write(self._wake, 1)
        if self._thread.ident is not None:
            self._thread.join()
        with self._lock:
            for output in list(self._by_id.values()):
                self._forget(output)
        self._epoll.close()
        os.close(self._wake)

    def open(self, container_id: str, log_path: str, fifos: dict[Stream, Path]) -> None:
        """Begin, or go on, to write a container's output to its file. Raises OSError."""
        with self._lock:
            if container_id in self._by_id:
                return
            output = _Output(container_id, LogFile(Path(log_path), self._max_bytes, self._max_files))
            self._by_id[container_id] = self._by_path[log_path] = output
            for stream, fifo in fifos.items():
                # Not waiting for a writer; without one there is no hang-up yet either, until one came and went.
                fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                with contextlib.suppress(OSError):  # a host with a lower limit: what it has must do
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
                output.open[fd] = stream
                self._by_fd[fd] = output
                self._epoll.register(fd, select.EPOLLIN)

    async def drained(self, container_id: str, timeout: float) -> bool:
        """Wait until the writers have gone and everything is in the file; False when that took longer than `timeout` seconds."""
        with self._lock:
            output = self._by_id.get(container_id)
            if output is None or output.drained.is_set():
                return True
            event = asyncio.Event()
            output.waiters.append((asyncio.get_running_loop(), event))
        try:
            async with asyncio.timeout(timeout):
                while not output.drained.is_set():
                    await event.wait()
                    event.clear()
        except TimeoutError:
            return False
        finally:
            self._unsubscribe(output, event)
        return True

    def close(self, container_id: str) -> None:
        """Stop reading a container's output. Idempotent."""
        with self._lock:
            output = self._by_id.get(container_id)
            if output is not None:
                self._forget(output)

    def subscribe(self, log_path: str) -> asyncio.Event | None:
        """An event that is set whenever the file grew or ended; None when nobody writes it."""
        with self._lock:
            output = self._by_path.get(log_path)
            if output is None or output.drained.is_set():
                return None
            event = asyncio.Event()
            output.waiters.append((asyncio.get_running_loop(), event))
            return event

    def unsubscribe(self, log_path: str, event: asyncio.Event) -> None:
        with self._lock:
            output = self._by_path.get(log_path)
        if output is not None:
            self._unsubscribe(output, event)

    def writing(self, log_path: str) -> bool:
        """Whether more may come."""
        with self._lock:
            output = self._by_path.get(log_path)
            return output is not None and not output.drained.is_set()

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                if fd == self._wake:
                    return
                try:
                    self._read(fd)
                except Exception:  # one container's trouble must not end the output of all others
                    log.exception("lost a container's output")
                    self._epoll.unregister(fd)

    def _read(self, fd: int) -> None:
        with self._lock:  # so that close() cannot close the descriptor, and another open() take its number, meanwhile
            output = self._by_fd.get(fd)
            if output is None:
                return
            try:
                data = os.read(fd, READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self._write(output, output.open[fd], data)
            else:
                self._ended(output, fd)
            for loop, event in output.waiters:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(event.set)

    def _write(self, output: _Output, stream: Stream, data: bytes) -> None:
        try:
            output.file.write(frame(data, stream, timestamp(self._clock.now())))
            output.failing = False
            metrics.LOG_BYTES.inc(len(data))
        except OSError as error:
            metrics.LOG_BYTES_DROPPED.inc(len(data))
            if not output.failing:
                output.failing = True
                log.warning("log output thrown away %s", fields(path=output.file.path, error=str(error)))

    def _ended(self, output: _Output, fd: int) -> None:
        self._epoll.unregister(fd)
        os.close(fd)
        del self._by_fd[fd], output.open[fd]
        if not output.open:
            output.drained.set()
            output.file.close()

    def _forget(self, output: _Output) -> None:
        """With the lock held."""
        for fd in list(output.open):
            self._ended(output, fd)
        output.drained.set()
        self._by_id.pop(output.container_id, None)
        if self._by_path.get(str(output.file.path)) is output:
            del self._by_path[str(output.file.path)]
        for loop, event in output.waiters:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)

    def _unsubscribe(self, output: _Output, event: asyncio.Event) -> None:
        with self._lock:
            output.waiters[:] = [(loop, other) for loop, other in output.waiters if other is not event]
