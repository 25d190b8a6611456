"""The few things that the log and the snapshots ask of a disk, and two disks: the machine's, and one in memory.

The narrow interface is what makes durability testable: `MemoryFiles` knows exactly which bytes were synced, can lose
everything else in a crash (whole, in part, or torn in the middle), flip bits, run full and fail to sync.

Rules that the callers keep, and `MemoryFiles` enforces by forgetting: bytes are durable after `File.sync`; a name
(created, renamed, removed) is durable after `Files.sync_folder`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Closeable(Protocol):
    """Something to give back."""

    def close(self) -> None:
        """Give it back."""
        ...


class File(Closeable, Protocol):
    """An open file."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at `offset`, fewer at the end of the file."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data` or raise OSError (part of it may be there then)."""
        ...

    def reserve(self, size: int) -> None:
        """Make the file at least `size` bytes long, zeros at the end, with room on the disk for all of it."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file."""
        ...

    def sync(self) -> None:
        """Make the file's bytes durable."""
        ...

    def size(self) -> int:
        """Length in bytes."""
        ...


class Files(Protocol):
    """One folder of files."""

    def describe(self, name: str) -> str:
        """Where the file is, for messages to people."""
        ...

    def lock(self) -> Closeable:
        """Keep other processes off the folder until closed. Raises OSError when one uses it already."""
        ...

    def names(self) -> list[str]:
        """Every file, sorted."""
        ...

    def open(self, name: str, *, create: bool = True) -> File:
        """Open a file to read and write. Raises FileNotFoundError when it is not there and may not be created."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, replacing what had it."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is none."""
        ...

    def sync_folder(self) -> None:
        """Make names durable."""
        ...


class OsFile:
    """A file of the operating system."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)

    def read(self, offset: int, length: int) -> bytes:
        parts = []
        while length > 0 and (part := os.pread(self._fd, length, offset)):
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._fd, rest, offset)
            rest = rest[written:]
            offset += written

    def reserve(self, size: int) -> None:
        if self.size() < size:
            os.posix_fallocate(self._fd, 0, size)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        os.close(self._fd)


class OsFiles:
    """A folder of the operating system, created when it is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def describe(self, name: str) -> str:
        return str(self.folder / name)

    def lock(self) -> Closeable:
        lock = (self.folder / "LOCK").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            why = f"another process uses {self.folder}: two members cannot share a data folder"
            raise OSError(error.errno, why) from error
        return lock

    def names(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self.folder) if entry.is_file())

    def open(self, name: str, *, create: bool = True) -> OsFile:
        return OsFile(self.folder / name, create=create)

    def rename(self, old: str, new: str) -> None:
        (self.folder / old).rename(self.folder / new)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def sync_folder(self) -> None:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class MemoryFile:
    """A file in memory: what a reader sees, what the disk has, and the writes between the two."""

    def __init__(self, disk: MemoryFiles) -> None:
        self._disk = disk
        self.content = bytearray()
        self.durable = b""
        self.unsynced: list[tuple[int, bytes]] = []

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._disk.spend(max(0, offset + len(data) - len(self.content)))
        if len(self.content) < offset:
            self.content.extend(bytes(offset - len(self.content)))
        self.content[offset : offset + len(data)] = data
        self.unsynced.append((offset, bytes(data)))

    def reserve(self, size: int) -> None:
        self._disk.spend(max(0, size - len(self.content)))
        self.content.extend(bytes(max(0, size - len(self.content))))

    def truncate(self, size: int) -> None:
        self._disk.spend(min(0, size - len(self.content)))
        del self.content[size:]

    def sync(self) -> None:
        self._disk.before_sync()
        self.durable = bytes(self.content)
        self.unsynced.clear()

    def size(self) -> int:
        return len(self.content)

    def close(self) -> None:
        pass


class MemoryFiles:
    """A folder in memory that can fail in every way a disk does. For tests and the simulator.

    `capacity` bytes may be used in all (None: no limit). `fail_sync`, when set, makes every sync raise it.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.used = 0
        self.fail_sync: OSError | None = None
        self._files: dict[str, MemoryFile] = {}
        self._durable_names: dict[str, MemoryFile] = {}

    def describe(self, name: str) -> str:
        return f"memory:{name}"

    def lock(self) -> Closeable:
        return MemoryFile(self)

    def names(self) -> list[str]:
        return sorted(self._files)

    def open(self, name: str, *, create: bool = True) -> MemoryFile:
        if name not in self._files:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "No such file", name)
            self._files[name] = MemoryFile(self)
        return self._files[name]

    def rename(self, old: str, new: str) -> None:
        self._files[new] = self._files.pop(old)

    def remove(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            self.used -= len(file.content)

    def sync_folder(self) -> None:
        self.before_sync()
        self._durable_names = dict(self._files)

    def spend(self, size: int) -> None:
        """Take room on the disk (or give it back). Raises OSError (ENOSPC) when there is none."""
        if size > 0 and self.capacity is not None and self.used + size > self.capacity:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.used += size

    def before_sync(self) -> None:
        """Fail if syncing is to fail."""
        if self.fail_sync is not None:
            raise self.fail_sync

    def crash(
        self, survives: Callable[[], float] = lambda: 0.0, spoils: Callable[[bytes], bytes] = lambda data: data
    ) -> None:
        """Lose power: what was not synced is gone, except for the fraction of each write that `survives` says.

        0 loses a write, 1 keeps it, anything between keeps its beginning only (a torn write); `spoils` makes of what
        survives what the disk then has. Names are lost likewise with what was not synced of the folder.
        """
        self._files = dict(self._durable_names)
        self.used = 0
        for file in self._files.values():
            content = bytearray(file.durable)
            for offset, data in file.unsynced:
                kept = spoils(data[: int(len(data) * survives())])
                if kept:
                    content.extend(bytes(max(0, offset - len(content))))
                    content[offset : offset + len(kept)] = kept
            file.content = content
            file.durable = bytes(content)
            file.unsynced = []
            self.used += len(content)

    def flip_bit(self, name: str, offset: int, bit: int = 0) -> None:
        """Damage a file where it lies."""
        file = self._files[name]
        file.content[offset] ^= 1 << bit
        file.durable = bytes(file.content)
