"""Which ConfigMaps and Secrets a pod names: what a node needs to hold to run it, and what must reach it first. Pure."""

from __future__ import annotations

from typing import Any

from steersman.types.core import Pod


def config_map_names(pod: Pod) -> set[str]:
    """The ConfigMaps that a pod names, in its own namespace."""
    names = {volume.config_map.name for volume in pod.spec.volumes if volume.config_map}
    names |= {source["configMap"].get("name", "") for source in _projected(pod) if "configMap" in source}
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        names |= {s.config_map_ref.name for s in container.env_from if s.config_map_ref}
        names |= {
            v.value_from.config_map_key_ref.name
            for v in container.env
            if v.value_from is not None and v.value_from.config_map_key_ref is not None
        }
    return names - {""}


def secret_names(pod: Pod) -> set[str]:
    """The Secrets that a pod names, in its own namespace, those for pulling images among them."""
    names = {volume.secret.secret_name for volume in pod.spec.volumes if volume.secret}
    names |= {reference.name for reference in pod.spec.image_pull_secrets}
    names |= {source["secret"].get("name", "") for source in _projected(pod) if "secret" in source}
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        names |= {s.secret_ref.name for s in container.env_from if s.secret_ref}
        names |= {
            v.value_from.secret_key_ref.name
            for v in container.env
            if v.value_from is not None and v.value_from.secret_key_ref is not None
        }
    return names - {""}


def _projected(pod: Pod) -> list[dict[str, Any]]:
    return [
        source for volume in pod.spec.volumes if volume.projected for source in volume.projected.get("sources") or ()
    ]
