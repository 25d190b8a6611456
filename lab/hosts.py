"""Boot, kill, pause and enter lab hosts.

A host runs in its own process, mount, IPC and host-name namespaces beside its network namespace. Its first process
(`lab.host`) is found by what the kernel says of the members of its cgroup, so nothing depends on a pid file being true.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lab import cgroups, etcd, segment
from lab.topology import (
    GRPC_PORT,
    RAFT_PORT,
    REGISTRY_ADDRESS,
    REGISTRY_PORT,
    REST_PORT,
    Host,
    LabError,
    Topology,
)

BIN = Path(sys.executable).parent
PKI = "/etc/steersman/pki"
JOIN_TOKEN = "/etc/steersman/join-token"  # noqa: S105 - where it lies, not what it is
CONTAINERD_CONFIG = """\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[debug]
  level = "warn"
"""
REGISTRY_CONFIG = f"""\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: /var/lib/registry}}
  delete: {{enabled: true}}
http: {{addr: "{REGISTRY_ADDRESS}:{REGISTRY_PORT}", secret: lab}}
"""


def _services(topology: Topology, host: Host, secrets: dict[str, str]) -> list[dict[str, Any]]:
    def service(name: str, *argv: str, **env: str) -> dict[str, Any]:
        return {"name": name, "argv": list(argv), "log": f"/var/log/steersman/{name}.log", "env": env}

    if host.role == "registry":
        return [
            service(
                "registry",
                "/usr/bin/docker-registry",
                "serve",
                "/etc/steersman/registry.yml",
                OTEL_TRACES_EXPORTER="none",
            )
        ]
    if host.role == "control":
        cluster = ",".join(f"{c.name}={c.address}:{RAFT_PORT}" for c in topology.controls)
        argv = [
            *(str(BIN / "steer-control"), "run", "--name", host.name),
            *("--data-dir", "/var/lib/steersman", "--pki-dir", PKI),
            *("--raft-listen", f"{host.address}:{RAFT_PORT}", "--initial-cluster", cluster),
            *("--grpc-listen", f"0.0.0.0:{GRPC_PORT}", "--advertise-grpc", f"{host.address}:{GRPC_PORT}"),
            *("--rest-listen", f"0.0.0.0:{REST_PORT}", "--initial-join-token-file", f"{PKI}/join-token"),
        ]
        if topology.store == "etcd":
            control = service("control", *argv, *etcd.member_flags(topology, host), *topology.control_flags)
            return [service("etcd", *etcd.server(topology, host)), control]
        return [service("control", *argv, *topology.control_flags)]
    servers = [part for c in topology.controls for part in ("--server", f"{c.address}:{GRPC_PORT}")]
    mirror = f"http://{REGISTRY_ADDRESS}:{REGISTRY_PORT}"
    argv = [
        *(str(BIN / "steer-node"), "run", "--name", host.name, "--address", host.address, *servers),
        *("--token-file", JOIN_TOKEN, "--ca-hash", secrets["ca_hash"]),
        *("--data-dir", "/var/lib/steersman", "--containerd", "/run/containerd/containerd.sock"),
        *("--registry-mirror", f"registry.lab={mirror}", "--registry-mirror", f"docker.io={mirror}"),
        *("--cgroup-parent", f"{topology.cgroup}/{host.name}"),
    ]
    return [
        service("containerd", "/usr/bin/containerd", "--config", "/etc/steersman/containerd.toml"),
        service("node", *argv, *topology.node_flags),
    ]


def _description(topology: Topology, host: Host, secrets: dict[str, str]) -> dict[str, Any]:
    own = topology.host_directory(host)
    names = "".join(f"{h.address} {h.name}\n" for h in topology.hosts)
    binds = [
        [str(own / "log"), "/var/log/steersman"],
        [str(own / "etc"), "/etc/steersman"],
        [str(own / "state"), "/var/lib/steersman"],
    ]
    if host.role == "node":
        binds.append([str(own / "containerd"), "/var/lib/containerd"])
    if host.role == "registry":
        binds.append([str(own / "images"), "/var/lib/registry"])
    return {
        "hostname": host.name,
        "tmpfs": ["/run"],
        "binds": binds,
        "files": {
            "/etc/hosts": f"127.0.0.1 localhost\n{names}",
            "/etc/resolv.conf": "# a lab host has no way out\n",
            "/etc/hostname": f"{host.name}\n",
        },
        "services": _services(topology, host, secrets),
    }


def _configure(topology: Topology, host: Host, secrets: dict[str, str]) -> None:
    etc = topology.host_directory(host) / "etc"
    etc.mkdir(parents=True, exist_ok=True)
    if host.role == "node":
        (etc / "containerd.toml").write_text(CONTAINERD_CONFIG)
        write_private(etc / Path(JOIN_TOKEN).name, secrets["join_token"] + "\n")
    elif host.role == "registry":
        (etc / "registry.yml").write_text(REGISTRY_CONFIG)


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody but its owner can read, at no moment."""
    with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        os.fchmod(file.fileno(), 0o600)  # one that was there before may have been readable
        file.write(text)


def boot(topology: Topology, host: Host, secrets: dict[str, str]) -> None:
    """Switch a host on. Raises LabError when it runs already."""
    group = f"{topology.cgroup}/{host.name}"
    if cgroups.processes(group):
        raise LabError(f"{host.name} is running already")
    segment.plug(topology, host)
    _configure(topology, host, secrets)
    directory = topology.host_directory(host)
    (directory / "log").mkdir(parents=True, exist_ok=True)
    path = directory / "host.json"
    write_private(path, json.dumps(_description(topology, host, secrets)))
    script = Path(__file__).with_name("host.py")
    argv = [
        *("nsenter", f"--net=/run/netns/{topology.namespace(host)}"),
        *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc"),
        *(sys.executable, "-S", "-E", "-s", str(script), str(path)),
    ]
    # The host's own processes sit in a leaf of its group: cgroup v2 allows no others beside child groups (the pods').
    start(argv, f"{group}/host", directory / "log" / "host.log")


def start(argv: list[str], group: str, log: Path) -> int:
    """Start a process of the lab in a cgroup, apart from this terminal; answers its id."""
    membership = cgroups.create(group)

    def enter() -> None:
        membership.write_text(str(os.getpid()))

    with log.open("ab") as out:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=enter,  # noqa: PLW1509 - this process has no other threads yet
            cwd="/",
        ).pid


def first_process(topology: Topology, host: Host) -> int:
    """The id of the host's process 1, as the machine counts; 0 when the host is off."""
    for pid in cgroups.processes(f"{topology.cgroup}/{host.name}"):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        inner = next((line for line in status.splitlines() if line.startswith("NSpid:")), "").split()[1:]
        if len(inner) == 2 and inner[1] == "1":
            return pid
    return 0


def state(topology: Topology, host: Host) -> str:
    """running, paused or off."""
    if not first_process(topology, host):
        return "off"
    return "paused" if cgroups.is_frozen(f"{topology.cgroup}/{host.name}") else "running"


def services(topology: Topology, host: Host) -> dict[str, int]:
    """Name -> id, as the machine counts, of the host's running services."""
    first = first_process(topology, host)
    if not first:
        return {}
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    found: dict[str, int] = {}
    for pid in map(int, children):
        try:
            program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        for name, marks in SERVICE_MARKS.items():
            if any(part.endswith(marks) for part in program[:2]):
                found[name] = pid
    return found


SERVICE_MARKS = {
    "control": b"/steer-control",
    "node": b"/steer-node",
    "containerd": b"/containerd",
    "registry": b"/docker-registry",
    "etcd": b"/etcd",
}


def kill(topology: Topology, host: Host) -> None:
    """Cut the host's power: it falls silent, everything on it ends, its memory and network state are lost."""
    group = f"{topology.cgroup}/{host.name}"
    if not cgroups.processes(group):
        raise LabError(f"{host.name} is off already")
    segment.pull_plug(topology, host)
    cgroups.signal_all(group)
    wait_empty(group)
    segment.unplug(topology, host)


def wait_empty(group: str, *, tries: int = 500) -> None:
    """Wait until no process of the group is left. Raises LabError after ten seconds."""
    for _ in range(tries):
        if not cgroups.processes(group):
            return
        cgroups.signal_all(group)
        time.sleep(0.02)
    raise LabError(f"processes of {group} do not end: {cgroups.processes(group)}")


def pause(topology: Topology, host: Host, *, paused: bool) -> None:
    """Stop every process of the host where it stands, or let them go on."""
    if not first_process(topology, host):
        raise LabError(f"{host.name} is off; start it with `steer lab start {host.name}`")
    cgroups.freeze(f"{topology.cgroup}/{host.name}", frozen=paused)


def enter_argv(topology: Topology, host: Host, command: list[str]) -> list[str]:
    """The command line that runs `command` on the host."""
    first = first_process(topology, host)
    if not first:
        raise LabError(f"{host.name} is off; start it with `steer lab start {host.name}`")
    return ["nsenter", "--target", str(first), "--mount", "--uts", "--ipc", "--net", "--pid", "--", *command]
