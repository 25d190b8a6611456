"""Control groups: where containers are put, what they may use, what they used. Versions 1 and 2.

    /<parent>/pod<uid>/<container id>

runc makes the directories (and, with version 2, enables the controllers on the way down); the agent removes a pod's
when the pod is gone. Version 1 has one tree per controller, version 2 has one tree; a host that mounts version 2 beside
version 1 ("hybrid") is a version 1 host.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

from node.runtime.interface import Resources, Stats

ROOT = Path("/sys/fs/cgroup")
CPU_PERIOD_US = 100_000  # of the quota: the kernel's default; shorter throttles more evenly and costs more
MIN_SHARES, MAX_SHARES = 2, 262_144  # the kernel's bounds
MIN_QUOTA_US = 1_000  # likewise


def pod_path(parent: str, pod_uid: str) -> str:
    """The cgroup of a pod, from the root of the tree: "/steersman/pod1234"."""
    return f"/{parent.strip('/')}/pod{pod_uid}"


def container_path(parent: str, pod_uid: str, container_id: str) -> str:
    return f"{pod_path(parent, pod_uid)}/{container_id}"


def oci_resources(resources: Resources) -> dict[str, Any]:
    """As the OCI spec says them; runc converts to version 2's weights.

    Shares follow the request, or the limit where there is no request, as Kubernetes does; none at all is the minimum, so
    that a pod that asked for nothing yields to all that did.
    """
    cpu: dict[str, int] = {}
    request = resources.cpu_request if resources.cpu_request is not None else resources.cpu_limit
    cpu["shares"] = min(MAX_SHARES, max(MIN_SHARES, (request or 0) * 1024 // 1000))
    if resources.cpu_limit:
        cpu["period"] = CPU_PERIOD_US
        cpu["quota"] = max(MIN_QUOTA_US, resources.cpu_limit * CPU_PERIOD_US // 1000)
    out: dict[str, Any] = {"cpu": cpu}
    if resources.memory_limit:
        out["memory"] = {"limit": resources.memory_limit}
    return out


class Cgroups:
    """The trees of this host."""

    def __init__(self, root: Path = ROOT) -> None:
        self.version = 2 if (root / "cgroup.controllers").exists() else 1
        # Controllers that share a tree ("cpu,cpuacct") are symbolic links to one directory.
        self._trees = (
            [root]
            if self.version == 2
            else sorted({path.resolve() for path in root.iterdir() if path.is_dir()} if root.is_dir() else set())
        )
        self._root = root

    def _file(self, controller: str, path: str, name: str) -> str:
        base = self._root if self.version == 2 else self._root / controller
        try:
            return (base / path.lstrip("/") / name).read_text()
        except OSError:
            return ""

    def stats(self, path: str) -> Stats | None:
        """What a cgroup used; None if it is gone."""
        if self.version == 2:
            cpu_s = _keyed(self._file("", path, "cpu.stat"), "usage_usec") / 1e6
            usage, inactive = self._file("", path, "memory.current"), "inactive_file"
        else:
            cpu_s = int(self._file("cpuacct", path, "cpuacct.usage") or 0) / 1e9
            usage, inactive = self._file("memory", path, "memory.usage_in_bytes"), "total_inactive_file"
        if not usage:
            return None
        memory = int(usage)
        return Stats(cpu_s, memory, max(0, memory - _keyed(self._file("memory", path, "memory.stat"), inactive)))

    def oom_kills(self, path: str) -> int:
        """How many processes the kernel killed because the cgroup reached its memory limit."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return _keyed(self._file("memory", path, name), "oom_kill")

    def remove(self, path: str) -> None:
        """Remove a cgroup and what is below it, in every tree. Those with processes in them stay.

        Raises:
            OSError: EBUSY, a process is still in there.
        """
        for tree in self._trees:
            top = tree / path.lstrip("/")
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(directory)  # noqa: PTH106

    def empty(self, path: str) -> bool:
        """Whether no process is in the cgroup or below it."""
        tree = self._root if self.version == 2 else self._root / "pids"
        top = tree / path.lstrip("/")
        try:
            return all(not (Path(d) / "cgroup.procs").read_text().strip() for d, _, _ in os.walk(top))
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.ENODEV)


def _keyed(text: str, key: str) -> int:
    """The number after `key` in a file of "key number" lines, or 0."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0
