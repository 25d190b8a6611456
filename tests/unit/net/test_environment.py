from __future__ import annotations

from net import service_environment
from steersman.types import Service


def make(name, namespace="default", cluster_ip="10.96.0.7", ports=({"port": 6379},)):
    return Service.from_dict(
        {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": cluster_ip, "ports": list(ports)}}
    )


def test_both_forms_are_there():
    assert service_environment([make("redis-master")], "default") == {
        "REDIS_MASTER_SERVICE_HOST": "10.96.0.7",
        "REDIS_MASTER_SERVICE_PORT": "6379",
        "REDIS_MASTER_PORT": "tcp://10.96.0.7:6379",
        "REDIS_MASTER_PORT_6379_TCP": "tcp://10.96.0.7:6379",
        "REDIS_MASTER_PORT_6379_TCP_PROTO": "tcp",
        "REDIS_MASTER_PORT_6379_TCP_PORT": "6379",
        "REDIS_MASTER_PORT_6379_TCP_ADDR": "10.96.0.7",
    }


def test_named_ports_have_variables_of_their_own():
    ports = [{"name": "http-web", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]
    found = service_environment([make("web", ports=ports)], "default")
    assert (found["WEB_SERVICE_PORT"], found["WEB_SERVICE_PORT_HTTP_WEB"], found["WEB_SERVICE_PORT_DNS"]) == (
        "80",
        "80",
        "53",
    )
    assert found["WEB_PORT_53_UDP"] == "udp://10.96.0.7:53"


def test_only_the_pods_namespace_and_the_api_server_are_seen():
    services = [
        make("kubernetes", cluster_ip="10.96.0.1", ports=[{"name": "https", "port": 443}]),
        make("near", "shop"),
        make("far", "other"),
        make("headless", "shop", "None"),
        make("portless", "shop", ports=()),
    ]
    prefixes = {name.split("_")[0] for name in service_environment(services, "shop")}
    assert prefixes == {"KUBERNETES", "NEAR"}
    assert {name.split("_")[0] for name in service_environment(services, "shop", links=False)} == {"KUBERNETES"}


def test_a_namespaces_own_kubernetes_service_wins():
    services = [make("kubernetes", cluster_ip="10.96.0.1"), make("kubernetes", "shop", "10.96.0.9")]
    for order in (services, services[::-1]):
        assert service_environment(order, "shop")["KUBERNETES_SERVICE_HOST"] == "10.96.0.9"
