"""What the agent measures, and the small HTTP listener that Prometheus reads it from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

START_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class NodeMetrics:
    """The agent's metrics, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.phase = Histogram(
            "steersman_node_pod_start_phase_seconds",
            "How long each part of a pod's start took: sandbox, network, volumes, pull, start, total (assigned to all containers running).",
            ("phase",),
            buckets=START_BUCKETS,
            registry=registry,
        )
        self.pulls = Counter(
            "steersman_node_image_pulls_total", "Image pulls by outcome.", ("outcome",), registry=registry
        )
        self.pods = Gauge(
            "steersman_node_pods", "Pods on this node by what the agent does with them.", ("state",), registry=registry
        )
        self.restarts = Counter(
            "steersman_node_container_restarts_total", "Container instances after the first.", registry=registry
        )
        self.probes = Counter(
            "steersman_node_probes_total", "Probes by kind and outcome.", ("kind", "outcome"), registry=registry
        )
        self.session = Gauge(
            "steersman_node_session_up", "1 while the session with the control plane's leader is up.", registry=registry
        )
        self.sessions = Counter("steersman_node_sessions_total", "Sessions begun.", registry=registry)
        self.heartbeat = Histogram(
            "steersman_node_heartbeat_seconds", "From sending a heartbeat to its acknowledgement.", registry=registry
        )
        self.reports = Counter("steersman_node_status_reports_total", "Pod statuses reported.", registry=registry)
        self.fenced = Counter(
            "steersman_node_fenced_pods_total", "Pods stopped because the lease was lost.", registry=registry
        )


class MetricsServer:
    """Serves `/metrics` and `/healthz` over HTTP/1.1, one answer per connection.

    Rendering runs in a thread: it takes milliseconds that the pods' life cycle should not wait for.
    """

    def __init__(self, metrics: NodeMetrics, healthy: Callable[[], str]) -> None:
        self._metrics = metrics
        self._healthy = healthy  # "" when the agent is well, else why not
        self._server: asyncio.Server | None = None

    async def start(self, listen: str) -> int:
        """Listen on "host:port"; answers the port."""
        host, _, port = listen.rpartition(":")
        self._server = await asyncio.start_server(self._serve, host.strip("[]"), int(port))
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                request = (await reader.readline()).split()
                while (await reader.readline()).strip():
                    pass
            status, kind, body = await self._answer(request[1].decode("latin-1") if len(request) > 1 else "")
            head = (
                f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass  # whoever asked is gone or talks no HTTP
        finally:
            writer.close()

    def _render(self) -> bytes:
        """The agent's own, and those of the runtime, the network and the process, which live in the default registry."""
        return generate_latest(self._metrics.registry) + generate_latest(REGISTRY)

    async def _answer(self, path: str) -> tuple[str, str, bytes]:
        plain = "text/plain; charset=utf-8"
        match path.partition("?")[0]:
            case "/metrics":
                body = await asyncio.to_thread(self._render)
                return "200 OK", "text/plain; version=0.0.4; charset=utf-8", body
            case "/healthz":
                problem = self._healthy()
                return ("503 Service Unavailable" if problem else "200 OK"), plain, f"{problem or 'ok'}\n".encode()
        return "404 Not Found", plain, b"there are /metrics and /healthz\n"
