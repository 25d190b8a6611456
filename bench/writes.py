"""Acknowledged writes through the gRPC API, beside etcd: three members each, mutual TLS, fsync on, the same client.

The clients run in one process inside the lab's network and dial the members directly, as programs in a cluster do.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import grpc
import grpc.aio

from bench.harness import CLOCK, Figure, raised
from control.ca import files
from lab.balancer import enter_network
from lab.topology import GRPC_PORT, Topology
from steersman.client import AsyncClient
from steersman.transport import GrpcTransport, credentials

CLIENTS = (1, 16, 64)
SECONDS = 5.0
VALUE = "x" * 1024
Write = Callable[[int], Awaitable[None]]


async def _load(clients: int, write: Write) -> tuple[float, float]:
    """Writes per second and the 99th percentile of their latency in ms, of so many clients one after another each."""
    latencies: list[float] = []
    end = CLOCK.monotonic() + SECONDS

    async def one(client: int) -> None:
        number = 0
        while CLOCK.monotonic() < end:
            begin = CLOCK.monotonic()
            await write(client * 1_000_000 + number)
            latencies.append(CLOCK.monotonic() - begin)
            number += 1

    begin = CLOCK.monotonic()
    await asyncio.gather(*(one(i) for i in range(clients)))
    rate = len(latencies) / (CLOCK.monotonic() - begin)
    return rate, statistics.quantiles(latencies, n=100)[98] * 1000


def _ours(directory: str, namespace: str, members: list[str]) -> dict[int, tuple[float, float]]:
    enter_network(namespace)
    pki = Path(directory) / "pki"

    async def work() -> dict[int, tuple[float, float]]:
        answers = {}
        clients = [
            AsyncClient(GrpcTransport([member], credentials(pki / "ca.crt", pki / "admin.crt", pki / "admin.key")))
            for member in members
        ]
        for count in CLIENTS:

            async def write(number: int, count: int = count) -> None:
                document = {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": f"w-{count}-{number}", "namespace": "default"},
                    "data": {"value": VALUE},
                }
                await clients[number // 1_000_000 % len(clients)].create(document)

            answers[count] = await _load(count, write)
        for client in clients:
            await client.close()
        return answers

    return asyncio.run(work())


def _put_request(key: bytes, value: bytes) -> bytes:
    """etcdserverpb.PutRequest{key = 1, value = 2} on the wire."""

    def field(number: int, data: bytes) -> bytes:
        size, length = len(data), b""
        while True:
            size, low = size >> 7, size & 0x7F
            length += bytes([low | (0x80 if size else 0)])
            if not size:
                return bytes([number << 3 | 2]) + length + data

    return field(1, key) + field(2, value)


def _etcd(pki: Path, ports: list[int]) -> dict[int, tuple[float, float]]:
    async def work() -> dict[int, tuple[float, float]]:
        made = credentials(pki / "ca.crt", pki / "admin.crt", pki / "admin.key")
        channels = [grpc.aio.secure_channel(f"127.0.0.1:{port}", made) for port in ports]
        puts = [
            channel.unary_unary(
                "/etcdserverpb.KV/Put", request_serializer=lambda pair: _put_request(*pair), response_deserializer=bytes
            )
            for channel in channels
        ]
        answers = {}
        for count in CLIENTS:

            async def write(number: int, count: int = count) -> None:
                key = f"/core/configmaps/default/w-{count}-{number}".encode()
                await puts[number // 1_000_000 % len(puts)]((key, VALUE.encode()))

            answers[count] = await _load(count, write)
        for channel in channels:
            await channel.close()
        return answers

    return asyncio.run(work())


def _start_etcd(directory: Path, pki: Path) -> tuple[list[subprocess.Popen[bytes]], list[int]]:
    peers = ",".join(f"m{i}=https://127.0.0.1:{23800 + i}" for i in range(3))
    processes, ports = [], []
    for i in range(3):
        client, peer = f"https://127.0.0.1:{23790 + i}", f"https://127.0.0.1:{23800 + i}"
        tls = [
            f"--{prefix}{name}={pki / file}"
            for prefix in ("", "peer-")
            for name, file in (("cert-file", "member.crt"), ("key-file", "member.key"), ("trusted-ca-file", "ca.crt"))
        ]
        argv = [
            *("/usr/bin/etcd", "--name", f"m{i}", "--data-dir", str(directory / f"m{i}")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", peers),
            *(*tls, "--client-cert-auth", "--peer-client-cert-auth", "--log-level", "error"),
        ]
        processes.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        ports.append(23790 + i)
    return processes, ports


def _wait_for_etcd(pki: Path, ports: list[int]) -> None:
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    import http.client  # noqa: PLC0415
    import time  # noqa: PLC0415

    for port in ports:
        for _ in range(300):
            try:
                connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=1)
                connection.request("GET", "/health")
                if b'"true"' in connection.getresponse().read():
                    break
            except OSError:
                pass
            time.sleep(0.1)
        else:
            raise RuntimeError(f"etcd does not become healthy on port {port}")


def _measure_etcd() -> dict[int, tuple[float, float]]:
    if shutil.which("etcd") is None:
        raise RuntimeError("etcd is missing: scripts/setup --dev installs it")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        directory = Path(name)
        pki = directory / "pki"
        ca = directory / "ca"
        files.create_ca(ca, CLOCK)
        files.create_member(pki, ca, "etcd", ["127.0.0.1"], CLOCK)
        files.create_user(pki, ca, "admin", ["system:masters"], CLOCK)
        processes, ports = _start_etcd(directory, pki)
        try:
            _wait_for_etcd(pki, ports)
            with ProcessPoolExecutor(1) as pool:
                return pool.submit(_etcd, pki, ports).result()
        finally:
            for process in processes:
                process.kill()
                process.wait()


def measure(topology: Topology) -> dict[int, tuple[float, float]]:
    members = [f"{host.address}:{GRPC_PORT}" for host in topology.controls]
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(_ours, str(topology.directory), topology.switch, members).result()


def run() -> list[Figure]:
    etcd = _measure_etcd()
    with raised(3, 0, images=False) as topology:
        ours = measure(topology)
    figures = []
    for count in CLIENTS:
        label = f"writes/s acknowledged, 3 members, {count} client{'s' * (count > 1)}, 1 KB"
        figures.append(Figure(label, ours[count][0], "1/s", "etcd", etcd[count][0]))
        figures.append(Figure("  their 99th percentile", ours[count][1], "ms", "etcd", etcd[count][1]))
    return figures


if __name__ == "__main__":
    from bench.harness import show

    show(run(), as_json="--json" in sys.argv)
