"""What this host's links, addresses, routes and neighbours should be: a pure function of what the agent knows.

The plan is a set of small items. Each has a `key`, which says what it is about (the link `st-br0`, the route to
10.244.2.0/24), and a value. `desired` makes the items from the host, its pod range, its peers and its pods; `links.py`
reads the same kind of items from the kernel; `difference` says what to remove and what to add. First set-up, a new node
and the repair of something deleted by hand are all the same comparison.

How packets go:

    pod A ── eth0, address/32, default via the bridge's address
             │ veth
          st-br0 (address .1 of the node's range, and the DNS server's; every packet is routed, none is switched
             │    between pods, so that replies of a Service's endpoint on the same host pass the host's NAT again)
          routing ── 10.244.M.0/24 via .1 of node M, on st-vx0
             │
          st-vx0 (VXLAN, no learning: one permanent neighbour and one forwarding entry for each node)
             │ UDP 8472
          the underlay

MAC addresses are functions of IP addresses, so no host needs to be told another's, and a link made anew is the link it
was. Neighbour entries are permanent on both sides: no packet waits for ARP and no pod can claim another's address.
"""

from __future__ import annotations

import bisect
import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from net.ipam import gateway
from net.view import HostNetwork
from steersman.types import Node

BRIDGE = "st-br0"
TUNNEL = "st-vx0"
POD_PREFIX = "st-"
POD_NAME_DIGITS = 12  # with the prefix 15 characters: the kernel's limit for a link's name

VNI = 7
VXLAN_PORT = 8472  # the kernel's own default, open in many firewalls; IANA's is 4789
VXLAN_OVERHEAD = 50  # bytes: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14
ROUTE_PROTOCOL = 83  # marks our routes (`ip route show proto 83`); unassigned in iproute2's rt_protos


def pod_link(pod_uid: str) -> str:
    """The host's end of a pod's veth pair."""
    return POD_PREFIX + hashlib.sha256(pod_uid.encode()).hexdigest()[:POD_NAME_DIGITS]


def is_pod_link(name: str) -> bool:
    """Whether a link's name is one that `pod_link` makes."""
    digits = name.removeprefix(POD_PREFIX)
    return name != digits and len(digits) == POD_NAME_DIGITS and all(c in "0123456789abcdef" for c in digits)


def mac_of(address: str, role: int) -> str:
    """A locally administered MAC made of an IPv4 address; `role` keeps the two ends of a veth apart."""
    return ":".join(f"{byte:02x}" for byte in (0x0A, role, *ipaddress.IPv4Address(address).packed))


BRIDGE_ROLE, TUNNEL_ROLE, POD_ROLE, PORT_ROLE = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Link:
    """A link that is the host's own. `local`, `underlay` and `vni` are the tunnel's."""

    name: str
    kind: str
    mac: str
    mtu: int
    up: bool = True
    local: str = ""
    underlay: str = ""
    vni: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        return ("link", self.name)

    @property
    def link(self) -> str:
        return self.name

    def adjustable_to(self, other: Link) -> bool:
        """Whether this link can become `other` without being made anew."""
        return (self.kind, self.local, self.underlay, self.vni) == (other.kind, other.local, other.underlay, other.vni)


@dataclass(frozen=True, slots=True)
class Port:
    """The host's end of a pod's veth pair, plugged into the bridge."""

    name: str
    master: str = BRIDGE
    up: bool = True

    @property
    def key(self) -> tuple[str, ...]:
        return ("port", self.name)

    @property
    def link(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A kernel setting under /proc/sys/net; those of a link go with it, an `optional` one may not exist."""

    path: str
    value: str
    link: str = ""
    optional: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        return ("sysctl", self.path)


@dataclass(frozen=True, slots=True)
class Address:
    """An address of the host; always /32, its routes are items of their own.

    One that is only `listening` has scope host: the kernel answers on it and never picks it as the source of a packet.
    """

    link: str
    address: str
    listening: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        return ("address", self.link, self.address)


@dataclass(frozen=True, slots=True)
class Route:
    """`gateway` "" means directly on the link; `source` is the host's own address for packets it sends."""

    destination: str
    link: str
    gateway: str = ""
    source: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        return ("route", self.destination)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent ARP entry."""

    link: str
    address: str
    mac: str

    @property
    def key(self) -> tuple[str, ...]:
        return ("neighbour", self.link, self.address)


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Which host the tunnel sends frames for `mac` to."""

    link: str
    mac: str
    destination: str

    @property
    def key(self) -> tuple[str, ...]:
        return ("forwarding", self.link, self.mac)


Item = Link | Port | Sysctl | Address | Route | Neighbour | Forwarding
Items = dict[tuple[str, ...], Item]

ORDER = {"link": 0, "port": 1, "sysctl": 2, "address": 3, "route": 4, "neighbour": 5, "forwarding": 6}


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node: its pod range and its address on the underlay."""

    pod_cidr: str
    address: str


def peer_of(node: Node) -> Peer | None:
    """How to reach a node's pods, or None while it has no usable range or address."""
    cidr, address = node.spec.pod_cidr, node.internal_ip
    try:
        ipaddress.IPv4Network(cidr)
        ipaddress.IPv4Address(address)
    except ValueError:
        return None
    return Peer(cidr, address)


@dataclass(frozen=True, slots=True)
class Underlay:
    """The link that carries the host's address."""

    name: str
    mtu: int


def pod_mtu(underlay: Underlay) -> int:
    """Bytes in a pod's packet such that its VXLAN frame fits the underlay."""
    return underlay.mtu - VXLAN_OVERHEAD


def desired(
    host: HostNetwork, pod_cidr: str, underlay: Underlay, peers: Mapping[str, Peer], pods: Mapping[str, str]
) -> Items:
    """Everything that should be there.

    Args:
        host: this host.
        pod_cidr: its range.
        underlay: the link that has `host.host_ip`.
        peers: the other nodes, by name; one that claims this host's range or a range already claimed is left out
            (names decide in order), because a wrong route would cut off pods that are right.
        pods: address of each attached pod, by uid.
    """
    bridge_ip, mtu = gateway(pod_cidr), pod_mtu(underlay)
    items: list[Item] = [
        Link(BRIDGE, "bridge", mac_of(bridge_ip, BRIDGE_ROLE), mtu),
        Link(
            TUNNEL, "vxlan", mac_of(host.host_ip, TUNNEL_ROLE), mtu,
            local=host.host_ip, underlay=underlay.name, vni=VNI,
        ),
        Sysctl("ipv4/ip_forward", "1"),
        # Pods are told the way by the bridge alone; a redirect would send them past the NAT.
        Sysctl("ipv4/conf/all/send_redirects", "0"),
        Sysctl(f"ipv4/conf/{BRIDGE}/send_redirects", "0", BRIDGE),
        # Packets are routed, so the routing hooks see them all. Let the bridge call those hooks as well and it translates
        # a Service's address itself, sends the packet on without routing it, and no pod can reach itself that way.
        Sysctl("bridge/bridge-nf-call-iptables", "0", optional=True),
        # Loose: a host may reach a pod from its underlay address while the pod answers through the tunnel.
        Sysctl(f"ipv4/conf/{BRIDGE}/rp_filter", "2", BRIDGE),
        Sysctl(f"ipv4/conf/{TUNNEL}/rp_filter", "2", TUNNEL),
        Address(BRIDGE, bridge_ip),
        Route(_network(pod_cidr), BRIDGE, source=bridge_ip),
    ]  # fmt: skip
    # The host's own connections to a ClusterIP need a route before the output hook can translate them.
    items.append(Route(_network(host.service_cidr), BRIDGE, source=bridge_ip))
    if host.dns_ip:
        items.append(Address(BRIDGE, host.dns_ip, listening=True))
    claimed = _Claims()
    claimed.add(ipaddress.IPv4Network(pod_cidr))
    addresses = {host.host_ip}
    for name in sorted(peers):
        peer = peers[name]
        network = ipaddress.IPv4Network(peer.pod_cidr)
        if name == host.node_name or peer.address in addresses or not claimed.add(network):
            continue
        addresses.add(peer.address)
        next_hop, mac = gateway(peer.pod_cidr), mac_of(peer.address, TUNNEL_ROLE)
        items += [
            Route(str(network), TUNNEL, gateway=next_hop, source=bridge_ip),
            Neighbour(TUNNEL, next_hop, mac),
            Forwarding(TUNNEL, mac, peer.address),
        ]
    for uid, address in pods.items():
        items += [Port(pod_link(uid)), Neighbour(BRIDGE, address, mac_of(address, POD_ROLE))]
    return {item.key: item for item in items}


def _network(cidr: str) -> str:
    return str(ipaddress.IPv4Network(cidr))


class _Claims:
    """Disjoint ranges, sorted, so that a thousand nodes cost no million comparisons."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, network: ipaddress.IPv4Network) -> bool:
        """Claim a range; False when it overlaps one that is claimed."""
        start, end = int(network.network_address), int(network.broadcast_address)
        at = bisect.bisect(self._starts, start)
        if (at and self._ends[at - 1] >= start) or (at < len(self._starts) and self._starts[at] <= end):
            return False
        self._starts.insert(at, start)
        self._ends.insert(at, end)
        return True


@dataclass(frozen=True, slots=True)
class Difference:
    """What to do, in order: `remove`, then `add` (which also replaces or adjusts what has the same key)."""

    remove: tuple[Item, ...]
    add: tuple[Item, ...]

    def __bool__(self) -> bool:
        return bool(self.remove or self.add)


def difference(wanted: Mapping[tuple[str, ...], Item], actual: Mapping[tuple[str, ...], Item]) -> Difference:
    """Compare two sets of items.

    A link of the wrong kind is removed and made anew, and what hangs on it with it.
    """
    remade = {
        item.name
        for key, item in actual.items()
        if isinstance(item, Link) and isinstance(want := wanted.get(key), Link) and not item.adjustable_to(want)
    }
    remove = [item for key, item in actual.items() if key not in wanted and item.link not in remade]
    remove += [item for item in actual.values() if isinstance(item, Link) and item.name in remade]
    add = [item for key, item in wanted.items() if actual.get(key) != item or item.link in remade]
    if BRIDGE in remade:  # its ports are unplugged with it
        add += [item for item in wanted.values() if isinstance(item, Port) and item not in add]
    return Difference(
        tuple(sorted(remove, key=_rank, reverse=True)),
        tuple(sorted(add, key=_rank)),
    )


def _rank(item: Item) -> tuple[int, tuple[str, ...]]:
    return ORDER[item.key[0]], item.key
