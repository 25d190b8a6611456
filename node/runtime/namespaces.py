"""A pod's namespaces, held by bind mounts instead of by a process.

A namespace lives as long as something refers to it: a process, an open descriptor, or a bind mount of its file under
/proc. A thread of the agent makes new ones for itself (unshare(2) acts on one thread), mounts them at

    <directory>/<pod uid>/{net,ipc,uts}      and a tmpfs at   <directory>/<pod uid>/shm

and ends. Nothing runs in a pod that its user did not ask for, and the namespaces outlive the agent. They do not outlive
the host, and not the mount namespace they were mounted in: the agent and containerd must share one.

A file that is there but nothing mounted on it (a host that was restarted, a crash half-way) is no namespace: `create`
makes the missing ones anew. Making one takes about a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from pathlib import Path

from node.runtime.interface import CREATE_SANDBOX_ERROR, RuntimeFailure, Sandbox, SandboxSpec

CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND = 2, 4, 8, 4096
MNT_DETACH = 2
SIOCSIFFLAGS = 0x8914
IFF_UP = 1

_FLAGS = {"net": CLONE_NEWNET, "ipc": CLONE_NEWIPC, "uts": CLONE_NEWUTS}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Attach a file system; the arguments are those of the system call. Raises OSError."""
    arguments = (source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None)
    _check(_libc.mount(*arguments), f"mount {source} on {target}")


def unmount(target: str) -> None:
    """Unmount lazily, as umount2(2) does; what is not mounted is not an error. Raises OSError."""
    if _libc.umount2(target.encode(), MNT_DETACH) != 0 and ctypes.get_errno() not in (errno.EINVAL, errno.ENOENT):
        _check(-1, f"unmount {target}")


class Namespaces:
    """The namespaces of the pods of this node, below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Make what is missing of a pod's namespaces; see Runtime.create_sandbox."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Sandbox] = loop.create_future()

        def work() -> None:
            try:
                result = self._create(spec)
            except OSError as error:
                failure = RuntimeFailure(CREATE_SANDBOX_ERROR, f"namespaces of pod {spec.pod_uid}: {error}")
                loop.call_soon_threadsafe(_settle, done, None, failure)
            else:
                loop.call_soon_threadsafe(_settle, done, result, None)

        # A thread of its own: what it unshared must never be seen by other work, as a pool's thread would let it.
        threading.Thread(target=work, name="namespaces").start()
        return await done

    def _create(self, spec: SandboxSpec) -> Sandbox:
        """Runs in a thread that ends afterwards."""
        home = self._directory / spec.pod_uid
        home.mkdir(exist_ok=True)
        wanted = {
            "net": not spec.host_network,
            "ipc": not spec.host_ipc,
            "uts": not spec.host_network,
        }
        missing = [kind for kind, own in wanted.items() if own and not _is_mounted(home / kind)]
        if missing:
            _check(_libc.unshare(sum(_FLAGS[kind] for kind in missing)), "unshare")
        if "uts" in missing:
            socket.sethostname(spec.hostname)
        if "net" in missing:
            _prepare_network()
        for kind in missing:
            (home / kind).touch()
            mount(f"/proc/thread-self/ns/{kind}", str(home / kind), flags=MS_BIND)
        shm = home / "shm"
        if not spec.host_ipc and not _is_mounted(shm):
            shm.mkdir(exist_ok=True)
            mount("shm", str(shm), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"mode=1777,size={spec.shm_bytes}")
        paths = {kind: str(home / kind) if own else "" for kind, own in wanted.items()}
        return Sandbox(
            spec.pod_uid,
            paths["net"],
            paths["ipc"],
            paths["uts"],
            "/dev/shm" if spec.host_ipc else str(shm),  # noqa: S108 - the host's own
            spec.host_pid,
        )

    def remove(self, pod_uid: str) -> None:
        """Let a pod's namespaces go. Raises OSError."""
        home = self._directory / pod_uid
        for name in ("net", "ipc", "uts"):
            unmount(str(home / name))
            (home / name).unlink(missing_ok=True)
        unmount(str(home / "shm"))
        for directory in (home / "shm", home):
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()

    def list(self) -> list[str]:
        """The pods that have something here."""
        return sorted(path.name for path in self._directory.iterdir())


def _settle(done: asyncio.Future[Sandbox], result: Sandbox | None, failure: RuntimeFailure | None) -> None:
    if done.cancelled():
        return
    if failure is not None:
        done.set_exception(failure)
    else:
        assert result is not None
        done.set_result(result)


def _is_mounted(path: Path) -> bool:
    """Whether something is mounted there: it is then on another device than the directory that holds it."""
    try:
        return path.stat().st_dev != path.parent.stat().st_dev
    except FileNotFoundError:
        return False


def _prepare_network() -> None:
    """In the new network namespace: loopback up; ports below 1024 open to all users, as Docker and containerd 2 have it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as handle:
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    with contextlib.suppress(OSError):
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
