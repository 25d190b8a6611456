"""What the runtime part of the agent counts."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

OPERATION_SECONDS = Histogram(
    "steersman_runtime_operation_seconds",
    "Time that calls of the container runtime took.",
    ["operation"],
    buckets=_BUCKETS,
)
FAILURES = Counter("steersman_runtime_failures_total", "Calls of the container runtime that failed.", ["reason"])
EXITS = Counter("steersman_container_exits_total", "Containers that ended.", ["reason"])
PULL_SECONDS = Histogram(
    "steersman_image_pull_seconds",
    "Time from the first request to the registry until the image is unpacked.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
PULL_BYTES = Counter("steersman_image_pull_bytes_total", "Compressed bytes fetched from registries.")
LOG_BYTES = Counter("steersman_container_log_bytes_total", "Bytes of output written to log files.")
LOG_BYTES_DROPPED = Counter(
    "steersman_container_log_dropped_bytes_total", "Bytes of output that no log file could take."
)
