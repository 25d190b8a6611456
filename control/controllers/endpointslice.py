"""EndpointSlices: the addresses behind each Service with a selector, in slices of at most 100 endpoints.

Which pods: those that the selector matches, that have an address and did not finish. An endpoint is `serving` when its
pod is ready, `terminating` when it is being deleted, `ready` when serving and not terminating (always, with
publishNotReadyAddresses). A named target port is looked up in each pod, so pods may differ in it; pods with the same
port numbers share slices. Source of the rules: KEP-752, KEP-1672.

Changes are as few as can be: an endpoint stays in the slice where it is, new ones go where there is room (first into
slices that change anyway), a slice is written only when its content differs, and only empty ones are deleted. One
slice stays for a Service without endpoints, so that its consumers know that there are none.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from control.controllers.intents import WARNING, Create, Delete, Failure, Patch, Plan, RecordEvent, Result
from control.controllers.owners import controller_reference
from control.controllers.runtime import Caches, Enqueue
from control.events import reference
from control.views import Pod
from steersman.selectors import from_labels
from steersman.types import EndpointSlice, Node, Service
from steersman.types.apps import Endpoint, EndpointConditions, EndpointPort
from steersman.types.core import ObjectReference, ServicePort

NAME = "endpointslice-controller"
SLICE_MAX = 100  # endpoints; Kubernetes' default: a change sends at most this many to every node
SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGED_BY = "endpointslice-controller.k8s.io"
HEADLESS_LABEL = "service.kubernetes.io/headless"
ZONE_LABEL = "topology.kubernetes.io/zone"
GENERATED_BASE_MAX = 57  # a slice's name ends in "-" and five more characters

Group = tuple[str, tuple[EndpointPort, ...]]  # address type and ports: what all endpoints of a slice share


@dataclass(frozen=True, slots=True)
class View:
    """Attributes:
    service: whose endpoints.
    pods: of its namespace, those that its selector matches.
    slices: those that this controller wrote for it.
    zones: zone by node name.
    """

    service: Service
    pods: tuple[Pod, ...]
    slices: tuple[EndpointSlice, ...]
    zones: Mapping[str, str] = field(default_factory=dict)


def reconcile(view: View, now: dt.datetime) -> Result:  # noqa: ARG001 - every decision has this form
    """Make the slices say what the pods are."""
    plan = Plan()
    service = view.service
    if service.deleting:
        return plan.result()  # the garbage collector takes the slices
    if not service.spec.selector or service.spec.type == "ExternalName":
        for one in view.slices:
            plan.add(_delete(one), f"delete slice {one.name}: the Service selects no pods")
        return plan.result()
    labels = _labels(service)
    wanted = _wanted(view)
    present: dict[Group, list[EndpointSlice]] = {group: [] for group in wanted}
    for one in sorted(view.slices, key=lambda s: s.name):
        group = (one.address_type, one.ports)
        if group in present and not one.deleting:
            present[group].append(one)
        elif not one.deleting:
            plan.add(_delete(one), f"delete slice {one.name}: no endpoint has its ports")
    for group, endpoints in wanted.items():
        _place(service, group, endpoints, present[group], labels, plan)
    return plan.result()


def _wanted(view: View) -> dict[Group, dict[str, Endpoint]]:
    """Endpoints by the pod's uid, by what they share."""
    service = view.service
    families = service.spec.ip_families or ("IPv4",)
    groups: dict[Group, dict[str, Endpoint]] = {}
    for pod in view.pods:
        if pod.finished:
            continue
        ports = _ports(service, pod)
        for family in families:
            address = _address(pod, family)
            if address:
                endpoint = _endpoint(view, pod, address)
                groups.setdefault((family, ports), {})[pod.uid] = endpoint
    for family in families:
        if not any(group[0] == family for group in groups):
            kept = next((one.ports for one in view.slices if one.address_type == family), None)
            groups[family, kept if kept is not None else _ports(service, None)] = {}
    return groups


def _address(pod: Pod, family: str) -> str:
    addresses = [one.ip for one in pod.status.pod_ips] or ([pod.status.pod_ip] if pod.status.pod_ip else [])
    return next((ip for ip in addresses if (":" in ip) == (family == "IPv6")), "")


def _ports(service: Service, pod: Pod | None) -> tuple[EndpointPort, ...]:
    """The ports as this pod serves them; a named one that it does not have is left out."""
    if service.headless and not service.spec.ports:
        return ()
    found = []
    for port in service.spec.ports:
        number = target_port(port, pod)
        if number is not None:
            found.append(
                EndpointPort(name=port.name, port=number, protocol=port.protocol, app_protocol=port.app_protocol)
            )
    return tuple(found)


def target_port(port: ServicePort, pod: Pod | None) -> int | None:
    """The number that a Service's port means in a pod; None when the pod has no port of that name and protocol."""
    target = port.target_port
    if isinstance(target, int):
        return target or port.port
    if pod is None:
        return None
    sidecars = (c for c in pod.spec.init_containers if c.restart_policy == "Always")
    for container in (*pod.spec.containers, *sidecars):
        for candidate in container.ports:
            if candidate.name == target and candidate.protocol == port.protocol:
                return candidate.container_port
    return None


def _endpoint(view: View, pod: Pod, address: str) -> Endpoint:
    serving, terminating = pod.ready, pod.deleting
    ready = view.service.spec.publish_not_ready_addresses or (serving and not terminating)
    named = pod.spec.hostname if pod.spec.hostname and pod.spec.subdomain == view.service.name else None
    return Endpoint(
        addresses=(address,),
        conditions=EndpointConditions(ready=ready, serving=serving, terminating=terminating),
        hostname=named,
        node_name=pod.spec.node_name or None,
        target_ref=ObjectReference(kind="Pod", namespace=pod.namespace, name=pod.name, uid=pod.uid),
        zone=view.zones.get(pod.spec.node_name),
    )


def _place(
    service: Service,
    group: Group,
    endpoints: dict[str, Endpoint],
    slices: list[EndpointSlice],
    labels: dict[str, str],
    plan: Plan,
) -> None:
    """Distribute one group's endpoints over its slices."""
    homeless = dict(endpoints)
    contents: dict[str, list[Endpoint]] = {}
    changed: set[str] = set()
    for one in slices:
        kept = []
        for endpoint in one.endpoints:
            uid = endpoint.target_ref.uid if endpoint.target_ref is not None else ""
            now = homeless.pop(uid, None)
            if now is not None:
                kept.append(now)
        contents[one.name] = kept
        if tuple(kept) != one.endpoints:
            changed.add(one.name)
    by_name = {one.name: one for one in slices}
    # Fill first what is written anyway, then the fullest that takes all of the rest, then new slices.
    new = [homeless[uid] for uid in sorted(homeless, key=lambda uid: _order(homeless[uid]))]
    for name in [name for name in contents if name in changed]:
        new = _fill(contents[name], new)
    if new and len(new) < SLICE_MAX:
        fitting = [name for name in contents if len(contents[name]) + len(new) <= SLICE_MAX]
        if fitting:
            name = max(fitting, key=lambda n: (len(contents[n]), n))
            changed.add(name)
            new = _fill(contents[name], new)
    keep_one = not endpoints
    for name, content in contents.items():
        one = by_name[name]
        if not content and not keep_one:
            plan.add(_delete(one), f"delete slice {name}: it is empty")
            continue
        if not content and keep_one:
            keep_one = False
        patch: dict[str, Any] = {}
        if name in changed:
            patch["endpoints"] = [endpoint.to_dict() | _explicit(endpoint) for endpoint in content]
        if one.metadata.labels != labels:
            gone = {key: None for key in one.metadata.labels if key not in labels}
            patch["metadata"] = {"labels": {**gone, **labels}}
        if patch:
            plan.add(Patch(EndpointSlice, name, patch, one.namespace, uid=one.uid), f"update slice {name}")
    while new or keep_one:
        keep_one = False
        part, new = new[:SLICE_MAX], new[SLICE_MAX:]
        plan.add(
            _create(service, group, part, labels),
            f"create a slice of {len(part)} endpoints for {service.name}",
        )


def _fill(content: list[Endpoint], new: list[Endpoint]) -> list[Endpoint]:
    room = SLICE_MAX - len(content)
    content.extend(new[:room])
    return new[room:]


def _order(endpoint: Endpoint) -> str:
    return endpoint.target_ref.name if endpoint.target_ref is not None else ""


def _explicit(endpoint: Endpoint) -> dict[str, Any]:
    """Conditions with their False values: absent would mean unknown."""
    known = endpoint.conditions
    return {
        "conditions": {"ready": known.ready, "serving": known.serving, "terminating": known.terminating},
        "addresses": list(endpoint.addresses),
    }


def _labels(service: Service) -> dict[str, str]:
    labels = {key: value for key, value in service.metadata.labels.items() if key != HEADLESS_LABEL}
    labels[SERVICE_LABEL] = service.name
    labels[MANAGED_BY_LABEL] = MANAGED_BY
    if service.headless:
        labels[HEADLESS_LABEL] = ""
    return labels


def _create(service: Service, group: Group, endpoints: Iterable[Endpoint], labels: dict[str, str]) -> Create:
    family, ports = group
    about = reference(service)
    document = {
        "apiVersion": EndpointSlice.API_VERSION,
        "kind": EndpointSlice.KIND,
        "metadata": {
            "generateName": f"{service.name[:GENERATED_BASE_MAX]}-",
            "namespace": service.namespace,
            "labels": labels,
            "ownerReferences": [controller_reference(service)],
        },
        "addressType": family,
        "endpoints": [endpoint.to_dict() | _explicit(endpoint) for endpoint in endpoints],
        "ports": [
            {"name": port.name, "port": port.port, "protocol": port.protocol}
            | ({"appProtocol": port.app_protocol} if port.app_protocol else {})
            for port in ports
        ],
    }
    failed = RecordEvent(about, WARNING, "FailedToCreateEndpointSlices", "Error creating an EndpointSlice: ")
    return Create(document, service.namespace, failed=failed)


def _delete(one: EndpointSlice) -> Delete:
    return Delete(EndpointSlice, one.name, one.namespace, uid=one.uid)


class EndpointSliceController:
    """Looks at a Service when it, a pod that it selects or selected, or one of its slices changes."""

    name = NAME
    reconcile = staticmethod(reconcile)

    def __init__(self, caches: Caches) -> None:
        self._services = caches["Service"]
        self._pods = caches["Pod"]
        self._slices = caches["EndpointSlice"]
        self._nodes = caches["Node"]

    def watch(self, enqueue: Enqueue) -> None:
        def service_changed(old: Service | None, new: Service | None) -> None:
            service = new or old
            assert service is not None
            cause = new.metadata.revision if new else self._services.revision
            enqueue((service.namespace, service.name), cause)

        def pod_changed(old: Pod | None, new: Pod | None) -> None:
            pod = new or old
            assert pod is not None
            if old is not None and new is not None and _facts(old) == _facts(new):
                return
            cause = new.metadata.revision if new else self._pods.revision
            for service in self._services.list(pod.namespace):
                selector = service.spec.selector.items()
                if selector and any(selector <= one.metadata.labels.items() for one in (old, new) if one is not None):
                    enqueue((service.namespace, service.name), cause)

        def slice_changed(old: EndpointSlice | None, new: EndpointSlice | None) -> None:
            one = new or old
            assert one is not None
            name = one.metadata.labels.get(SERVICE_LABEL)
            if name and one.metadata.labels.get(MANAGED_BY_LABEL) == MANAGED_BY:
                enqueue((one.namespace, name), new.metadata.revision if new else self._slices.revision)

        def node_changed(old: Node | None, new: Node | None) -> None:
            zones = [one.metadata.labels.get(ZONE_LABEL) if one is not None else None for one in (old, new)]
            if zones[0] != zones[1]:
                for service in self._services.list():
                    enqueue((service.namespace, service.name), self._nodes.revision)

        self._services.subscribe(service_changed)
        self._pods.subscribe(pod_changed)
        self._slices.subscribe(slice_changed)
        self._nodes.subscribe(node_changed)

    async def observe(self, key: tuple[str, str], failure: Failure | None) -> View | None:  # noqa: ARG002
        service = self._services.get(*key)
        if service is None:
            return None
        pods: list[Pod] = []
        if service.spec.selector:
            pods = self._pods.list(service.namespace, from_labels(service.spec.selector))
        zones = {node.name: node.metadata.labels[ZONE_LABEL] for node in self._nodes.list() if _zoned(node)}
        slices = (
            one
            for one in self._slices.by_index("service", f"{service.namespace}/{service.name}")
            if one.metadata.labels.get(MANAGED_BY_LABEL) == MANAGED_BY
        )
        return View(service, tuple(pods), tuple(slices), zones)


def _zoned(node: Node) -> bool:
    return ZONE_LABEL in node.metadata.labels


def _facts(pod: Pod) -> tuple[Any, ...]:
    """What of a pod an endpoint tells: most changes of a pod change none of it."""
    return (
        pod.uid,
        pod.metadata.labels,
        pod.status.pod_ips or pod.status.pod_ip,
        pod.ready,
        pod.finished,
        pod.deleting,
        pod.spec.node_name,
    )
