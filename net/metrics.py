"""What the pod network reports to Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

FAST_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
DNS_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.0)

ATTACH_SECONDS = Histogram(
    "steersman_network_attach_seconds", "From asking for a pod's network to having it.", buckets=FAST_BUCKETS
)
DETACH_SECONDS = Histogram(
    "steersman_network_detach_seconds", "From asking for the removal of a pod's link to its end.", buckets=FAST_BUCKETS
)
ATTACHED_PODS = Gauge("steersman_network_attached_pods", "Pods that have a link to the bridge.")
SYNC_SECONDS = Histogram(
    "steersman_proxy_sync_seconds",
    "One sync that changed Services' rules, until the kernel had them.",
    buckets=FAST_BUCKETS,
)
SERVICES_CHANGED = Counter("steersman_proxy_services_changed_total", "Services whose rules were looked at again.")
COMMANDS = Counter("steersman_proxy_commands_total", "Commands of nftables in committed transactions.")
SYNC_FAILURES = Counter("steersman_proxy_sync_failures_total", "Transactions that nftables refused.")
DRIFT_REPAIRED = Counter(
    "steersman_network_drift_repaired_total", "Things found changed by someone else and put right.", ["kind"]
)
DNS_QUERIES = Counter("steersman_dns_queries_total", "Queries answered, by response code.", ["rcode"])
DNS_SECONDS = Histogram("steersman_dns_seconds", "From a query's arrival to its answer.", buckets=DNS_BUCKETS)
