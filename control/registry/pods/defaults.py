"""What a pod's spec is when its author left things out (pods and pod templates alike).

Source: the defaulting functions of Kubernetes' core/v1. Defaults are written into the stored object, so that what runs
never depends on the version that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Dict = dict[str, Any]

CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")

# Volume sources and the fields that have defaults.
_VOLUME_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "configMap": {"defaultMode": 0o644},
    "secret": {"defaultMode": 0o644},
    "downwardAPI": {"defaultMode": 0o644},
    "projected": {"defaultMode": 0o644},
    "hostPath": {"type": ""},
    "iscsi": {"iscsiInterface": "default"},
    "rbd": {"pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"},
    "azureDisk": {"cachingMode": "ReadWrite", "fsType": "ext4", "kind": "Shared", "readOnly": False},
    "scaleIO": {"storageMode": "ThinProvisioned", "fsType": "xfs"},
}
_PROBE_DEFAULTS = {"failureThreshold": 3, "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1}
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
SERVICE_ACCOUNT_TOKEN_SECONDS = 3600  # how long a projected token lives unless the pod says otherwise


def containers(spec: Mapping[str, Any]) -> Iterator[Dict]:
    """All containers of a pod, in the order they may start."""
    for name in CONTAINER_LISTS:
        yield from spec.get(name, ())


def default_pod_spec(spec: Dict) -> None:
    """Fill in the defaults that pods and pod templates share."""
    spec.setdefault("containers", [])
    _default(spec, "restartPolicy", "Always")
    _default(spec, "dnsPolicy", "ClusterFirst")
    _default(spec, "schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", 30)
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:  # serviceAccount is the old name of the same field
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for container in containers(spec):
        _default_container(container)
        if spec.get("hostNetwork"):
            for port in container.get("ports", ()):
                if not port.get("hostPort") and "containerPort" in port:
                    port["hostPort"] = port["containerPort"]
    for volume in spec.get("volumes", ()):
        _default_volume(volume)


def default_pod(document: Dict) -> None:
    """Fill in a pod's defaults: those of its spec, and two that templates do not get."""
    spec = document.setdefault("spec", {})
    default_pod_spec(spec)
    spec.setdefault("enableServiceLinks", True)
    for container in containers(spec):
        resources = container.get("resources", {})
        if resources.get("limits"):
            requests = resources.setdefault("requests", {})
            for name, limit in resources["limits"].items():
                requests.setdefault(name, limit)
    document.setdefault("status", {}).setdefault("phase", "Pending")


def default_template(template: Dict) -> None:
    """Fill in a pod template's defaults."""
    template.setdefault("metadata", {})
    default_pod_spec(template.setdefault("spec", {}))


def pull_policy(image: str) -> str:
    """The imagePullPolicy of an image whose author named none: `:latest`, said or meant, is pulled always."""
    if "@" in image:
        return "IfNotPresent"
    tag = image.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in ("", "latest") else "IfNotPresent"


def _default(holder: Dict, name: str, value: Any) -> None:
    """Set a field that an empty string leaves open, too."""
    if not holder.get(name):
        holder[name] = value


def _default_container(container: Dict) -> None:
    if not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = pull_policy(container.get("image", ""))
    _default(container, "terminationMessagePath", "/dev/termination-log")
    _default(container, "terminationMessagePolicy", "File")
    container.setdefault("resources", {})
    for port in container.get("ports", ()):
        _default(port, "protocol", "TCP")
    for variable in container.get("env", ()):
        source = variable.get("valueFrom")
        if source:
            _default_references(source)
            if "fileKeyRef" in source:
                source["fileKeyRef"].setdefault("optional", False)
    for name in _PROBES:
        probe = container.get(name)
        if probe is not None:
            for key, value in _PROBE_DEFAULTS.items():
                if not probe.get(key):
                    probe[key] = value
            _default_handler(probe)
            if "grpc" in probe:
                probe["grpc"].setdefault("service", "")
    for handler in container.get("lifecycle", {}).values():
        if isinstance(handler, dict):
            _default_handler(handler)


def _default_handler(handler: Dict) -> None:
    http = handler.get("httpGet")
    if http is not None:
        _default(http, "path", "/")
        _default(http, "scheme", "HTTP")


def _default_references(source: Dict) -> None:
    if "fieldRef" in source:
        _default(source["fieldRef"], "apiVersion", "v1")
    if "resourceFieldRef" in source:
        source["resourceFieldRef"].setdefault("divisor", "0")


def _default_volume(volume: Dict) -> None:
    sources = [name for name in volume if name != "name"]
    if not sources:
        volume["emptyDir"] = {}
        return
    for name in sources:
        source = volume[name]
        for key, value in _VOLUME_DEFAULTS.get(name, {}).items():
            source.setdefault(key, value)
        match name:
            case "downwardAPI":
                for item in source.get("items", ()):
                    _default_references(item)
            case "projected":
                for projection in source.get("sources", ()):
                    for item in projection.get("downwardAPI", {}).get("items", ()):
                        _default_references(item)
                    if "serviceAccountToken" in projection:
                        projection["serviceAccountToken"].setdefault("expirationSeconds", SERVICE_ACCOUNT_TOKEN_SECONDS)
            case "image":
                if not source.get("pullPolicy"):
                    source["pullPolicy"] = pull_policy(source.get("reference", ""))
            case "ephemeral":
                source.get("volumeClaimTemplate", {}).setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
