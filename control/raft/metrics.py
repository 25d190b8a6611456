"""Prometheus metrics of a member's Raft."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From the fastest local disks (0.1 ms) to those that make a leader lose its followers (above 0.5 s).
DISK_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
COMMIT_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class RaftMetrics:
    """What a member tells about its part in the cluster. One per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.term = Gauge("steersman_raft_term", "The newest term seen", registry=registry)
        self.is_leader = Gauge("steersman_raft_is_leader", "1 while this member leads, else 0", registry=registry)
        self.leader_changes = Counter(
            "steersman_raft_leader_changes", "Times that another leader than before was seen", registry=registry
        )
        self.commit_index = Gauge(
            "steersman_raft_commit_index", "Newest entry known to be committed", registry=registry
        )
        self.applied_index = Gauge("steersman_raft_applied_index", "Newest entry applied", registry=registry)
        self.log_entries = Gauge("steersman_raft_log_entries", "Entries held in memory", registry=registry)
        self.proposals = Counter(
            "steersman_raft_proposals",
            "Proposals made here, by how they ended",
            ["result"],  # applied, refused (certainly not committed), uncertain
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "steersman_raft_commit_seconds",
            "From a proposal to its application on this member",
            buckets=COMMIT_BUCKETS_S,
            registry=registry,
        )
        self.election_timeout_seconds = Gauge(
            "steersman_raft_election_timeout_seconds",
            "The least election time-out in use: longer than configured while the disk is slow",
            registry=registry,
        )
        self.save_seconds = Histogram(
            "steersman_raft_save_seconds",
            "Writing one batch to the log and making it durable (one fdatasync)",
            buckets=DISK_BUCKETS_S,
            registry=registry,
        )
        self.saved_entries = Counter("steersman_raft_saved_entries", "Entries made durable here", registry=registry)
        self.saved_bytes = Counter(
            "steersman_raft_saved_bytes", "Bytes of entries made durable here", registry=registry
        )
        self.disk_failures = Counter(
            "steersman_raft_disk_failures", "Writes or syncs of the log that failed", registry=registry
        )
        self.barriers = Counter(
            "steersman_raft_barriers", "Read points asked for here", ["result"], registry=registry
        )  # confirmed, refused
        self.snapshots = Counter(
            "steersman_raft_snapshots", "Snapshots, by what was done", ["action"], registry=registry
        )  # written, failed, sent, installed
        self.snapshot_bytes = Gauge(
            "steersman_raft_snapshot_bytes", "Size of the newest own snapshot", registry=registry
        )
        self.snapshot_seconds = Gauge("steersman_raft_snapshot_seconds", "How long writing it took", registry=registry)
        self.dropped_messages = Counter(
            "steersman_raft_dropped_messages",
            "Messages not sent because the peer was away or slow",
            ["peer"],
            registry=registry,
        )
