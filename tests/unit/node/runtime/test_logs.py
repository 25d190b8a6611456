"""Log files: their form, their rotation, and reading them while both go on."""

import asyncio
import datetime as dt
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.runtime import logreader
from node.runtime.interface import LogOptions, NotFound
from node.runtime.logs import MAX_PART_BYTES, LogFile, LogKeeper, frame, timestamp
from steersman.clock import ManualClock

TIME = "2026-01-02T03:04:05.678901000Z"


def read_back(data):
    joiner = logreader.Joiner()
    lines = [line for raw in data.splitlines() if (line := joiner.feed(logreader.parse(raw))) is not None]
    return lines + joiner.flush()


def test_lines_are_written_in_the_form_of_cri_logs():
    assert frame(b"one\n\ntwo", "stderr", TIME) == (
        f"{TIME} stderr F one\n{TIME} stderr F \n{TIME} stderr P two\n".encode()
    )


def test_times_have_nine_digits_and_compare_as_text():
    moments = [dt.datetime(2026, 1, 2, 3, 4, 5, us, tzinfo=dt.UTC) for us in (0, 9, 678901, 999999)]
    assert timestamp(moments[2]) == TIME
    assert all(a < b for a, b in pairwise(map(timestamp, moments)))


def test_long_lines_are_split_and_joined():
    line = b"x" * (3 * MAX_PART_BYTES + 5)
    framed = frame(line + b"\n", "stdout", TIME)
    assert max(map(len, framed.splitlines())) <= MAX_PART_BYTES + len(f"{TIME} stdout P ")
    assert [entry.text for entry in read_back(framed)] == [line + b"\n"]


@given(st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\r", b"").replace(b"\x0b", b"")), max_size=10))
def test_output_cut_anywhere_is_read_back_as_it_was(chunks):
    joiner, out = logreader.Joiner(), []
    for chunk in chunks:
        for raw in frame(chunk, "stdout", TIME).split(b"\n")[:-1]:
            line = joiner.feed(logreader.parse(raw))
            out += [line] if line else []
    assert b"".join(line.text for line in out + joiner.flush()) == b"".join(chunks)


def test_streams_are_joined_apart():
    data = frame(b"out-", "stdout", TIME) + frame(b"err\n", "stderr", TIME) + frame(b"put\n", "stdout", TIME)
    assert [(line.stream, line.text) for line in read_back(data)] == [("stderr", b"err\n"), ("stdout", b"out-put\n")]


def test_what_is_no_line_is_skipped():
    assert logreader.parse(b"torn") is None
    assert logreader.parse(b"t stdout X text") is None


def test_files_are_rotated_and_the_oldest_goes(tmp_path):
    file = LogFile(tmp_path / "pod" / "0.log", max_bytes=100, max_files=3)
    for number in range(10):
        file.write(b"%d" % number * 49 + b"\n")
    file.close()
    contents = {path.name: path.read_bytes()[:1] + path.read_bytes()[50:51] for path in (tmp_path / "pod").iterdir()}
    assert contents == {"0.log": b"89", "0.log.1": b"67", "0.log.2": b"45"}


def test_an_existing_file_is_gone_on_with(tmp_path):
    for text in (b"one\n", b"two\n"):
        file = LogFile(tmp_path / "0.log")
        file.write(text)
        file.close()
    assert (tmp_path / "0.log").read_bytes() == b"one\ntwo\n"


@pytest.fixture
def keeper():
    keeper = LogKeeper(ManualClock(), max_bytes=2000)
    keeper.start()
    yield keeper
    keeper.stop()


@pytest.fixture
def pipe(tmp_path, keeper):
    """A container's standard output: open it, write, close."""
    fifo = tmp_path / "stdout"
    os.mkfifo(fifo)
    keeper.open("c1", str(tmp_path / "logs" / "0.log"), {"stdout": fifo})
    return fifo


async def texts(keeper, path, **options):
    return [line.text async for line in logreader.read(path, LogOptions(**options), keeper)]


async def test_output_is_in_the_file_when_the_writer_has_gone(keeper, pipe, tmp_path):
    with pipe.open("wb") as out:
        out.write(b"hello\nworld")
    assert await keeper.drained("c1", 10)
    path = tmp_path / "logs" / "0.log"
    assert await texts(keeper, path) == [b"hello\n", b"world"]
    assert await texts(keeper, path, tail_lines=1) == [b"world"]
    assert await texts(keeper, path, tail_lines=0) == []
    assert await texts(keeper, path, tail_lines=9, since=dt.datetime(2027, 1, 1, tzinfo=dt.UTC)) == []


async def test_what_one_keeper_left_in_the_pipe_the_next_one_takes(tmp_path):
    fifo, path = tmp_path / "stdout", tmp_path / "0.log"
    os.mkfifo(fifo)
    first = LogKeeper(ManualClock())
    first.start()
    first.open("c1", str(path), {"stdout": fifo})
    shim = os.open(fifo, os.O_RDWR)  # both ends, as the shim holds them
    os.write(shim, b"one\n")
    async for line in logreader.read(path, LogOptions(follow=True), first):
        assert line.text == b"one\n"
        break
    first.stop()
    os.write(shim, b"two\n" * 1000)
    second = LogKeeper(ManualClock())
    second.start()
    second.open("c1", str(path), {"stdout": fifo})
    os.close(shim)
    assert await second.drained("c1", 10)
    assert await texts(second, path) == [b"one\n"] + [b"two\n"] * 1000
    second.stop()


async def test_a_follower_sees_every_line_across_rotations(keeper, pipe, tmp_path):
    path = tmp_path / "logs" / "0.log"
    following = asyncio.create_task(texts(keeper, path, follow=True))

    def write():
        with pipe.open("wb", buffering=0) as out:
            for number in range(300):  # 16 kB with their prefix: eight rotations of 2 kB; the follower keeps up or not
                out.write(b"line %d\n" % number)

    await asyncio.to_thread(write)
    async with asyncio.timeout(20):
        seen = await following
    # Five files are kept; what a reader missed can only be what was thrown away before it came.
    numbers = [int(text.split()[1]) for text in seen]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 299
    assert len(numbers) >= 150


async def test_a_log_that_never_was_is_not_found(keeper, tmp_path):
    with pytest.raises(NotFound):
        await texts(keeper, tmp_path / "none.log")


async def test_a_slow_drain_is_told(keeper, pipe):
    with pipe.open("wb") as out:
        out.write(b"x")
        out.flush()
        assert not await keeper.drained("c1", 0.01)
