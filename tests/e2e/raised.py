"""A raised lab as the end-to-end tests see it: the real `steer`, the SDK, a shell on every host and in every pod."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lab import cgroups, hosts
from lab.topology import GRPC_PORT, Topology
from steersman import ApiError, Client
from steersman.types import Node, Pod

ROOT = Path(__file__).resolve().parents[2]
STEER = Path(sys.executable).with_name("steer")
CONTAINERD_NAMESPACE = "steersman"
BUSYBOX = "registry.lab/library/busybox:1.36"
FRONTEND = "registry.lab/guestbook/frontend"
POLL_S = 0.1

T = TypeVar("T")
Document = dict[str, Any]


def eventually(condition: Callable[[], T], what: str, within: float = 30.0, every: float = POLL_S) -> T:
    """Ask until the answer is true, and return it. What the API refuses meanwhile counts as "not yet"."""
    deadline = time.monotonic() + within
    last: object = None
    while True:
        try:
            last = condition()
            if last:
                return last  # type: ignore[return-value]
        except (ApiError, AssertionError, subprocess.CalledProcessError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what}; last answer: {last!r}")
        time.sleep(every)


def uptime() -> float:
    """The machine's clock that every namespace shares: what pods read from /proc/uptime."""
    return float(Path("/proc/uptime").read_text().split()[0])


@dataclass(frozen=True, slots=True)
class Incarnation:
    """Which start of which container: unchanged as long as nothing restarted it."""

    container_id: str
    started_at: str
    restarts: int


def own_topology(kind: str, control: int, nodes: int, store: str = "embedded") -> Topology:
    """A lab of this run's own: two runs on one machine do not meet. `kind` is one letter."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        ports = first.getsockname()[1], second.getsockname()[1]
    return Topology(f"{kind}{os.getpid() % 1_000_000}", control, nodes, *ports, store=store)


class Lab:
    """One lab, its client, and everything that a person at its keyboard could do."""

    def __init__(self, topology: Topology, config: Path) -> None:
        self.topology = topology
        self.config = config
        self.environment = {**os.environ, "STEERSMAN_CONFIG": str(config), "COLUMNS": "200"}
        self.client: Client = None  # type: ignore[assignment] - set by `up`

    # --- its life ---

    def up(self, *flags: str) -> None:
        t = self.topology
        self.down()
        where = ("--grpc-port", str(t.grpc_port), "--rest-port", str(t.rest_port), "--store", t.store)
        self.steer(
            *("lab", "up", "--name", t.name, "--control", str(t.control), "--nodes", str(t.nodes), *where, *flags),
            timeout=150,
        )
        self.client = Client.connect(t.name, path=self.config)

    def down(self) -> str:
        if self.client is not None:
            self.client.close()
            self.client = None  # type: ignore[assignment]
        return self.steer("lab", "down", "--name", self.topology.name, timeout=120)

    # --- the command line ---

    def run(self, *arguments: str, stdin: str | bytes = "", timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """`steer ARGUMENTS`, as it ends."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [STEER, *arguments],
            input=data,
            capture_output=True,
            env=self.environment,
            cwd=ROOT,
            timeout=timeout,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def steer(self, *arguments: str, stdin: str = "", timeout: float = 60.0) -> str:
        """What `steer ARGUMENTS` prints; it must succeed."""
        done = self.run(*arguments, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"steer {' '.join(arguments)}: exit {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def command(self, *arguments: str) -> None:
        """`steer lab VERB …` on this lab."""
        verb, *rest = arguments
        self.steer("lab", verb, "--name", self.topology.name, *rest)

    def apply(self, *documents: Document, namespace: str = "default") -> None:
        for result in self.client.apply(list(documents), namespace=namespace):
            assert result.error is None, result.error

    # --- hosts ---

    def on(self, host: str, script: str, *, check: bool = True) -> str:
        """What a shell script prints on a host."""
        argv = hosts.enter_argv(self.topology, self.topology.host(host), ["sh", "-c", script])
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0 or not check, f"on {host}: {script!r}: exit {done.returncode}: {done.stderr}"
        return done.stdout

    @property
    def nodes(self) -> list[str]:
        return [host.name for host in self.topology.workers]

    @property
    def members(self) -> list[str]:
        return [host.name for host in self.topology.controls]

    def pid(self, host: str, service: str) -> int:
        """The id of a host's service, 0 while it is down."""
        return hosts.services(self.topology, self.topology.host(host)).get(service, 0)

    def kill_process(self, host: str, service: str) -> None:
        """`kill -9`; returns when the host's first process has started it again."""
        before = self.pid(host, service)
        assert before, f"{service} does not run on {host}"
        os.kill(before, signal.SIGKILL)
        eventually(lambda: self.pid(host, service) not in (0, before), f"{service} runs again on {host}", 15)

    def processes(self, host: str) -> dict[int, str]:
        """Id -> command line of everything that runs on a host."""
        found = {}
        for pid in cgroups.processes(f"{self.topology.cgroup}/{host}"):
            try:
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
        return found

    def containers(self, node: str) -> set[str]:
        """The ids that containerd has on a node, running or not."""
        return set(self.on(node, f"ctr -n {CONTAINERD_NAMESPACE} containers ls -q").split())

    def running(self, node: str) -> set[str]:
        """The ids whose processes run on a node."""
        rows = self.on(node, f"ctr -n {CONTAINERD_NAMESPACE} tasks ls").splitlines()[1:]
        return {row.split()[0] for row in rows if "RUNNING" in row}

    def footprint(self) -> dict[str, Any]:
        """What pods and Services leave on the nodes: containers, links, namespaces, addresses in nft maps."""
        found: dict[str, Any] = {}
        for node in self.nodes:
            links = {link["ifname"] for link in json.loads(self.on(node, "ip -j link"))}
            table = json.loads(self.on(node, "nft -j list table ip steersman"))["nftables"]
            elements = [
                json.dumps(element, sort_keys=True)
                for entry in table
                for kind in ("map", "set")
                for element in entry.get(kind, {}).get("elem", ())
            ]
            chains = sum("chain" in entry for entry in table)
            found[node] = {
                "containers": sorted(self.containers(node)),
                "links": sorted(links),
                "nft elements": sorted(elements),
                "nft chains": chains,
                "routes": sorted(
                    json.dumps(route, sort_keys=True) for route in json.loads(self.on(node, "ip -j route"))
                ),
            }
        return found

    # --- the cluster ---

    def leader(self, other_than: str = "", within: float = 30.0) -> str:
        """Who leads, by the word of whichever member a new connection reaches; waits for somebody other if asked."""

        def told() -> str:
            done = self.run("--request-timeout", "5", "cluster", "status", "-o", "json")
            leader = json.loads(done.stdout)["leader"] if done.returncode == 0 else ""
            return leader if leader != other_than else ""

        return eventually(told, f"a leader other than {other_than!r}", within)

    def healthy(self) -> bool:
        """Every member answers its peers, every node is Ready, nobody has a problem to tell."""
        status = self.client.cluster_status()
        members = status.leader and all(m.reachable and not m.problem for m in status.members)
        return bool(members and all(node.ready for node in self.client.list(Node)))

    def settle(self, within: float = 60.0) -> None:
        eventually(self.healthy, "every member and node is well", within)

    def pods(self, namespace: str, labels: str = "") -> list[Pod]:
        return list(self.client.list(Pod, namespace, labels=labels).items)

    def ready_pods(self, namespace: str, labels: str = "") -> list[Pod]:
        return [pod for pod in self.pods(namespace, labels) if pod.ready and not pod.deleting]

    def wait_ready(self, namespace: str, *names: str, within: float = 60.0) -> list[Pod]:
        return [self.client.wait(Pod, name, lambda pod: pod.ready, namespace, timeout=within) for name in names]

    def wait_count(self, namespace: str, labels: str, count: int, within: float = 60.0) -> list[Pod]:
        """Wait until exactly `count` pods with these labels are there, all Ready."""

        def all_ready() -> list[Pod]:
            pods = self.ready_pods(namespace, labels)
            return pods if len(pods) == count == len(self.pods(namespace, labels)) else []

        return eventually(all_ready, f"{count} pods {labels} Ready", within)

    def in_pod(self, namespace: str, pod: str, script: str) -> str:
        """What a shell script prints in a pod."""
        return self.steer("exec", "-n", namespace, pod, "--", "sh", "-c", script)

    def log(self, namespace: str, pod: str) -> list[str]:
        return self.steer("logs", "-n", namespace, pod).splitlines()

    def incarnations(self, pods: Iterable[Pod]) -> dict[str, Incarnation]:
        """pod/container -> which start of it runs, as the API says now."""
        found = {}
        for before in pods:
            pod = self.client.get(Pod, before.name, before.namespace)
            for status in pod.status.container_statuses:
                assert status.state.running is not None, f"{pod.name}/{status.name} does not run: {status.state}"
                found[f"{pod.uid}/{status.name}"] = Incarnation(
                    str(status.container_id), status.state.running.started_at, status.restart_count
                )
        return found

    def member_config(self, directory: Path) -> Path:
        """A configuration with one cluster for every member, good inside the switch's namespace only."""
        pki = self.topology.directory / "pki"
        clusters = {
            host.name: {
                "members": [f"{host.address}:{GRPC_PORT}"],
                **{
                    key: str(pki / file)
                    for key, file in (("ca", "ca.crt"), ("certificate", "admin.crt"), ("key", "admin.key"))
                },
            }
            for host in self.topology.controls
        }
        path = directory / "members.yaml"
        path.write_text(json.dumps({"current": self.members[0], "clusters": clusters}))
        return path

    def from_switch(self, *argv: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command where the balancer is: from there every member can be reached by its own address."""
        environment = {**self.environment, **({"STEERSMAN_CONFIG": str(config)} if config else {})}
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.topology.switch}", "--", *argv],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=60,
            cwd=ROOT,
        )


# --- manifests ---------------------------------------------------------------------------------------------------


def pod(
    name: str, script: str = "sleep 3600", *, node: str = "", labels: dict[str, str] | None = None, **spec: Any
) -> Document:
    """A pod of one busybox container `c` that runs a script; keyword arguments go into the pod's spec, `container` into c."""
    container = {"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script], **spec.pop("container", {})}
    body = {"terminationGracePeriodSeconds": 1, "containers": [container], **spec}
    if node:
        body["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}}, "spec": body}


def deployment(name: str, replicas: int, script: str = "", **spec: Any) -> Document:
    """A Deployment of the guestbook's frontend or, with a script, of busybox; its pods have the label app=NAME."""
    container = {"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script]}
    if not script:
        container = {
            "name": "c",
            "image": f"{FRONTEND}:v1",
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1},
        }
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template},
    }


def service(name: str, port: int = 80, target: int | str = 8080) -> Document:
    """A Service of the pods with the label app=NAME."""
    ports = [{"port": port, "targetPort": target}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": ports},
    }


def visitor(url: str, timeout_s: int = 2) -> str:
    """A script that asks a URL without end and tells of each answer: `ok UPTIME FIRST-LINE` or `FAILED UPTIME WORDS`."""
    return (
        "while :; do "
        f"if answer=$(timeout {timeout_s} wget -q -O - {url} 2>&1); then how=ok; else how=FAILED; fi; "
        'read -r now rest < /proc/uptime; echo "$how $now $(echo "$answer" | head -n 1)"; sleep 0.05; done'
    )
