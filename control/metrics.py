"""What Prometheus sees of a control-plane member.

What counts for the whole process (requests, scheduler, controllers) is on prometheus-client's default registry; what belongs to
one member (Raft, store) is on a registry of the member's, so that several members can live in one test process.
Observing costs about a microsecond.
"""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds: from a read out of memory (0.2 ms) to a write that waits for an election.
LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

REQUESTS = Counter("steersman_api_requests", "Requests by interface, verb and outcome", ["interface", "verb", "code"])
LATENCY = Histogram(
    "steersman_api_request_duration_seconds", "Time to answer", ["interface", "verb"], buckets=LATENCY_BUCKETS
)
STREAMS = Gauge("steersman_api_streams", "Streams that are open", ["verb"])
FORWARDED = Counter("steersman_api_forwarded", "Calls carried to the leader by outcome", ["verb", "code"])


def observe(interface: str, verb: str, code: str, seconds: float) -> None:
    """Count one answered request."""
    REQUESTS.labels(interface, verb, code).inc()
    LATENCY.labels(interface, verb).observe(seconds)


def exposition(member: CollectorRegistry) -> bytes:
    """Everything, in Prometheus' text form. Takes milliseconds: call it off the event loop."""
    return generate_latest(REGISTRY) + generate_latest(member)
