"""Raise a lab, say how it is, and take it down without a trace.

Raising starts everything at once and then waits for what users see: the API answers, every node is Ready. Taking down
asks the kernel, not a file, what belongs to the lab (namespaces and cgroups by name), so it also clears up after a crash.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from control.ca import certificates, files
from lab import cgroups, etcd, hosts, library, segment
from lab.topology import GRPC_PORT, REST_PORT, STATE_ROOT, Host, LabError, Topology
from steersman import config as configuration
from steersman.client import AsyncClient
from steersman.clock import SystemClock, SystemEntropy
from steersman.errors import ApiError
from steersman.types import Node
from steersman.v1 import cluster_pb2

Progress = Callable[[str], None]
REQUIRED = {
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "containerd": "containerd",
    "runc": "runc",
    "docker-registry": "docker-registry",
}


def _check_machine(topology: Topology) -> None:
    if os.geteuid() != 0:
        raise LabError("a lab makes network namespaces and containers: run this as root")
    required = {**REQUIRED, "etcd": "etcd-server"} if topology.store == "etcd" else REQUIRED
    missing = sorted({package for program, package in required.items() if shutil.which(program) is None})
    if missing:
        raise LabError(f"missing Debian packages: {' '.join(missing)}; `scripts/setup` installs them")
    if topology.directory.exists() or segment.namespaces(topology.name) or cgroups.processes(topology.cgroup):
        raise LabError(
            f"a lab {topology.name!r} is up, or was not cleared up: `steer lab down --name {topology.name}` first"
        )


def _check_ports(topology: Topology) -> None:
    for port in (topology.grpc_port, topology.rest_port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise LabError(
                    f"127.0.0.1:{port} is taken ({error.strerror}): take the other lab down, or use --grpc-port and --rest-port"
                ) from error


def load(name: str) -> Topology:
    """The lab that is up under this name. Raises LabError."""
    try:
        return Topology.from_dict(json.loads((STATE_ROOT / name / "lab.json").read_text()))
    except FileNotFoundError:
        up = ", ".join(names()) or "none"
        raise LabError(f"no lab {name!r} is up (up: {up}); start one with `steer lab up`") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LabError(
            f"the state of lab {name!r} cannot be read ({error}); `steer lab down --name {name}` clears it up"
        ) from error


def names() -> list[str]:
    """Labs that are up."""
    return sorted(path.parent.name for path in STATE_ROOT.glob("*/lab.json"))


def _secrets(topology: Topology) -> dict[str, str]:
    return json.loads((topology.directory / "secrets.json").read_text())  # type: ignore[no-any-return]


def _make_pki(topology: Topology) -> None:
    """The cluster's CA, a certificate for every member and the admin, and the first join token."""
    clock = SystemClock()
    entropy = SystemEntropy()
    folder = topology.directory / "pki"
    ca = files.create_ca(folder, clock)
    token = f"{entropy.token(6)}.{entropy.token(16)}"
    for host in topology.controls:
        pki = topology.host_directory(host) / "etc" / "pki"
        files.create_member(pki, folder, host.name, [host.address], clock)
        hosts.write_private(pki / "join-token", token + "\n")
    if topology.store == "etcd":
        etcd.make_pki(topology)
    files.create_user(folder, folder, "admin", ["system:masters"], clock)
    secrets = {"join_token": token, "ca_hash": certificates.ca_hash(ca.certificate_pem)}
    hosts.write_private(topology.directory / "secrets.json", json.dumps(secrets))


def _start_balancer(topology: Topology) -> None:
    grpc = ",".join(f"{c.address}:{GRPC_PORT}" for c in topology.controls)
    rest = ",".join(f"{c.address}:{REST_PORT}" for c in topology.controls)
    argv = [
        sys.executable,
        "-m",
        "lab.balancer",
        topology.switch,
        f"{topology.grpc_port}={grpc}",
        f"{topology.rest_port}={rest}",
    ]
    hosts.start(argv, f"{topology.cgroup}/balancer", topology.directory / "balancer.log")


def _save_context(topology: Topology) -> None:
    pki = topology.directory / "pki"
    configuration.save(
        configuration.ClusterConfig(
            name=topology.name,
            members=(f"127.0.0.1:{topology.grpc_port}",),
            ca=pki / "ca.crt",
            certificate=pki / "admin.crt",
            key=pki / "admin.key",
        )
    )


async def up(topology: Topology, progress: Progress, *, timeout: float = 120.0, images: bool = True) -> None:
    """Raise the lab and wait until it can be used.

    What was made stays for a look when something fails; `down` clears it up.

    Raises:
        LabError: it is up already, the machine lacks something, or it was not Ready in time.
    """
    _check_machine(topology)
    _check_ports(topology)
    topology.directory.mkdir(parents=True, mode=0o711)
    (topology.directory / "lab.json").write_text(json.dumps(topology.to_dict(), indent=1))
    segment.make_switch(topology)
    _make_pki(topology)
    secrets = _secrets(topology)
    for host in topology.hosts:
        hosts.boot(topology, host, secrets)
    _start_balancer(topology)
    _save_context(topology)
    progress(f"{len(topology.hosts)} hosts booted, the API will answer on 127.0.0.1:{topology.grpc_port}")
    try:
        async with asyncio.timeout(timeout), AsyncClient.connect(topology.name) as client:
            await _ready(topology, client, progress, images=images)
    except TimeoutError:
        raise LabError(_late(topology, timeout)) from None


async def _ready(topology: Topology, client: AsyncClient, progress: Progress, *, images: bool) -> None:
    stock = asyncio.create_task(library.stock(topology, progress)) if images else None
    try:
        status = await _leader(topology, client)
        progress(
            f"{status.leader} leads {len(status.members)} member{'s' * (len(status.members) != 1)}, term {status.term}"
        )
        await _nodes_ready(topology, client, progress)
        if stock is not None:
            await stock
    finally:
        if stock is not None:
            stock.cancel()


async def _leader(topology: Topology, client: AsyncClient) -> cluster_pb2.ClusterStatus:
    """Wait for the first answer of a cluster that has a leader."""
    while True:
        try:
            status = await client.cluster_status(timeout=2.0)
            if status.leader:
                return status
        except ApiError as error:
            if error.reason not in ("ServiceUnavailable", "Timeout", "InternalError"):
                raise LabError(f"the API refuses the lab's own administrator: {error}") from error
        for host in topology.controls:
            if not hosts.first_process(topology, host):
                raise LabError(f"{host.name} ended; see {topology.host_directory(host) / 'log'}")
        await asyncio.sleep(0.02)


async def _nodes_ready(topology: Topology, client: AsyncClient, progress: Progress) -> None:
    waiting = {host.name for host in topology.workers}
    if not waiting:
        return
    async for event in client.watch(Node):
        if event.object.ready and event.object.name in waiting:
            waiting.remove(event.object.name)
            progress(f"{event.object.name} is Ready")
            if not waiting:
                return


def _late(topology: Topology, timeout: float) -> str:
    lines = [f"the lab was not Ready within {timeout:g} s:"]
    for host in topology.hosts:
        running = hosts.services(topology, host)
        log = topology.host_directory(host) / "log"
        lines.append(
            f"  {host.name}: {hosts.state(topology, host)}, services: {', '.join(running) or 'none'}; logs in {log}"
        )
    return "\n".join(lines)


def down(name: str, progress: Progress) -> bool:
    """Take the lab down; answers whether there was anything to take down."""
    if os.geteuid() != 0:
        raise LabError("a lab's processes and namespaces belong to root: run this as root")
    group = f"steersman/{name}"
    directory = STATE_ROOT / name
    found = segment.namespaces(name)
    running = cgroups.processes(group)
    was_up = bool(found or running or directory.exists())
    if running:
        progress(f"ending {len(running)} processes")
        cgroups.signal_all(group)
        hosts.wait_empty(group)
    cgroups.remove(group)
    for namespace in found:
        segment.delete(namespace)
    if directory.exists():
        _unmount_below(directory)
        shutil.rmtree(directory)
    try:
        configuration.forget(name)
    except configuration.ConfigError as error:
        progress(f"the context {name} stays in the configuration: {error}")
    return was_up


def _unmount_below(directory: Path) -> None:
    """Mounts live in the hosts' own namespaces and went with them; this is for what a crash may have left here."""
    import ctypes  # noqa: PLC0415

    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for target in sorted((path for path in mounted if path.startswith(f"{directory}/")), reverse=True):
        ctypes.CDLL(None).umount2(target.encode(), 2)  # MNT_DETACH


async def status(topology: Topology) -> dict[str, Any]:
    """Hosts and members as they are, for people and for `-o json`."""
    document: dict[str, Any] = {
        "name": topology.name,
        "grpc": f"127.0.0.1:{topology.grpc_port}",
        "rest": f"127.0.0.1:{topology.rest_port}",
        "directory": str(topology.directory),
        "hosts": [_host_status(topology, host) for host in topology.hosts],
    }
    try:
        async with AsyncClient.connect(topology.name) as client:
            cluster = await client.cluster_status(timeout=3.0)
            document["leader"] = cluster.leader
            document["term"] = cluster.term
            document["revision"] = cluster.revision
    except (ApiError, configuration.ConfigError) as error:
        document["problem"] = str(error)
    return document


def _host_status(topology: Topology, host: Host) -> dict[str, Any]:
    return {
        "name": host.name,
        "role": host.role,
        "address": host.address,
        "state": hosts.state(topology, host),
        "services": hosts.services(topology, host),
    }


def start(topology: Topology, host: Host) -> None:
    """Switch a host on again, with the disk that it had."""
    hosts.boot(topology, host, _secrets(topology))
