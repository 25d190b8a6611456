"""Three hosts in network namespaces on a bridge in a fourth, each with a real `PodNetwork`, and pods as bare namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from net import HostNetwork, Ipam, NetworkView, PodNetwork
from net.netns import enter
from steersman.clock import SystemClock, SystemEntropy
from steersman.types import EndpointSlice, Node, Service

NETNS = Path("/run/netns")
DNS_IP = "10.96.0.10"

if os.geteuid() != 0:
    collect_ignore_glob = ["test_*"]


def ip(*args: str, netns: str = "") -> str:
    command = ["ip", *(["-n", netns] if netns else []), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def inside(netns: str, job: Any, *args: Any) -> Any:
    """Run `job(*args)` in a thread that lives in the namespace; its result or its exception."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            fd = os.open(NETNS / netns, os.O_RDONLY)
            try:
                enter(fd)
            finally:
                os.close(fd)
            result.set_result(job(*args))
        except BaseException as error:
            result.set_exception(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    return result.result(timeout=30)


async def in_netns(netns: str, job: Any, *args: Any) -> Any:
    return await asyncio.to_thread(inside, netns, job, *args)


async def eventually(condition: Any, what: str, timeout: float = 10.0) -> Any:
    """Wait until `condition()` (which may be a coroutine function) is true."""
    async with asyncio.timeout(timeout):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.05)
    raise AssertionError(what)


class Pod:
    def __init__(self, name: str, host: Host, netns: str, address: str) -> None:
        self.name, self.host, self.netns, self.address = name, host, netns, address


class Host:
    def __init__(self, number: int, prefix: str) -> None:
        self.name = f"node-{number}"
        self.netns = f"{prefix}-h{number}"
        self.address = f"172.29.77.{100 + number}"
        self.pod_cidr = f"10.244.{number}.0/24"
        self.used: dict[str, str] = {}
        self.network = self.make_network()

    def make_network(self) -> PodNetwork:
        return PodNetwork(
            HostNetwork(self.name, self.address, dns_ip=DNS_IP, netns=str(NETNS / self.netns)), SystemClock()
        )

    def node(self) -> Node:
        return Node.from_dict(
            {
                "metadata": {"name": self.name},
                "spec": {"podCIDR": self.pod_cidr},
                "status": {"addresses": [{"type": "InternalIP", "address": self.address}]},
            }
        )


class World:
    """The hosts, what the cluster looks like, and pods made on demand."""

    ip = staticmethod(ip)
    in_netns = staticmethod(in_netns)
    eventually = staticmethod(eventually)

    def __init__(self) -> None:
        self.entropy = SystemEntropy()
        self.prefix = f"stn{self.entropy.suffix()}"
        self.switch = f"{self.prefix}-sw"
        self.made: list[str] = []
        self.hosts: list[Host] = []
        self.nodes: dict[str, Node] = {}
        self.services: dict[str, Service] = {}
        self.slices: dict[str, EndpointSlice] = {}

    def netns(self, name: str) -> str:
        ip("netns", "add", name)
        self.made.append(name)
        ip("link", "set", "lo", "up", netns=name)
        return name

    def build(self, hosts: int) -> None:
        self.netns(self.switch)
        ip("link", "add", "sw0", "type", "bridge", netns=self.switch)
        ip("link", "set", "sw0", "up", netns=self.switch)
        for number in range(1, hosts + 1):
            host = Host(number, self.prefix)
            self.netns(host.netns)
            self.hosts.append(host)
            self.nodes[host.name] = host.node()
            port = f"h{number}"
            ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.netns, netns=self.switch)
            ip("link", "set", port, "master", "sw0", "up", netns=self.switch)
            ip("addr", "add", f"{host.address}/24", "dev", "eth0", netns=host.netns)
            ip("link", "set", "eth0", "up", netns=host.netns)

    @property
    def view(self) -> NetworkView:
        return NetworkView(self.nodes, self.services, self.slices, {"default"})

    async def sync(self) -> None:
        for host in self.hosts:
            await host.network.sync(self.view)

    async def pod(self, host: Host) -> Pod:
        uid = self.entropy.uid()
        netns = self.netns(f"{self.prefix}-{uid[:8]}")
        address = Ipam(host.pod_cidr).allocate(uid, host.used).address
        host.used[uid] = address
        await host.network.attach(uid, str(NETNS / netns), address)
        return Pod(uid, host, netns, address)

    def service(self, name: str, cluster_ip: str, port: int, pods: list[Pod], target: int, **spec: Any) -> None:
        protocol = spec.pop("protocol", "TCP")
        node_port = spec.pop("node_port", 0)
        key = f"default/{name}"
        ports = [{"name": "p", "port": port, "protocol": protocol, "nodePort": node_port}]
        self.services[key] = Service.from_dict(
            {
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"clusterIP": cluster_ip, "ports": ports, **spec},
            }
        )
        self.endpoints(name, pods, target, protocol)

    def endpoints(self, name: str, pods: list[Pod], target: int, protocol: str = "TCP") -> None:
        self.slices[f"default/{name}-a"] = EndpointSlice.from_dict(
            {
                "metadata": {
                    "name": f"{name}-a",
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": [{"name": "p", "port": target, "protocol": protocol}],
                "endpoints": [
                    {"addresses": [pod.address], "nodeName": pod.host.name, "conditions": {"ready": True}}
                    for pod in pods
                ],
            }
        )

    def destroy(self) -> None:
        for name in reversed(self.made):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


@pytest.fixture
def bare_world() -> Iterator[World]:
    """Three hosts on one segment, no pod network yet."""
    world = World()
    try:
        world.build(3)
        yield world
    finally:
        world.destroy()


@pytest.fixture
async def world(bare_world: World) -> AsyncIterator[World]:
    """Three hosts with their pod networks started and knowing each other."""
    try:
        for host in bare_world.hosts:
            await host.network.start(host.pod_cidr)
        await bare_world.sync()
        yield bare_world
    finally:
        for host in bare_world.hosts:
            await host.network.stop(leave_pods=False)
