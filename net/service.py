"""From Services and EndpointSlices to the rules that carry their packets: pure.

One chain of nftables rules stands for one port of a Service. Maps lead there: `services` from (address, protocol, port),
`nodeports` from (protocol, port). A change of a Service's endpoints rewrites that Service's chain; a Service that comes
or goes adds or deletes its own keys; nothing else is touched, and every change is one transaction of the kernel, so that
no packet ever meets half of one.

    map services   10.96.0.7 . 6 . 80 : goto service-default/web/6/80-…
    chain service-default/web/6/80-…
        meta l4proto 6 dnat ip to numgen random mod 2 map { 0 : 10.244.1.5 . 8080, 1 : 10.244.2.9 . 8080 }

A Service with no usable endpoint has no key, and what is sent to it is refused by the table's fixed rules (`nft.py`):
a TCP reset or an ICMP port-unreachable rather than silence. Its external addresses, which those rules cannot know, are
put into the set `refused`.

With session affinity each endpoint has a chain and a set of the clients it serves; the kernel adds a client when it
picks the endpoint and forgets it after the affinity's time.

Protocols are written as numbers: a host may have no /etc/protocols.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from steersman.types import EndpointSlice, Service
from steersman.types.apps import Endpoint
from steersman.types.core import ServicePort

TABLE = "ip steersman"
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
KEEP_SOURCE_MARK = 0x8000  # on packets whose client address the endpoint must see (externalTrafficPolicy: Local)
NAME_LIMIT = 100  # characters of a chain's name; libnftables allows 128

_STRANGE = re.compile(r"[^A-Za-z0-9/_.-]")  # what no identifier of nftables may hold, and no valid object's name does

Claim = tuple[str, str]  # a map or set of the table, and a key in it
Rule = str


@dataclass(frozen=True, slots=True)
class Target:
    """Where a packet for a Service goes."""

    address: str
    port: int
    local: bool

    @property
    def pair(self) -> str:
        return f"{self.address} . {self.port}"


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """All rules of one Service.

    Attributes:
        chains: rules by chain name; names are unique among Services.
        sets: timeout (seconds) of each session affinity set, by name.
        claims: value by (map or set, key); the value is "" in a set and a verdict in a map.
        targets: (protocol number, address, port) of every endpoint that packets may be sent to.
    """

    chains: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    sets: Mapping[str, int] = field(default_factory=dict)
    claims: Mapping[Claim, str] = field(default_factory=dict)
    targets: frozenset[tuple[int, str, int]] = frozenset()


NO_RULES = ServiceRules()


def rules_of(
    service: Service | None, slices: Iterable[EndpointSlice], *, node_name: str, pod_cidr: str, dns_ip: str
) -> ServiceRules:
    """The rules of one Service.

    Args:
        service: None when it is gone; its slices then have no effect.
        slices: those labelled with its name.
        node_name: this node, for traffic policies that keep to it.
        pod_cidr: this node's range: its pods may be their own Service's client (hairpin).
        dns_ip: answered by the agent itself; a Service with this address is left to it.
    """
    if service is None or service.spec.type == "ExternalName" or service.headless:
        return NO_RULES
    spec = service.spec
    cluster_ips = [ip for ip in (spec.cluster_ips or (spec.cluster_ip,)) if ip != dns_ip and _is_ipv4(ip)]
    external_ips = [ip for ip in spec.external_ips if _is_ipv4(ip)]
    builder = _Builder(service, _affinity(service), ipaddress.IPv4Network(pod_cidr))
    pieces = [piece for piece in slices if piece.address_type == "IPv4"]
    for port in spec.ports:
        protocol = PROTOCOLS.get(port.protocol)
        if protocol is None or not (0 < port.port < 65536 and 0 <= port.node_port < 65536):
            continue
        everywhere = targets_of(port, pieces, node_name)
        here = [target for target in everywhere if target.local]
        inside = here if spec.internal_traffic_policy == "Local" else everywhere
        keep_source = spec.external_traffic_policy == "Local"
        outside = here if keep_source else everywhere
        builder.port(port, protocol, cluster_ips, inside)
        if external_ips or port.node_port:
            builder.external_port(port, protocol, external_ips, outside, keep_source)
    return builder.rules()


def targets_of(port: ServicePort, slices: Iterable[EndpointSlice], node_name: str) -> list[Target]:
    """The endpoints that serve a port, sorted and without duplicates.

    Ready ones; if there are none, those that terminate but still serve (KEP-1669), so that a rollout's last moments lose
    no connection.
    """
    ready: set[Target] = set()
    terminating: set[Target] = set()
    for piece in slices:
        numbers = {
            number
            for target in piece.ports
            if (target.name, target.protocol) == (port.name, port.protocol)
            and 0 < (number := target.port or port.port) < 65536
        }
        for endpoint in piece.endpoints:
            into = ready if endpoint.conditions.ready is not False else terminating
            if into is terminating and not (endpoint.conditions.serving and endpoint.conditions.terminating):
                continue
            into.update(
                Target(address, number, endpoint.node_name == node_name)
                for address in _first(endpoint)
                for number in numbers
            )
    return sorted(ready or terminating, key=lambda target: (ipaddress.IPv4Address(target.address), target.port))


def _first(endpoint: Endpoint) -> tuple[str, ...]:
    """The address that consumers use (EndpointSlice API: the first), if it is one."""
    return tuple(address for address in endpoint.addresses[:1] if _is_ipv4(address))


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _affinity(service: Service) -> int:
    """Seconds that a client stays with its endpoint; 0 without session affinity."""
    if service.spec.session_affinity != "ClientIP":
        return 0
    config = service.spec.session_affinity_config
    return config.client_ip.timeout_seconds if config and config.client_ip else 10800


def _name(prefix: str, *parts: object) -> str:
    """A name that people can read and that stays unique when cut."""
    text = "/".join(str(part) for part in parts)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{prefix}-{_STRANGE.sub('_', text[:NAME_LIMIT])}-{digest}"


class _Builder:
    def __init__(self, service: Service, affinity_s: int, pods: ipaddress.IPv4Network) -> None:
        self._service = service
        self._affinity_s = affinity_s
        self._pods = pods
        self._chains: dict[str, tuple[Rule, ...]] = {}
        self._sets: dict[str, int] = {}
        self._claims: dict[Claim, str] = {}
        self._targets: set[tuple[int, str, int]] = set()

    def rules(self) -> ServiceRules:
        return ServiceRules(self._chains, self._sets, self._claims, frozenset(self._targets))

    def port(self, port: ServicePort, protocol: int, addresses: Iterable[str], targets: list[Target]) -> None:
        if not targets:
            return
        chain = self._chain("service", port, protocol, targets, before=())
        for address in addresses:
            self._claims["services", f"{address} . {protocol} . {port.port}"] = f"goto {chain}"

    def external_port(
        self, port: ServicePort, protocol: int, addresses: Iterable[str], targets: list[Target], keep_source: bool
    ) -> None:
        if not targets:
            for address in addresses:
                self._claims["refused", f"{address} . {protocol} . {port.port}"] = ""
            return
        mark = (f"meta mark set meta mark | {KEEP_SOURCE_MARK:#x}",) if keep_source else ()
        chain = self._chain("external", port, protocol, targets, before=mark)
        for address in addresses:
            self._claims["services", f"{address} . {protocol} . {port.port}"] = f"goto {chain}"
        if port.node_port:
            self._claims["nodeports", f"{protocol} . {port.node_port}"] = f"goto {chain}"

    def _chain(
        self, prefix: str, port: ServicePort, protocol: int, targets: list[Target], before: tuple[Rule, ...]
    ) -> str:
        parts = (self._service.namespace, self._service.name, protocol, port.port)
        chain = _name(prefix, *parts)
        for target in targets:
            self._targets.add((protocol, target.address, target.port))
            if ipaddress.IPv4Address(target.address) in self._pods:
                self._claims["hairpin", f"{target.address} . {target.address}"] = ""
        if not self._affinity_s:
            self._chains[chain] = (*before, f"meta l4proto {protocol} dnat ip to {_choice(targets)}")
            return chain
        endpoints = [self._sticky(parts, protocol, target) for target in targets]
        known = tuple(f"ip saddr @{client_set} goto {endpoint}" for client_set, endpoint in endpoints)
        choices = ", ".join(f"{number} : goto {endpoint}" for number, (_, endpoint) in enumerate(endpoints))
        self._chains[chain] = (*before, *known, f"numgen random mod {len(endpoints)} vmap {{ {choices} }}")
        return chain

    def _sticky(self, parts: tuple[object, ...], protocol: int, target: Target) -> tuple[str, str]:
        """The client set and the chain of one endpoint; both forms of a port (cluster and external) share them."""
        client_set = _name("clients", *parts, target.address, target.port)
        endpoint = _name("endpoint", *parts, target.address, target.port)
        self._sets[client_set] = self._affinity_s
        self._chains[endpoint] = (
            f"update @{client_set} {{ ip saddr }}",
            f"meta l4proto {protocol} dnat ip to {target.address}:{target.port}",
        )
        return client_set, endpoint


def _choice(targets: list[Target]) -> str:
    if len(targets) == 1:
        return f"{targets[0].address}:{targets[0].port}"
    pairs = ", ".join(f"{number} : {target.pair}" for number, target in enumerate(targets))
    return f"numgen random mod {len(targets)} map {{ {pairs} }}"


# --- from one set of rules to another -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction, and the endpoints that no Service sends to any more."""

    commands: tuple[str, ...]
    dropped: frozenset[tuple[int, str, int]]


class ServiceTable:
    """The rules of all Services as data.

    Two Services may claim one key (an external address given twice, a ClusterIP moving between objects in one view); the
    first by name has it, and when that one goes the next takes over.
    """

    def __init__(self) -> None:
        self._rules: dict[str, ServiceRules] = {}
        self._claims: dict[Claim, dict[str, str]] = {}
        self._senders: Counter[tuple[int, str, int]] = Counter()  # Services that send to an endpoint

    @property
    def chains(self) -> dict[str, tuple[Rule, ...]]:
        """Rules by chain name."""
        return {name: lines for rules in self._rules.values() for name, lines in rules.chains.items()}

    @property
    def sets(self) -> dict[str, int]:
        """Timeouts of the session affinity sets, by name."""
        return {name: timeout for rules in self._rules.values() for name, timeout in rules.sets.items()}

    @property
    def elements(self) -> dict[Claim, str]:
        """Value by map or set and key."""
        return {claim: self._winner(claim) for claim in self._claims}

    def _winner(self, claim: Claim) -> str:
        claimants = self._claims[claim]
        return claimants[min(claimants)]

    def everything(self) -> tuple[str, ...]:
        """The commands that put all of it into an empty table."""
        return _commands(_Delta(added_sets=self.sets, written=self.chains, added=self.elements))

    def apply(self, changes: Mapping[str, ServiceRules]) -> Change:
        """Take in the new rules of some Services (`NO_RULES` for one that is gone)."""
        delta = _Delta()
        before: dict[Claim, str | None] = {}
        dropped: set[tuple[int, str, int]] = set()
        for key, new in changes.items():
            old = self._rules.get(key, NO_RULES)
            if old == new:
                continue
            self._senders.update(new.targets)
            self._senders.subtract(old.targets)
            dropped |= old.targets - new.targets
            _compare(old, new, delta)
            for claim in (*old.claims, *new.claims):
                if claim not in before:
                    before[claim] = self._winner(claim) if claim in self._claims else None
            for claim in old.claims:
                claimants = self._claims[claim]
                del claimants[key]
                if not claimants:
                    del self._claims[claim]
            for claim, value in new.claims.items():
                self._claims.setdefault(claim, {})[key] = value
            if new == NO_RULES:
                del self._rules[key]
            else:
                self._rules[key] = new
        for claim, was in before.items():
            now = self._winner(claim) if claim in self._claims else None
            if was == now:
                continue
            if was is not None:
                delta.removed[claim] = was
            if now is not None:
                delta.added[claim] = now
        dropped = {target for target in dropped if self._senders[target] <= 0}
        for target in dropped:
            del self._senders[target]
        return Change(_commands(delta), frozenset(dropped))


@dataclass(slots=True)
class _Delta:
    added_sets: dict[str, int] = field(default_factory=dict)
    removed_sets: list[str] = field(default_factory=list)
    written: dict[str, tuple[Rule, ...]] = field(default_factory=dict)
    removed_chains: list[str] = field(default_factory=list)
    added: dict[Claim, str] = field(default_factory=dict)
    removed: dict[Claim, str] = field(default_factory=dict)


def _compare(old: ServiceRules, new: ServiceRules, delta: _Delta) -> None:
    for name, timeout in new.sets.items():
        if old.sets.get(name) != timeout:
            delta.added_sets[name] = timeout
    changed_sets = {name for name, timeout in old.sets.items() if new.sets.get(name) != timeout}
    delta.removed_sets += changed_sets
    for name, rules in new.chains.items():
        if old.chains.get(name) != rules or any(f"@{changed}" in rule for changed in changed_sets for rule in rules):
            delta.written[name] = rules
    delta.removed_chains += [name for name in old.chains if name not in new.chains]


def _commands(delta: _Delta) -> tuple[str, ...]:
    """In an order in which nothing is deleted while it is in use, nor used before it is there."""
    lines: list[str] = [_elements("delete", removed) for removed in _grouped(delta.removed, values=False)]
    for name in (*delta.written, *delta.removed_chains):
        lines += [f"add chain {TABLE} {name}", f"flush chain {TABLE} {name}"]
    lines += [f"delete chain {TABLE} {name}" for name in delta.removed_chains]
    lines += [f"delete set {TABLE} {name}" for name in delta.removed_sets]
    for name, timeout in delta.added_sets.items():
        lines.append(f"add set {TABLE} {name} {{ type ipv4_addr; flags dynamic,timeout; timeout {timeout}s; }}")
    for name, rules in delta.written.items():
        lines += [f'add rule {TABLE} {name} {rule} comment "{fingerprint(rule)}"' for rule in rules]
    lines += [_elements("add", added) for added in _grouped(delta.added, values=True)]
    return tuple(lines)


def _grouped(claims: Mapping[Claim, str], *, values: bool) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for (container, key), value in claims.items():
        groups.setdefault(container, []).append(f"{key} : {value}" if values and value else key)
    return sorted(groups.items())


def _elements(verb: str, group: tuple[str, list[str]]) -> str:
    container, elements = group
    return f"{verb} element {TABLE} {container} {{ {', '.join(elements)} }}"


def fingerprint(rule: Rule) -> str:
    """What a rule carries as its comment, so that the kernel's rules can be compared with ours without parsing them."""
    return hashlib.sha256(rule.encode()).hexdigest()[:12]
