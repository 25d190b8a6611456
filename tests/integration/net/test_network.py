"""Real packets between real namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dnslib import QTYPE, DNSRecord

from net import NetworkError
from net.plan import pod_link


@contextlib.asynccontextmanager
async def answering(
    world: Any, netns: str, port: int, name: str, kind: int = socket.SOCK_STREAM
) -> AsyncIterator[None]:
    """Something in the namespace that answers every client with `name`, and what it saw as the client's address."""
    in_netns = world.in_netns

    def listen() -> socket.socket:
        channel = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        channel.bind(("0.0.0.0", port))
        if kind == socket.SOCK_STREAM:
            channel.listen(64)
        return channel

    channel = await in_netns(netns, listen)
    loop = asyncio.get_running_loop()

    async def serve() -> None:
        while True:
            if kind == socket.SOCK_STREAM:
                client, address = await loop.sock_accept(channel)
                await loop.sock_sendall(client, f"{name} {address[0]}".encode())
                client.close()
            else:
                _, address = await loop.sock_recvfrom(channel, 100)
                await loop.sock_sendto(channel, f"{name} {address[0]}".encode(), address)

    task = asyncio.create_task(serve())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        channel.close()


def tcp(address: str, port: int) -> list[str]:
    with socket.create_connection((address, port), timeout=3) as channel:
        return channel.recv(200).decode().split()


def udp(address: str, port: int, source_port: int = 0) -> list[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        channel.settimeout(3)
        channel.bind(("0.0.0.0", source_port))
        channel.connect((address, port))
        channel.send(b"?")
        return channel.recv(200).decode().split()


def ask(name: str, kind: str = "A") -> DNSRecord:
    return DNSRecord.parse(DNSRecord.question(name, kind).send("10.96.0.10", 53, timeout=3))


def nft(netns: str, *command: str) -> str:
    return subprocess.run(
        ["ip", "netns", "exec", netns, "nft", *command], check=True, capture_output=True, text=True
    ).stdout


async def test_pods_and_hosts_reach_every_pod_with_its_own_address(world):
    pods = [await world.pod(host) for host in world.hosts for _ in range(2)]
    async with contextlib.AsyncExitStack() as stack:
        for pod in pods:
            await stack.enter_async_context(answering(world, pod.netns, 8080, pod.name))
        for source, target in itertools.product(pods, pods):
            assert await world.in_netns(source.netns, tcp, target.address, 8080) == [target.name, source.address]
        for host, target in itertools.product(world.hosts, pods):
            name, client = await world.in_netns(host.netns, tcp, target.address, 8080)
            assert (name, client.rpartition(".")[2]) == (target.name, "1"), "hosts speak to pods from their bridge"


async def test_large_packets_cross_hosts_unbroken(world):
    first, second = await world.pod(world.hosts[0]), await world.pod(world.hosts[1])
    result = await world.in_netns(
        first.netns,
        lambda: subprocess.run(
            ["ip", "netns", "exec", first.netns, "ping", "-c1", "-W2", "-Mdo", "-s", str(1450 - 28), second.address],
            check=False,
            capture_output=True,
        ),
    )
    assert result.returncode == 0, result.stdout


async def test_service_spreads_clients_over_its_endpoints_from_pods_and_hosts(world):
    client = await world.pod(world.hosts[0])
    servers = [await world.pod(host) for host in world.hosts]
    world.service("web", "10.96.0.20", 80, servers, 8080)
    await world.sync()
    async with contextlib.AsyncExitStack() as stack:
        for pod in servers:
            await stack.enter_async_context(answering(world, pod.netns, 8080, pod.name))
        for netns in (client.netns, servers[0].netns, world.hosts[1].netns):
            seen = Counter([(await world.in_netns(netns, tcp, "10.96.0.20", 80))[0] for _ in range(40)])
            assert set(seen) == {pod.name for pod in servers}, netns
        answers = [await world.in_netns(client.netns, tcp, "10.96.0.20", 80) for _ in range(5)]
        assert {address for _, address in answers} == {client.address}, "endpoints see the client's own address"


async def test_pod_reaches_itself_through_its_own_service(world):
    pod = await world.pod(world.hosts[0])
    world.service("self", "10.96.0.21", 80, [pod], 8080)
    await world.sync()
    async with answering(world, pod.netns, 8080, pod.name):
        assert (await world.in_netns(pod.netns, tcp, "10.96.0.21", 80))[0] == pod.name


async def test_service_without_endpoints_refuses_at_once(world):
    client, server = await world.pod(world.hosts[0]), await world.pod(world.hosts[1])
    world.service("empty", "10.96.0.22", 80, [], 8080)
    world.service("dgram", "10.96.0.23", 80, [], 8080, protocol="UDP")
    await world.sync()
    for netns in (client.netns, world.hosts[2].netns):
        for address in ("10.96.0.22", "10.96.77.77"):
            with pytest.raises(ConnectionRefusedError):
                await world.in_netns(netns, tcp, address, 80)
        with pytest.raises(
            (ConnectionRefusedError, PermissionError)
        ):  # the host's own send fails before the ICMP comes
            await world.in_netns(netns, udp, "10.96.0.23", 80)
    world.endpoints("empty", [server], 8080)
    await world.sync()
    async with answering(world, server.netns, 8080, server.name):
        assert (await world.in_netns(client.netns, tcp, "10.96.0.22", 80))[0] == server.name


async def test_udp_client_follows_the_service_when_its_endpoint_leaves(world):
    client, first, second = [await world.pod(host) for host in world.hosts]
    world.service("dgram", "10.96.0.24", 90, [first], 9090, protocol="UDP")
    await world.sync()
    async with (
        answering(world, first.netns, 9090, first.name, socket.SOCK_DGRAM),
        answering(world, second.netns, 9090, second.name, socket.SOCK_DGRAM),
    ):
        assert (await world.in_netns(client.netns, udp, "10.96.0.24", 90, 5555))[0] == first.name
        world.endpoints("dgram", [second], 9090, "UDP")
        await world.sync()
        assert (await world.in_netns(client.netns, udp, "10.96.0.24", 90, 5555))[0] == second.name


async def test_tcp_client_of_a_dead_endpoint_gets_another_at_its_next_try_and_open_connections_stay(world):
    client, living = await world.pod(world.hosts[0]), await world.pod(world.hosts[1])
    dead = await world.pod(world.hosts[2])
    nft(dead.netns, "add table ip t; add chain ip t i { type filter hook input priority 0; policy drop; }")
    world.service("half", "10.96.0.29", 80, [dead], 8080)
    world.service("whole", "10.96.0.30", 80, [living], 8080)
    await world.sync()
    async with answering(world, living.netns, 8080, living.name):

        def patiently() -> list[str]:
            with socket.create_connection(("10.96.0.29", 80), timeout=8) as channel:
                return channel.recv(200).decode().split()

        trying = asyncio.create_task(world.in_netns(client.netns, patiently))
        in_flight = ["ip", "netns", "exec", world.hosts[0].netns, "conntrack", "-L", "-p", "tcp", "--state", "SYN_SENT"]
        await world.eventually(
            lambda: b"10.96.0.29" in subprocess.run(in_flight, check=True, capture_output=True).stdout,
            "no SYN was sent",
        )
        connection = await world.in_netns(client.netns, socket.create_connection, ("10.96.0.30", 80), 3)
        world.endpoints("half", [living], 8080)
        world.endpoints("whole", [], 8080)
        await world.sync()
        assert (await trying)[0] == living.name
        assert connection.recv(200).decode().split()[0] == living.name
        connection.close()


async def test_session_affinity_keeps_a_client_with_its_endpoint_while_it_lasts(world):
    client = await world.pod(world.hosts[0])
    servers = [await world.pod(host) for host in world.hosts]
    world.service("sticky", "10.96.0.25", 80, servers, 8080, sessionAffinity="ClientIP")
    await world.sync()
    async with contextlib.AsyncExitStack() as stack:
        for pod in servers:
            await stack.enter_async_context(answering(world, pod.netns, 8080, pod.name))
        seen = {(await world.in_netns(client.netns, tcp, "10.96.0.25", 80))[0] for _ in range(15)}
        assert len(seen) == 1
        kept = [pod for pod in servers if pod.name in seen]
        world.endpoints("sticky", [pod for pod in servers if pod not in kept][:1] + kept, 8080)
        await world.sync()
        again = {(await world.in_netns(client.netns, tcp, "10.96.0.25", 80))[0] for _ in range(15)}
        assert again == seen, "another endpoint's leaving moves nobody"
        world.endpoints("sticky", [pod for pod in servers if pod not in kept], 8080)
        await world.sync()
        moved = {(await world.in_netns(client.netns, tcp, "10.96.0.25", 80))[0] for _ in range(15)}
        assert len(moved) == 1
        assert moved != seen


async def test_node_port_answers_on_every_host_for_clients_outside(world):
    server = await world.pod(world.hosts[0])
    world.service("outside", "10.96.0.26", 80, [server], 8080, node_port=30080, type="NodePort")
    await world.sync()
    outside = world.switch
    world.ip("addr", "add", "172.29.77.1/24", "dev", "sw0", netns=outside)
    async with answering(world, server.netns, 8080, server.name):
        for host in world.hosts:
            assert (await world.in_netns(outside, tcp, host.address, 30080))[0] == server.name


async def test_pod_reaches_a_host_outside_the_cluster_with_its_hosts_address(world):
    pod = await world.pod(world.hosts[0])
    world.ip("addr", "add", "172.29.77.1/24", "dev", "sw0", netns=world.switch)
    async with answering(world, world.switch, 8080, "outside"):
        assert await world.in_netns(pod.netns, tcp, "172.29.77.1", 8080) == ["outside", world.hosts[0].address]


async def test_dns_answers_pods_and_hosts_by_udp_and_tcp(world):
    pod = await world.pod(world.hosts[0])
    world.service("web", "10.96.0.27", 80, [pod], 8080)
    world.service("peers", "None", 80, [pod], 8080)
    await world.sync()
    for netns in (pod.netns, world.hosts[0].netns):
        reply = await world.in_netns(netns, ask, "web.default.svc.cluster.local")
        assert [str(found.rdata) for found in reply.rr] == ["10.96.0.27"], reply
    reply = await world.in_netns(pod.netns, ask, "peers.default.svc.cluster.local")
    assert [str(found.rdata) for found in reply.rr] == [pod.address]
    stream = await world.in_netns(
        pod.netns,
        lambda: DNSRecord.parse(
            DNSRecord.question("_p._tcp.web.default.svc.cluster.local", "SRV").send(
                "10.96.0.10", 53, tcp=True, timeout=3
            )
        ),
    )
    assert [QTYPE[found.rtype] for found in stream.rr] == ["SRV"]
    assert str(stream.rr[0].rdata) == "0 100 80 web.default.svc.cluster.local."


async def test_what_is_changed_by_hand_is_put_right_by_itself(world):
    host = world.hosts[0]
    client, near, far = await world.pod(host), await world.pod(host), await world.pod(world.hosts[1])
    world.service("web", "10.96.0.28", 80, [near, far], 8080)
    await world.sync()

    async def all_well() -> bool:
        try:
            for address, port in ((near.address, 8080), (far.address, 8080), ("10.96.0.28", 80)):
                await world.in_netns(client.netns, tcp, address, port)
        except OSError:
            return False
        return True

    damage = [
        lambda: world.ip("link", "del", pod_link(near.name), netns=host.netns),
        lambda: world.ip("route", "del", world.hosts[1].pod_cidr, netns=host.netns),
        lambda: world.ip("link", "del", "st-vx0", netns=host.netns),
        lambda: world.ip("link", "del", "st-br0", netns=host.netns),
        lambda: world.ip("link", "set", "st-br0", "down", netns=host.netns),
        lambda: world.ip("neigh", "flush", "dev", "st-vx0", "nud", "permanent", netns=host.netns),
        lambda: nft(host.netns, "flush", "map", "ip", "steersman", "services"),
        lambda: nft(host.netns, "delete", "table", "ip", "steersman"),
    ]
    async with answering(world, near.netns, 8080, near.name), answering(world, far.netns, 8080, far.name):
        assert await all_well()
        for number, harm in enumerate(damage):
            await asyncio.to_thread(harm)
            await world.eventually(all_well, f"damage {number} was not put right", timeout=15)
    await host.network.repair()
    assert await host.network.repair() == 0


async def test_agent_restart_keeps_pods_connected_and_reclaims_those_that_are_gone(world):
    host = world.hosts[0]
    kept, lost, far = await world.pod(host), await world.pod(host), await world.pod(world.hosts[1])
    async with answering(world, far.netns, 8080, far.name):

        def connect() -> socket.socket:
            return socket.create_connection((far.address, 8080), timeout=3)

        connection = await world.in_netns(kept.netns, connect)
        await host.network.stop()
        host.network = host.make_network()
        await host.network.sync(world.view)
        await host.network.start(host.pod_cidr)
        await host.network.attach(kept.name, f"/run/netns/{kept.netns}", kept.address)
        assert await host.network.retain([kept.name]) == (pod_link(lost.name),)
        assert connection.recv(100).decode().split() == [far.name, kept.address]
        connection.close()
        assert (await world.in_netns(kept.netns, tcp, far.address, 8080))[0] == far.name
        assert await host.network.repair() in (0, 1)  # the neighbour entry of the pod that is gone
        assert await host.network.repair() == 0


async def test_attach_into_a_namespace_that_is_gone_leaves_nothing(world):
    host = world.hosts[0]
    with pytest.raises(NetworkError, match="No such file"):
        await host.network.attach("no-such-pod", "/run/netns/no-such-namespace", "10.244.1.9")
    assert pod_link("no-such-pod") not in world.ip("link", netns=host.netns)
    await host.network.detach("no-such-pod")


async def test_node_that_leaves_takes_its_route_with_it(world):
    host, gone = world.hosts[0], world.hosts[2]
    assert gone.pod_cidr in world.ip("route", netns=host.netns)
    del world.nodes[gone.name]
    await host.network.sync(world.view)
    assert gone.pod_cidr not in world.ip("route", netns=host.netns)
    assert await host.network.repair() == 0


async def test_many_pods_come_and_go_together(world):
    host = world.hosts[0]
    pods = await asyncio.gather(*(world.pod(host) for _ in range(30)))
    assert len({pod.address for pod in pods}) == 30
    assert await host.network.repair() == 0
    await asyncio.gather(*(host.network.detach(pod.name) for pod in pods))
    links = world.ip("link", netns=host.netns)
    assert not any(pod_link(pod.name) in links for pod in pods)
    assert await host.network.repair() == 0


async def test_stop_leaves_nothing(world):
    host = world.hosts[0]
    await world.pod(host)
    await host.network.stop(leave_pods=False)
    links = world.ip("-br", "link", netns=host.netns)
    assert sorted(line.split("@")[0].split()[0] for line in links.splitlines()) == ["eth0", "lo"]
    assert world.ip("route", netns=host.netns).count("\n") == 1
    assert nft(host.netns, "list", "ruleset") == ""
