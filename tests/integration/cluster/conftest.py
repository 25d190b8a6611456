"""Real members that come and go: `steer-control` processes on loopback, begun together, joining later, killed, recovered."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control.ca import files
from steersman import AsyncClient
from steersman.clock import SystemClock
from steersman.errors import ApiError
from steersman.transport import GrpcTransport, credentials

START_S = 60.0  # the machine may be busy with other tests


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Joiner:
    """One member's process, folder and addresses."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.pki = folder / name
        self.data = folder / f"{name}-data"
        self.log = folder / f"{name}.log"
        self.raft, self.grpc, self.rest, self.bootstrap = (f"127.0.0.1:{port}" for port in free_ports(4))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        argv = [
            *(sys.executable, "-m", "control.main", "run", "--name", self.name, "--data-dir", str(self.data)),
            *("--pki-dir", str(self.pki), "--raft-listen", self.raft, "--grpc-listen", self.grpc),
            *("--rest-listen", self.rest, "--bootstrap-listen", self.bootstrap, *more),
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """The exit code of a process that ended by itself."""
        return None if self._process is None else self._process.poll()

    def end(self, number: int = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class World:
    """A CA, an administrator, and every member there ever was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members: dict[str, Joiner] = {}
        files.create_ca(folder / "ca", SystemClock())
        files.create_user(folder, folder / "ca", "admin", ["system:masters"], SystemClock())

    def member(self, name: str) -> Joiner:
        if name not in self.members:
            self.members[name] = Joiner(name, self.folder)
            files.create_member(self.members[name].pki, self.folder / "ca", name, ["127.0.0.1"], SystemClock())
        return self.members[name]

    def initial(self, *names: str) -> str:
        return ",".join(f"{name}={self.member(name).raft}" for name in names)

    async def begin(self, *names: str) -> None:
        """Start a new cluster of these members and wait for its leader."""
        for name in names:
            self.member(name).start("--initial-cluster", self.initial(*names))
        await self.led(*names)

    async def led(self, *names: str) -> str:
        """Wait until every one of these members serves reads and knows the same leader; answers its name."""
        found: set[str] = set()

        async def one_leader() -> bool:
            found.clear()
            for name in names:
                async with self.client(name) as client:
                    await client.get("namespaces", "default", "", timeout=2)
                    found.add((await client.cluster_status(timeout=2)).leader)
            return len(found) == 1 and "" not in found

        await self.until(one_leader)
        return found.pop()

    def client(self, *names: str) -> AsyncClient:
        trust = credentials(self.folder / "ca" / "ca.crt", self.folder / "admin.crt", self.folder / "admin.key")
        return AsyncClient(GrpcTransport([self.member(name).grpc for name in names], trust))

    def config(self, *names: str) -> Path:
        """A configuration file for the command line."""
        path = self.folder / "config.yaml"
        members = ", ".join(f'"{self.member(name).grpc}"' for name in names)
        path.write_text(
            f"current: test\nclusters:\n  test: {{members: [{members}], ca: ca/ca.crt, certificate: admin.crt, key: admin.key}}\n"
        )
        return path

    def steer(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command line and answer what it said."""
        argv = [sys.executable, "-m", "steersman.cli.main", "--config", str(self.folder / "config.yaml"), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)

    def steer_control(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "control.main", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)

    async def until(self, condition: Callable[[], object], seconds: float = START_S) -> None:
        """Wait for a condition, perhaps a coroutine, of other processes, which can only be polled."""
        end, problem = time.monotonic() + seconds, ""
        while True:
            try:
                met = condition()
                if asyncio.iscoroutine(met):
                    met = await met
                if met:
                    return
                problem = "the condition does not hold"
            except ApiError as error:
                problem = f"{error.reason}: {error}"
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds:g} s: {problem}\n{self.logs()}")
            await asyncio.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(f"--- {member.name}\n{member.text()[-3000:]}" for member in self.members.values())

    def stop(self) -> None:
        for member in self.members.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                member.end(signal.SIGKILL)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    try:
        yield found
    finally:
        found.stop()
