"""Figures of the pod network, each with its floor measured in the same run.

Needs root, iperf3 and ip. Two hosts are network namespaces joined by a veth pair. The floor of the throughput is a bare
VXLAN between the same two host namespaces, without bridge, veth, NAT or rules; rounds alternate between the two and the
medians are compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import statistics
import subprocess
from pathlib import Path

from bench.harness import Figure
from net import HostNetwork, NetworkView, PodNetwork
from net.plan import VXLAN_OVERHEAD
from steersman.clock import SystemClock, SystemEntropy
from steersman.types import EndpointSlice, Node, Service

NETNS = Path("/run/netns")
BARE_MTU = 1500 - VXLAN_OVERHEAD


SECONDS, ROUNDS = 5.0, 3  # of one iperf3 run; runs of each kind, in turn
PODS, SERVICES, ENDPOINTS = 50, 1000, 10
THROUGHPUT_GOAL = 0.9


def ip(*args: str, netns: str = "") -> None:
    subprocess.run(["ip", *(["-n", netns] if netns else []), *args], check=True, capture_output=True)


class Bench:
    def __init__(self) -> None:
        self.clock = SystemClock()
        self.prefix = f"stb{SystemEntropy().suffix()}"
        self.made: list[str] = []
        self.figures: list[Figure] = []

    def netns(self, name: str) -> str:
        full = f"{self.prefix}-{name}"
        ip("netns", "add", full)
        self.made.append(full)
        ip("link", "set", "lo", "up", netns=full)
        return full

    def report(self, what: str, value: float, unit: str) -> None:
        self.figures.append(Figure(what, value, unit))

    def destroy(self) -> None:
        for name in reversed(self.made):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


async def throughput(client: str, server: str, address: str, seconds: float, *extra: str) -> float:
    """Gbit/s that iperf3 received."""
    listener = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", server, "iperf3", "-s", "-1", "--forceflush", stdout=asyncio.subprocess.PIPE
    )
    assert listener.stdout is not None
    await listener.stdout.readuntil(b"listening")
    sender = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", client, "iperf3", "-c", address, "-t", str(seconds), "-J", *extra),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await sender.communicate()
    await listener.communicate()
    return float(json.loads(output)["end"]["sum_received"]["bits_per_second"]) / 1e9


async def across_hosts(bench: Bench, networks: list[PodNetwork], hosts: list[str]) -> None:
    pods = []
    for number, network in enumerate(networks, 1):
        pod = bench.netns(f"pod{number}")
        await network.attach(pod, str(NETNS / pod), f"10.244.{number}.7")
        pods.append(pod)
    for number, host in enumerate(hosts, 1):
        other = 3 - number
        ip(
            *("link", "add", "bare0", "type", "vxlan", "id", "99", "dstport", "8999", "local", f"172.29.78.{number}"),
            *("remote", f"172.29.78.{other}", "dev", "eth0"),
            netns=host,
        )
        ip("addr", "add", f"10.99.0.{number}/24", "dev", "bare0", netns=host)
        ip("link", "set", "bare0", "mtu", str(BARE_MTU), "up", netns=host)
    bare, ours = [], []
    for _ in range(ROUNDS):
        bare.append(await throughput(hosts[0], hosts[1], "10.99.0.2", SECONDS))
        ours.append(await throughput(pods[0], pods[1], "10.244.2.7", SECONDS))
    floor, got = statistics.median(bare), statistics.median(ours)
    reached = got >= THROUGHPUT_GOAL * floor
    bench.figures.append(
        Figure(
            "pod to pod across hosts, iperf3", got, "Gbit/s", "bare VXLAN", floor, f"≥ {THROUGHPUT_GOAL:g} ×", reached
        )
    )


async def attach_and_detach(bench: Bench, network: PodNetwork, count: int) -> None:
    names = [bench.netns(f"a{number}") for number in range(count)]
    attaching, began = [], bench.clock.monotonic()
    for number, name in enumerate(names):
        one = bench.clock.monotonic()
        await network.attach(name, str(NETNS / name), f"10.244.1.{number + 20}")
        attaching.append(bench.clock.monotonic() - one)
    whole = bench.clock.monotonic() - began
    bench.report("attach a pod, median", statistics.median(attaching) * 1000, "ms")
    bench.report("attach a pod, slowest", max(attaching) * 1000, "ms")
    bench.report("pods attached per second", count / whole, "1/s")
    began = bench.clock.monotonic()
    await asyncio.gather(*(network.detach(name) for name in names))
    bench.report(f"detach {count} pods asked for together", (bench.clock.monotonic() - began) * 1000, "ms")


def service(number: int) -> Service:
    return Service.from_dict(
        {
            "metadata": {"name": f"s{number}", "namespace": "default"},
            "spec": {
                "clusterIP": f"10.96.{10 + number // 250}.{number % 250}",
                "ports": [{"name": "http", "port": 80}],
            },
        }
    )


def endpoints(number: int, count: int, first: int = 2) -> EndpointSlice:
    ready = [{"addresses": [f"10.244.{number % 250}.{first + k}"], "conditions": {"ready": True}} for k in range(count)]
    return EndpointSlice.from_dict(
        {
            "metadata": {
                "name": f"s{number}-a",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": f"s{number}"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": ready,
        }
    )


async def services(bench: Bench, network: PodNetwork, nodes: dict[str, Node], count: int, each: int) -> None:
    all_services = {f"default/s{number}": service(number) for number in range(count)}
    slices = {f"default/s{number}-a": endpoints(number, each) for number in range(count)}
    view = NetworkView(nodes, all_services, slices)

    async def timed() -> float:
        began = bench.clock.monotonic()
        await network.sync(view)
        return (bench.clock.monotonic() - began) * 1000

    bench.report(f"sync {count} Services x {each} endpoints", await timed(), "ms")
    bench.report("sync with nothing changed", statistics.median([await timed() for _ in range(20)]), "ms")
    changes = []
    for turn in range(20):
        slices["default/s7-a"] = endpoints(7, each, first=3 + turn % 2)
        changes.append(await timed())
    bench.report("sync after one EndpointSlice changed", statistics.median(changes), "ms")


async def measure() -> list[Figure]:
    bench = Bench()
    if task := asyncio.current_task():  # a run that is stopped leaves no namespaces either
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    networks: list[PodNetwork] = []
    try:
        hosts = [bench.netns("h1"), bench.netns("h2")]
        ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", hosts[1], netns=hosts[0])
        nodes: dict[str, Node] = {}
        for number, host in enumerate(hosts, 1):
            ip("addr", "add", f"172.29.78.{number}/24", "dev", "eth0", netns=host)
            ip("link", "set", "eth0", "up", netns=host)
            address = {"type": "InternalIP", "address": f"172.29.78.{number}"}
            nodes[f"n{number}"] = Node.from_dict(
                {
                    "metadata": {"name": f"n{number}"},
                    "spec": {"podCIDR": f"10.244.{number}.0/24"},
                    "status": {"addresses": [address]},
                }
            )
        for number, host in enumerate(hosts, 1):
            network = PodNetwork(HostNetwork(f"n{number}", f"172.29.78.{number}", netns=str(NETNS / host)), bench.clock)
            networks.append(network)
            await network.sync(NetworkView(nodes))
            await network.start(f"10.244.{number}.0/24")
        await across_hosts(bench, networks, hosts)
        await attach_and_detach(bench, networks[0], PODS)
        await services(bench, networks[0], nodes, SERVICES, ENDPOINTS)
    finally:
        for network in networks:
            await network.stop(leave_pods=False)
        bench.destroy()
    return bench.figures


def run() -> list[Figure]:
    return asyncio.run(measure())
