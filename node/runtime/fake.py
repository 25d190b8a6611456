"""A runtime in memory, for tests of whatever uses one. It keeps the promises of `interface`; nothing runs, nothing sleeps.

What containers do is up to the test:

    runtime = FakeRuntime(clock, images=("busybox",))
    runtime.exit(container.id, 1)               # its process ends
    runtime.write(container.id, text)        # it prints
    runtime.fail("pull", RuntimeFailure(...))   # the next pull fails; with times=n, the next n
    runtime.on_exec = lambda container, argv: (0, b"stdout", b"stderr")
    runtime.obeys_signals = False               # containers end only by SIGKILL
"""

from __future__ import annotations

import asyncio
import hashlib
import signal as signals
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from node.runtime import reference
from node.runtime.interface import (
    ERR_IMAGE_PULL,
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
from node.runtime.logs import timestamp
from steersman.clock import Clock


class FakeRuntime:
    """`Runtime` without containers."""

    def __init__(self, clock: Clock, images: Iterable[str] = ()) -> None:
        self._clock = clock
        self.registry: dict[str, Image] = {}  # what a pull can find
        for name in images:
            self.add_image(name)
        self.obeys_signals = True
        self.on_exec: Callable[[Container, tuple[str, ...]], tuple[int, bytes, bytes]] = lambda _, __: (0, b"", b"")
        self.specs: dict[str, ContainerSpec] = {}  # of containers that were started, kept after removal
        self.pulls: list[tuple[str, tuple[RegistryAuth, ...]]] = []
        self.stops: list[tuple[str, float, int | None]] = []  # container, grace, signal
        self.execs: list[tuple[str, tuple[str, ...], bool, bool]] = []  # container, argv, tty, stdin
        self._present: dict[str, Image] = {}
        self._sandboxes: dict[str, SandboxSpec] = {}
        self._containers: dict[str, Container] = {}
        self._lines: defaultdict[str, list[LogLine]] = defaultdict(list)
        self._grown = asyncio.Condition()
        self._growing: set[asyncio.Task[None]] = set()
        self._failures: defaultdict[str, deque[RuntimeFailure]] = defaultdict(deque)
        self._subscribers: set[asyncio.Queue[RuntimeEvent | None]] = set()
        self._next_pid = 1000

    # --- what the test does -----------------------------------------------------------------------------------------

    def add_image(self, name: str, command: tuple[str, ...] = ("sh",), user: str = "") -> Image:
        """Let pulls find an image."""
        full = str(reference.parse(name))
        digest = f"sha256:{hashlib.sha256(full.encode()).hexdigest()}"
        self.registry[full] = Image(full, digest, digest, 1_000_000, command=command, user=user, chain_id=digest)
        return self.registry[full]

    def fail(self, verb: str, failure: RuntimeFailure, times: int = 1) -> None:
        """Let the next calls of a verb ("pull", "start_container", …) fail."""
        self._failures[verb].extend([failure] * times)

    def exit(self, container_id: str, code: int = 0, reason: str = "") -> None:
        """Let a container end."""
        container = self._containers[container_id]
        if container.exit is not None:
            return
        exit_ = Exit(code, reason or ("Error" if code else "Completed"), self._clock.now())
        self._containers[container_id] = replace(container, pid=0, exit=exit_)
        self._publish(Exited(self._containers[container_id]))
        self._grow()

    def write(self, container_id: str, text: str, stream: Stream = "stdout") -> None:
        """Let a container print; a text without a newline at its end is part of a line."""
        log = self._lines[self._containers[container_id].log_path]
        log += [LogLine(timestamp(self._clock.now()), stream, part.encode()) for part in text.splitlines(keepends=True)]
        self._grow()

    # --- Runtime ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._raise("start")

    async def close(self) -> None:
        for queue in self._subscribers:
            queue.put_nowait(None)

    async def version(self) -> str:
        return "fake://1"

    async def pull(self, reference_: str, auths: Sequence[RegistryAuth] = ()) -> Image:
        name = str(reference.parse(reference_))
        self.pulls.append((name, tuple(auths)))
        self._raise("pull")
        if name not in self.registry:
            raise RuntimeFailure(ERR_IMAGE_PULL, f'failed to pull image "{name}": MANIFEST_UNKNOWN: manifest unknown')
        self._present[name] = self.registry[name]
        return self._present[name]

    async def image(self, reference_: str) -> Image | None:
        return self._present.get(str(reference.parse(reference_)))

    async def images(self) -> list[Image]:
        return list(self._present.values())

    async def remove_image(self, reference_: str) -> None:
        self._present.pop(str(reference.parse(reference_)), None)

    async def create_sandbox(self, spec: SandboxSpec) -> Sandbox:
        self._raise("create_sandbox")
        self._sandboxes[spec.pod_uid] = spec
        home = f"/fake/{spec.pod_uid}"
        return Sandbox(
            spec.pod_uid,
            "" if spec.host_network else f"{home}/net",
            "" if spec.host_ipc else f"{home}/ipc",
            "" if spec.host_network else f"{home}/uts",
            f"{home}/shm",
            spec.host_pid,
        )

    async def remove_sandbox(self, pod_uid: str) -> None:
        self._raise("remove_sandbox")
        left = [c.key.container for c in self._containers.values() if c.key.pod_uid == pod_uid]
        assert not left, f"the sandbox of {pod_uid} goes before its containers {left}"
        self._sandboxes.pop(pod_uid, None)

    async def sandboxes(self) -> list[str]:
        return list(self._sandboxes)

    async def start_container(self, spec: ContainerSpec) -> Container:
        self._raise("start_container")
        container_id = spec.key.id
        if container_id not in self._containers:
            assert spec.key.pod_uid in self._sandboxes, f"pod {spec.key.pod_uid} has no sandbox"
            self._next_pid += 1
            self.specs[container_id] = spec
            self._containers[container_id] = Container(
                id=container_id,
                key=spec.key,
                image=spec.image.name,
                image_id=spec.image.repo_digest,
                log_path=spec.log_path,
                pid=self._next_pid,
                started_at=self._clock.now(),
                labels=spec.labels,
            )
        return self._containers[container_id]

    async def stop(self, container_id: str, grace_seconds: float, signal: int | None = None) -> Exit:
        self.stops.append((container_id, grace_seconds, signal))
        self._raise("stop")
        container = self._container(container_id)
        if container.exit is None:
            obeyed = self.obeys_signals and grace_seconds > 0
            self.exit(container_id, 128 + (signal or signals.SIGTERM if obeyed else signals.SIGKILL))
        exit_ = self._containers[container_id].exit
        assert exit_ is not None
        return exit_

    async def remove(self, container_id: str) -> None:
        self._raise("remove")
        if container_id in self._containers:
            self.exit(container_id, 128 + signals.SIGKILL)
            del self._containers[container_id]

    async def containers(self) -> list[Container]:
        return list(self._containers.values())

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

    async def exec(
        self, container_id: str, argv: Sequence[str], *, tty: bool = False, stdin: bool = False
    ) -> ExecProcess:
        self.execs.append((container_id, tuple(argv), tty, stdin))
        self._raise("exec")
        container = self._container(container_id)
        if not container.running:
            raise NotFound(f"container {container.key.container} has exited")
        return FakeProcess(*self.on_exec(container, tuple(argv)))

    async def logs(self, log_path: str, options: LogOptions = LogOptions()) -> AsyncIterator[LogLine]:  # noqa: B008
        since = timestamp(options.since) if options.since is not None else ""
        if log_path not in self._lines and not self._writing(log_path):
            raise NotFound(f"there is no log at {log_path}")
        position = 0 if options.tail_lines is None else max(0, len(self._lines[log_path]) - options.tail_lines)
        while True:
            writing = options.follow and self._writing(log_path)
            while position < len(self._lines[log_path]):
                line = self._lines[log_path][position]
                position += 1
                if line.time >= since:
                    yield line
            if not writing:
                return
            async with self._grown:
                if position == len(self._lines[log_path]) and self._writing(log_path):
                    await self._grown.wait()

    async def stats(self, container_id: str) -> Stats:
        if not self._container(container_id).running:
            raise NotFound(f"container {container_id} has exited")
        return Stats(cpu_seconds=0.0, memory_bytes=1 << 20, memory_working_set_bytes=1 << 20)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _raise(self, verb: str) -> None:
        if self._failures[verb]:
            raise self._failures[verb].popleft()

    def _container(self, container_id: str) -> Container:
        if container_id not in self._containers:
            raise NotFound(f"container {container_id} is not there")
        return self._containers[container_id]

    def _publish(self, event: RuntimeEvent) -> None:
        for queue in self._subscribers:
            queue.put_nowait(event)

    def _writing(self, log_path: str) -> bool:
        return any(c.log_path == log_path and c.running for c in self._containers.values())

    def _grow(self) -> None:
        task = asyncio.get_running_loop().create_task(self._wake())
        self._growing.add(task)
        task.add_done_callback(self._growing.discard)

    async def _wake(self) -> None:
        async with self._grown:
            self._grown.notify_all()


class FakeProcess:
    """An exec whose outcome was known before it began. What is written to it is kept in `written`."""

    def __init__(self, code: int, stdout: bytes, stderr: bytes) -> None:
        self._code = code
        self._chunks: list[tuple[Stream, bytes]] = []
        if stdout:
            self._chunks.append(("stdout", stdout))
        if stderr:
            self._chunks.append(("stderr", stderr))
        self.written = b""
        self.sizes: list[tuple[int, int]] = []

    async def output(self) -> AsyncIterator[tuple[Stream, bytes]]:
        for chunk in self._chunks:
            yield chunk

    async def write(self, data: bytes) -> None:
        self.written += data

    async def close_stdin(self) -> None:
        return

    async def resize(self, width: int, height: int) -> None:
        self.sizes.append((width, height))

    async def wait(self) -> int:
        return self._code

    async def close(self) -> None:
        return

    async def __aenter__(self) -> ExecProcess:
        return self

    async def __aexit__(self, *error: object) -> None:
        return


if TYPE_CHECKING:
    _conforms: type[Runtime] = FakeRuntime
