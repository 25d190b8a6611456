"""Control groups of lab hosts: find, freeze and end everything that runs on one.

A host's processes and, below them, its pods' containers live in one subtree, `steersman/LAB/HOST`, of the unified
hierarchy (cgroup v2) or, where that has no controllers (v1 and hybrid machines), of every v1 hierarchy; the freezer's
is then the one that is read. Membership is what identifies a process as the lab's: nothing is ever killed by name.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def _v1() -> bool:
    return (ROOT / "freezer").is_dir()


def _base() -> Path:
    return ROOT / "freezer" if _v1() else ROOT


def create(group: str) -> Path:
    """Make the group; answers the file to which a process' id is written to put it there."""
    path = _base() / group
    path.mkdir(parents=True, exist_ok=True)
    return path / "cgroup.procs"


def processes(group: str) -> list[int]:
    """Ids of all processes in the group and below, as the machine's own namespace counts them."""
    found: list[int] = []
    for directory, _, files in os.walk(_base() / group):
        if "cgroup.procs" in files:
            try:
                found += map(int, (Path(directory) / "cgroup.procs").read_text().split())
            except OSError:
                continue  # the group went while we looked
    return found


def freeze(group: str, *, frozen: bool) -> None:
    """Stop or continue every process of the group at once."""
    path = _base() / group
    if not path.is_dir():
        return
    if _v1():
        (path / "freezer.state").write_text("FROZEN" if frozen else "THAWED")
    else:
        (path / "cgroup.freeze").write_text("1" if frozen else "0")


def is_frozen(group: str) -> bool:
    path = _base() / group
    try:
        if _v1():
            return (path / "freezer.state").read_text().strip() != "THAWED"
        return (path / "cgroup.freeze").read_text().strip() == "1"
    except OSError:
        return False


def signal_all(group: str, number: int = signal.SIGKILL) -> int:
    """Send a signal to every process of the group; answers how many there were. Frozen ones get it too."""
    ids = processes(group)
    for pid in ids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    freeze(group, frozen=False)
    return len(ids)


def remove(group: str) -> None:
    """Remove the group and everything below from every hierarchy; what still has processes stays."""
    roots = [path for path in ROOT.iterdir() if path.is_dir()] if _v1() else [ROOT]
    for root in roots:
        for directory, _, _ in os.walk(root / group, topdown=False):
            try:
                Path(directory).rmdir()
            except OSError:
                continue
