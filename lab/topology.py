"""What a lab is made of: names, addresses, paths. Pure data, derived from a few numbers.

A lab is a set of hosts on one machine. Each host is a network namespace with a process tree, mounts, hostname and cgroup
of its own; they meet on one Ethernet segment, a bridge in a namespace that is the lab's switch:

    172.29.0.1   the switch itself: from here the balancer reaches the members
    172.29.0.2   the registry
    172.29.0.11  control-1, control-2, …
    172.29.0.101 node-1, node-2, …

No namespace has a route to the outside, and the machine's own namespace has none to the lab: the balancer listens on
127.0.0.1 and dials from inside the switch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

STATE_ROOT = Path("/var/lib/steersman/lab")
SEGMENT = IPv4Network("172.29.0.0/24")
SWITCH_ADDRESS = str(SEGMENT[1])
REGISTRY_ADDRESS = str(SEGMENT[2])
FIRST_CONTROL, FIRST_NODE = 11, 101  # last octet of control-1 and node-1
MAX_CONTROL, MAX_NODES = 9, 100
MAX_PORT = 65535
GRPC_PORT, RAFT_PORT, REST_PORT, REGISTRY_PORT = 7443, 7444, 6443, 5000
STORES = ("embedded", "etcd")
NAME = re.compile(r"[a-z][a-z0-9]{0,7}")  # short: it becomes part of interface and namespace names


class LabError(Exception):
    """The lab cannot do what was asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host: role is control, node or registry."""

    name: str
    role: str
    address: str


@dataclass(frozen=True, slots=True)
class Topology:
    """One lab. `grpc_port` and `rest_port` are where the API is published on 127.0.0.1."""

    name: str = "lab"
    control: int = 3
    nodes: int = 3
    grpc_port: int = GRPC_PORT
    rest_port: int = REST_PORT
    control_flags: tuple[str, ...] = field(default=())
    node_flags: tuple[str, ...] = field(default=())
    store: str = "embedded"  # where the control plane keeps its state: embedded, or etcd on the control hosts

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise LabError(f"lab name {self.name!r}: use 1 to 8 lower-case letters and digits, beginning with a letter")
        if not 1 <= self.control <= MAX_CONTROL or self.control % 2 == 0:
            raise LabError(
                f"--control {self.control}: use an odd number from 1 to {MAX_CONTROL}, so that a majority is clear"
            )
        if self.store not in STORES:
            raise LabError(f"--store {self.store}: use {' or '.join(STORES)}")
        if not 0 <= self.nodes <= MAX_NODES:
            raise LabError(f"--nodes {self.nodes}: use a number from 0 to {MAX_NODES}")
        for flag, port in (("--grpc-port", self.grpc_port), ("--rest-port", self.rest_port)):
            if not 1 <= port <= MAX_PORT:
                raise LabError(f"{flag} {port}: use a number from 1 to {MAX_PORT}")
        if self.grpc_port == self.rest_port:
            raise LabError(f"--grpc-port and --rest-port are both {self.grpc_port}: use two ports")

    @property
    def directory(self) -> Path:
        return STATE_ROOT / self.name

    @property
    def switch(self) -> str:
        """The switch's network namespace."""
        return f"st-{self.name}-sw"

    @property
    def cgroup(self) -> str:
        return f"steersman/{self.name}"

    def namespace(self, host: Host) -> str:
        return f"st-{self.name}-{host.name}"

    @property
    def registry(self) -> Host:
        return Host("registry", "registry", REGISTRY_ADDRESS)

    @property
    def controls(self) -> tuple[Host, ...]:
        return tuple(Host(f"control-{i + 1}", "control", str(SEGMENT[FIRST_CONTROL + i])) for i in range(self.control))

    @property
    def workers(self) -> tuple[Host, ...]:
        return tuple(Host(f"node-{i + 1}", "node", str(SEGMENT[FIRST_NODE + i])) for i in range(self.nodes))

    @property
    def hosts(self) -> tuple[Host, ...]:
        return (self.registry, *self.controls, *self.workers)

    def host(self, name: str) -> Host:
        """The host of that name. Raises LabError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"the lab {self.name!r} has no host {name!r}; it has: {', '.join(h.name for h in self.hosts)}")

    def peer_address(self, name: str) -> str:
        """The address of a host, or of `api`: the balancer, where clients come from."""
        return SWITCH_ADDRESS if name == "api" else self.host(name).address

    def host_directory(self, host: Host) -> Path:
        return self.directory / "hosts" / host.name

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "control": self.control,
            "nodes": self.nodes,
            "grpc_port": self.grpc_port,
            "rest_port": self.rest_port,
            "control_flags": list(self.control_flags),
            "node_flags": list(self.node_flags),
            "store": self.store,
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Topology:
        return cls(
            **{
                **document,
                "control_flags": tuple(document["control_flags"]),
                "node_flags": tuple(document["node_flags"]),
            }
        )
