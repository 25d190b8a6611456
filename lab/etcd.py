"""A lab whose control plane keeps its state in etcd: one etcd member on each control host, with a CA of its own.

The CA is not the cluster's: etcd trusts whoever its CA signed, and nodes and users have certificates of the cluster's.
"""

from __future__ import annotations

from typing import Final

from control.ca.certificates import CertificateAuthority
from control.ca.files import write_new
from lab.topology import Host, Topology
from steersman.clock import SystemClock

CLIENT_PORT, PEER_PORT = 2379, 2380
PKI: Final = "/etc/steersman/etcd"
PROGRAM: Final = "/usr/bin/etcd"


def make_pki(topology: Topology) -> None:
    """A CA that signs for etcd and its clients alone; its key is kept nowhere."""
    authority, ca = CertificateAuthority.create(SystemClock())
    for host in topology.controls:
        folder = topology.host_directory(host) / "etc" / "etcd"
        pair = authority.issue_member(host.name, [host.address])
        write_new(
            {folder / "ca.crt": ca.certificate, folder / "etcd.crt": pair.certificate, folder / "etcd.key": pair.key}
        )


def server(topology: Topology, host: Host) -> list[str]:
    """The command line of the host's etcd."""
    client, peer = f"https://{host.address}:{CLIENT_PORT}", f"https://{host.address}:{PEER_PORT}"
    argv = [PROGRAM, "--name", host.name, "--data-dir", "/var/lib/steersman/etcd", "--log-level", "warn"]
    argv += ["--listen-client-urls", client, "--advertise-client-urls", client]
    argv += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    argv += ["--initial-cluster", ",".join(f"{c.name}=https://{c.address}:{PEER_PORT}" for c in topology.controls)]
    for kind in ("", "peer-"):
        argv += [f"--{kind}client-cert-auth", f"--{kind}trusted-ca-file", f"{PKI}/ca.crt"]
        argv += [f"--{kind}cert-file", f"{PKI}/etcd.crt", f"--{kind}key-file", f"{PKI}/etcd.key"]
    return argv


def member_flags(topology: Topology, host: Host) -> list[str]:
    """What `steer-control run` is told: every etcd, the host's own first."""
    others = [control for control in topology.controls if control != host]
    endpoints = ",".join(f"{control.address}:{CLIENT_PORT}" for control in (host, *others))
    files = ("--store-ca", f"{PKI}/ca.crt", "--store-cert", f"{PKI}/etcd.crt", "--store-key", f"{PKI}/etcd.key")
    return ["--store", f"etcd://{endpoints}", *files]
