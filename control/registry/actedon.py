"""What is kept but not acted on yet: valid fields of Kubernetes' API whose effect is still to be built.

They round-trip unchanged; who writes one is told by a warning. A path names a field that is set, `[]` stands for every
member of a list, and `=value` narrows it to one value. The list is meant to shrink: remove an entry with the commit that
acts on its field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from control.registry.resources import Document, Resource

_CONTAINER: Final = (
    "volumeDevices",
    "resizePolicy",
    "securityContext.seLinuxOptions",
    "securityContext.seccompProfile",
    "securityContext.appArmorProfile",
    "securityContext.procMount",
)
_POD_SPEC: Final = (
    "affinity.podAffinity",
    "affinity.podAntiAffinity",
    "ephemeralContainers",
    "hostUsers",
    "overhead",
    "priorityClassName",
    "resourceClaims",
    "resources",
    "runtimeClassName",
    "setHostnameAsFQDN",
    "securityContext.seLinuxOptions",
    "securityContext.seccompProfile",
    "securityContext.appArmorProfile",
    "volumes[].awsElasticBlockStore",
    "volumes[].azureDisk",
    "volumes[].azureFile",
    "volumes[].cephfs",
    "volumes[].cinder",
    "volumes[].csi",
    "volumes[].ephemeral",
    "volumes[].fc",
    "volumes[].flexVolume",
    "volumes[].gcePersistentDisk",
    "volumes[].glusterfs",
    "volumes[].image",
    "volumes[].iscsi",
    "volumes[].nfs",
    "volumes[].persistentVolumeClaim",
    "volumes[].projected",
    "volumes[].rbd",
    *(f"containers[].{path}" for path in _CONTAINER),
    *(f"initContainers[].{path}" for path in _CONTAINER),
)

NOT_ACTED_ON: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("", "Pod"): tuple(f"spec.{path}" for path in _POD_SPEC),
    ("apps", "ReplicaSet"): tuple(f"spec.template.spec.{path}" for path in _POD_SPEC),
    ("apps", "Deployment"): tuple(f"spec.template.spec.{path}" for path in _POD_SPEC),
    ("", "Service"): (
        "spec.type=NodePort",
        "spec.type=LoadBalancer",
        "spec.type=ExternalName",
        "spec.externalIPs",
        "spec.loadBalancerSourceRanges",
        "spec.trafficDistribution",
        "spec.internalTrafficPolicy=Local",
    ),
}


@cache
def _parsed(group: str, kind: str) -> tuple[tuple[tuple[str, ...], str, str], ...]:
    parsed = []
    for entry in NOT_ACTED_ON.get((group, kind), ()):
        path, _, value = entry.partition("=")
        parsed.append((tuple(path.replace("[]", ".[]").split(".")), value, entry))
    return tuple(parsed)


def warnings(resource: Resource, document: Document) -> list[str]:
    """One sentence for each listed field that the document sets."""
    return [
        f"{entry.replace('[]', '[*]')} is kept but not acted on yet"
        for parts, value, entry in _parsed(resource.group, resource.kind)
        if any(not value or str(found) == value for found in _at(document, parts))
    ]


def _at(holder: Any, parts: tuple[str, ...]) -> Iterator[Any]:
    """The values at a path that are set."""
    if not parts:
        if holder not in (None, "", [], {}):
            yield holder
    elif parts[0] == "[]":
        for member in holder if isinstance(holder, list) else ():
            yield from _at(member, parts[1:])
    elif isinstance(holder, dict) and parts[0] in holder:
        yield from _at(holder[parts[0]], parts[1:])
