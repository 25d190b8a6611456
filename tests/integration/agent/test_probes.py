"""Probes against servers on the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from node.metrics import MetricsServer, NodeMetrics
from node.probes import Target, check
from node.runtime.fake import FakeRuntime
from steersman.clock import ManualClock
from steersman.types.core import Container, Probe


def probe(**action: Any) -> Probe:
    return Probe.from_dict({"timeoutSeconds": 1, **action})


def target(port: int = 0) -> Target:
    container = Container.from_dict({"name": "c", "ports": [{"name": "web", "containerPort": port}] if port else []})
    return Target(FakeRuntime(ManualClock()), container, "id", "127.0.0.1")


@asynccontextmanager
async def server(answer: bytes, requests: list[bytes], *, asked: bool = True) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        done.set()

    done = asyncio.Event()
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]
        if asked:
            await done.wait()


@pytest.mark.parametrize(
    ("answer", "ok", "message"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True, ""),
        (b"HTTP/1.1 302 Found\r\n\r\n", True, ""),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False, "HTTP probe failed with statuscode: 404"),
        (b"nonsense\r\n", False, "EOF"),
        (b"", False, "EOF"),
    ],
)
async def test_an_http_answer_below_400_is_well(answer: bytes, ok: bool, message: str) -> None:
    requests: list[bytes] = []
    async with server(answer, requests) as port:
        headers = [{"name": "X-Probe", "value": "1"}]
        outcome = await check(probe(httpGet={"port": "web", "path": "/ok", "httpHeaders": headers}), target(port))
    assert outcome.ok is ok
    assert ok or message in outcome.message
    assert requests[0].startswith(b"GET /ok HTTP/1.1\r\n")
    assert b"x-probe: 1\r\n" in requests[0]


async def test_a_closed_port_is_told_as_the_kubelet_tells_it() -> None:
    async with server(b"", [], asked=False) as port:
        pass
    for action in ({"tcpSocket": {"port": port}}, {"httpGet": {"port": port}}):
        outcome = await check(probe(**action), target())
        assert not outcome.ok
        assert f"dial tcp 127.0.0.1:{port}: connect: connection refused" in outcome.message
    unnamed = await check(probe(tcpSocket={"port": "nope"}), target())
    assert not unnamed.ok
    assert "couldn't find port: 'nope'" in unnamed.message


async def test_an_open_port_is_well() -> None:
    async with server(b"", []) as port:
        assert (await check(probe(tcpSocket={"port": port}), target())).ok


async def test_a_grpc_service_says_how_it_is() -> None:
    serving = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, serving)
    port = serving.add_insecure_port("127.0.0.1:0")
    await serving.start()
    await servicer.set("db", health_pb2.HealthCheckResponse.NOT_SERVING)
    try:
        assert (await check(probe(grpc={"port": port}), target())).ok
        sick = await check(probe(grpc={"port": port, "service": "db"}), target())
        assert not sick.ok
        assert "NOT_SERVING" in sick.message
        unknown = await check(probe(grpc={"port": port, "service": "x"}), target())
        assert not unknown.ok
        assert "NOT_FOUND" in unknown.message
    finally:
        await serving.stop(None)


async def test_metrics_are_served_and_garbage_is_survived() -> None:
    metrics = NodeMetrics()
    metrics.fenced.inc()
    problem = {"is": ""}
    listener = MetricsServer(metrics, lambda: problem["is"])
    port = await listener.start("127.0.0.1:0")

    async def ask(request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer

    try:
        assert b"steersman_node_fenced_pods_total 1.0" in await ask(b"GET /metrics HTTP/1.1\r\n\r\n")
        text = await ask(b"GET /metrics HTTP/1.1\r\n\r\n")
        for family in (
            "steersman_node_pod_start_phase_seconds histogram",
            "steersman_node_image_pulls_total counter",
            "steersman_node_session_up gauge",
            "steersman_image_pull_seconds histogram",
            "steersman_runtime_operation_seconds histogram",
            "steersman_network_attach_seconds histogram",
            "steersman_proxy_sync_seconds histogram",
            "steersman_proxy_sync_failures_total counter",
            "process_resident_memory_bytes gauge",
        ):
            assert f"# TYPE {family}".encode() in text, family
        await ask(b"\x16\x03\x01 garbage \xff\n\n")
        assert (await ask(b"GET /healthz HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")
        problem["is"] = "container runtime is down"
        assert b"503" in await ask(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert b"404" in await ask(b"GET / HTTP/1.1\r\n\r\n")
    finally:
        await listener.stop()
