"""What every cluster has from its first moment: namespaces, the Service of the API, the DNS address.

The leader makes what is missing at the start of each term, and keeps the endpoints of `default/kubernetes` equal to the
members that announced themselves. It is all ordinary objects, written by the ordinary handlers; whoever deletes one gets
it back at the next term.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from typing import Final

from steersman.client import AsyncClient, Document
from steersman.errors import ApiError

log = logging.getLogger("control.bootstrap")

NAMESPACES: Final = ("default", "kube-system", "kube-public", "kube-node-lease")
ACTOR: Final = "bootstrap"
_API_LABEL: Final = "kubernetes.io/service-name"


def first_address(service_cidr: str) -> str:
    """The ClusterIP of default/kubernetes: the first of the range, as everywhere in Kubernetes."""
    return str(ipaddress.IPv4Network(service_cidr)[1])


def objects(service_cidr: str, dns_ip: str) -> list[Document]:
    """What must be there, in the order in which it can be made."""
    found: list[Document] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in NAMESPACES
    ]
    found.append(
        _service(
            "default",
            "kubernetes",
            {"component": "apiserver", "provider": "kubernetes"},
            first_address(service_cidr),
            [{"name": "https", "port": 443, "targetPort": 6443, "protocol": "TCP"}],
        )
    )
    dns_labels = {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"}
    dns_ports = [
        {"name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "targetPort": 53, "protocol": "TCP"},
    ]
    found.append(_service("kube-system", "kube-dns", dns_labels, dns_ip, dns_ports))
    return found


def _service(namespace: str, name: str, labels: dict[str, str], address: str, ports: list[Document]) -> Document:
    """A Service without a selector: its endpoints are not pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"clusterIP": address, "ports": ports, "type": "ClusterIP"},
    }


def api_endpoints(rest_addresses: Sequence[str]) -> list[Document]:
    """The EndpointSlices of default/kubernetes: where the members serve REST (host:port).

    One slice for each port, because all endpoints of a slice have the same ones; members on hosts of their own share one.
    """
    hosts: dict[int, list[str]] = {}
    for address in sorted(set(rest_addresses)):
        host, _, port = address.rpartition(":")
        try:
            hosts.setdefault(int(port), []).append(str(ipaddress.IPv4Address(host.strip("[]"))))
        except ValueError:
            continue  # a host name: an EndpointSlice of addresses cannot hold it
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"kubernetes-{port}" if number else "kubernetes",
                "namespace": "default",
                "labels": {_API_LABEL: "kubernetes"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [host], "conditions": {"ready": True}} for host in hosts[port]],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }
        for number, port in enumerate(sorted(hosts))
    ]


async def ensure(client: AsyncClient, service_cidr: str, dns_ip: str) -> None:
    """Make what is missing. Raises ApiError when the store refuses; what conflicts with a user's object is only logged."""
    client = client.acting_as(ACTOR)
    wanted = objects(service_cidr, dns_ip)
    # Namespaces first, by themselves: what is in them needs them there.
    for group in (wanted[: len(NAMESPACES)], wanted[len(NAMESPACES) :]):
        missing = [document for document in group if not await _exists(client, document)]
        if not missing:
            continue
        results = await client.batch([client.create_request(document) for document in missing])
        for document, result in zip(missing, results, strict=True):
            what = f"{document['kind']} {document['metadata']['name']}"
            if result.error is None:
                log.info("made %s", what)
            elif result.error.reason == "ServiceUnavailable":
                raise result.error
            elif result.error.reason != "AlreadyExists":
                log.warning("cannot make %s: %s", what, result.error)


async def publish_api(client: AsyncClient, rest_addresses: Sequence[str]) -> None:
    """Make the endpoints of default/kubernetes those of the members. Raises ApiError."""
    if not rest_addresses:
        return
    client = client.acting_as(ACTOR)
    wanted = {document["metadata"]["name"]: document for document in api_endpoints(rest_addresses)}
    listed = await client.list("endpointslices", "default", labels=f"{_API_LABEL}=kubernetes")
    present = {item["metadata"]["name"]: item for item in listed}
    for name, document in wanted.items():
        held = present.get(name)
        if held is None:
            await client.create(document)
        elif any(held.get(key) != document[key] for key in ("endpoints", "ports")):
            document["metadata"]["resourceVersion"] = held["metadata"]["resourceVersion"]
            await client.update(document)
    for name in present.keys() - wanted.keys():
        await client.delete("endpointslices", name, "default")


async def _exists(client: AsyncClient, document: Document) -> bool:
    metadata = document["metadata"]
    try:
        await client.get(document["kind"], metadata["name"], metadata.get("namespace", ""))
    except ApiError as error:
        if error.reason == "NotFound":
            return False
        raise
    return True
