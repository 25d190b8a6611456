"""Bad input: each gets one clear sentence with the field's path and exit code 1, never a traceback; the server goes on."""

from __future__ import annotations

import copy
import json
import os
import re
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.topology import GRPC_PORT
from tests.e2e.raised import STEER, Lab, deployment, pod, service

Document = dict[str, Any]


def changed(document: Document, change: Callable[[Document], object]) -> str:
    document = copy.deepcopy(document)
    change(document)
    return json.dumps(document)


WEB = deployment("web", 1)
POD = pod("p")
SERVICE = service("s")

# what is wrong: (arguments, standard input, what the refusal must say)
REFUSALS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "unknown kind": (("apply", "-f", "-"), '{"apiVersion":"v1","kind":"Gadget","metadata":{"name":"g"}}', r"Gadget"),
    "unknown group": (
        ("apply", "-f", "-"),
        '{"apiVersion":"toys.example.com/v1","kind":"Pod","metadata":{"name":"g"}}',
        r"toys\.example\.com",
    ),
    "unknown field": (
        ("apply", "-f", "-"),
        changed(WEB, lambda d: d["spec"]["template"]["spec"].update(contaners=[])),
        r'unknown field "spec\.template\.spec\.contaners"',
    ),
    "wrong type": (
        ("apply", "-f", "-"),
        changed(WEB, lambda d: d["spec"].update(replicas="three")),
        r"spec\.replicas",
    ),
    "missing name": (("apply", "-f", "-"), changed(POD, lambda d: d["metadata"].pop("name")), r"name"),
    "bad name": (
        ("apply", "-f", "-"),
        changed(POD, lambda d: d["metadata"].update(name="Not_A_Name")),
        r"metadata\.name",
    ),
    "over-long name": (
        ("apply", "-f", "-"),
        changed(POD, lambda d: d["metadata"].update(name="n" * 300)),
        r"metadata\.name",
    ),
    "bad label key": (
        ("apply", "-f", "-"),
        changed(POD, lambda d: d["metadata"].update(labels={"no good": "x"})),
        r"metadata\.labels",
    ),
    "over-long label value": (
        ("apply", "-f", "-"),
        changed(POD, lambda d: d["metadata"].update(labels={"a": "x" * 64})),
        r"metadata\.labels.*63",
    ),
    "over-long annotations": (
        ("apply", "-f", "-"),
        changed(POD, lambda d: d["metadata"].update(annotations={"a": "x" * (300 << 10)})),
        r"metadata\.annotations",
    ),
    "bad label selector": (("get", "pods", "-l", "a in b"), "", r"a in b|selector"),
    "bad field selector": (("get", "pods", "--field-selector", "spec.colour=red"), "", r"spec\.colour"),
    "no containers": (
        ("apply", "-f", "-"),
        changed(POD, lambda d: d["spec"].update(containers=[])),
        r"spec\.containers",
    ),
    "no image": (
        ("apply", "-f", "-"),
        changed(POD, lambda d: d["spec"]["containers"][0].pop("image")),
        r"spec\.containers\[0\]\.image",
    ),
    "two containers of one name": (
        ("apply", "-f", "-"),
        changed(POD, lambda d: d["spec"]["containers"].append(d["spec"]["containers"][0])),
        r"spec\.containers\[1\]\.name",
    ),
    "a port that is none": (
        ("apply", "-f", "-"),
        changed(SERVICE, lambda d: d["spec"]["ports"][0].update(port=70000)),
        r"spec\.ports\[0\]\.port",
    ),
    "an address outside the range": (
        ("apply", "-f", "-"),
        changed(SERVICE, lambda d: d["spec"].update(clusterIP="192.0.2.1")),
        r"spec\.clusterIP.*10\.96\.0\.0/16",
    ),
    "a quantity that is none": (
        ("apply", "-f", "-"),
        changed(POD, lambda d: d["spec"]["containers"][0].update(resources={"limits": {"memory": "lots"}})),
        r"memory",
    ),
    "requests above limits": (
        ("apply", "-f", "-"),
        changed(
            POD,
            lambda d: d["spec"]["containers"][0].update(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
        ),
        r"spec\.containers\[0\]\.resources\.requests",
    ),
    "a selector that misses its own template": (
        ("apply", "-f", "-"),
        changed(WEB, lambda d: d["spec"]["template"]["metadata"].update(labels={"app": "other"})),
        r"spec\.template\.metadata\.labels",
    ),
    "a selector that changes": (
        ("apply", "-f", "-"),
        changed(
            deployment("standing", 0),
            lambda d: (
                d["spec"]["selector"].update(matchLabels={"app": "x"}),
                d["spec"]["template"]["metadata"].update(labels={"app": "x"}),
            ),
        ),
        r"spec\.selector.*immutable",
    ),
    "a duplicate name": (("create", "-f", "-"), json.dumps(deployment("standing", 0)), r'"standing" already exists'),
    "a stale resourceVersion": (
        ("patch", "deploy/standing", "-p", '{"metadata":{"resourceVersion":"1"},"spec":{"paused":true}}'),
        "",
        r"Conflict",
    ),
    "an object of 5 MB": (
        ("apply", "-f", "-"),
        json.dumps(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"a": "x" * (5 << 20)}}
        ),
        r"large|limit|at most|bytes",
    ),
    "a namespace that is not there": (
        ("apply", "-n", "nowhere", "-f", "-"),
        json.dumps(POD),
        r'namespaces "nowhere" not found',
    ),
    "the namespace that must stay": (("delete", "namespace", "default"), "", r"default.*forbidden"),
    "an object that is not there": (("get", "pod", "nobody"), "", r'pods "nobody" not found'),
    "a type that is not there": (("get", "gadgets"), "", r"gadgets"),
    "YAML that is none": (("apply", "-f", "-"), "a: [b", r"not YAML or JSON: line 2, column 1"),
    "YAML without an object": (("apply", "-f", "-"), "just words", r"mapping"),
    "a file that is not there": (("apply", "-f", "/no/such/file.yaml"), "", r"/no/such/file\.yaml"),
    "logs of nobody": (("logs", "nobody"), "", r'pods "nobody" not found'),
    "an impossible token life": (("token", "create", "--uses", "-3"), "", r"uses"),
}


@pytest.fixture(scope="module")
def standing(lab: Lab) -> None:
    lab.apply(deployment("standing", 0))


@pytest.mark.parametrize("what", REFUSALS)
def test_refused_in_a_sentence(lab: Lab, standing: None, what: str) -> None:
    arguments, stdin, words = REFUSALS[what]
    done = lab.run(*arguments, stdin=stdin)
    assert done.returncode == 1, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    assert re.search(words, done.stderr), done.stderr
    assert len(done.stderr) < 1200, f"not a sentence: {done.stderr[:2000]}"
    assert len(done.stderr.strip().splitlines()) <= 3, done.stderr


def test_garbage_on_the_ports_hurts_nobody(lab: Lab) -> None:
    t = lab.topology
    for port in (t.grpc_port, t.rest_port):
        for garbage in (
            os.urandom(4096),
            b"GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 512,
            b"",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                sock.sendall(garbage)
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(5)
                try:
                    while sock.recv(4096):
                        pass
                except OSError:
                    continue
    for _ in range(3):  # one for every member behind the balancer
        lab.steer("get", "nodes")
    for member in lab.members:
        log = (t.host_directory(t.host(member)) / "log" / "control.log").read_text()
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]


def test_who_has_no_certificate_of_this_cluster_gets_nowhere(lab: Lab, tmp_path: Path) -> None:
    ca, user = tmp_path / "ca", tmp_path / "user"
    tool = STEER.with_name("steer-control")
    for command in (
        (tool, "pki", "init", "--dir", ca),
        (tool, "pki", "user", "--dir", user, "--ca-dir", ca, "--name", "admin", "--group", "system:masters"),
    ):
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
    members = [f"127.0.0.1:{lab.topology.grpc_port}"]
    foreign = {
        "members": members,
        "ca": str(lab.topology.directory / "pki" / "ca.crt"),
        "certificate": str(user / "admin.crt"),
        "key": str(user / "admin.key"),
    }
    strangers = {**foreign, "ca": str(ca / "ca.crt")}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"current": "foreign", "clusters": {"foreign": foreign, "strangers": strangers}}))
    for cluster in ("foreign", "strangers"):
        done = lab.run("--config", str(config), "--cluster", cluster, "--request-timeout", "5", "get", "nodes")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "Error from server (ServiceUnavailable)" in done.stderr, done.stderr
    assert answer_without_certificate(lab) == b""
    lab.steer("get", "nodes")


def answer_without_certificate(lab: Lab) -> bytes:
    """What a member's gRPC port sends to a client that trusts it but has no certificate."""
    context = ssl.create_default_context(cafile=str(lab.topology.directory / "pki" / "ca.crt"))
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection(("127.0.0.1", lab.topology.grpc_port), timeout=5) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            tls.settimeout(5)  # TLS 1.3 tells of a missing client certificate on the first read
            tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
            return tls.recv(1)
    except OSError:
        return b""


def test_a_used_up_join_token_is_refused(lab: Lab, tmp_path: Path) -> None:
    made = json.loads(lab.steer("token", "create", "--uses", "1", "--ttl", "10m", "-o", "json"))
    servers = [part for host in lab.topology.controls for part in ("--server", f"{host.address}:{GRPC_PORT}")]

    def join(name: str, token: str) -> subprocess.CompletedProcess[str]:
        """A whole agent, which joins first of all; one that may join is ended when it has its certificate."""
        directory = tmp_path / name
        argv = [
            *(str(STEER.with_name("steer-node")), "run", "--name", name, "--address", "172.29.0.250"),
            *(*servers, "--token", token, "--ca-hash", made["caHash"]),
            *(
                "--data-dir",
                str(directory),
                "--containerd",
                str(directory / "none.sock"),
                "--metrics-listen",
                "127.0.0.1:9199",
            ),
        ]
        return lab.from_switch("timeout", "25", *argv)

    first = join("late-1", made["token"])
    assert "joined as late-1" in first.stderr, first.stderr
    for name, token in (("late-2", made["token"]), ("late-3", "aaaaaa." + "b" * 16), ("late-4", "nonsense")):
        refused = join(name, token)
        assert refused.returncode == 1, f"{token}: exit {refused.returncode}: {refused.stderr}"
        assert "token" in refused.stderr
        assert "Traceback" not in refused.stderr
    rows = [line.split() for line in lab.steer("token", "list").splitlines()]
    assert all(row[2] == "0" for row in rows if row[0] == made["token"].partition(".")[0]), rows
    lab.run("delete", "node", "late-1", "--ignore-not-found")
    lab.steer("get", "nodes")
