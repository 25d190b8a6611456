"""Beginning a new cluster on a data folder: from a snapshot's file, or from what the log of a lost cluster still holds.

After the loss of a majority nothing can be committed, and no rule of Raft can bring it back: somebody must decide that the lost
members stay lost. What can be done without that decision is done first, and changes nothing: `inspect` reads a member's log,
`most_advanced` picks among several the one that would win an election, `assess` says what is safe, what is kept and what may be
lost. Then `begin` makes a folder from which a member starts as the first of a new cluster: one snapshot, no log, and a new cluster id, by
which the old members' messages are refused should they come back (`control.raft.transport`).

What is certain. An acknowledged write is on a majority of the voters. Of V voters with majorities of M, any V - M + 1 logs have
every acknowledged write in at least one of them, and then the most advanced has it too (the argument of leader completeness,
paper §5.4.3). With fewer logs, only what the log itself knows to be committed is certain to be all there is up to that point.

Entries beyond the known commit index are kept: some of them were acknowledged, and which cannot be told. A write whose client was
told that its fate is uncertain may therefore turn out to have happened.

Encrypted values are carried over as they are, without the keys.
"""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from control.raft.files import Closeable, File, MemoryFile, MemoryFiles, OsFile, OsFiles
from control.raft.interface import RaftError
from control.raft.messages import EntryKind, Membership, SnapshotMeta
from control.raft.snapshots import SnapshotStore
from control.raft.wal import Wal
from control.store import commands
from control.store.interface import StoreError
from control.store.mvcc import Mvcc
from control.store.rebase import rebase

SHOWN: Final = 20  # uncommitted writes that are listed one by one


class RecoveryError(Exception):
    """It cannot be done; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Write:
    """A write in the log that is not known to be committed."""

    index: int
    term: int
    time: dt.datetime
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What a member's data folder holds."""

    data_dir: Path
    membership: Membership
    term: int
    last_index: int
    last_term: int
    commit: int  # known to be committed; more may be
    committed_revision: int
    revision: int  # with everything in the log applied
    keys: int
    last_time: dt.datetime | None  # when the last write was proposed
    uncommitted: tuple[Write, ...]
    state: Mvcc

    @property
    def voters(self) -> list[str]:
        return sorted(self.membership.voters)


class _ReadOnlyFile(OsFile):
    """Takes no writes, and does not say so: the log's reader repairs what it reads, here in vain."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def write(self, offset: int, data: bytes) -> None:
        pass

    def reserve(self, size: int) -> None:
        pass

    def truncate(self, size: int) -> None:
        pass

    def sync(self) -> None:
        pass


class ReadOnlyFiles:
    """A folder that is looked at and not touched; new files are in memory only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hidden: set[str] = set()

    def describe(self, name: str) -> str:
        return str(self._folder / name)

    def lock(self) -> Closeable:
        """Make sure that no member runs here, as long as this is open. Raises OSError."""
        lock = (self._folder / "LOCK").open("rb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise OSError(error.errno, f"a member runs on {self._folder}: stop it first") from error
        return lock

    def names(self) -> list[str]:
        return sorted(
            entry.name for entry in os.scandir(self._folder) if entry.is_file() and entry.name not in self._hidden
        )

    def open(self, name: str, *, create: bool = True) -> File:
        if (self._folder / name).exists():
            return _ReadOnlyFile(self._folder / name)
        if not create:
            raise FileNotFoundError(errno.ENOENT, "No such file", name)
        return MemoryFile(MemoryFiles())

    def rename(self, old: str, new: str) -> None:
        raise OSError(errno.EROFS, f"{old} would be renamed to {new}: the folder is only looked at")

    def remove(self, name: str) -> None:
        self._hidden.add(name)

    def sync_folder(self) -> None:
        pass


def inspect(data_dir: Path) -> Found:
    """Read the log of a member that does not run; changes nothing.

    Raises:
        RecoveryError: there is none, it is damaged, or the member runs.
    """
    folder = data_dir / "raft"
    if not any(folder.glob("snapshot-*")):
        raise RecoveryError(f"{folder} holds no member's log")
    files = ReadOnlyFiles(folder)
    with ExitStack() as stack:
        try:
            if (folder / "LOCK").exists():
                stack.callback(files.lock().close)
            wal = Wal(files)
            stored = wal.open(Membership())
            state, last_time, uncommitted = Mvcc(), None, []
            if stored.snapshot.index:
                state.restore(wal.snapshots.chunks(stored.snapshot))
            commit = max(stored.snapshot.index, stored.hard_state.commit)
            membership, committed_revision = stored.snapshot.membership, state.revision
            for entry in stored.entries:
                if entry.index <= stored.snapshot.index:
                    continue
                if entry.kind is EntryKind.MEMBERSHIP:
                    membership = Membership.decode(entry.data)
                elif entry.kind is EntryKind.COMMAND:
                    command = commands.decode(entry.data)
                    last_time = dt.datetime.fromtimestamp(command.time / 1000, dt.UTC)
                    for txn in command.txns:
                        state.apply(txn, command.time)
                    if entry.index > commit:
                        keys = tuple(op.key for txn in command.txns for op in txn.ops)
                        uncommitted.append(Write(entry.index, entry.term, last_time, keys))
                if entry.index <= commit:
                    committed_revision = state.revision
            wal.close()
        except (OSError, RaftError, StoreError) as error:
            raise RecoveryError(f"{data_dir}: {error}") from error
    last = stored.entries[-1] if stored.entries else None
    after = last is not None and last.index > stored.snapshot.index
    return Found(
        data_dir=data_dir,
        membership=membership,
        term=stored.hard_state.term,
        last_index=last.index if last is not None and after else stored.snapshot.index,
        last_term=last.term if last is not None and after else stored.snapshot.term,
        commit=commit,
        committed_revision=committed_revision,
        revision=state.revision,
        keys=len(state),
        last_time=last_time or (dt.datetime.fromtimestamp(state.time / 1000, dt.UTC) if state.time else None),
        uncommitted=tuple(uncommitted),
        state=state,
    )


def most_advanced(found: Sequence[Found]) -> Found:
    """The log that would win an election among these. Raises RecoveryError when they are of several clusters."""
    clusters = {one.membership.cluster_id for one in found}
    if len(clusters) > 1:
        told = ", ".join(f"{one.data_dir} of {one.membership.cluster_id}" for one in found)
        raise RecoveryError(f"these folders are of several clusters: {told}")
    return max(found, key=lambda one: (one.last_term, one.last_index))


def assess(chosen: Found, looked_at: int) -> list[str]:
    """What is safe, what is kept, and what may be lost, when `chosen` is picked out of so many logs; one sentence each."""
    voters = len(chosen.voters)
    majority = voters // 2 + 1
    were = "log was" if looked_at == 1 else "logs were"
    lines = [f"{looked_at} {were} looked at, of {voters} voters: {', '.join(chosen.voters)}."]
    if chosen.membership.learners:
        lines.append(f"Learners' logs do not count: {', '.join(sorted(chosen.membership.learners))} never voted.")
    lines.append(
        f"Safe: everything up to revision {chosen.committed_revision} (entry {chosen.commit}), known to be committed."
    )
    if chosen.uncommitted:
        lines.append(
            f"Kept: {len(chosen.uncommitted)} writes after it, up to revision {chosen.revision} (entry {chosen.last_index}), which are in "
            "this log and not known to be committed. Some may be writes whose clients were told that they failed or timed out:"
        )
        lines += [
            f"  entry {write.index}, term {write.term}, {write.time:%Y-%m-%dT%H:%M:%SZ}: {', '.join(write.keys)}"
            for write in chosen.uncommitted[-SHOWN:]
        ]
        if len(chosen.uncommitted) > SHOWN:
            lines.append(f"  and {len(chosen.uncommitted) - SHOWN} before them")
    if looked_at > voters - majority:
        lines.append(
            f"Lost: nothing that was acknowledged: that is on at least {majority} voters, so one of these {looked_at} has it."
        )
        if looked_at >= majority:
            lines.append("These are a majority: starting their members again would do, and no recovery is needed.")
    else:
        since = f", proposed at {chosen.last_time:%Y-%m-%dT%H:%M:%SZ}," if chosen.last_time else ""
        lines.append(
            f"May be lost: every write acknowledged after entry {chosen.last_index} of term {chosen.last_term}{since} the last in this "
            f"log; the {voters - looked_at} logs that were not looked at may hold any number of those, and nothing here can tell. Find "
            f"{voters - majority + 1 - looked_at} more of them, and nothing is lost."
        )
    return lines


def new_cluster_id(token: str, members: Iterable[tuple[str, str]], content: str) -> str:
    """The id of a cluster that several members begin alike, each by itself: of the same members, token and content."""
    return sha256(repr((token, sorted(members), content)).encode()).hexdigest()[:16]


def begin(data_dir: Path, meta: SnapshotMeta, chunks: Iterable[bytes]) -> Path | None:
    """Make the folder of a member that begins a new cluster at `meta`; answers where the old log was put, if there was one.

    The new log takes the old one's place only when it is whole and durable.

    Raises:
        OSError: the disk refuses, or a member runs there; the old log is untouched then.
    """
    log, fresh = data_dir / "raft", data_dir / "raft.new"
    aside: Path | None = None
    with ExitStack() as stack:
        if log.exists():
            stack.callback(OsFiles(log).lock().close)
        files = OsFiles(fresh)
        for left in files.names():  # of an attempt that was interrupted
            files.remove(left)
        SnapshotStore(files).write(meta, chunks)
        if log.exists():
            number = 1 + len(list(data_dir.glob("raft.before-*")))
            aside = data_dir / f"raft.before-{number}"
            log.rename(aside)
        fresh.rename(log)
        OsFiles(log).sync_folder()
        folder = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return aside


def recover(chosen: Found, name: str, address: str, cluster_id: str) -> Path | None:
    """Make `chosen` the only member of a new cluster; answers where its old log was put. Raises OSError."""
    membership = Membership(frozenset((name,)), frozenset(), {name: address}, cluster_id)
    meta = SnapshotMeta(chosen.last_index + 1, chosen.last_term + 1, membership)
    return begin(chosen.data_dir, meta, rebase(chosen.state.snapshot(), chosen.membership.cluster_id, "recovery"))


def restore(data_dir: Path, members: dict[str, str], cluster_id: str, origin: str, chunks: Iterable[bytes]) -> None:
    """Begin a cluster of `members` with the chunks of a snapshot of the cluster `origin`.

    Raises:
        RecoveryError: the folder holds a log already.
        SnapshotDamagedError, OSError.
    """
    if (data_dir / "raft").exists():
        raise RecoveryError(
            f"{data_dir} holds a member's log already: move it away, a restored member begins with an empty folder"
        )
    membership = Membership(frozenset(members), frozenset(), dict(sorted(members.items())), cluster_id)
    begin(data_dir, SnapshotMeta(1, 1, membership), rebase(chunks, origin, "snapshot"))
