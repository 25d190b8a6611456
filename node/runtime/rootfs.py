"""Reading an image's /etc/passwd and /etc/group before anything runs in it.

The files may be in any layer and may be symbolic links, absolute ones too, so the root file system is mounted and
entered: by a thread with a mount namespace and a root directory of its own, which vanish with it. Nothing of it can be
seen, or left over, outside; and a link cannot lead out of the image.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from node.runtime.containerd import types_pb2
from node.runtime.interface import CREATE_CONTAINER_ERROR, RuntimeFailure
from node.runtime.namespaces import MS_BIND, mount

CLONE_NEWNS = 0x00020000  # of one thread, it makes root and working directory the thread's own as well
MS_RDONLY, MS_REC, MS_PRIVATE = 1, 16384, 1 << 18
MAX_BYTES = 1 << 20  # of a file that is read

_libc = ctypes.CDLL(None, use_errno=True)


async def read_files(mounts: Sequence[types_pb2.Mount], scratch: Path, paths: Sequence[str]) -> list[str]:
    """The text of files of a root file system, "" for those it does not have. `scratch` is an empty directory.

    Raises:
        RuntimeFailure: CreateContainerError: it cannot be mounted.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[str]] = loop.create_future()

    def work() -> None:
        try:
            texts = _read(mounts, scratch, paths)
        except OSError as error:
            loop.call_soon_threadsafe(
                done.set_exception, RuntimeFailure(CREATE_CONTAINER_ERROR, f"read users: {error}")
            )
        else:
            loop.call_soon_threadsafe(done.set_result, texts)

    threading.Thread(target=work, name="rootfs").start()
    return await asyncio.shield(done)


def _read(mounts: Sequence[types_pb2.Mount], scratch: Path, paths: Sequence[str]) -> list[str]:
    """Runs in a thread that ends afterwards."""
    if _libc.unshare(CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    for each in mounts:
        _mount_lower(each, str(scratch))
    os.chroot(scratch)
    os.chdir("/")
    texts = []
    for path in paths:
        text = ""
        with contextlib.suppress(OSError), open(path, "rb") as file:  # noqa: PTH123 - relative to this thread's root
            text = file.read(MAX_BYTES).decode("utf-8", "replace")
        texts.append(text)
    return texts


def _mount_lower(each: types_pb2.Mount, target: str) -> None:
    """Mount what the snapshot stands on, without its writable top: that belongs to the container."""
    if each.type != "overlay":
        mount(each.source, target, "", MS_BIND | MS_REC)
        return
    lower = next((o.partition("=")[2] for o in each.options if o.startswith("lowerdir=")), "")
    if ":" in lower:
        mount("overlay", target, "overlay", MS_RDONLY, f"lowerdir={lower}")
    else:  # overlayfs wants two; one is itself
        mount(lower, target, "", MS_BIND)
