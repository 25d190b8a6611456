"""Who a container's process is: names looked up in the image's own /etc/passwd and /etc/group.

The rule is the OCI image specification's (config.User: `user`, `uid`, `user:group`, …), then Kubernetes' securityContext
over it. A number needs no entry; a name needs one. A user that has an entry gets its primary group, its home and the
groups that list it; a number without an entry gets group 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from node.runtime.interface import CREATE_CONTAINER_CONFIG_ERROR, RuntimeFailure, Security


@dataclass(frozen=True, slots=True)
class User:
    """What goes into the OCI spec, and $HOME."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


def resolve(image_user: str, security: Security, passwd: str, group: str) -> User:
    """The user of a container.

    Raises:
        RuntimeFailure: CreateContainerConfigError: an unknown name, or root where runAsNonRoot forbids it.
    """
    wanted, _, wanted_group = image_user.partition(":")
    if security.run_as_user is not None:
        wanted, wanted_group = str(security.run_as_user), ""
    if security.run_as_group is not None:
        wanted_group = str(security.run_as_group)
    wanted = wanted or "0"
    entry = next((e for e in _entries(passwd, 6) if wanted in (e[0], e[2])), None)
    if entry is not None:
        uid, gid, name, home = int(entry[2]), int(entry[3]), entry[0], entry[5] or "/"
    elif wanted.isdigit():
        uid, gid, name, home = int(wanted), 0, "", "/"
    else:
        raise _refused(f"unable to find user {wanted!r}: the image's /etc/passwd has no such entry")
    if security.run_as_non_root and uid == 0:
        raise _refused("container has runAsNonRoot and image will run as root")
    if security.run_as_non_root and security.run_as_user is None and not wanted.isdigit():
        raise _refused(
            f"container has runAsNonRoot and image has non-numeric user ({wanted}), cannot verify user is non-root"
        )
    if wanted_group:
        gid = _group_id(wanted_group, group)
    listed = {int(e[2]) for e in _entries(group, 3) if name and len(e) > 3 and name in e[3].split(",")}
    groups = sorted({gid, *listed, *security.supplemental_groups})
    return User(uid, gid, tuple(groups), home)


def _group_id(wanted: str, group: str) -> int:
    entry = next((e for e in _entries(group, 3) if e[0] == wanted), None)
    if entry is not None:
        return int(entry[2])
    if wanted.isdigit():
        return int(wanted)
    raise _refused(f"unable to find group {wanted!r}: the image's /etc/group has no such entry")


def _entries(text: str, fields: int) -> Iterator[list[str]]:
    """Lines with at least `fields` fields whose third one is a number; all others are skipped, as libc does."""
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) >= fields and parts[2].isdigit() and (fields < 4 or parts[3].isdigit()):
            yield parts


def _refused(why: str) -> RuntimeFailure:
    return RuntimeFailure(CREATE_CONTAINER_CONFIG_ERROR, why, retryable=False)
