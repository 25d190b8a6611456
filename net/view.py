"""What the pod network is told: the host it serves, and the cluster as the agent sees it.

Both are data. `NetworkView` holds the agent's own mappings, not copies; whoever reads one compares the objects in it by
identity, because a watch cache replaces an object when it changes and never edits it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from steersman.types import EndpointSlice, Node, Service


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """What does not change while an agent runs.

    Attributes:
        node_name: this node's name; its Node object is left out of the routes.
        host_ip: the address that other hosts reach this one at; the tunnel's local end.
        host_interface: the link that carries it; "" finds the link that has `host_ip`.
        cluster_cidr: all pods of the cluster.
        service_cidr: all ClusterIPs.
        dns_ip: the ClusterIP that the DNS server answers on; "" runs none.
        cluster_domain: the zone of the cluster's names.
        upstream_dns: resolvers (addresses) for names outside the cluster; none means such names are refused.
        netns: path of the host's network namespace; "" is the one the process is in (what agents use).
    """

    node_name: str
    host_ip: str
    host_interface: str = ""
    cluster_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    dns_ip: str = "10.96.0.10"
    cluster_domain: str = "cluster.local"
    upstream_dns: tuple[str, ...] = ()
    netns: str = ""


@dataclass(frozen=True, slots=True)
class NetworkView:
    """The cluster's nodes, Services and EndpointSlices, by key ("name" or "namespace/name").

    `namespaces` (names) lets DNS tell an empty namespace from one that does not exist; left out, a namespace exists
    when it has a Service.
    """

    nodes: Mapping[str, Node] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    endpoint_slices: Mapping[str, EndpointSlice] = field(default_factory=dict)
    namespaces: Collection[str] = ()
