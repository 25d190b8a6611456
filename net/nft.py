"""The kernel's nftables, through libnftables in this process: the table `ip steersman` and its fixed part.

The fixed part sends packets to the Services' chains (`service.py`), masquerades what must come back through this host,
and refuses what is sent to a ClusterIP that no chain serves:

    dispatch      by (address, protocol, port) in `services`; packets to the host itself by (protocol, port) in `nodeports`
    prerouting    pods' and other hosts' packets -> dispatch
    output        the host's own packets -> dispatch
    postrouting   masquerade: a pod that reached itself through a Service (`hairpin`: the answer must not short-cut
                  inside the pod); clients from outside the cluster (the answer must pass this host's NAT, unless the
                  packet is marked to keep its source); pods that talk to anything that is no pod. What goes on to a
                  pod gets the bridge's address, which every node routes to this one by the tunnel it came by
    refuse        forward, host-output: TCP reset or ICMP port-unreachable

A transaction is all or nothing. The kernel counts transactions in its generation number; when it has counted more than
ours, someone else wrote, and the table is read back and compared by rule fingerprints, and rebuilt if it differs.
Connections that are already established live in conntrack and do not notice a rebuild.
"""

from __future__ import annotations

import ctypes
import json
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from net.ipam import gateway
from net.links import NetworkError
from net.plan import BRIDGE
from net.service import KEEP_SOURCE_MARK, TABLE, Claim, Rule, ServiceTable, fingerprint
from net.view import HostNetwork

LIBRARY = "libnftables.so.1"
OUTPUT_JSON = 1 << 4
OUTPUT_NUMERIC = 0b1111 << 7  # protocols, priorities, symbols, times

CONTAINERS = {
    "services": "map {table} services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}",
    "nodeports": "map {table} nodeports {{ type inet_proto . inet_service : verdict; }}",
    "hairpin": "set {table} hairpin {{ type ipv4_addr . ipv4_addr; }}",
    "refused": "set {table} refused {{ type ipv4_addr . inet_proto . inet_service; }}",
}


@dataclass(frozen=True, slots=True)
class FixedChain:
    """A chain of the table's fixed part; `hook` is empty for one that others jump to."""

    hook: str
    rules: tuple[Rule, ...]


def fixed_chains(host: HostNetwork, pod_cidr: str) -> dict[str, FixedChain]:
    """The fixed part, by chain name, in an order in which each chain follows those it jumps to."""
    to_service = f"ip daddr {host.service_cidr}" + (f" ip daddr != {host.dns_ip}" if host.dns_ip else "")
    cluster, bridge = host.cluster_cidr, gateway(pod_cidr)
    refused = "ip daddr . meta l4proto . th dport @refused"
    return {
        "dispatch": FixedChain(
            "",
            (
                "ip daddr . meta l4proto . th dport vmap @services",
                "fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @nodeports",
            ),
        ),
        "refuse": FixedChain(
            "",
            (
                "ct state established,related accept",  # all but a connection's first packet stop here
                f"{to_service} meta l4proto 6 reject with tcp reset",
                f"{to_service} reject with icmp type port-unreachable",
                f"meta l4proto 6 {refused} reject with tcp reset",
                f"{refused} reject with icmp type port-unreachable",
            ),
        ),
        "prerouting": FixedChain("type nat hook prerouting priority -100;", ("jump dispatch",)),
        "output": FixedChain("type nat hook output priority -100;", ("jump dispatch",)),
        "forward": FixedChain("type filter hook forward priority 0;", ("jump refuse",)),
        "host-output": FixedChain("type filter hook output priority 0;", ("jump refuse",)),
        "postrouting": FixedChain(
            "type nat hook postrouting priority 100;",
            (
                f"ct status dnat ip saddr . ip daddr @hairpin snat to {bridge} fully-random",
                f"ct status dnat meta mark & {KEEP_SOURCE_MARK:#x} == {KEEP_SOURCE_MARK:#x} accept",
                f"ct status dnat ip saddr != {cluster} ip daddr {cluster} snat to {bridge} fully-random",
                f"ct status dnat ip saddr != {cluster} masquerade fully-random",
                f'ip saddr {pod_cidr} ip daddr != {cluster} oifname != "{BRIDGE}" masquerade fully-random',
            ),
        ),
    }


class NftError(NetworkError):
    """nftables refused a transaction; nothing of it was done."""


class Nftables:
    """libnftables, bound to the network namespace of the thread that makes it; use it in that thread only.

    Raises:
        NetworkError: the library is not installed.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise NetworkError(f"{LIBRARY} cannot be loaded (Debian's package is libnftables1): {error}") from error
        library = self._library
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(library, name).restype = ctypes.c_char_p
            getattr(library, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        self._context = library.nft_ctx_new(0)
        if not self._context:
            raise NetworkError("libnftables gave no context")
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.settimeout(NETLINK_TIMEOUT_S)

    def close(self) -> None:
        """Free the library's context."""
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None
        self._socket.close()

    def run(self, commands: Iterable[str]) -> None:
        """Run commands of the nft language as one transaction.

        Raises:
            NftError: with the library's words.
        """
        self._run("\n".join(commands) + "\n")

    def list_table(self) -> list[dict[str, Any]]:
        """The objects of our table as libnftables writes them in JSON; empty when there is none."""
        self._library.nft_ctx_output_set_flags(self._context, OUTPUT_JSON | OUTPUT_NUMERIC)
        try:
            output = self._run(f"list table {TABLE}\n")
        except NftError:
            return []
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)
        return json.loads(output)["nftables"]  # type: ignore[no-any-return]

    def _run(self, text: str) -> bytes:
        failed = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        errors: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise NftError(f"nftables refused the rules: {_first_error(errors)}")
        return output

    def generation(self) -> int:
        """How many transactions the kernel has counted in this namespace."""
        self._socket.send(struct.pack("=IHHIIBBH", 20, GET_GENERATION, NLM_F_REQUEST, 0, 0, 0, 0, 0))
        reply = self._socket.recv(4096)
        return parse_generation(reply)


NETLINK_NETFILTER = 12
NLM_F_REQUEST = 1
NFNL_SUBSYS_NFTABLES = 10
GET_GENERATION = NFNL_SUBSYS_NFTABLES << 8 | 16  # NFT_MSG_GETGEN
NEW_GENERATION = NFNL_SUBSYS_NFTABLES << 8 | 15  # NFT_MSG_NEWGEN
NFTA_GEN_ID = 1
NETLINK_TIMEOUT_S = 5.0  # the kernel answers within microseconds; more means it lost the reply


def parse_generation(message: bytes) -> int:
    """Read the number out of a NFT_MSG_NEWGEN message; 0 when it is something else."""
    if len(message) < 28 or struct.unpack_from("=H", message, 4)[0] != NEW_GENERATION:
        return 0
    length, kind = struct.unpack_from("=HH", message, 20)
    return int(struct.unpack_from(">I", message, 24)[0]) if length >= 8 and kind & 0x3FFF == NFTA_GEN_ID else 0


def _first_error(errors: bytes) -> str:
    """The first of the library's messages, without the commands it echoes (they can be a megabyte long)."""
    line = errors.decode(errors="replace").partition("\n")[0]
    return line[:300] or "it gave no reason"


# --- the whole table ---------------------------------------------------------------------------------------------------


def rebuild_commands(host: HostNetwork, pod_cidr: str, services: ServiceTable) -> list[str]:
    """One transaction that replaces the table, whatever is there, by what should be."""
    lines = [f"add table {TABLE}", f"delete table {TABLE}", f"add table {TABLE}"]
    lines += ["add " + definition.format(table=TABLE) for definition in CONTAINERS.values()]
    for name, chain in fixed_chains(host, pod_cidr).items():
        lines.append(f"add chain {TABLE} {name}" + (f" {{ {chain.hook} }}" if chain.hook else ""))
        lines += [f'add rule {TABLE} {name} {rule} comment "{fingerprint(rule)}"' for rule in chain.rules]
    return [*lines, *services.everything()]


@dataclass(frozen=True, slots=True)
class TableContent:
    """A table reduced to what can be compared: fingerprints by chain, elements, names of affinity sets."""

    chains: Mapping[str, tuple[str, ...]]
    elements: Mapping[Claim, str]
    sets: frozenset[str]


def expected_content(host: HostNetwork, pod_cidr: str, services: ServiceTable) -> TableContent:
    """What the kernel should have."""
    rules = {name: chain.rules for name, chain in fixed_chains(host, pod_cidr).items()} | services.chains
    return TableContent(
        {name: tuple(fingerprint(line) for line in lines) for name, lines in rules.items()},
        services.elements,
        frozenset((*CONTAINERS, *services.sets)),
    )


def content_of(objects: Iterable[Mapping[str, Any]]) -> TableContent:
    """What the kernel has, from `Nftables.list_table`."""
    chains: dict[str, list[str]] = {}
    elements: dict[Claim, str] = {}
    sets: set[str] = set()
    for entry in objects:
        if chain := entry.get("chain"):
            chains.setdefault(chain["name"], [])
        elif rule := entry.get("rule"):
            chains.setdefault(rule["chain"], []).append(rule.get("comment", ""))
        elif container := entry.get("map") or entry.get("set"):
            name = container["name"]
            sets.add(name)
            if name in CONTAINERS:
                for element in container.get("elem", ()):
                    key, value = element if "map" in entry else (element, None)
                    elements[name, _key(key)] = f"goto {value['goto']['target']}" if value and "goto" in value else ""
    return TableContent({name: tuple(marks) for name, marks in chains.items()}, elements, frozenset(sets))


def _key(key: Any) -> str:
    if isinstance(key, dict) and "elem" in key:
        key = key["elem"]["val"]
    parts = key["concat"] if isinstance(key, dict) else [key]
    return " . ".join(str(part) for part in parts)


class TableKeeper:
    """Keeps the kernel's table equal to a `ServiceTable`. Make it and use it inside one `NamespaceThread`."""

    def __init__(self, host: HostNetwork, pod_cidr: str) -> None:
        self._host = host
        self._pod_cidr = pod_cidr
        self._nft = Nftables()
        self._generation = -1  # of the last transaction of ours after which nobody else had written

    def close(self) -> None:
        """Free the library's context."""
        self._nft.close()

    def commit(self, commands: Iterable[str]) -> None:
        """Run one transaction.

        Raises:
            NftError: it was refused.
        """
        self._nft.run(commands)
        after = self._nft.generation()
        if after == self._generation + 1:
            self._generation = after

    def ensure(self, services: ServiceTable, *, trusting: bool = True) -> bool:
        """Compare if anyone but us wrote (or always, when not `trusting`), and rebuild what differs; whether it did.

        Raises:
            NftError: the rebuilding was refused.
        """
        generation = self._nft.generation()
        if trusting and generation == self._generation:
            return False
        differs = content_of(self._nft.list_table()) != expected_content(self._host, self._pod_cidr, services)
        if differs:
            self._nft.run(rebuild_commands(self._host, self._pod_cidr, services))
            generation += 1
        if self._nft.generation() == generation:
            self._generation = generation
        return differs

    def exists(self) -> bool:
        """Whether there is a table, whatever is in it."""
        return bool(self._nft.list_table())

    def remove(self) -> None:
        """Delete the table."""
        self._nft.run([f"add table {TABLE}", f"delete table {TABLE}"])
