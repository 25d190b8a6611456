"""What is kept but not acted on yet: valid fields of Kubernetes' API whose effect is still to be built.

They round-trip unchanged; who writes one is told by a warning. A path names a field that is set, `[]` stands for every
member of a list, and `=value` narrows it to one value. A pod's host ports are named only where it has a network of its
own: in the host's they need nobody's help. The list is meant to shrink: remove an entry with the commit that acts on its
field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from control.registry.resources import Document, Resource

_CONTAINER: Final = (
    "env[].valueFrom.fileKeyRef",
    "lifecycle.stopSignal",
    "resizePolicy",
    "restartPolicyRules",
    "securityContext.appArmorProfile",
    "securityContext.procMount",
    "securityContext.seLinuxOptions",
    "securityContext.seccompProfile.type=Localhost",
    "securityContext.seccompProfile.type=RuntimeDefault",
    "securityContext.windowsOptions",
    "stdinOnce=True",
    "volumeDevices",
    "volumeMounts[].mountPropagation=Bidirectional",
    "volumeMounts[].mountPropagation=HostToContainer",
    "volumeMounts[].recursiveReadOnly=Enabled",
    "volumeMounts[].recursiveReadOnly=IfPossible",
    "volumeMounts[].subPathExpr",
)
_POD_SPEC: Final = (
    *(
        f"affinity.{kind}.{term}.{field}"
        for kind in ("podAffinity", "podAntiAffinity")
        for term in (
            "requiredDuringSchedulingIgnoredDuringExecution[]",
            "preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm",
        )
        for field in ("matchLabelKeys", "mismatchLabelKeys", "namespaceSelector")
    ),
    "automountServiceAccountToken=True",
    "ephemeralContainers",
    "hostUsers",
    "hostnameOverride",
    "overhead",
    "priorityClassName",
    "resourceClaims",
    "resources",
    "runtimeClassName",
    "schedulingGroup",
    "setHostnameAsFQDN=True",
    "shareProcessNamespace=True",
    "securityContext.appArmorProfile",
    "securityContext.seLinuxOptions",
    "securityContext.seccompProfile.type=Localhost",
    "securityContext.seccompProfile.type=RuntimeDefault",
    "securityContext.supplementalGroupsPolicy=Strict",
    "securityContext.sysctls",
    "securityContext.windowsOptions",
    "topologySpreadConstraints[].matchLabelKeys",
    "topologySpreadConstraints[].nodeAffinityPolicy=Ignore",
    "topologySpreadConstraints[].nodeTaintsPolicy=Honor",
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
    "volumes[].projected.sources[].clusterTrustBundle",
    "volumes[].projected.sources[].podCertificate",
    "volumes[].projected.sources[].serviceAccountToken",
    "volumes[].rbd",
    *(f"containers[].{path}" for path in _CONTAINER),
    *(f"initContainers[].{path}" for path in _CONTAINER),
)
_POD_NETWORK: Final = ("containers[].ports[].hostPort", "initContainers[].ports[].hostPort")

NOT_ACTED_ON: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("", "Pod"): tuple(f"spec.{path}" for path in _POD_SPEC + _POD_NETWORK),
    ("apps", "ReplicaSet"): tuple(f"spec.template.spec.{path}" for path in _POD_SPEC + _POD_NETWORK),
    ("apps", "Deployment"): tuple(f"spec.template.spec.{path}" for path in _POD_SPEC + _POD_NETWORK),
    ("", "Service"): (
        "spec.type=LoadBalancer",
        "spec.loadBalancerSourceRanges",
        "spec.trafficDistribution",
    ),
}


@cache
def _parsed(group: str, kind: str) -> tuple[tuple[tuple[str, ...], str, str], ...]:
    parsed = []
    for entry in NOT_ACTED_ON.get((group, kind), ()):
        path, _, value = entry.partition("=")
        parsed.append((_parts(path), value, entry))
    return tuple(parsed)


def _parts(path: str) -> tuple[str, ...]:
    return tuple(path.replace("[]", ".[]").split("."))


def warnings(resource: Resource, document: Document) -> list[str]:
    """One sentence for each listed field that the document sets."""
    return [
        f"{entry.replace('[]', '[*]')} is kept but not acted on yet"
        for parts, value, entry in _parsed(resource.group, resource.kind)
        if any(not value or str(found) == value for found in _at(document, parts))
        and not (entry.endswith(_POD_NETWORK) and _in_the_hosts_network(document, entry))
    ]


def _in_the_hosts_network(document: Document, entry: str) -> bool:
    spec = entry.removesuffix(next(path for path in _POD_NETWORK if entry.endswith(path)))
    return any(_at(document, _parts(f"{spec}hostNetwork")))


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
