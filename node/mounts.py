"""mount(2) and umount(2): the few calls that volumes need, without starting a process for each."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, path: Path, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", str(path))


def mount_tmpfs(path: Path, options: str = "") -> None:
    """Mount a memory file system; `options` as `mount -o` takes them, e.g. "size=65536,mode=0700"."""
    flags = MS_NOSUID | MS_NODEV
    _call("mount", path, b"tmpfs", os.fsencode(path), b"tmpfs", ctypes.c_ulong(flags), options.encode())


def unmount(path: Path) -> None:
    """Unmount lazily: a file that is still open in a dying container keeps only itself."""
    _call("umount2", path, os.fsencode(path), ctypes.c_int(MNT_DETACH))


def mounts_below(root: Path) -> list[Path]:
    """Mount points below a directory, deepest first."""
    prefix = f"{root}/"
    found = []
    with Path("/proc/self/mountinfo").open(encoding="utf-8") as table:
        for line in table:
            point = line.split(" ", 5)[4]
            if "\\" in point:
                point = point.encode("latin-1").decode("unicode_escape")
            if point.startswith(prefix):
                found.append(Path(point))
    return sorted(found, key=lambda path: len(path.parts), reverse=True)
