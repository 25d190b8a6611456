"""The parts of a lab without a cluster: a switch, the registry's host with its services, and a host that is only plugged in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lab import cgroups, hosts, segment
from lab.topology import Host, Topology
from steersman.clock import SystemEntropy

if os.geteuid() != 0:
    collect_ignore_glob = ["test_*"]


@dataclass(frozen=True, slots=True)
class Parts:
    topology: Topology
    registry: Host  # booted
    node: Host  # a namespace on the segment, nothing runs there


@pytest.fixture
def parts() -> Iterator[Parts]:
    topology = Topology(f"it{SystemEntropy().token(6)}", 1, 1)
    found = Parts(topology, topology.registry, topology.workers[0])
    try:
        topology.directory.mkdir(parents=True)
        segment.make_switch(topology)
        hosts.boot(topology, found.registry, {})
        segment.plug(topology, found.node)
        yield found
    finally:
        from lab import cluster

        cluster.down(topology.name, lambda _: None)
        assert not cgroups.processes(topology.cgroup)
        assert not segment.namespaces(topology.name)
        assert not topology.directory.exists()
