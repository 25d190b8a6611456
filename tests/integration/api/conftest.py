"""Real members: `steer-control run` processes on loopback, with certificates of their own CA."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.ca import files
from steersman import AsyncClient
from steersman.clock import SystemClock
from steersman.transport import GrpcTransport, credentials

TOKEN = "abcdef.0123456789abcdef"
START_S = 20.0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class MemberProcess:
    """One member that can be started, stopped, killed and started again."""

    def __init__(self, name: str, folder: Path, ports: list[int], cluster: str) -> None:
        self.name = name
        self.folder = folder
        self.raft, self.grpc, self.rest, self.bootstrap = (f"127.0.0.1:{port}" for port in ports)
        self._cluster = cluster
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def argv(self, *more: str) -> list[str]:
        return [
            *(sys.executable, "-m", "control.main", "run", "--name", self.name),
            *("--data-dir", str(self.folder / f"{self.name}-data"), "--pki-dir", str(self.folder / self.name)),
            *("--raft-listen", self.raft, "--grpc-listen", self.grpc, "--rest-listen", self.rest),
            *("--bootstrap-listen", self.bootstrap, "--initial-cluster", self._cluster),
            *("--initial-join-token-file", str(self.folder / "token"), *more),
        ]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.argv(), stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def end(self, number: int = signal.SIGTERM) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("/readyz")[0] == 200
        return False

    def ask(self, path: str, user: str = "") -> tuple[int, str]:
        """GET over REST, with a user's certificate or none."""
        tls = ssl.create_default_context(cafile=str(self.folder / "ca" / "ca.crt"))
        if user:
            tls.load_cert_chain(str(self.folder / f"{user}.crt"), str(self.folder / f"{user}.key"))
        try:
            with urllib.request.urlopen(f"https://{self.rest}{path}", context=tls, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


class ControlPlane:
    """Members of one cluster, and clients of it."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        clock = SystemClock()
        self.authority = files.create_ca(folder / "ca", clock)
        ports = free_ports(4 * size)
        names = [f"control-{number + 1}" for number in range(size)]
        cluster = ",".join(f"{name}=127.0.0.1:{ports[4 * n]}" for n, name in enumerate(names))
        self.members = [MemberProcess(name, folder, ports[4 * n : 4 * n + 4], cluster) for n, name in enumerate(names)]
        for member in self.members:
            files.create_member(folder / member.name, folder / "ca", member.name, ["127.0.0.1"], clock)
        self.user("admin", "system:masters")
        self.user("alice", "dev")
        (folder / "token").write_text(TOKEN + "\n")

    def user(self, name: str, group: str) -> None:
        files.create_user(self.folder, self.folder / "ca", name, [group], SystemClock())

    def start(self) -> None:
        for member in self.members:
            member.start()
        until(lambda: all(member.ready() for member in self.members), self.logs)

    def stop(self) -> None:
        for member in self.members:
            member.end()

    def logs(self) -> str:
        return "\n".join(member.log.read_text()[-4_000:] for member in self.members if member.log.exists())

    def client(self, user: str = "admin", *members: MemberProcess) -> AsyncClient:
        found = credentials(self.folder / "ca" / "ca.crt", self.folder / f"{user}.crt", self.folder / f"{user}.key")
        return AsyncClient(GrpcTransport([member.grpc for member in members or self.members], found))


def until(condition, told=lambda: "", seconds: float = START_S) -> None:
    """Wait for a condition of another process, which can only be polled."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {told()}")
        time.sleep(0.02)


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One member, shared by a module's tests."""
    plane = ControlPlane(tmp_path_factory.mktemp("api"), 1)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[ControlPlane]:
    """Three members of one's own."""
    plane = ControlPlane(tmp_path, 3)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
