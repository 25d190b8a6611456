"""How a member runs: the flags of `steer-control run`, checked against each other before anything starts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from control.store.encryption import DEFAULT_RESOURCES
from control.store.etcd import address as etcd_address
from control.store.etcd.address import EtcdAddress, EtcdTls
from steersman import quantity

EMBEDDED: Final = "embedded"
VERSION: Final = "0.1.0"
KUBERNETES_VERSION: Final = "v1.37.0"  # of the schemas that are served
BOOTSTRAP_PORT_OFFSET: Final = 2  # node bootstrap is served this far above the gRPC port (node.proto)

MIN_HISTORY_S: Final = (
    60.0  # a watcher whose connection broke resumes from history, and lists everything again otherwise
)
MIN_HISTORY_BYTES: Final = 1 << 20  # likewise; the largest object fits

_RESOURCE = re.compile(r"[a-z][a-z0-9]*(\.[a-z0-9]([-a-z0-9.]*[a-z0-9])?)?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?")


class ConfigError(Exception):
    """A flag is wrong or does not fit another; the message says which and how to mend it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberConfig:
    """Addresses are host:port."""

    name: str
    data_dir: Path
    pki_dir: Path
    raft_listen: str = ""  # needed by the embedded store
    grpc_listen: str = "0.0.0.0:7443"
    rest_listen: str = "0.0.0.0:6443"
    bootstrap_listen: str = ""  # empty: the gRPC address, two ports on
    initial_cluster: Mapping[str, str] = field(default_factory=dict)
    advertise_grpc: str = ""  # empty: the host of the Raft address, at the gRPC port
    join: tuple[str, ...] = ()  # gRPC addresses of members of the cluster to join, when the data folder is empty
    cluster_id: str = ""  # of the cluster to join, once one of those has told it
    cluster_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    dns_ip: str = "10.96.0.10"
    cluster_domain: str = "cluster.local"
    node_cidr_mask: int = 24
    node_lease_s: float = 8.0
    unreachable_toleration_s: int = 5
    initial_join_token_file: Path | None = None
    encrypt: tuple[str, ...] = DEFAULT_RESOURCES  # resources; empty: nothing
    store: str = EMBEDDED  # or etcd://HOST:PORT,…?prefix=/steersman
    store_ca: Path | None = None  # of etcd's certificates
    store_cert: Path | None = None  # by which etcd knows this member
    store_key: Path | None = None
    history_age_s: float = 3600.0
    history_bytes: int = 64 << 20

    @property
    def grpc_port(self) -> int:
        return _port(self.grpc_listen)

    @property
    def advertised_grpc(self) -> str:
        """Where other members, nodes and clients reach this member's gRPC port."""
        return self.advertise_grpc or f"{_host(self.raft_listen)}:{self.grpc_port}"

    @property
    def advertised_rest(self) -> str:
        """Likewise its REST port."""
        return f"{_host(self.advertised_grpc)}:{_port(self.rest_listen)}"

    @property
    def bootstrap_address(self) -> str:
        """Where hosts join."""
        return self.bootstrap_listen or f"{_host(self.grpc_listen)}:{self.grpc_port + BOOTSTRAP_PORT_OFFSET}"

    def check(self) -> None:
        """Raises ConfigError for the first thing that is wrong."""
        check_name("--name", self.name)
        self._check_store()
        if self.raft_listen or self.store == EMBEDDED:
            check_address("--raft-listen", self.raft_listen)
        for flag, address in (
            ("--grpc-listen", self.grpc_listen),
            ("--rest-listen", self.rest_listen),
            ("--advertise-grpc", self.advertised_grpc),
            ("--bootstrap-listen", self.bootstrap_address),
        ):
            check_address(flag, address)
        for address in self.join:
            check_address("--join", address)
        if self.join and self.initial_cluster:
            raise ConfigError("--join and --initial-cluster exclude each other: a cluster is begun, or joined")
        if self.initial_cluster and self.name not in self.initial_cluster:
            raise ConfigError(
                f"--initial-cluster has {', '.join(self.initial_cluster)}, but not this member: --name {self.name}"
            )
        for name, address in self.initial_cluster.items():
            check_address(f"--initial-cluster {name}", address)
        pods, services = _network("--cluster-cidr", self.cluster_cidr), _network("--service-cidr", self.service_cidr)
        if pods.overlaps(services):
            raise ConfigError(f"--cluster-cidr {pods} and --service-cidr {services} overlap: choose disjoint ranges")
        if services.num_addresses < 16:
            raise ConfigError(f"--service-cidr {services} is too small: use /28 or larger")
        if not pods.prefixlen < self.node_cidr_mask <= 30:
            raise ConfigError(
                f"--node-cidr-mask {self.node_cidr_mask}: must be greater than the /{pods.prefixlen} of --cluster-cidr, and at most 30"
            )
        try:
            dns = ipaddress.IPv4Address(self.dns_ip)
        except ValueError:
            raise ConfigError(f"--dns-ip {self.dns_ip!r} is not an IPv4 address") from None
        if dns not in services or dns in (services[0], services[1], services[-1]):
            raise ConfigError(f"--dns-ip {dns} must be in --service-cidr {services}, and not its first address")
        if self.node_lease_s < 4:
            raise ConfigError(f"--node-lease {self.node_lease_s:g}s is too short: four heartbeats take 4 s")
        for resource in self.encrypt:
            if not _RESOURCE.fullmatch(resource):
                raise ConfigError(
                    f"--encrypt {resource!r}: name resources as secrets, configmaps or widgets.example.com"
                )
        if self.history_age_s < MIN_HISTORY_S:
            raise ConfigError(
                f"--history-age {self.history_age_s:g}s is too short: watchers need {MIN_HISTORY_S:g}s to come back"
            )
        if self.history_bytes < MIN_HISTORY_BYTES:
            raise ConfigError(f"--history-size {self.history_bytes} is too small: at least {MIN_HISTORY_BYTES >> 20}Mi")
        if self.unreachable_toleration_s < 0:
            raise ConfigError("--default-unreachable-toleration must not be negative")

    def etcd(self) -> tuple[EtcdAddress, EtcdTls]:
        """Where etcd is, for a `store` that is not embedded. Raises ConfigError."""
        try:
            address = etcd_address.parse(self.store)
        except ValueError as error:
            raise ConfigError(f"--store {self.store}: {error}; or leave it {EMBEDDED}") from None
        if self.store_ca is None or self.store_cert is None or self.store_key is None:
            raise ConfigError("--store etcd://… needs --store-ca, --store-cert and --store-key: mutual TLS")
        return address, EtcdTls(self.store_ca, self.store_cert, self.store_key)

    def _check_store(self) -> None:
        if self.store != EMBEDDED:
            self.etcd()
            if self.join:
                raise ConfigError("--join is for the embedded store: with --store etcd://… a member just starts")
        elif self.store_ca or self.store_cert or self.store_key:
            raise ConfigError("--store-ca, --store-cert and --store-key are for --store etcd://…")


def parse_cluster(text: str) -> dict[str, str]:
    """`NAME=HOST:PORT,…`. Raises ConfigError."""
    members: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, found, address = part.partition("=")
        if not found or not name:
            raise ConfigError(f"--initial-cluster: {part!r} is not NAME=HOST:PORT")
        if name in members:
            raise ConfigError(f"--initial-cluster names {name} twice")
        members[name] = address
    return members


def parse_seconds(flag: str, text: str) -> float:
    """`8s`, `500ms`, `2m` or a number of seconds. Raises ConfigError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?", text.strip())
    if match is None:
        raise ConfigError(f"{flag} {text!r} is not a duration: use 8s, 500ms or 2m")
    return float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2] or "s"]


def parse_bytes(flag: str, text: str) -> int:
    """`64Mi`, `1G` or a number of bytes. Raises ConfigError."""
    try:
        return int(quantity.parse(text.strip()))
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from None


def parse_resources(text: str) -> tuple[str, ...]:
    """`secrets,configmaps`; `none` for nothing."""
    found = tuple(part for part in (piece.strip() for piece in text.split(",")) if part)
    return () if found == ("none",) else found


def _host(address: str) -> str:
    return address.rpartition(":")[0]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def check_name(what: str, name: str) -> None:
    """Raises ConfigError unless a member may be called so."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what} {name!r}: a member's name has 1 to 52 lower-case letters, digits and '-', "
            "beginning and ending with a letter or digit"
        )


def check_address(flag: str, address: str) -> None:
    """Raises ConfigError unless the address is host:port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ConfigError(f"{flag} {address!r} is not HOST:PORT")


def _network(flag: str, text: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        raise ConfigError(f"{flag} {text!r} is not an IPv4 range as 10.244.0.0/16: {error}") from None
