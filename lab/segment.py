"""The lab's wires: namespaces, the switch's bridge, a veth to every host, and cuts between hosts.

Commands go to iproute2 in batches, one process per namespace. A host's namespace is made anew at every boot, as a
machine's network state is; the switch lasts as long as the lab.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from lab.topology import SEGMENT, SWITCH_ADDRESS, Host, LabError, Topology

NETNS = Path("/run/netns")
UPLINK = "eth0"  # a host's one interface


def _ip(lines: Iterable[str], namespace: str = "") -> None:
    where = ["-n", namespace] if namespace else []
    done = subprocess.run(
        ["ip", *where, "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LabError(f"iproute2 refused in {namespace or 'the machine'}: {done.stderr.strip()}")


def exists(namespace: str) -> bool:
    return (NETNS / namespace).exists()


def make_switch(topology: Topology) -> None:
    """The namespace that holds the bridge; it forwards frames, never packets."""
    _ip([f"netns add {topology.switch}"])
    _ip(
        [
            "link set lo up",
            "link add br0 type bridge forward_delay 0 mcast_snooping 0",
            f"addr add {SWITCH_ADDRESS}/{SEGMENT.prefixlen} dev br0",
            "link set br0 up",
        ],
        topology.switch,
    )


def plug(topology: Topology, host: Host) -> None:
    """Give a host a fresh namespace with one interface on the segment."""
    namespace = topology.namespace(host)
    unplug(topology, host)
    _ip([f"netns add {namespace}"])
    port = _port(host)
    mac = "02:1d:" + ":".join(f"{int(part):02x}" for part in host.address.split("."))
    _ip(
        [
            f"link add {port} type veth peer name {UPLINK} address {mac} netns {namespace}",
            f"link set {port} master br0",
            f"link set {port} up",
        ],
        topology.switch,
    )
    _ip(
        ["link set lo up", f"addr add {host.address}/{SEGMENT.prefixlen} dev {UPLINK}", f"link set {UPLINK} up"],
        namespace,
    )


def pull_plug(topology: Topology, host: Host) -> None:
    """Take the host off the segment without a word to anybody, as a power cut does."""
    if exists(topology.namespace(host)):
        _ip([f"link set {UPLINK} down"], topology.namespace(host))


def unplug(topology: Topology, host: Host) -> None:
    """Remove the host's cable and namespace.

    The cable goes first, by name: a namespace's interfaces vanish some time after it, and would be in a reboot's way.
    """
    subprocess.run(["ip", "-n", topology.switch, "link", "del", _port(host)], capture_output=True, check=False)
    delete(topology.namespace(host))


def _port(host: Host) -> str:
    return f"p-{host.name}"


def delete(namespace: str) -> None:
    """Remove a namespace if it is there."""
    if exists(namespace):
        _ip([f"netns del {namespace}"])


def namespaces(name: str) -> list[str]:
    """All namespaces of the lab `name`, also such as a crash left behind."""
    return sorted(path.name for path in NETNS.glob(f"st-{name}-*")) if NETNS.is_dir() else []


CUT_TABLE = "inet lab-cuts"


def _nft(namespace: str, script: str) -> None:
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, "nft", "-f", "-"], input=script, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LabError(f"nft refused in {namespace}: {done.stderr.strip()}")


def cut(topology: Topology, receiver: str, sender: str) -> None:
    """Drop everything that `receiver` gets from `sender`, silently; `api` stands for the balancer."""
    namespace = topology.switch if receiver == "api" else topology.namespace(topology.host(receiver))
    _nft(
        namespace,
        f"""
        table {CUT_TABLE} {{
            set from {{ type ipv4_addr; }}
            chain input {{
                type filter hook input priority -400; policy accept;
                ip saddr @from drop
            }}
        }}
        """
        if not _has_cuts(namespace)
        else "",
    )
    _nft(namespace, f"add element {CUT_TABLE} from {{ {topology.peer_address(sender)} }}")


def _has_cuts(namespace: str) -> bool:
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, "nft", "list", "table", *CUT_TABLE.split()], capture_output=True, check=False
    )
    return done.returncode == 0


def heal(topology: Topology) -> int:
    """Undo all cuts; answers in how many places there were some."""
    healed = 0
    for namespace in namespaces(topology.name):
        if _has_cuts(namespace):
            _nft(namespace, f"delete table {CUT_TABLE}")
            healed += 1
    return healed
