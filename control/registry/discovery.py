"""The group discovery.k8s.io/v1: EndpointSlice."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import Any, Final

from control.registry import formats
from control.registry.core import AGE, NAME
from control.registry.pods.containers import PROTOCOLS
from control.registry.problems import Problems, at
from control.registry.resources import Column, Document, Resource
from control.registry.tables import UNSET, created

ADDRESS_TYPES: Final = ("FQDN", "IPv4", "IPv6")
ENDPOINTS_MAX: Final = 1000
ADDRESSES_MAX: Final = 100  # of one endpoint
PORTS_MAX: Final = 20_000
SHOWN: Final = 3  # ports and endpoints that the table names before it counts


def _default(document: Document) -> None:
    document.setdefault("endpoints", [])
    for port in document.get("ports", ()):
        port.setdefault("name", "")
        if not port.get("protocol"):
            port["protocol"] = "TCP"


def _validate(document: Document, problems: Problems) -> None:
    kind, endpoints, ports = document.get("addressType", ""), document["endpoints"], document.get("ports", [])
    if not kind:
        problems.required("addressType")
    else:
        problems.one_of("addressType", kind, ADDRESS_TYPES)
    if len(endpoints) > ENDPOINTS_MAX:
        problems.too_many("endpoints", len(endpoints), ENDPOINTS_MAX)
    for index, endpoint in enumerate(endpoints):
        _validate_endpoint(endpoint, kind, at("endpoints", index), problems)
    if len(ports) > PORTS_MAX:
        problems.too_many("ports", len(ports), PORTS_MAX)
    names = set()
    for index, port in enumerate(ports):
        where = at("ports", index)
        if port["name"]:
            problems.format(f"{where}.name", port["name"], formats.dns_label(port["name"]))
        if port["name"] in names:
            problems.duplicate(f"{where}.name", port["name"])
        names.add(port["name"])
        problems.one_of(f"{where}.protocol", port["protocol"], PROTOCOLS)
        if "port" in port:
            problems.format(f"{where}.port", port["port"], formats.port_number(port["port"]))


def _validate_endpoint(endpoint: dict[str, Any], kind: str, path: str, problems: Problems) -> None:
    addresses = endpoint.get("addresses", ())
    if not addresses:
        problems.required(f"{path}.addresses", "an endpoint has at least one address")
    if len(addresses) > ADDRESSES_MAX:
        problems.too_many(f"{path}.addresses", len(addresses), ADDRESSES_MAX)
    for index, address in enumerate(addresses):
        problems.format(at(f"{path}.addresses", index), address, _address_problem(address, kind))
    for name, form in (("hostname", formats.dns_label), ("nodeName", formats.dns_subdomain)):
        if name in endpoint:
            problems.format(f"{path}.{name}", endpoint[name], form(endpoint[name]))


def _address_problem(address: str, kind: str) -> str | None:
    if kind == "FQDN":
        return formats.dns_subdomain(address)
    if why := formats.ip_address(address):
        return why
    if kind in ("IPv4", "IPv6") and f"IPv{ipaddress.ip_address(address).version}" != kind:
        return f"must be an {kind} address, as the slice's addressType says"
    return None


def _validate_update(new: Document, old: Document, problems: Problems) -> None:
    problems.immutable("addressType", new.get("addressType"), old.get("addressType"))


def _some(values: list[str]) -> str:
    if not values:
        return UNSET
    more = f" + {len(values) - SHOWN} more..." if len(values) > SHOWN else ""
    return ",".join(values[:SHOWN]) + more


def _row(document: Document, now: dt.datetime) -> list[Any]:
    ports = [str(port.get("port", "*")) for port in document.get("ports") or ()]
    addresses = [address for endpoint in document.get("endpoints") or () for address in endpoint["addresses"]]
    return [
        document["metadata"]["name"],
        document["addressType"],
        _some(ports),
        _some(addresses),
        created(document, now),
    ]


ENDPOINT_SLICES = Resource(
    group="discovery.k8s.io",
    version="v1",
    kind="EndpointSlice",
    plural="endpointslices",
    singular="endpointslice",
    default=_default,
    validate=_validate,
    validate_update=_validate_update,
    columns=(
        NAME,
        Column("AddressType", description="What its addresses are"),
        Column("Ports", description="Ports of its endpoints"),
        Column("Endpoints", description="Addresses of its endpoints"),
        AGE,
    ),
    row=_row,
    has_generation=True,
)

RESOURCES = (ENDPOINT_SLICES,)
