"""Keys are taken up when all members hold them, rotations end when every disk is clean, and only then can a key go."""

from pathlib import Path

import msgspec
import pytest

from control.api.encryption import REPORTS, ROTATION, EncryptionHandlers, KeyKeeper, Report, droppable, in_use
from control.ca.certificates import CertificateError
from control.identity import Caller, member
from control.raft.interface import MemberStatus, RaftStatus
from control.store.encryption import MAGIC, EncryptionKey
from control.store.interface import Put, Txn
from control.store.local import LocalStore
from steersman.clock import ManualClock
from steersman.errors import ApiError
from steersman.v1 import encryption_pb2 as pb
from tests.unit.control.api.conftest import ApiUnderTest

OLD, NEW = EncryptionKey(b"o" * 32), EncryptionKey(b"n" * 32)


class Keys(LocalStore):
    order: tuple[str, ...] = ()

    def rekey(self, keys) -> None:
        self.order = tuple(key.id for key in keys)


class Raft:
    """Two members; a purge does `on_purge`."""

    def __init__(self) -> None:
        self.on_purge = lambda: None

    def status(self) -> RaftStatus:
        members = tuple(MemberStatus(name, "h:1", "follower", 0, True) for name in ("m1", "m2"))
        return RaftStatus("m1", "c", "leader", 1, "m1", 1, 1, 1, 1, 0, members, "")

    async def purge(self) -> None:
        self.on_purge()


class Kept:
    """A keeper with a file, a disk, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.folder = ManualClock(), folder
        self.store, self.raft = Keys(self.clock), Raft()
        self.file: list[EncryptionKey] = [OLD]
        self.told: list[pb.MemberEncryption] = []
        self.needs(OLD)
        self.keeper = KeyKeeper("m1", self.store, self.raft, folder, self.read, self.tell, self.clock)

    def read(self) -> list[EncryptionKey]:
        if not self.file:
            raise CertificateError("the file is gone")
        return self.file

    def needs(self, *keys: EncryptionKey) -> None:
        (self.folder / "wal").write_bytes(b"x" * 5000 + b"".join(MAGIC + key.id.encode() for key in keys))

    async def tell(self, request: pb.ReportEncryptionRequest) -> None:
        self.told.append(request.member)
        await self.reported("m1", request.member)

    async def reported(self, name: str, told: pb.MemberEncryption) -> None:
        report = Report(tuple(told.keys), told.seals_with, tuple(told.on_disk), told.rewritten, told.problem)
        await self.store.commit([Txn((Put(REPORTS + name, msgspec.json.encode(report)),))])

    async def ask(self) -> int:
        (result,) = await self.store.commit([Txn((Put(ROTATION, b"{}"),))])
        return result.revision


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


async def test_a_new_key_is_used_when_every_member_holds_it(kept: Kept) -> None:
    await kept.keeper.look()
    await kept.reported("m2", pb.MemberEncryption(keys=[OLD.id]))
    kept.file = [NEW, OLD]
    await kept.keeper.look()
    assert kept.store.order == (OLD.id, NEW.id)
    assert (list(kept.told[-1].keys), kept.told[-1].seals_with) == ([NEW.id, OLD.id], OLD.id)
    await kept.reported("m2", pb.MemberEncryption(keys=[NEW.id, OLD.id]))
    await kept.keeper.look()
    assert kept.store.order == (NEW.id, OLD.id)
    assert kept.told[-1].seals_with == NEW.id
    told = len(kept.told)
    await kept.keeper.look()
    assert len(kept.told) == told


async def test_a_rotation_is_done_when_the_disk_needs_no_other_key(kept: Kept) -> None:
    kept.file = [NEW, OLD]
    await kept.keeper.look()
    asked = await kept.ask()
    await kept.keeper.look()
    assert (kept.told[-1].rewritten, list(kept.told[-1].on_disk)) == (0, [OLD.id])
    kept.raft.on_purge = lambda: kept.needs(NEW)
    await kept.keeper.look()
    assert (kept.told[-1].rewritten, list(kept.told[-1].on_disk)) == (asked, [NEW.id])


async def test_a_file_that_is_gone_is_told_and_changes_nothing_else(kept: Kept) -> None:
    await kept.keeper.look()
    kept.file = []
    await kept.keeper.look()
    assert kept.told[-1].problem == "the file is gone"
    assert kept.store.order == (OLD.id,)


def test_keys_can_be_dropped_when_nobody_needs_them() -> None:
    held = (NEW.id, OLD.id)
    clean = Report(held, NEW.id, (NEW.id,))
    assert droppable([clean, clean]) == [OLD.id]
    assert droppable([clean, Report(held, NEW.id, (NEW.id, OLD.id))]) == []
    assert droppable([clean, Report(held, OLD.id, (NEW.id,))]) == []
    assert in_use([NEW, OLD], [Report(held), Report((OLD.id,))]) == [OLD, NEW]
    assert in_use([NEW, OLD], []) == [NEW, OLD]


async def test_a_rotation_is_refused_until_all_files_agree_and_members_speak_for_themselves(api: ApiUnderTest) -> None:
    handlers = EncryptionHandlers(api.context, Raft())
    told = pb.MemberEncryption(name="m1", keys=[NEW.id, OLD.id], seals_with=OLD.id)
    await handlers.report(pb.ReportEncryptionRequest(member=told), member("m1"))
    with pytest.raises(ApiError, match=f"m1: {NEW.id}, m2: none"):
        await handlers.rotate(pb.RotateEncryptionRequest(), api.admin)
    for caller in (member("m2"), api.admin):
        with pytest.raises(ApiError, match="tell their own state"):
            await handlers.report(pb.ReportEncryptionRequest(member=told), caller)
    with pytest.raises(ApiError, match="cannot get"):
        await handlers.status(pb.EncryptionStatusRequest(), Caller("eve"))
    other = pb.MemberEncryption(name="m2", keys=[NEW.id, OLD.id], seals_with=NEW.id)
    await handlers.report(pb.ReportEncryptionRequest(member=other), member("m2"))
    answer = await handlers.rotate(pb.RotateEncryptionRequest(), api.admin)
    assert (answer.requested > 0, answer.done, list(answer.droppable)) == (True, False, [])
    for one in (told, other):
        one.rewritten, one.seals_with = answer.requested, NEW.id
        await handlers.report(pb.ReportEncryptionRequest(member=one), member(one.name))
    answer = await handlers.status(pb.EncryptionStatusRequest(), api.admin)
    assert (answer.done, list(answer.droppable)) == (True, [OLD.id])
