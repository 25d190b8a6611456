"""Which credentials a pod's images are pulled with: its imagePullSecrets, read. Pure."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Mapping

import msgspec

from node.runtime import interface as rt
from steersman.types.core import Pod, Secret

log = logging.getLogger(__name__)


def pull_auths(pod: Pod, image: str, secrets: Mapping[str, Secret]) -> list[rt.RegistryAuth]:
    """Credentials for an image's registry from the pod's imagePullSecrets, in their order."""
    found = []
    for reference in pod.spec.image_pull_secrets:
        secret = secrets.get(f"{pod.namespace}/{reference.name}")
        if secret is not None:
            found += registry_auths(image, secret.data)
    return found


def registry_auths(image: str, data: dict[str, str]) -> list[rt.RegistryAuth]:
    """The credentials for an image's registry in a Secret of type kubernetes.io/dockerconfigjson."""
    encoded = data.get(".dockerconfigjson")
    if encoded is None:
        return []
    first, slash, _ = image.partition("/")
    registry = first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"
    names = {registry, "index.docker.io"} if registry == "docker.io" else {registry}
    try:
        entries = msgspec.json.decode(base64.b64decode(encoded)).get("auths", {})
        found = []
        for name, entry in entries.items():
            host = name.removeprefix("https://").removeprefix("http://").split("/", 1)[0]
            if host not in names:
                continue
            user, password = entry.get("username", ""), entry.get("password", "")
            if not user and entry.get("auth"):
                user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
            found.append(rt.RegistryAuth(user, password, entry.get("registrytoken", "")))
    except (ValueError, AttributeError, binascii.Error, msgspec.MsgspecError) as error:
        log.warning("an imagePullSecret is not a Docker configuration: %s", error)
        return []
    return found
