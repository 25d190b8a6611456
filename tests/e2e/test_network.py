"""Packets: every pod reaches every pod on every pair of hosts, by address, by Service, by name."""

from __future__ import annotations

import itertools

from steersman.types import Service
from tests.e2e.raised import Lab, deployment, eventually, pod, service


def test_pods_and_nodes_reach_pods_on_every_pair_of_hosts(lab: Lab, namespace: str) -> None:
    """With real packets, small ones and full ones, and without a translated source address between pods."""
    script = "echo page of $(hostname) > /index.html; dd if=/dev/zero of=/large bs=1M count=4 2>/dev/null; httpd -f -vv -p 8080 -h / 2>&1"
    for node in lab.nodes:
        lab.apply(pod(f"on-{node}", script, node=node), namespace=namespace)
    pods = lab.wait_ready(namespace, *(f"on-{node}" for node in lab.nodes))
    for client, server in itertools.product(pods, pods):
        ip = server.status.pod_ip
        told = lab.in_pod(
            namespace,
            client.name,
            f"ping -c 1 -W 2 {ip} | grep -c 'bytes from'; timeout 5 wget -q -O - http://{ip}:8080/; timeout 5 wget -q -O - http://{ip}:8080/large | wc -c",
        )
        assert told.split("\n")[:3] == ["1", f"page of {server.name}", str(4 << 20)], f"{client.name} -> {server.name}"
        seen = " ".join(lab.log(namespace, server.name))
        assert client.status.pod_ip in seen, f"{server.name} saw {client.name} under another address: {seen[-300:]}"
    for node, server in itertools.product(lab.nodes, pods):
        assert f"page of {server.name}" in lab.on(node, f"curl -sS -m 5 http://{server.status.pod_ip}:8080/")


def test_services_are_found_by_environment_and_by_name(lab: Lab, namespace: str) -> None:
    lab.apply(service("web"), deployment("web", 2), namespace=namespace)
    lab.wait_count(namespace, "app=web", 2)
    lab.apply(pod("seeker"), namespace=namespace)
    (seeker,) = lab.wait_ready(namespace, "seeker")
    address = lab.client.get(Service, "web", namespace).spec.cluster_ip
    environment = dict(
        line.split("=", 1) for line in lab.in_pod(namespace, "seeker", "env").splitlines() if "=" in line
    )
    assert environment["WEB_SERVICE_HOST"] == address
    assert environment["WEB_SERVICE_PORT"] == "80"
    assert environment["WEB_PORT"] == environment["WEB_PORT_80_TCP"] == f"tcp://{address}:80"
    assert environment["KUBERNETES_SERVICE_HOST"]
    for name in ("web", f"web.{namespace}", f"web.{namespace}.svc", f"web.{namespace}.svc.cluster.local"):
        assert f"({address})" in lab.in_pod(namespace, "seeker", f"ping -c 1 -W 1 {name} | head -n 1")
    assert (
        lab.run("exec", "-n", namespace, "seeker", "--", "nslookup", "nobody.default.svc.cluster.local").returncode != 0
    )
    reverse = lab.in_pod(namespace, "seeker", f"nslookup {address}")
    assert f"web.{namespace}.svc.cluster.local" in reverse
    assert seeker.status.pod_ip


def test_a_service_spreads_over_its_ready_pods_and_refuses_without_any(lab: Lab, namespace: str) -> None:
    lab.apply(service("web"), deployment("web", 3), pod("asker"), namespace=namespace)
    pods = lab.wait_count(namespace, "app=web", 3)
    lab.wait_ready(namespace, "asker")

    def answering() -> set[str]:
        told = lab.in_pod(
            namespace, "asker", "for i in $(seq 30); do timeout 5 wget -q -O - http://web/ | head -n 1; done"
        )
        assert told.count("\n") == 30
        return {line.split("says ")[1].split(" ")[0] for line in told.splitlines()}

    eventually(lambda: answering() == {found.name for found in pods}, "every pod answers", 15)
    # a pod that reaches itself through its Service
    for found in pods:
        told = lab.in_pod(
            namespace, found.name, "for i in 1 2 3 4 5 6 7 8 9; do timeout 5 wget -q -O - http://web/ | head -n 1; done"
        )
        assert told.count("says") == 9
    lab.steer("scale", "-n", namespace, "deploy/web", "--replicas", "0")
    eventually(lambda: not lab.pods(namespace, "app=web"), "scaled to nothing")
    eventually(
        lambda: (
            "refused"
            in lab.run("exec", "-n", namespace, "asker", "--", "timeout", "5", "wget", "-O", "-", "http://web/").stderr
        ),
        "a Service without pods refuses at once",
        10,
    )
