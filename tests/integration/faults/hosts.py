"""Four hosts, three of them with a member: network namespaces on one bridge, disks that can run full, processes that can be killed.

The hosts meet on a bridge in a namespace of its own, where the clients run too. Links are cut by nftables in the receiving host. A
disk is a tmpfs of bounded size, so it can be filled, and outlives the processes; what a power cut does to unsynced bytes is the
simulation's business (`tests/sim`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from control.ca import files
from steersman.clock import SystemClock

NETWORK = "10.77.0."
DISK_BYTES = 96 << 20  # two segments of the log in use, one in reserve, snapshots: room, until it is filled
CLIENT = 1  # last octet; the members' are 11, 12, 13


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


class Host:
    """One member's host."""

    def __init__(self, prefix: str, number: int, folder: Path) -> None:
        self.name = f"control-{number}"
        self.number = number
        self.namespace = f"{prefix}-{number}"
        self.address = f"{NETWORK}{10 + number}"
        self.grpc = f"{self.address}:7443"
        self.raft = f"{self.address}:7444"
        self.disk = folder / f"{self.name}-disk"
        self.pki = folder / self.name
        self.log = folder / f"{self.name}.log"
        self.shim = folder / "disk.so"
        self.switchboard = folder / f"{self.name}-faults"
        self.process: subprocess.Popen[bytes] | None = None
        self.cuts: set[int] = set()  # last octets from which nothing arrives
        self.how: tuple[str, str] | None = None  # how its member came to the cluster; None: there is no member here

    def start(self) -> None:
        """Start the member."""
        assert self.how is not None
        argv = [
            *("ip", "netns", "exec", self.namespace, sys.executable, "-m", "control.main", "run", "--name", self.name),
            *("--data-dir", str(self.disk / "data"), "--pki-dir", str(self.pki), "--raft-listen", self.raft),
            *("--grpc-listen", self.grpc, "--rest-listen", f"{self.address}:6443", *self.how),
        ]
        environment = dict(os.environ)
        if self.shim.exists():
            environment |= {"LD_PRELOAD": str(self.shim), "FAULTY_DISK": str(self.switchboard)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, env=environment)

    def signal(self, number: int) -> None:
        """Send the member a signal; SIGKILL also waits for its end."""
        if self.process is None:
            return
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()
            self.process = None

    def cut(self, *others: int) -> None:
        """Lose what comes from these addresses; with none given, hear everybody again."""
        self.cuts = {*self.cuts, *others} if others else set()
        rules = "".join(f"add rule inet cut in ip saddr {NETWORK}{other} drop\n" for other in sorted(self.cuts))
        table = "add table inet cut\ndelete table inet cut\n"
        if rules:
            table += "add table inet cut\nadd chain inet cut in { type filter hook input priority 0; }\n" + rules
        subprocess.run(
            ["ip", "netns", "exec", self.namespace, "nft", "-f", "-"],
            input=table.encode(),
            check=True,
            capture_output=True,
        )

    def fill(self) -> None:
        """Leave no byte on the disk."""
        with (self.disk / "filler").open("ab", buffering=0) as filler:
            chunk = bytes(1 << 20)
            while chunk:
                try:
                    filler.write(chunk)
                except OSError:
                    chunk = chunk[: len(chunk) // 2]

    def spoil(self, how: str) -> None:
        """Let the disk `fail` every write and sync, or make syncs `slow`."""
        self.switchboard.with_suffix(f".{how}").touch()

    def free(self) -> None:
        """Give the room back, and mend the disk."""
        (self.disk / "filler").unlink(missing_ok=True)
        for how in ("fail", "slow"):
            self.switchboard.with_suffix(f".{how}").unlink(missing_ok=True)

    def heal(self) -> None:
        """Undo every fault."""
        self.cut()
        self.free()
        if self.process is not None:
            self.signal(signal.SIGCONT)
        elif self.how is not None:
            self.start()

    def empty(self) -> None:
        """Have no member here any more, and nothing of it."""
        self.signal(signal.SIGKILL)
        self.how = None
        shutil.rmtree(self.disk / "data", ignore_errors=True)


class Site:
    """The hosts, the network between them, the certificates."""

    def __init__(self, prefix: str, folder: Path) -> None:
        self.folder = folder
        self.switch = f"{prefix}-sw"
        self.hosts = [Host(prefix, number, folder) for number in (1, 2, 3, 4)]
        cluster = ",".join(f"{host.name}={host.raft}" for host in self.hosts[:3])
        for host in self.hosts[:3]:
            host.how = ("--initial-cluster", cluster)

    @property
    def active(self) -> list[Host]:
        """Hosts with a member."""
        return [host for host in self.hosts if host.how is not None]

    def build(self) -> None:
        """Make namespaces, disks and certificates; disks fail and are slow only where there is a C compiler."""
        clock = SystemClock()
        if shutil.which("cc"):
            source, shim = Path(__file__).with_name("disk.c"), self.hosts[0].shim
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
        files.create_ca(self.folder / "ca", clock)
        files.create_user(self.folder, self.folder / "ca", "admin", ["system:masters"], clock)
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "set", "lo", "up")
        ip("-n", self.switch, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        ip("-n", self.switch, "addr", "add", f"{NETWORK}{CLIENT}/24", "dev", "br0")
        ip("-n", self.switch, "link", "set", "br0", "up")
        for host in self.hosts:
            files.create_member(host.pki, self.folder / "ca", host.name, [host.address], clock)
            ip("netns", "add", host.namespace)
            port = f"p{host.number}"
            ip("-n", self.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            ip("-n", self.switch, "link", "set", port, "master", "br0", "up")
            ip("-n", host.namespace, "link", "set", "lo", "up")
            ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
            ip("-n", host.namespace, "link", "set", "eth0", "up")
            host.disk.mkdir()
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", host.namespace, str(host.disk)], check=True
            )

    def clear(self) -> None:
        """Leave nothing behind, whatever there is."""
        for host in self.hosts:
            for pid in _pids(host.namespace):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            ip("netns", "del", host.namespace, check=False)
            subprocess.run(["umount", "-l", str(host.disk)], check=False, capture_output=True)
        ip("netns", "del", self.switch, check=False)


def _pids(namespace: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]
