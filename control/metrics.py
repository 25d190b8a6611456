"""What Prometheus sees of a control-plane member.

One registry per process, made here; parts that measure themselves (Raft, scheduler, controllers, gateway) register on
prometheus-client's default registry or are read when scraped. Observing costs about a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds: from a read out of memory (0.2 ms) to a write that waits for an election.
LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

REQUESTS = Counter("steersman_api_requests", "Requests by interface, verb and outcome", ["interface", "verb", "code"])
LATENCY = Histogram(
    "steersman_api_request_duration_seconds", "Time to answer", ["interface", "verb"], buckets=LATENCY_BUCKETS
)
STREAMS = Gauge("steersman_api_streams", "Streams that are open", ["verb"])
FORWARDED = Counter("steersman_api_forwarded", "Calls carried to the leader by outcome", ["verb", "code"])


class Readings:
    """Numbers that are read when Prometheus asks, so that keeping them costs nothing."""

    def __init__(self) -> None:
        self._sources: list[tuple[str, str, Callable[[], float]]] = []

    def add(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Expose `read()` as a gauge."""
        self._sources.append((name, text, read))

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus-client."""
        for name, text, read in self._sources:
            yield GaugeMetricFamily(name, text, value=read())


def observe(interface: str, verb: str, code: str, seconds: float) -> None:
    """Count one answered request."""
    REQUESTS.labels(interface, verb, code).inc()
    LATENCY.labels(interface, verb).observe(seconds)


def exposition() -> bytes:
    """Everything, in Prometheus' text form. Takes milliseconds: call it off the event loop."""
    return generate_latest(REGISTRY)
