"""Discovery by environment variables: what a pod's containers see of the Services that were there before them.

Two forms, as Kubernetes and, before it, docker links had: `REDIS_MASTER_SERVICE_HOST` and `REDIS_MASTER_PORT_6379_TCP_ADDR`.
Headless Services and ExternalNames have no address and so no variables. The API server's own Service
(default/kubernetes) is seen from every namespace.
"""

from __future__ import annotations

from collections.abc import Iterable

from steersman.types import Service


def service_environment(services: Iterable[Service], namespace: str, *, links: bool = True) -> dict[str, str]:
    """The variables for a pod of `namespace`.

    Args:
        services: those of the cluster; only the pod's own namespace and default/kubernetes count.
        namespace: the pod's.
        links: the pod's spec.enableServiceLinks; false leaves only default/kubernetes.
    """
    chosen: dict[str, Service] = {}
    for service in services:
        if not service.spec.cluster_ip or service.headless or not service.spec.ports:
            continue
        master = (service.namespace, service.name) == ("default", "kubernetes")
        if (master and service.name not in chosen) or (links and service.namespace == namespace):
            chosen[service.name] = service
    variables: dict[str, str] = {}
    for name in sorted(chosen):
        variables.update(_variables(chosen[name]))
    return variables


def _variables(service: Service) -> dict[str, str]:
    prefix = service.name.upper().replace("-", "_")
    address = service.spec.cluster_ip
    first = service.spec.ports[0]
    variables = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(first.port)}
    for port in service.spec.ports:
        if port.name:
            variables[f"{prefix}_SERVICE_PORT_{port.name.upper().replace('-', '_')}"] = str(port.port)
    variables[f"{prefix}_PORT"] = f"{first.protocol.lower()}://{address}:{first.port}"
    for port in service.spec.ports:
        link = f"{prefix}_PORT_{port.port}_{port.protocol.upper()}"
        variables[link] = f"{port.protocol.lower()}://{address}:{port.port}"
        variables[f"{link}_PROTO"] = port.protocol.lower()
        variables[f"{link}_PORT"] = str(port.port)
        variables[f"{link}_ADDR"] = address
    return variables
