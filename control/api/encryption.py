"""The encryption keys in a running cluster: taken up from files, used when everyone has them, rotated, and let go.

Mechanism. Each member reads its key file again every few seconds (`KeyKeeper`) and tells, through the log, which keys it holds and
which its disk needs. It seals with the first key in its file *that every member holds*, so that a new key may be put on the members
one after the other and no member ever meets a value it cannot open. A request to rotate is a write to the log: every member sees it,
also one that was away, writes a snapshot with the present key, and removes the log before it. What a disk needs is not
calculated but looked up: the data folder is searched for each key's id.

Failure. A file that is missing or damaged while the member runs changes nothing but the `problem` it tells. A member that cannot
write its snapshot tries again at the next look. A rotation is done when every member has said so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from control.api.authorization import Access, require
from control.api.context import ApiContext
from control.api.errors import from_store, no_leader
from control.ca.certificates import CertificateError
from control.identity import MEMBER_PREFIX, Caller
from control.raft.interface import RaftError, RaftStatus
from control.store.encryption import EncryptionKey, key_ids_on_disk
from control.store.interface import Cause, Put, Store, StoreError, Txn
from steersman.clock import Clock
from steersman.errors import ApiError, bad_request
from steersman.v1 import encryption_pb2 as pb

log = logging.getLogger("control.encryption")

LOOK_EVERY_S: Final = (
    3.0  # at the key file and for requests: a new key is in use a few seconds after the last member has it
)
SCAN_EVERY_S: Final = 60.0  # through the data folder while several keys are held: reads all of it
PURGES: Final = 3  # in a row; entries that were on their way during the first are gone with the second
ROTATION: Final = "/bootstrap/encryption/rotation"
REPORTS: Final = "/bootstrap/encryption/members/"


class Report(msgspec.Struct, frozen=True):
    """What a member tells; see `MemberEncryption` in encryption.proto."""

    keys: tuple[str, ...] = ()
    seals_with: str = ""
    on_disk: tuple[str, ...] = ()
    rewritten: int = 0
    problem: str = ""


_report = msgspec.json.Decoder(Report)


class Raft(Protocol):
    """What rotation needs of Raft."""

    def status(self) -> RaftStatus: ...
    async def purge(self) -> None: ...


class KeyStore(Store, Protocol):
    """A store that seals."""

    def rekey(self, keys: Sequence[EncryptionKey]) -> None: ...


async def reports_in(store: Store, members: Sequence[str]) -> dict[str, Report]:
    """What the present members have told."""
    found = (await store.range(REPORTS)).kvs
    told = {kv.key.removeprefix(REPORTS): _report.decode(kv.value) for kv in found}
    return {name: told[name] for name in members if name in told}


def in_use(keys: Sequence[EncryptionKey], others: Sequence[Report]) -> list[EncryptionKey]:
    """The keys of a file in the order of their use: first the first that all others hold too, then the rest."""
    common = [key for key in keys if all(key.id in other.keys for other in others)]
    first = common[0] if common else keys[0]
    return [first, *(key for key in keys if key is not first)]


def droppable(reports: Sequence[Report]) -> list[str]:
    """The keys that some member holds and none needs."""
    needed = {identity for report in reports for identity in (*report.keys[:1], report.seals_with, *report.on_disk)}
    return sorted({identity for report in reports for identity in report.keys} - needed)


class KeyKeeper:
    """One member's part in it.

    Args:
        read: the keys in the file; raises CertificateError. Not called by a member that has nothing to encrypt and no file.
        tell: carries this member's report to the leader.
    """

    def __init__(
        self,
        name: str,
        store: KeyStore,
        raft: Raft,
        data_dir: Path,
        read: Callable[[], Sequence[EncryptionKey]],
        tell: Callable[[pb.ReportEncryptionRequest], Awaitable[object]],
        clock: Clock,
    ) -> None:
        self._name = name
        self._store = store
        self._raft = raft
        self._data_dir = data_dir
        self._read = read
        self._tell = tell
        self._clock = clock
        self._keys: Sequence[EncryptionKey] = ()
        self._report = Report()
        self._scanned = -SCAN_EVERY_S

    async def run(self) -> None:
        """Look after the keys until cancelled. Raises ApiError and StoreError of what could not be told."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Take up the file, fulfil what was asked for, tell what is new."""
        members = [member.name for member in self._raft.status().members]
        told = await reports_in(self._store, members)
        mine = told.pop(self._name, Report())
        problem = ""
        try:
            keys = self._read()
        except CertificateError as error:
            keys, problem = self._keys, str(error)
        if [key.id for key in keys] != [key.id for key in self._keys]:
            self._keys, self._scanned = keys, -SCAN_EVERY_S
        seals_with = ""
        if keys:
            order = in_use(keys, list(told.values()))
            seals_with = order[0].id
            if seals_with != self._report.seals_with:
                self._scanned = -SCAN_EVERY_S
            self._store.rekey(order)
        rewritten = max(mine.rewritten, self._report.rewritten)
        self._report = Report(tuple(key.id for key in keys), seals_with, self._report.on_disk, rewritten, problem)
        await self._fulfil()
        if self._clock.monotonic() - self._scanned >= SCAN_EVERY_S:
            await self._scan()
        if self._report != mine:
            await self._tell(pb.ReportEncryptionRequest(member=message_of(self._name, self._report)))

    async def _fulfil(self) -> None:
        """Write the disk anew when that was asked for since the last time."""
        asked = await self._store.get(ROTATION)
        report = self._report
        if asked is None or asked.mod_revision <= report.rewritten or report.keys[:1] != (report.seals_with,):
            return
        try:
            for _ in range(PURGES):
                await self._raft.purge()
                await self._scan()
                if set(self._report.on_disk) <= {report.seals_with}:
                    self._report = msgspec.structs.replace(self._report, rewritten=asked.mod_revision)
                    log.info("member %s has written its disk anew with key %s", self._name, report.seals_with)
                    return
            # A snapshot of this very state was written with the old key just before: telling so is a write, and moves the state on.
            problem = f"something on the disk still needs {', '.join(set(self._report.on_disk) - {report.seals_with})}: trying again"
        except (RaftError, OSError) as error:
            problem = str(error)
        self._report = msgspec.structs.replace(self._report, problem=problem)

    async def _scan(self) -> None:
        self._scanned = self._clock.monotonic()
        found = await asyncio.to_thread(key_ids_on_disk, self._data_dir, self._report.keys)
        self._report = msgspec.structs.replace(self._report, on_disk=tuple(sorted(found)))


class EncryptionHandlers:
    """The service `Encryption`, as `(request, caller) -> response`; the leader's."""

    def __init__(self, context: ApiContext, raft: Raft) -> None:
        self._context = context
        self._raft = raft

    async def status(self, _request: pb.EncryptionStatusRequest, caller: Caller) -> pb.EncryptionStatusResponse:
        """Who holds which keys, and how far a rotation is."""
        require(self._context.authorizer, caller, Access("get", "cluster", "encryption"))
        return await self._status()

    async def rotate(self, _request: pb.RotateEncryptionRequest, caller: Caller) -> pb.EncryptionStatusResponse:
        """Have every member write its disk anew. Raises ApiError when a member lacks the key, or the keys differ in order."""
        require(self._context.authorizer, caller, Access("update", "cluster", "encryption"))
        self._require_leader()
        status = await self._status()
        wanted = {tuple(member.keys[:1]) for member in status.members}
        if len(wanted) != 1 or wanted == {()}:
            first = ", ".join(
                f"{member.name}: {member.keys[0] if member.keys else 'none'}" for member in status.members
            )
            raise bad_request(
                f"the members' files do not begin with the same key ({first}): copy encryption-keys.json to every member's "
                "--pki-dir and wait some seconds"
            )
        try:
            value = msgspec.json.encode({"key": next(iter(wanted))[0]})
            await self._context.store.commit([Txn((Put(ROTATION, value),), Cause(0, f"user:{caller.user}"))])
        except StoreError as error:
            raise from_store(error) from None
        return await self._status()

    async def report(self, request: pb.ReportEncryptionRequest, caller: Caller) -> pb.ReportEncryptionResponse:
        """Note a member's state; only it may say so."""
        member = request.member
        if not caller.is_member or caller.user != MEMBER_PREFIX + member.name:
            access = Access("update", "cluster", "encryption", name=member.name)
            raise ApiError("Forbidden", f'User "{caller.user}" {access}: members tell their own state')
        self._require_leader()
        told = Report(tuple(member.keys), member.seals_with, tuple(member.on_disk), member.rewritten, member.problem)
        put = Put(REPORTS + member.name, msgspec.json.encode(told))
        try:
            await self._context.store.commit([Txn((put,), Cause(0, caller.user))])
        except StoreError as error:
            raise from_store(error) from None
        return pb.ReportEncryptionResponse()

    async def _status(self) -> pb.EncryptionStatusResponse:
        members = sorted(member.name for member in self._raft.status().members)
        told = await reports_in(self._context.store, members)
        asked = await self._context.store.get(ROTATION)
        requested = asked.mod_revision if asked is not None else 0
        whole = len(told) == len(members)
        return pb.EncryptionStatusResponse(
            members=[message_of(name, told.get(name, Report())) for name in members],
            requested=requested,
            done=whole and all(report.rewritten >= requested for report in told.values()),
            droppable=droppable(list(told.values())) if whole else [],
        )

    def _require_leader(self) -> None:
        leadership = self._context.leadership
        if not leadership.is_self:
            raise no_leader(leadership.leader)


def message_of(name: str, report: Report) -> pb.MemberEncryption:
    """A report as it travels."""
    return pb.MemberEncryption(
        name=name,
        keys=report.keys,
        seals_with=report.seals_with,
        on_disk=report.on_disk,
        rewritten=report.rewritten,
        problem=report.problem,
    )
