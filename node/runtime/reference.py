"""Image references, read and normalised as Docker does (the grammar is distribution/reference's).

    busybox                    docker.io/library/busybox:latest
    bitnami/redis:7            docker.io/bitnami/redis:7
    localhost/tool             localhost/tool:latest
    registry.lab:5000/a/b@sha256:…   unchanged

The part before the first slash is a registry if it has a dot or a colon, or is `localhost`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from node.runtime.interface import INVALID_IMAGE_NAME, RuntimeFailure

DEFAULT_DOMAIN = "docker.io"
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?"
)
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}")
_MAX_NAME = 255  # of domain and path together


@dataclass(frozen=True, slots=True)
class Reference:
    """A whole reference: `tag` or `digest` is set, or both."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.domain}/{self.path}{tag}{digest}"

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest if there is one."""
        return self.digest or self.tag


def parse(text: str) -> Reference:
    """Read and normalise a reference.

    Raises:
        RuntimeFailure: InvalidImageName, saying which part is wrong.
    """
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _invalid(text, f"{digest!r} is not a digest (algorithm:hex)")
    head, slash, tail = rest.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost" or head != head.lower()):
        domain, rest = head, tail
    else:
        domain = DEFAULT_DOMAIN
    domain = DEFAULT_DOMAIN if domain == "index.docker.io" else domain
    path, colon, tag = rest.partition(":")
    if domain == DEFAULT_DOMAIN and path and "/" not in path:
        path = f"library/{path}"
    if not _DOMAIN.fullmatch(domain):
        raise _invalid(text, f"{domain!r} is not a registry (host or host:port)")
    if not _PATH.fullmatch(path):
        what = (
            "the repository name must be lower case" if path != path.lower() else f"{path!r} is not a repository name"
        )
        raise _invalid(text, what)
    if len(domain) + 1 + len(path) > _MAX_NAME:
        raise _invalid(text, f"the repository name is longer than {_MAX_NAME} characters")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, f"{tag!r} is not a tag")
    return Reference(domain, path, tag or ("" if digest else "latest"), digest)


def _invalid(text: str, why: str) -> RuntimeFailure:
    return RuntimeFailure(INVALID_IMAGE_NAME, f"couldn't parse image name {text!r}: {why}", retryable=False)
