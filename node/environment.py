"""A container's environment variables, command and arguments, as the kubelet makes them. Pure.

Order, later wins: variables of the namespace's Services, `envFrom`, `env`. `$(NAME)` in values, command and args is
replaced by what is known at that point; an unknown reference stays as written and `$$(NAME)` is the literal `$(NAME)`
(k8s.io/kubernetes/third_party/forked/golang/expansion).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING

from net.environment import service_environment
from node.resources import effective_limit, effective_request
from steersman import quantity
from steersman.types.core import ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector, Secret, Service

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_BAD_NAME = re.compile(r"[^-._a-zA-Z0-9]|^\d|^$")


class ConfigError(Exception):
    """A container cannot be configured until somebody mends the objects it names (CreateContainerConfigError)."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a pod's containers may refer to. Objects are keyed by "namespace/name"."""

    config_maps: Mapping[str, ConfigMap] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    allocatable: Mapping[str, str] = field(default_factory=dict)
    pod_ip: str = ""
    host_ip: str = ""


def expand(text: str, known: Mapping[str, str]) -> str:
    """Replace `$(NAME)` references."""

    def replacement(match: re.Match[str]) -> str:
        if match.group() == "$$":
            return "$"
        return known.get(match.group(1), match.group())

    return _REFERENCE.sub(replacement, text)


def field_value(pod: Pod, path: str, around: Surroundings) -> str:
    """The value of a `fieldRef`.

    Raises:
        ConfigError: the path is none that Kubernetes offers.
    """
    subscript = _SUBSCRIPT.fullmatch(path)
    if subscript:
        where, key = subscript.groups()
        return (pod.metadata.labels if where == "labels" else pod.metadata.annotations).get(key, "")
    match path:
        case "metadata.name":
            return pod.name
        case "metadata.namespace":
            return pod.namespace
        case "metadata.uid":
            return pod.uid
        case "metadata.labels":
            return _properties(pod.metadata.labels)
        case "metadata.annotations":
            return _properties(pod.metadata.annotations)
        case "spec.nodeName":
            return pod.spec.node_name
        case "spec.serviceAccountName":
            return pod.spec.service_account_name
        case "status.hostIP" | "status.hostIPs":
            return around.host_ip
        case "status.podIP" | "status.podIPs":
            return around.pod_ip
    raise ConfigError(f"unsupported fieldPath: {path}")


def _properties(pairs: Mapping[str, str]) -> str:
    """Labels or annotations as the downward API writes them to a file: sorted `key="value"` lines, Go-quoted."""
    quoted = (
        (key, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for key, value in pairs.items()
    )
    return "\n".join(f'{key}="{value}"' for key, value in sorted(quoted))


def resource_value(pod: Pod, container: Container, ref: ResourceFieldSelector, allocatable: Mapping[str, str]) -> str:
    """The value of a `resourceFieldRef`: the amount over the divisor, rounded up.

    A limit that is not set is the node's allocatable amount.
    """
    if ref.container_name and ref.container_name != container.name:
        every = (*pod.spec.init_containers, *pod.spec.containers)
        container = next((c for c in every if c.name == ref.container_name), container)
    kind, _, resource = ref.resource.partition(".")
    if kind == "limits":
        amount = effective_limit(container, resource) or quantity.parse(allocatable.get(resource, "0"))
    elif kind == "requests":
        amount = effective_request(container, resource)
    else:
        raise ConfigError(f"unsupported container resource: {ref.resource}")
    divisor = quantity.parse(ref.divisor) or quantity.parse("1")
    return str(int((amount / divisor).to_integral_value(rounding=ROUND_CEILING)))


def _key_of(
    objects: Mapping[str, ConfigMap] | Mapping[str, Secret],
    what: str,
    namespace: str,
    name: str,
    key: str,
    *,
    optional: bool,
) -> str | None:
    held = objects.get(f"{namespace}/{name}")
    if held is None:
        if optional:
            return None
        raise ConfigError(f'{what.lower()} "{name}" not found')
    value = held.data.get(key)
    if value is None:
        if optional:
            return None
        raise ConfigError(f"couldn't find key {key} in {what} {namespace}/{name}")
    return base64.b64decode(value).decode("utf-8", "surrogateescape") if isinstance(held, Secret) else value


def _value_from(pod: Pod, container: Container, source: EnvVarSource, around: Surroundings) -> str | None:
    if source.field_ref is not None:
        return field_value(pod, source.field_ref.field_path, around)
    if source.resource_field_ref is not None:
        return resource_value(pod, container, source.resource_field_ref, around.allocatable)
    if source.config_map_key_ref is not None:
        ref = source.config_map_key_ref
        return _key_of(around.config_maps, "ConfigMap", pod.namespace, ref.name, ref.key, optional=ref.optional)
    if source.secret_key_ref is not None:
        ref = source.secret_key_ref
        return _key_of(around.secrets, "Secret", pod.namespace, ref.name, ref.key, optional=ref.optional)
    return ""


def environment(pod: Pod, container: Container, around: Surroundings) -> dict[str, str]:
    """All variables of a container.

    Raises:
        ConfigError: a ConfigMap, Secret, key or field that it names and that is not optional is not there.
    """
    found = service_environment(around.services.values(), pod.namespace, links=pod.spec.enable_service_links)
    for source in container.env_from:
        data: Mapping[str, str] = {}
        if source.config_map_ref is not None:
            held = around.config_maps.get(f"{pod.namespace}/{source.config_map_ref.name}")
            if held is not None:
                data = held.data
            elif not source.config_map_ref.optional:
                raise ConfigError(f'configmap "{source.config_map_ref.name}" not found')
        elif source.secret_ref is not None:
            secret = around.secrets.get(f"{pod.namespace}/{source.secret_ref.name}")
            if secret is not None:
                data = {k: base64.b64decode(v).decode("utf-8", "surrogateescape") for k, v in secret.data.items()}
            elif not source.secret_ref.optional:
                raise ConfigError(f'secret "{source.secret_ref.name}" not found')
        found |= {
            source.prefix + key: value
            for key, value in sorted(data.items())
            if not _BAD_NAME.search(source.prefix + key)
        }
    for variable in container.env:
        if variable.value_from is None:
            found[variable.name] = expand(variable.value, found)
        else:
            value = _value_from(pod, container, variable.value_from, around)
            if value is not None:
                found[variable.name] = value
    return found


def command_line(container: Container, variables: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`command` and `args` with their references replaced; empty means what the image says."""
    return (
        tuple(expand(part, variables) for part in container.command),
        tuple(expand(part, variables) for part in container.args),
    )
