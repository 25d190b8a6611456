"""From a ContainerSpec to an OCI runtime spec: a pure function.

Defaults are containerd's for Linux (mounts, masked and read-only paths, the fourteen capabilities), so that an image
behaves as it does elsewhere. Two things differ from a container under Kubernetes' own node agent:

- there is no seccomp profile: it is `Unconfined`, Kubernetes' own default where `SeccompDefault` is off;
- `oom_score_adj` is raised to what the agent itself may set, because runc dies of a value it may not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.runtime import cgroups
from node.runtime.interface import (
    CREATE_CONTAINER_CONFIG_ERROR,
    ContainerSpec,
    Image,
    Mount,
    RuntimeFailure,
    Sandbox,
    Security,
)
from node.runtime.users import User

OCI_VERSION = "1.0.2"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DEFAULT_CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)  # fmt: skip

# Numbered as in linux/capability.h; the host may hold fewer (HostLimits.capabilities).
ALL_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip

MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
)  # fmt: skip
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_PROPAGATION = {"None": "rprivate", "HostToContainer": "rslave", "Bidirectional": "rshared"}


@dataclass(frozen=True, slots=True)
class HostLimits:
    """What this host lets containers have; see `read_host_limits`."""

    cgroup_parent: str = "steersman"
    capabilities: frozenset[str] = frozenset(ALL_CAPABILITIES)  # that the agent holds and so may grant
    lowest_oom_score_adj: int = -1000
    devices: tuple[str, ...] = ()  # of the host, for privileged containers
    cgroup_version: int = 1


def read_host_limits(cgroup_parent: str) -> HostLimits:
    """Look at this process: its bounding capabilities and its own oom_score_adj, below which it may not go without CAP_SYS_RESOURCE."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - procfs, read once
        bits = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    held = frozenset(name for number, name in enumerate(ALL_CAPABILITIES) if bits & (1 << number))
    lowest = -1000
    if "CAP_SYS_RESOURCE" not in held:
        with open("/proc/self/oom_score_adj", encoding="ascii") as own:  # noqa: PTH123
            lowest = int(own.read())
    return HostLimits(cgroup_parent, held, lowest, _host_devices(), cgroups.Cgroups().version)


def _host_devices() -> tuple[str, ...]:
    import stat  # noqa: PLC0415 - start-up only

    found = []
    for name in sorted(os.listdir("/dev")):  # noqa: PTH208
        mode = os.lstat(f"/dev/{name}").st_mode
        if (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and name not in ("console", "ptmx"):
            found.append(f"/dev/{name}")
    return tuple(found)


def arguments(image: Image, command: tuple[str, ...] | None, args: tuple[str, ...] | None) -> tuple[str, ...]:
    """What to run: `command` replaces entrypoint and the image's command, `args` only the image's command.

    Raises:
        RuntimeFailure: CreateContainerConfigError: neither the pod nor the image says what to run.
    """
    if command:
        argv = (*command, *(args or ()))
    else:
        argv = (*image.entrypoint, *(args or image.command))
    if not argv:
        raise RuntimeFailure(CREATE_CONTAINER_CONFIG_ERROR, "no command specified", retryable=False)
    return argv


def build(spec: ContainerSpec, user: User, host: HostLimits) -> dict[str, Any]:
    """The OCI runtime spec of a container, ready to be written as JSON.

    Raises:
        RuntimeFailure: CreateContainerConfigError: the pod asks for something that cannot be.
    """
    security = spec.security
    return {
        "ociVersion": OCI_VERSION,
        "hostname": "" if not spec.sandbox.utsns else spec.hostname,
        "process": process(spec, user, host),
        "root": {"path": "rootfs", "readonly": security.read_only_root},
        "mounts": _mounts(spec),
        "linux": _linux(spec, host),
        "annotations": {
            # containerd's shim for runc keeps containers with the same group in one shim process.
            "io.containerd.runc.v2.group": spec.sandbox.pod_uid,
        },
    }


def process(spec: ContainerSpec, user: User, host: HostLimits) -> dict[str, Any]:
    """The `process` of the spec; exec starts from the same one."""
    granted = sorted(_capabilities(spec.security, host))
    # A user other than root has them in its bounding set only, as execve(2) of a set-user-ID file needs them there.
    effective = granted if user.uid == 0 else []
    return {
        "terminal": spec.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": list(arguments(spec.image, spec.command, spec.args)),
        "env": [f"{name}={value}" for name, value in _environment(spec, user).items()],
        "cwd": spec.working_dir or spec.image.working_dir or "/",
        "capabilities": {"bounding": granted, "effective": effective, "permitted": effective},
        "noNewPrivileges": not (spec.security.allow_privilege_escalation or spec.security.privileged),
        "oomScoreAdj": max(spec.resources.oom_score_adj, host.lowest_oom_score_adj),
    }


def _environment(spec: ContainerSpec, user: User) -> Mapping[str, str]:
    environment = {"PATH": DEFAULT_PATH, "HOSTNAME": spec.hostname, "HOME": user.home}
    if spec.tty:
        environment["TERM"] = "xterm"
    for pair in spec.image.env:
        name, _, value = pair.partition("=")
        environment[name] = value
    environment.update(spec.env)
    return environment


def _capabilities(security: Security, host: HostLimits) -> frozenset[str]:
    if security.privileged:
        return host.capabilities
    add, drop = _named(security.add_capabilities), _named(security.drop_capabilities)
    granted = set() if "CAP_ALL" in drop else set(DEFAULT_CAPABILITIES)
    granted |= set(ALL_CAPABILITIES) if "CAP_ALL" in add else add
    unknown = granted - set(ALL_CAPABILITIES)
    if unknown:
        raise RuntimeFailure(
            CREATE_CONTAINER_CONFIG_ERROR, f"unknown capability {', '.join(sorted(unknown))} to add", retryable=False
        )
    return frozenset((granted - drop) & host.capabilities)


def _named(capabilities: tuple[str, ...]) -> set[str]:
    return {name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}" for name in capabilities}


def _mounts(spec: ContainerSpec) -> list[dict[str, Any]]:
    privileged = spec.security.privileged
    access = "rw" if privileged else "ro"
    mounts: list[dict[str, Any]] = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", access),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", access),
    ]
    if spec.sandbox.shm:
        mounts.append(_mount("/dev/shm", "bind", spec.sandbox.shm, "rbind", "rprivate", "rw"))  # noqa: S108
    # Parents before what is mounted below them.
    mounts += [_bind(mount) for mount in sorted(spec.mounts, key=lambda m: m.destination.rstrip("/").count("/"))]
    return mounts


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _bind(mount: Mount) -> dict[str, Any]:
    access = "ro" if mount.read_only else "rw"
    return _mount(mount.destination, "bind", mount.source, "rbind", _PROPAGATION[mount.propagation], access)


def _linux(spec: ContainerSpec, host: HostLimits) -> dict[str, Any]:
    privileged = spec.security.privileged
    resources = cgroups.oci_resources(spec.resources)
    resources["devices"] = [{"allow": privileged, "access": "rwm"}]
    linux: dict[str, Any] = {
        "cgroupsPath": cgroups.container_path(host.cgroup_parent, spec.key.pod_uid, spec.key.id),
        "namespaces": _namespaces(spec.sandbox, own_cgroups=host.cgroup_version == 2 and not privileged),
        "resources": resources,
    }
    if any(mount.propagation == "Bidirectional" for mount in spec.mounts):
        linux["rootfsPropagation"] = "rshared"
    elif any(mount.propagation == "HostToContainer" for mount in spec.mounts):
        linux["rootfsPropagation"] = "rslave"
    if privileged:
        linux["devices"] = [_device(path) for path in host.devices]
    else:
        linux["maskedPaths"] = list(MASKED_PATHS)
        linux["readonlyPaths"] = list(READ_ONLY_PATHS)
    return linux


def _namespaces(sandbox: Sandbox, *, own_cgroups: bool) -> list[dict[str, str]]:
    namespaces = [{"type": "mount"}]
    if own_cgroups:  # with version 2 a container sees its own cgroup as the root; version 1 hides the rest by mounts
        namespaces.append({"type": "cgroup"})
    if not sandbox.host_pid:
        namespaces.append({"type": "pid"})
    for kind, path in (("network", sandbox.netns), ("ipc", sandbox.ipcns), ("uts", sandbox.utsns)):
        if path:
            namespaces.append({"type": kind, "path": path})
    return namespaces


def _device(path: str) -> dict[str, Any]:
    status = os.stat(path)  # noqa: PTH116
    block = (status.st_mode & 0o170000) == 0o060000
    return {
        "path": path,
        "type": "b" if block else "c",
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": status.st_mode & 0o777,
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
