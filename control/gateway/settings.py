"""What the gateway tells agents: flags of `steer-control run`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Attributes:
    lease_s: the agent stops its pods this long (and their toleration) after the last heartbeat that was acknowledged.
    heartbeat_s: how often agents send one; a lease of fewer than four of them would end by ordinary delays.
    """

    lease_s: float = 8.0
    heartbeat_s: float = 1.0
    cluster_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    dns_ip: str = "10.96.0.10"
    cluster_domain: str = "cluster.local"
