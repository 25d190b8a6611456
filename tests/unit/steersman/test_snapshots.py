"""A snapshot's file is whole or refused, whatever happened to it."""

from __future__ import annotations

import zlib
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from steersman import snapshots
from steersman.snapshots import SnapshotFileError
from steersman.v1 import cluster_pb2 as pb


def chunk(kind: bytes, content: object) -> bytes:
    payload = msgspec.msgpack.encode(content)
    return kind + zlib.crc32(payload).to_bytes(4, "big") + payload


RECORDS = [
    ["/a", b"{}", 1, 1, False, "x", 0, 0],
    ["/b", b"\0st1secret", 2, 2, False, "x", 0, 0],
    ["/a", b"", 1, 3, True, "x", 0, 0],
]
CHUNKS = [chunk(b"H", [3, 0]), chunk(b"R", RECORDS), chunk(b"T", [3, 0])]


def parts(chunks: list[bytes] = CHUNKS, **header: int) -> list[pb.SnapshotPart]:
    said = {"format": 1, "revision": 3, "records": 3, "keys": 1, "compacted": 0} | header
    whole = b"".join(chunks)
    return [
        pb.SnapshotPart(header=pb.SnapshotHeader(cluster_id="c", **said)),
        *(
            pb.SnapshotPart(chunk=pb.SnapshotChunk(number=number, data=data, crc32=zlib.crc32(data)))
            for number, data in enumerate(chunks)
        ),
        pb.SnapshotPart(
            trailer=pb.SnapshotTrailer(chunks=len(chunks), bytes=len(whole), sha256=sha256(whole).digest())
        ),
    ]


async def stream(found: list[pb.SnapshotPart]):
    for part in found:
        yield part


async def saved(path: Path, found: list[pb.SnapshotPart]) -> Path:
    await snapshots.save(stream(found), path)
    return path


async def test_what_is_saved_is_found_again(tmp_path):
    file = await saved(tmp_path / "s", parts())
    report = snapshots.verify(file)
    assert (report.header.cluster_id, report.chunks, report.records, report.keys, report.sealed) == ("c", 3, 3, 1, 1)
    assert list(snapshots.read(file)[1]) == CHUNKS
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


async def test_every_flipped_byte_and_every_missing_end_is_noticed(tmp_path):
    content = (await saved(tmp_path / "s", parts())).read_bytes()
    bad = tmp_path / "bad"
    for at in range(len(content)):
        bad.write_bytes(content[:at] + bytes((content[at] ^ 0x10,)) + content[at + 1 :])
        with pytest.raises(SnapshotFileError):
            snapshots.verify(bad)
        bad.write_bytes(content[:at])
        with pytest.raises(SnapshotFileError):
            snapshots.verify(bad)
    bad.write_bytes(content + b"x")
    with pytest.raises(SnapshotFileError, match="goes on after its end"):
        snapshots.verify(bad)


@pytest.mark.parametrize(
    ("header", "problem"),
    [({"records": 4}, "announces 4 records and holds 3"), ({"keys": 2}, "announces 2 keys and holds 1"),
     ({"revision": 4}, "is of revision 4, but its newest change is of 3"), ({"format": 2}, "has format 2, this version reads 1: upgrade")],
)  # fmt: skip
async def test_what_is_announced_must_be_there(tmp_path, header, problem):
    file = await saved(tmp_path / "s", parts(**header))
    with pytest.raises(SnapshotFileError, match=problem):
        snapshots.verify(file)


async def test_a_stream_that_breaks_or_lies_leaves_no_file(tmp_path):
    whole = parts()
    for found in (
        whole[:-1],
        [whole[0], *whole[2:]],
        [whole[0], whole[2], whole[1], whole[3], whole[4]],
        whole[1:],
        [],
    ):
        with pytest.raises(SnapshotFileError):
            await snapshots.save(stream(found), tmp_path / "s")
        assert list(tmp_path.iterdir()) == []


async def test_a_file_is_never_overwritten(tmp_path):
    (tmp_path / "s").write_text("mine")
    with pytest.raises(FileExistsError, match="choose another name"):
        await snapshots.save(stream(parts()), tmp_path / "s")
    assert (tmp_path / "s").read_text() == "mine"
