"""A real etcd on loopback, with mutual TLS, for the tests of the etcd backend."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.ca import files
from control.store.etcd.address import EtcdAddress, EtcdTls
from steersman.clock import SystemClock, SystemEntropy

ETCD = shutil.which("etcd")


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class EtcdServers:
    """One cluster of real etcd processes."""

    def __init__(self, folder: Path, count: int, *flags: str) -> None:
        assert ETCD is not None, "the Debian package etcd-server (or etcd) is missing"
        self.folder = folder
        self.flags = flags
        self.names = [f"e{number}" for number in range(count)]
        ports = free_ports(2 * count)
        self.client_ports = dict(zip(self.names, ports[:count], strict=True))
        self.peer_ports = dict(zip(self.names, ports[count:], strict=True))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        files.create_ca(folder / "ca", SystemClock())
        files.create_member(folder / "pki", folder / "ca", "etcd", ["127.0.0.1"], SystemClock())
        pki = files.PkiFolder(folder / "pki")
        self.tls = EtcdTls(pki.ca_certificate, pki.certificate, pki.key)

    def address(self, prefix: str = "") -> EtcdAddress:
        endpoints = tuple(f"127.0.0.1:{port}" for port in self.client_ports.values())
        return EtcdAddress(endpoints, prefix or f"/test-{SystemEntropy().token(8)}")

    def start(self, name: str) -> None:
        client, peer = self.client_ports[name], self.peer_ports[name]
        pki = (
            ("--{}cert-file", self.tls.certificate),
            ("--{}key-file", self.tls.key),
            ("--{}trusted-ca-file", self.tls.ca),
        )
        argv = [ETCD, "--name", name, "--data-dir", str(self.folder / name), "--log-level", "error", *self.flags]
        argv += ["--listen-client-urls", f"https://127.0.0.1:{client}"]
        argv += ["--advertise-client-urls", f"https://127.0.0.1:{client}"]
        argv += ["--listen-peer-urls", f"https://127.0.0.1:{peer}"]
        argv += ["--initial-advertise-peer-urls", f"https://127.0.0.1:{peer}"]
        argv += ["--initial-cluster", ",".join(f"{n}=https://127.0.0.1:{p}" for n, p in self.peer_ports.items())]
        argv += ["--client-cert-auth", "--peer-client-cert-auth"]
        for kind in ("", "peer-"):
            for flag, path in pki:
                argv += [flag.format(kind), str(path)]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                argv,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "ETCD_UNSUPPORTED_ARCH": "arm64"},
            )

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def pause(self, name: str, *, paused: bool) -> None:
        self.processes[name].send_signal(signal.SIGSTOP if paused else signal.SIGCONT)

    def stop(self) -> None:
        for name in list(self.processes):
            with contextlib.suppress(ProcessLookupError):
                self.kill(name)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    """One etcd, shared by the tests of a module: each uses a prefix of its own."""
    servers = EtcdServers(tmp_path_factory.mktemp("etcd"), 1)
    servers.start("e0")
    yield servers
    servers.stop()


@pytest.fixture
def three_etcds(tmp_path: Path) -> Iterator[EtcdServers]:
    """Three etcds for a test that does harm."""
    servers = EtcdServers(tmp_path, 3)
    for name in servers.names:
        servers.start(name)
    yield servers
    servers.stop()


async def until(found, patience_s: float = 20.0):
    """Wait until `found()` is true, and answer what it found. Raises TimeoutError."""
    async with asyncio.timeout(patience_s):
        while not (answer := found()):
            await asyncio.sleep(0.01)
    return answer
