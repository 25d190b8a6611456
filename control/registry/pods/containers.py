"""Rules for containers: image, ports, environment, mounts, resources, probes, hooks.

Source: Kubernetes' core validation. Every function reports to `problems` under the path it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from control.registry import formats
from control.registry.problems import Problems, at, keyed
from steersman import quantity

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
MESSAGE_POLICIES = ("File", "FallbackToLogsOnError")
RESTART_POLICIES = ("Always", "OnFailure", "Never")
PROTOCOLS = ("TCP", "UDP", "SCTP")
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
HOOK_HANDLERS = ("exec", "httpGet", "tcpSocket", "sleep")
ENV_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
STANDARD_RESOURCES = ("cpu", "memory", "ephemeral-storage")
ENV_FIELDS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
VOLUME_FIELDS = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")


@dataclass(slots=True)
class Pod:
    """What the rules of one container need to know of its pod."""

    volumes: frozenset[str]
    host_network: bool
    grace: int
    names: set[str] = field(default_factory=set)  # of containers seen so far
    host_ports: set[tuple[str, str, int]] = field(default_factory=set)


def validate_containers(spec: Mapping[str, Any], path: str, problems: Problems) -> None:
    """Check all containers of a pod spec."""
    pod = Pod(
        frozenset(volume.get("name", "") for volume in spec.get("volumes", ())),
        bool(spec.get("hostNetwork")),
        spec.get("terminationGracePeriodSeconds", 30),
    )
    if not spec.get("containers"):
        problems.required(f"{path}.containers", "a pod has at least one container")
    for index, container in enumerate(spec.get("containers", ())):
        where = at(f"{path}.containers", index)
        _validate_container(container, where, pod, problems)
        _validate_restart_policy(container, where, problems)
    for index, container in enumerate(spec.get("initContainers", ())):
        where = at(f"{path}.initContainers", index)
        sidecar = container.get("restartPolicy") == "Always"
        _validate_container(container, where, pod, problems)
        _validate_restart_policy(container, where, problems)
        if not sidecar:
            for name in (*PROBES, "lifecycle"):
                if name in container:
                    problems.forbidden(f"{where}.{name}", "only init containers with restartPolicy Always may have one")


def _validate_restart_policy(container: Mapping[str, Any], path: str, problems: Problems) -> None:
    if "restartPolicy" in container:
        problems.one_of(f"{path}.restartPolicy", container["restartPolicy"], RESTART_POLICIES)


def _validate_container(container: Mapping[str, Any], path: str, pod: Pod, problems: Problems) -> None:
    name = container.get("name", "")
    if not name:
        problems.required(f"{path}.name")
    else:
        problems.format(f"{path}.name", name, formats.dns_label(name))
        if name in pod.names:
            problems.duplicate(f"{path}.name", name)
        pod.names.add(name)
    image = container.get("image", "")
    if not image:
        problems.required(f"{path}.image")
    elif image != image.strip():
        problems.invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    problems.one_of(f"{path}.imagePullPolicy", container.get("imagePullPolicy"), PULL_POLICIES)
    problems.one_of(f"{path}.terminationMessagePolicy", container.get("terminationMessagePolicy"), MESSAGE_POLICIES)
    _validate_ports(container.get("ports", ()), f"{path}.ports", pod, problems)
    for index, variable in enumerate(container.get("env", ())):
        _validate_variable(variable, at(f"{path}.env", index), problems)
    for index, source in enumerate(container.get("envFrom", ())):
        _validate_env_from(source, at(f"{path}.envFrom", index), problems)
    _validate_mounts(container.get("volumeMounts", ()), f"{path}.volumeMounts", pod, problems)
    validate_resources(container.get("resources", {}), f"{path}.resources", problems)
    for kind in PROBES:
        if kind in container:
            _validate_probe(container[kind], f"{path}.{kind}", kind, problems)
    for hook in ("postStart", "preStop"):
        if hook in container.get("lifecycle", {}):
            _validate_hook(container["lifecycle"][hook], f"{path}.lifecycle.{hook}", pod.grace, problems)
    _validate_security(container.get("securityContext", {}), f"{path}.securityContext", problems)


def _validate_ports(ports: Any, path: str, pod: Pod, problems: Problems) -> None:
    names = set()
    for index, port in enumerate(ports):
        where = at(path, index)
        name = port.get("name")
        if name:
            problems.format(f"{where}.name", name, formats.port_name(name))
            if name in names:
                problems.duplicate(f"{where}.name", name)
            names.add(name)
        number = port.get("containerPort", 0)
        if not number:
            problems.required(f"{where}.containerPort")
        else:
            problems.format(f"{where}.containerPort", number, formats.port_number(number))
        problems.one_of(f"{where}.protocol", port.get("protocol"), PROTOCOLS)
        host_port = port.get("hostPort", 0)
        if host_port:
            problems.format(f"{where}.hostPort", host_port, formats.port_number(host_port))
            if pod.host_network and host_port != number:
                problems.invalid(
                    f"{where}.hostPort", host_port, "must equal containerPort: the pod uses the network of its host"
                )
            taken = (port.get("hostIP", ""), port.get("protocol", ""), host_port)
            if taken in pod.host_ports:
                problems.duplicate(f"{where}.hostPort", host_port)
            pod.host_ports.add(taken)
        if port.get("hostIP"):
            problems.format(f"{where}.hostIP", port["hostIP"], formats.ip_address(port["hostIP"]))


def _validate_variable(variable: Mapping[str, Any], path: str, problems: Problems) -> None:
    name = variable.get("name", "")
    if not name:
        problems.required(f"{path}.name")
    else:
        problems.format(f"{path}.name", name, formats.env_name(name))
    source = variable.get("valueFrom")
    if source is None:
        return
    where = f"{path}.valueFrom"
    present = [kind for kind in ENV_SOURCES if kind in source]
    if not present:
        problems.invalid(where, "", f"one of {', '.join(ENV_SOURCES)} must be given")
    elif len(present) > 1:
        problems.invalid(where, "", f"only one of {', '.join(present)} may be given")
    if variable.get("value"):
        problems.invalid(where, "", "may not be given beside a value")
    for kind in present:
        inner, reference = f"{where}.{kind}", source[kind]
        match kind:
            case "fieldRef":
                validate_field_ref(reference, inner, ENV_FIELDS, problems)
            case "resourceFieldRef":
                validate_resource_ref(reference, inner, problems)
            case "configMapKeyRef" | "secretKeyRef":
                if not reference.get("key"):
                    problems.required(f"{inner}.key")
                else:
                    problems.format(f"{inner}.key", reference["key"], formats.config_key(reference["key"]))
                if not reference.get("name"):
                    problems.required(f"{inner}.name")
                else:
                    problems.format(f"{inner}.name", reference["name"], formats.dns_subdomain(reference["name"]))


def validate_field_ref(reference: Mapping[str, Any], path: str, supported: tuple[str, ...], problems: Problems) -> None:
    """Check a reference to one of the pod's own fields, `metadata.labels['key']` included."""
    named = reference.get("fieldPath", "")
    if not named:
        problems.required(f"{path}.fieldPath")
        return
    for holder in ("metadata.labels", "metadata.annotations"):
        if named.startswith(f"{holder}['") and named.endswith("']"):
            key = named[len(holder) + 2 : -2]
            problems.format(f"{path}.fieldPath", key, formats.qualified_name(key))
            return
    problems.one_of(f"{path}.fieldPath", named, supported)


def validate_resource_ref(reference: Mapping[str, Any], path: str, problems: Problems) -> None:
    """Check a reference to a container's own requests or limits."""
    named = reference.get("resource", "")
    known = [f"{kind}.{name}" for kind in ("limits", "requests") for name in STANDARD_RESOURCES]
    if not named:
        problems.required(f"{path}.resource")
    elif not named.startswith(("limits.hugepages-", "requests.hugepages-")):
        problems.one_of(f"{path}.resource", named, known)


def _validate_env_from(source: Mapping[str, Any], path: str, problems: Problems) -> None:
    if source.get("prefix"):
        problems.format(f"{path}.prefix", source["prefix"], formats.env_name(source["prefix"]))
    present = [kind for kind in ("configMapRef", "secretRef") if kind in source]
    if len(present) != 1:
        problems.invalid(path, "", "exactly one of configMapRef and secretRef must be given")
    for kind in present:
        name = source[kind].get("name", "")
        if not name:
            problems.required(f"{path}.{kind}.name")
        else:
            problems.format(f"{path}.{kind}.name", name, formats.dns_subdomain(name))


def _validate_mounts(mounts: Any, path: str, pod: Pod, problems: Problems) -> None:
    places = set()
    for index, mount in enumerate(mounts):
        where = at(path, index)
        name = mount.get("name", "")
        if not name:
            problems.required(f"{where}.name")
        elif name not in pod.volumes:
            problems.not_found(f"{where}.name", name)
        place = mount.get("mountPath", "")
        if not place:
            problems.required(f"{where}.mountPath")
        elif place in places:
            problems.invalid(f"{where}.mountPath", place, "must be unique")
        places.add(place)
        if mount.get("subPath") and mount.get("subPathExpr"):
            problems.invalid(f"{where}.subPathExpr", mount["subPathExpr"], "subPathExpr and subPath exclude each other")
        for key in ("subPath", "subPathExpr"):
            if mount.get(key):
                validate_inner_path(mount[key], f"{where}.{key}", problems)
        if mount.get("mountPropagation"):
            problems.one_of(
                f"{where}.mountPropagation", mount["mountPropagation"], ("Bidirectional", "HostToContainer", "None")
            )


def validate_inner_path(value: str, path: str, problems: Problems) -> None:
    """Check a path that must stay inside a volume."""
    if value.startswith("/"):
        problems.invalid(path, value, "must be a relative path")
    elif ".." in value.split("/"):
        problems.invalid(path, value, "must not contain '..'")


def validate_resources(resources: Mapping[str, Any], path: str, problems: Problems) -> None:
    """Check requests and limits: known names, no negative amounts, no request above its limit."""
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            where = keyed(f"{path}.{kind}", name)
            _validate_resource_name(name, where, problems)
            value = quantity.parse(amount)
            if value < 0:
                problems.invalid(where, amount, "must be greater than or equal to 0")
            elif "/" in name and value != value.to_integral_value():
                problems.invalid(where, amount, "must be an integer")
    for name, request in requests.items():
        where = f"{path}.requests"
        limit = limits.get(name)
        if limit is None:
            if _only_whole(name):
                problems.required(f"{path}.limits", f"{name} needs a limit equal to its request")
        elif _only_whole(name) and quantity.parse(request) != quantity.parse(limit):
            problems.invalid(where, request, f"must be equal to {name} limit of {limit}")
        elif quantity.parse(request) > quantity.parse(limit):
            problems.invalid(where, request, f"must be less than or equal to {name} limit of {limit}")


def _only_whole(name: str) -> bool:
    """Whether a resource can't be overcommitted, so that request and limit must be equal."""
    return name.startswith("hugepages-") or ("/" in name and "kubernetes.io/" not in name)


def _validate_resource_name(name: str, path: str, problems: Problems) -> None:
    if why := formats.qualified_name(name):
        problems.invalid(path, name, why)
    elif "/" not in name and name not in STANDARD_RESOURCES and not name.startswith("hugepages-"):
        problems.invalid(
            path, name, f"must be one of {', '.join(STANDARD_RESOURCES)} or have a DNS prefix, as 'example.com/gpu'"
        )


def _validate_probe(probe: Mapping[str, Any], path: str, kind: str, problems: Problems) -> None:
    _validate_handler(probe, path, HANDLERS, problems)
    for name in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        problems.at_least(f"{path}.{name}", probe.get(name), 0)
    if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        problems.invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1")
    if "terminationGracePeriodSeconds" in probe:
        if kind == "readinessProbe":
            problems.invalid(
                f"{path}.terminationGracePeriodSeconds",
                probe["terminationGracePeriodSeconds"],
                "must not be set for readinessProbes",
            )
        else:
            problems.at_least(f"{path}.terminationGracePeriodSeconds", probe["terminationGracePeriodSeconds"], 1)


def _validate_hook(hook: Mapping[str, Any], path: str, grace: int, problems: Problems) -> None:
    _validate_handler(hook, path, HOOK_HANDLERS, problems)
    seconds = hook.get("sleep", {}).get("seconds")
    if seconds is not None and not 0 <= seconds <= grace:
        problems.invalid(
            f"{path}.sleep.seconds", seconds, f"must be between 0 and terminationGracePeriodSeconds ({grace})"
        )


def _validate_handler(handler: Mapping[str, Any], path: str, kinds: tuple[str, ...], problems: Problems) -> None:
    present = [kind for kind in kinds if kind in handler]
    if not present:
        problems.required(path, f"must specify a handler type: one of {', '.join(kinds)}")
    for kind in present[1:]:
        problems.forbidden(f"{path}.{kind}", "may not specify more than 1 handler type")
    for kind in present[:1]:
        action, where = handler[kind], f"{path}.{kind}"
        match kind:
            case "exec":
                if not action.get("command"):
                    problems.required(f"{where}.command")
            case "httpGet":
                if not action.get("path"):
                    problems.required(f"{where}.path")
                problems.one_of(f"{where}.scheme", action.get("scheme"), ("HTTP", "HTTPS"))
                validate_port_or_name(action.get("port", 0), f"{where}.port", problems)
                for index, header in enumerate(action.get("httpHeaders", ())):
                    if not header.get("name"):
                        problems.required(f"{at(f'{where}.httpHeaders', index)}.name")
            case "tcpSocket":
                validate_port_or_name(action.get("port", 0), f"{where}.port", problems)
            case "grpc":
                problems.format(f"{where}.port", action.get("port", 0), formats.port_number(action.get("port", 0)))


def validate_port_or_name(port: Any, path: str, problems: Problems) -> None:
    """Check a port given by number or by a container port's name."""
    problems.format(path, port, formats.port_name(port) if isinstance(port, str) else formats.port_number(port))


def _validate_security(context: Mapping[str, Any], path: str, problems: Problems) -> None:
    for name in ("runAsUser", "runAsGroup"):
        problems.at_least(f"{path}.{name}", context.get(name), 0)
    if context.get("allowPrivilegeEscalation") is False and context.get("privileged"):
        problems.invalid(
            f"{path}.allowPrivilegeEscalation", False, "a privileged container can't be kept from gaining privileges"
        )
