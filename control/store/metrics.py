"""The store's Prometheus metrics.

Sizes are read when scraped and cost writes nothing; only latencies are recorded as they happen.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from control.store.engine import Engine

COMMIT_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
APPLY_BUCKETS_S = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25)
GROUP_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class StoreMetrics:
    """The metrics of one store, in one registry."""

    def __init__(self, registry: CollectorRegistry, engine: Engine) -> None:
        self.commit_seconds = Histogram(
            "steersman_store_commit_seconds",
            "From a commit's call to its answer: waiting, replication, fsync and apply.",
            buckets=COMMIT_BUCKETS_S,
            registry=registry,
        )
        self.apply_seconds = Histogram(
            "steersman_store_apply_seconds",
            "Applying one batch of log entries, watchers told included.",
            buckets=APPLY_BUCKETS_S,
            registry=registry,
        )
        self.group_txns = Histogram(
            "steersman_store_group_txns",
            "Transactions that shared one entry of the log.",
            buckets=GROUP_BUCKETS,
            registry=registry,
        )
        registry.register(_Sizes(engine))


class _Sizes(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        state = self._engine.state
        for name, text, value in (
            ("keys", "Live keys.", len(state)),
            ("revision", "Newest revision applied here.", state.revision),
            ("compacted_revision", "Newest revision that is forgotten.", state.compacted),
            ("live_bytes", "Bytes of live keys and values.", state.live_bytes),
            ("history_bytes", "Bytes held only for history.", state.history_bytes),
            ("watchers", "Watches that have caught up and are told of changes.", len(self._engine.hub)),
        ):
            yield GaugeMetricFamily(f"steersman_store_{name}", text, value=value)
        yield CounterMetricFamily(
            "steersman_store_conflicts",
            "Transactions refused because an expectation did not hold.",
            value=state.conflicts,
        )
