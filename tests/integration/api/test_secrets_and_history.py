"""Real members: a secret is on no disk, keys rotate under way, and the past is read on any member, also after a restart."""

import asyncio
import base64
import subprocess
import time
from pathlib import Path

import pytest

from control.ca import files
from steersman.errors import ApiError
from steersman.v1 import encryption_pb2
from steersman.v1 import objects_pb2 as pb
from tests.integration.api.conftest import ControlPlane

KNOWN = base64.b64encode(b"correct-horse-battery-staple").decode()
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "data": {"password": KNOWN}}


def on_disk(plane: ControlPlane, needle: str) -> list[str]:
    """The data files in which a text stands."""
    found = []
    for member in plane.members:
        folder = plane.folder / f"{member.name}-data"
        names = [path for path in folder.rglob("*") if path.is_file()]
        assert any(path.name.startswith("wal-") for path in names)
        found += [str(path) for path in names if needle.encode() in path.read_bytes()]
    return found


async def status(client) -> encryption_pb2.EncryptionStatusResponse:
    request = encryption_pb2.EncryptionStatusRequest()
    return await client.transport.unary("Encryption", "EncryptionStatus", request)


async def until(client, holds) -> encryption_pb2.EncryptionStatusResponse:
    end = time.monotonic() + 40
    while True:
        answer = await status(client)
        if holds(answer):
            return answer
        assert time.monotonic() < end, answer
        await asyncio.sleep(0.2)


async def test_secrets_are_on_no_disk_and_keys_rotate_without_a_stop(three: ControlPlane) -> None:
    ca = three.folder / "ca"
    copies = [three.folder / member.name for member in three.members]
    (old,) = files.change_keys(ca, [])
    async with three.client() as client:
        await client.create(SECRET)
        await client.create(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"v": "plain-to-see"}}
        )
        await until(client, lambda told: all(list(member.keys) == [old.id] for member in told.members))
        assert on_disk(three, KNOWN) == []
        assert len(on_disk(three, "plain-to-see")) == 3

        new, _ = files.change_keys(ca, copies[:1], rotate=True)
        await until(client, lambda told: any(new.id in member.keys for member in told.members))
        with pytest.raises(ApiError, match="do not begin with the same key"):
            await client.transport.unary("Encryption", "RotateEncryption", encryption_pb2.RotateEncryptionRequest())
        assert (await client.get("secrets", "db"))["data"]["password"] == KNOWN
        files.change_keys(ca, copies)
        for copy in copies:
            (copy / "encryption-keys.json").write_bytes((ca / "encryption-keys.json").read_bytes())
        await until(client, lambda told: all(member.seals_with == new.id for member in told.members))
        await client.transport.unary("Encryption", "RotateEncryption", encryption_pb2.RotateEncryptionRequest())
        told = await until(client, lambda told: told.done)
        assert list(told.droppable) == [old.id]
        assert on_disk(three, KNOWN) == []
        assert on_disk(three, f"\x00st1{old.id}") == []

        files.change_keys(ca, [], drop=old.id)
        for copy in copies:
            (copy / "encryption-keys.json").write_bytes((ca / "encryption-keys.json").read_bytes())
    three.stop()
    three.start()
    for member in three.members:
        async with three.client("admin", member) as client:
            assert (await client.get("secrets", "db"))["data"]["password"] == KNOWN


async def test_the_past_survives_restarts_and_any_member_tells_it(three: ControlPlane) -> None:
    async with three.client() as client:
        revisions = []
        for value in ("1", "2", "3"):
            manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"v": value}}
            (result,) = await client.apply([manifest])
            revisions.append(result.object.revision)
        moment = await client.moment(str(revisions[1]))
    three.stop()
    three.start()
    for member in three.members:
        async with three.client("admin", member) as client:
            for at in (str(revisions[1]), moment.time):
                assert (await client.get("configmaps", "c", at=at))["data"]["v"] == "2"
            answer = await client.history("configmaps", "c")
            assert [entry.revision for entry in answer.entries] == revisions[::-1]
            assert [(c.path, c.before, c.after) for c in answer.entries[0].changes] == [("data.v", '"2"', '"3"')]
            assert {entry.cause.actor for entry in answer.entries} == {"user:admin"}
            assert answer.entries[-1].kind == pb.WatchEvent.ADDED
    async with three.client("alice") as client:
        with pytest.raises(ApiError, match="cannot get resource"):
            await client.history("configmaps", "c")


def test_a_member_without_keys_does_not_start_and_says_what_to_do(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, 1)
    (tmp_path / "control-1" / "encryption-keys.json").unlink()
    done = subprocess.run(plane.members[0].argv(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "`steer-control pki encryption-key --dir P` makes the first, --encrypt none does without" in done.stderr


async def test_with_encryption_off_the_disk_shows_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plane = ControlPlane(tmp_path, 1)
    (member,) = plane.members
    argv = member.argv("--encrypt", "none")
    monkeypatch.setattr(member, "argv", lambda: argv)
    try:
        plane.start()
        async with plane.client() as client:
            await client.create(SECRET)
        assert on_disk(plane, KNOWN) != []
    finally:
        plane.stop()
