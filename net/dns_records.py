"""The cluster's names: from Services and EndpointSlices to answers, as Kubernetes' DNS specification (1.1.0) has them.

    SERVICE.NAMESPACE.svc.DOMAIN              A: the ClusterIP; headless: every ready endpoint; ExternalName: CNAME
    HOSTNAME.SERVICE.NAMESPACE.svc.DOMAIN     A: one endpoint of a headless Service, by its hostname (or 10-244-1-5)
    _PORT._PROTOCOL.SERVICE.NAMESPACE.svc…    SRV: port number and name, one for each endpoint when headless
    10-244-1-5.NAMESPACE.pod.DOMAIN           A: the address in the name
    …in-addr.arpa                             PTR: the Service of a ClusterIP, the hostname of a headless endpoint
    dns-version.DOMAIN                        TXT: the specification's version

A name that does not exist is NXDOMAIN; one that exists without records of the asked type is NOERROR without an answer;
both carry the zone's SOA, so that resolvers remember them. The two must not be mixed up: a resolver with search domains
stops at the first name that exists. Names outside the zone are not answered here (`Answer.outside`).

Names are compared in lower case, without the final dot.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from steersman.types import EndpointSlice, Service
from steersman.types.apps import Endpoint

A, NS, CNAME, SOA, PTR, TXT, AAAA, SRV, ANY = 1, 2, 5, 6, 12, 16, 28, 33, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5

TTL_S = (
    5  # Services change within seconds, and the server is on the same host: caching longer only serves stale answers
)
SPECIFICATION = "1.1.0"
SRV_WEIGHT_TOTAL = 100


@dataclass(frozen=True, slots=True)
class Record:
    """One record; `data` is an address, a name or a text, and for SRV (priority, weight, port, name)."""

    name: str
    type: int
    data: str | tuple[int, int, int, str]
    ttl: int = TTL_S


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say: `outside` means that the name is no business of the zone."""

    rcode: int = NOERROR
    records: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    outside: bool = False

    @property
    def negative(self) -> bool:
        """Whether the zone's SOA belongs to it."""
        return not self.records and self.rcode in (NOERROR, NXDOMAIN)


OUTSIDE = Answer(REFUSED, outside=True)
NO_SUCH_NAME = Answer(NXDOMAIN)
NO_SUCH_RECORD = Answer(NOERROR)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A Service as DNS sees it: its endpoints' (label, address), and ports as (name, protocol, number)."""

    service: Service
    hosts: tuple[tuple[str, str], ...]
    ports: tuple[tuple[str, str, int], ...]


class Zone:
    """The names of one cluster, kept up to date Service by Service.

    Attributes:
        domain: "cluster.local".
        namespaces: names that exist though they have no Service.
        serial: grows with every change; caches of answers are good for one value of it.
    """

    def __init__(self, domain: str, service_cidr: str, cluster_cidr: str) -> None:
        self.domain = domain.lower().strip(".")
        self.serial = 1
        self._suffix = "." + self.domain
        self._reverse = (ipaddress.IPv4Network(service_cidr), ipaddress.IPv4Network(cluster_cidr))
        self._entries: dict[str, _Entry] = {}
        self._count: dict[str, int] = {}  # Services by namespace
        self._names: dict[str, dict[str, None]] = {}  # names by address, for PTR, oldest first
        self._namespaces: frozenset[str] = frozenset()

    @property
    def namespaces(self) -> Collection[str]:
        return self._namespaces

    @namespaces.setter
    def namespaces(self, names: Collection[str]) -> None:
        given = frozenset(names)
        if given != self._namespaces:
            self._namespaces = given
            self.serial += 1

    def update(self, key: str, service: Service | None, slices: Iterable[EndpointSlice]) -> None:
        """Take in a Service ("namespace/name") and its slices; None when it is gone."""
        old = self._entries.pop(key, None)
        if old:
            self._count[old.service.namespace] -= 1
            for address, name in self._pointers(old):
                names = self._names.get(address, {})
                names.pop(name, None)
                if not names:
                    self._names.pop(address, None)
        if service:
            entry = _entry_of(service, slices)
            self._entries[key] = entry
            self._count[service.namespace] = self._count.get(service.namespace, 0) + 1
            for address, name in self._pointers(entry):
                self._names.setdefault(address, {})[name] = None
        self.serial += 1

    def _pointers(self, entry: _Entry) -> Iterator[tuple[str, str]]:
        base = f"{entry.service.name}.{entry.service.namespace}.svc.{self.domain}"
        if entry.service.headless:
            for label, address in entry.hosts:
                yield address, f"{label}.{base}"
        elif entry.service.spec.cluster_ip:
            yield entry.service.spec.cluster_ip, base

    def soa(self) -> Record:
        """The zone's SOA; its data is "MNAME RNAME SERIAL REFRESH RETRY EXPIRE MINIMUM"."""
        data = f"ns.dns.{self.domain} hostmaster.{self.domain} {self.serial & 0xFFFFFFFF} 7200 1800 86400 {TTL_S}"
        return Record(self.domain, SOA, data)

    def answer(self, name: str, kind: int) -> Answer:
        """Answer a question; `name` in lower case, without the final dot."""
        if name.endswith(".in-addr.arpa"):
            return self._pointer(name, kind)
        if name == self.domain:
            return self._apex(name, kind)
        if not name.endswith(self._suffix):
            return OUTSIDE
        labels = name.removesuffix(self._suffix).split(".")
        if labels[-1] == "svc":
            return self._service(name, kind, labels[:-1])
        if labels[-1] == "pod":
            return self._pod(name, kind, labels[:-1])
        if labels == ["dns-version"]:
            return _only(Record(name, TXT, SPECIFICATION), kind)
        if labels in (["dns"], ["ns", "dns"]):
            return NO_SUCH_RECORD
        return NO_SUCH_NAME

    def _apex(self, name: str, kind: int) -> Answer:
        if kind == NS:
            return Answer(records=(Record(name, NS, f"ns.dns.{self.domain}"),))
        return _only(self.soa(), kind)

    def _exists(self, namespace: str) -> bool:
        return self._count.get(namespace, 0) > 0 or namespace in self._namespaces

    def _service(self, name: str, kind: int, labels: list[str]) -> Answer:
        if not labels:
            return NO_SUCH_RECORD
        namespace = labels[-1]
        if len(labels) == 1:
            return NO_SUCH_RECORD if self._exists(namespace) else NO_SUCH_NAME
        entry = self._entries.get(f"{namespace}/{labels[-2]}")
        if entry is None:
            return NO_SUCH_NAME
        below = labels[:-2]
        base = ".".join((labels[-2], namespace, "svc", self.domain))
        if entry.service.spec.type == "ExternalName":
            return self._external(name, entry.service.spec.external_name) if not below else NO_SUCH_NAME
        if not below:
            addresses = (
                [address for _, address in entry.hosts] if entry.service.headless else [entry.service.spec.cluster_ip]
            )
            return _addresses(name, kind, addresses) if any(addresses) else NO_SUCH_NAME
        if below[0].startswith("_"):
            return self._srv(name, kind, below, entry, base)
        if len(below) == 1 and entry.service.headless:
            found = [address for label, address in entry.hosts if label == below[0]]
            return _addresses(name, kind, found) if found else NO_SUCH_NAME
        return NO_SUCH_NAME

    def _external(self, name: str, target: str) -> Answer:
        """A CNAME, and what it leads to when that is in the zone too."""
        target = target.lower().strip(".")
        return Answer(records=(Record(name, CNAME, target),)) if target else NO_SUCH_NAME

    def _srv(self, name: str, kind: int, below: list[str], entry: _Entry, base: str) -> Answer:
        if len(below) == 1:  # "_http" or "_tcp" alone: on the way to names that exist
            known = {f"_{port}" for port, _, _ in entry.ports} | {f"_{protocol}" for _, protocol, _ in entry.ports}
            return NO_SUCH_RECORD if below[0] in known else NO_SUCH_NAME
        ports = [
            number
            for port, protocol, number in entry.ports
            if port and [f"_{port}", f"_{protocol}"] == below
        ]  # fmt: skip
        hosts = entry.hosts if entry.service.headless else ((("", entry.service.spec.cluster_ip)),)
        if not ports or not hosts or len(below) != 2:
            return NO_SUCH_NAME
        if kind not in (SRV, ANY):
            return NO_SUCH_RECORD
        weight = max(1, SRV_WEIGHT_TOTAL // (len(ports) * len(hosts)))
        records: list[Record] = []
        additional: list[Record] = []
        for label, address in hosts:
            target = f"{label}.{base}" if label else base
            records += (Record(name, SRV, (0, weight, number, target)) for number in ports)
            additional.append(Record(target, A, address))
        return Answer(records=tuple(records), additional=tuple(additional))

    def _pod(self, name: str, kind: int, labels: list[str]) -> Answer:
        if not labels:
            return NO_SUCH_RECORD
        if not self._exists(labels[-1]):
            return NO_SUCH_NAME
        if len(labels) == 1:
            return NO_SUCH_RECORD
        try:
            address = ipaddress.IPv4Address(labels[0].replace("-", "."))
        except ValueError:
            return NO_SUCH_NAME
        return _addresses(name, kind, [str(address)]) if len(labels) == 2 else NO_SUCH_NAME

    def _pointer(self, name: str, kind: int) -> Answer:
        parts = name.removesuffix(".in-addr.arpa").split(".")
        try:
            address = ipaddress.IPv4Address(".".join(reversed(parts)))
        except ValueError:
            return OUTSIDE
        if not any(address in network for network in self._reverse):
            return OUTSIDE
        names = self._names.get(str(address))
        if not names:
            return NO_SUCH_NAME
        if kind not in (PTR, ANY):
            return NO_SUCH_RECORD
        return Answer(records=tuple(Record(name, PTR, target) for target in names))


def _only(record: Record, kind: int) -> Answer:
    return Answer(records=(record,)) if kind in (record.type, ANY) else NO_SUCH_RECORD


def _addresses(name: str, kind: int, addresses: Iterable[str]) -> Answer:
    return (
        Answer(records=tuple(Record(name, A, address) for address in addresses)) if kind in (A, ANY) else NO_SUCH_RECORD
    )


def _entry_of(service: Service, slices: Iterable[EndpointSlice]) -> _Entry:
    if not service.headless:
        ports = tuple((port.name.lower(), port.protocol.lower(), port.port) for port in service.spec.ports)
        return _Entry(service, (), ports)
    hosts: dict[tuple[str, str], None] = {}
    numbers: dict[tuple[str, str, int], None] = {}
    for piece in slices:
        if piece.address_type != "IPv4":
            continue
        for port in piece.ports:
            if port.port:
                numbers[port.name.lower(), port.protocol.lower(), port.port] = None
        for endpoint in piece.endpoints:
            if endpoint.conditions.ready is False and not service.spec.publish_not_ready_addresses:
                continue
            for address in endpoint.addresses:
                hosts[_label(endpoint, address), address] = None
    return _Entry(service, tuple(sorted(hosts)), tuple(numbers))


def _label(endpoint: Endpoint, address: str) -> str:
    return endpoint.hostname.lower() if endpoint.hostname else address.replace(".", "-")
