"""The Service: defaults, rules, and what stays when it changes.

Addresses are not chosen here: the API allocates them in the transaction that stores the Service (`control.api.allocation`).
Source: Kubernetes' core defaulting and validation, KEP-1880.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from control.registry import formats
from control.registry.metadata import validate_labels
from control.registry.pods.containers import PROTOCOLS, validate_port_or_name
from control.registry.problems import Problems, at
from control.registry.resources import Column
from control.registry.tables import NONE, created, selector_text

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
EXTERNAL_TYPES = ("LoadBalancer", "NodePort")
POLICIES = ("Cluster", "Local")
AFFINITY_SECONDS = 10800  # how long ClientIP affinity lasts by default: three hours
AFFINITY_SECONDS_MAX = 86400
HEADLESS = "None"  # spec.clusterIP of a Service without an address of its own

COLUMNS = (
    Column("Name", format="name", description="Name of the object, unique in its namespace"),
    Column("Type", description="How it is exposed"),
    Column("Cluster-IP", description="Its address in the cluster"),
    Column("External-IP", description="Its addresses outside the cluster"),
    Column("Port(s)", description="The ports that it answers on"),
    Column("Age", description="Time since it was created"),
    Column("Selector", priority=1, description="The labels of the pods behind it"),
)


def default(document: dict[str, Any]) -> None:
    spec = document.setdefault("spec", {})
    if not spec.get("type"):
        spec["type"] = "ClusterIP"
    if not spec.get("sessionAffinity"):
        spec["sessionAffinity"] = "None"
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        config.setdefault("timeoutSeconds", AFFINITY_SECONDS)
    for port in spec.get("ports", ()):
        if not port.get("protocol"):
            port["protocol"] = "TCP"
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port", 0)
    if spec["type"] != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if spec["type"] in EXTERNAL_TYPES and not spec.get("externalTrafficPolicy"):
        spec["externalTrafficPolicy"] = "Cluster"
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    document.setdefault("status", {}).setdefault("loadBalancer", {})


def carry(new: dict[str, Any], old: Mapping[str, Any]) -> None:
    """Keep the addresses and ports that were allocated, where the update leaves them out."""
    spec, before = new["spec"], old["spec"]
    if spec["type"] not in EXTERNAL_TYPES and before["type"] in EXTERNAL_TYPES:
        _drop_outside(spec, before)
    if spec["type"] == "ExternalName":
        if before["type"] != "ExternalName":  # its address goes back
            for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                if spec.get(name) == before.get(name):
                    spec.pop(name, None)
        return
    if before["type"] != "ExternalName":
        for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if not spec.get(name) and before.get(name):
                spec[name] = before[name]
    if spec["type"] in EXTERNAL_TYPES:
        taken = {(port.get("port"), port.get("protocol")): port.get("nodePort") for port in before.get("ports", ())}
        for port in spec.get("ports", ()):
            node_port = taken.get((port.get("port"), port.get("protocol")))
            if node_port and not port.get("nodePort"):
                port["nodePort"] = node_port


def _drop_outside(spec: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Let go of what only a service that is reached from outside has, unless the update asks for it anew."""
    for name in ("externalTrafficPolicy", "allocateLoadBalancerNodePorts", "healthCheckNodePort", "loadBalancerClass"):
        if name in spec and spec[name] == before.get(name):
            del spec[name]
    held = {port.get("nodePort") for port in before.get("ports", ())}
    for port in spec.get("ports", ()):
        if port.get("nodePort") in held:
            port.pop("nodePort", None)


def validate(document: Mapping[str, Any], problems: Problems) -> None:
    spec = document["spec"]
    problems.one_of("spec.type", spec["type"], TYPES)
    problems.one_of("spec.sessionAffinity", spec["sessionAffinity"], ("ClientIP", "None"))
    seconds = spec.get("sessionAffinityConfig", {}).get("clientIP", {}).get("timeoutSeconds")
    if seconds is not None and not 0 < seconds <= AFFINITY_SECONDS_MAX:
        problems.invalid(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            seconds,
            f"must be between 1 and {AFFINITY_SECONDS_MAX}",
        )
    validate_labels(spec.get("selector", {}), "spec.selector", problems)
    _validate_addresses(spec, problems)
    _validate_ports(spec, problems)
    if "internalTrafficPolicy" in spec:
        problems.one_of("spec.internalTrafficPolicy", spec["internalTrafficPolicy"], POLICIES)
    if spec.get("externalTrafficPolicy"):
        if spec["type"] in EXTERNAL_TYPES or spec.get("externalIPs"):
            problems.one_of("spec.externalTrafficPolicy", spec["externalTrafficPolicy"], POLICIES)
        else:
            problems.invalid(
                "spec.externalTrafficPolicy",
                spec["externalTrafficPolicy"],
                f"may only be set for a service that is reached from outside: type {' or '.join(EXTERNAL_TYPES)}",
            )


def _validate_addresses(spec: Mapping[str, Any], problems: Problems) -> None:
    address, addresses = spec.get("clusterIP", ""), spec.get("clusterIPs", [])
    if spec["type"] == "ExternalName":
        if address:
            problems.forbidden("spec.clusterIP", "may not be set when type is ExternalName")
        name = spec.get("externalName", "").rstrip(".")
        if not name:
            problems.required("spec.externalName", "a service of type ExternalName names a host")
        else:
            problems.format("spec.externalName", spec["externalName"], formats.dns_subdomain(name))
        return
    if address == HEADLESS and spec["type"] in EXTERNAL_TYPES:
        problems.invalid("spec.clusterIPs[0]", HEADLESS, f"a service of type {spec['type']} needs an address")
    elif address and address != HEADLESS:
        problems.format("spec.clusterIPs[0]", address, formats.ip_address(address))
    if address and addresses and addresses[0] != address:
        problems.invalid("spec.clusterIPs", addresses, "first value must match clusterIP")
    if not address and addresses:
        problems.required("spec.clusterIP", "must be set when clusterIPs is")
    for index, outside in enumerate(spec.get("externalIPs", ())):
        problems.format(at("spec.externalIPs", index), outside, formats.ip_address(outside))
    for index, source in enumerate(spec.get("loadBalancerSourceRanges", ())):
        problems.format(at("spec.loadBalancerSourceRanges", index), source, formats.cidr(source.strip()))
    if spec.get("ipFamilyPolicy"):
        problems.one_of(
            "spec.ipFamilyPolicy", spec["ipFamilyPolicy"], ("SingleStack", "PreferDualStack", "RequireDualStack")
        )
    for index, family in enumerate(spec.get("ipFamilies", ())):
        problems.one_of(at("spec.ipFamilies", index), family, ("IPv4", "IPv6"))


def _validate_ports(spec: Mapping[str, Any], problems: Problems) -> None:
    ports = spec.get("ports", [])
    if not ports and spec["type"] != "ExternalName" and spec.get("clusterIP") != HEADLESS:
        problems.required("spec.ports", "a service with an address answers on at least one port")
    names, numbers, node_ports = set(), set(), set()
    for index, port in enumerate(ports):
        where = at("spec.ports", index)
        name, number, protocol = port.get("name", ""), port.get("port", 0), port["protocol"]
        if name:
            problems.format(f"{where}.name", name, formats.dns_label(name))
            if name in names:
                problems.duplicate(f"{where}.name", name)
            names.add(name)
        elif len(ports) > 1:
            problems.required(f"{where}.name", "ports are named when there are several")
        problems.format(f"{where}.port", number, formats.port_number(number))
        problems.one_of(f"{where}.protocol", protocol, PROTOCOLS)
        validate_port_or_name(port["targetPort"], f"{where}.targetPort", problems)
        if port.get("appProtocol"):
            problems.format(f"{where}.appProtocol", port["appProtocol"], formats.qualified_name(port["appProtocol"]))
        if (protocol, number) in numbers:
            problems.duplicate(where, {"port": number, "protocol": protocol})
        numbers.add((protocol, number))
        node_port = port.get("nodePort", 0)
        if node_port:
            if spec["type"] not in EXTERNAL_TYPES:
                problems.forbidden(f"{where}.nodePort", f"may not be used when type is {spec['type']}")
            if (protocol, node_port) in node_ports:
                problems.duplicate(f"{where}.nodePort", node_port)
            node_ports.add((protocol, node_port))


def validate_update(new: Mapping[str, Any], old: Mapping[str, Any], problems: Problems) -> None:
    before, after = old["spec"], new["spec"]
    address = before.get("clusterIP")
    if (
        address
        and after["type"] != "ExternalName"
        and before["type"] != "ExternalName"
        and after.get("clusterIP") != address
    ):
        problems.invalid("spec.clusterIPs[0]", after.get("clusterIP"), "may not change once set")


def ports_text(ports: Any) -> str:
    """The ports as the column shows them: 80/TCP,443:30443/TCP."""
    told = [
        f"{port['port']}:{port['nodePort']}/{port['protocol']}"
        if port.get("nodePort")
        else f"{port['port']}/{port['protocol']}"
        for port in ports
    ]
    return ",".join(told) or NONE


def external_text(document: Mapping[str, Any]) -> str:
    """The addresses outside the cluster."""
    spec = document["spec"]
    match spec["type"]:
        case "ExternalName":
            return str(spec.get("externalName", NONE))
        case "LoadBalancer":
            ingress = document.get("status", {}).get("loadBalancer", {}).get("ingress", ())
            found = [entry.get("ip") or entry.get("hostname", "") for entry in ingress]
            return ",".join([*found, *spec.get("externalIPs", ())]) or "<pending>"
    return ",".join(spec.get("externalIPs", ())) or NONE


def row(document: dict[str, Any], now: dt.datetime) -> list[Any]:
    spec = document["spec"]
    return [
        document["metadata"]["name"],
        spec["type"],
        spec.get("clusterIP") or NONE,
        external_text(document),
        ports_text(spec.get("ports", ())),
        created(document, now),
        selector_text(spec.get("selector", {})),
    ]
