"""Processes added to running containers."""

import asyncio
import hashlib

import pytest

from node.runtime.interface import NotFound, RuntimeFailure


async def collect(process):
    out = {"stdout": b"", "stderr": b""}
    async for stream, data in process.output():
        out[stream] += data
    return out["stdout"].decode(), out["stderr"].decode(), await process.wait()


@pytest.fixture
async def container(bench):
    return await bench.run("sleep", "1000", env=(("COLOR", "red"),))


async def test_output_is_kept_apart_and_the_code_is_told(bench, container):
    async with await bench.runtime.exec(container.id, ["sh", "-c", "echo $COLOR; echo bad >&2; exit 5"]) as process:
        assert await collect(process) == ("red\n", "bad\n", 5)
    assert [path.name for path in (bench.directory / "containers" / container.id).iterdir() if path.is_dir()] == []


async def test_standard_input_is_read_to_its_end(bench, container):
    data = bytes(range(256)) * 4096  # 1 MiB: more than any pipe holds
    async with await bench.runtime.exec(container.id, ["md5sum"], stdin=True) as process:
        await process.write(data)
        await process.close_stdin()
        out, _, code = await collect(process)
    assert code == 0
    assert out.split()[0] == hashlib.md5(data).hexdigest()


async def test_much_output_waits_for_its_reader(bench, container):
    async with await bench.runtime.exec(container.id, ["sh", "-c", "head -c 20000000 /dev/zero"]) as process:
        out, _, code = await collect(process)
    assert (len(out), code) == (20_000_000, 0)


async def test_a_terminal_has_a_size_and_echoes(bench, container):
    async with await bench.runtime.exec(container.id, ["sh"], tty=True, stdin=True) as process:
        await process.resize(100, 40)
        await process.write(b"stty size; exit 4\n")
        out, _, code = await collect(process)
    assert "40 100" in out
    assert code == 4


async def test_closing_kills_what_still_runs(bench, container):
    process = await bench.runtime.exec(container.id, ["sleep", "1000"])
    await process.close()
    async with await bench.runtime.exec(container.id, ["ps"]) as listing:
        out, _, _ = await collect(listing)
    assert out.count("sleep 1000") == 1  # the container's own


async def test_a_child_that_keeps_the_output_open_holds_nobody_up(bench, container):
    async with await bench.runtime.exec(container.id, ["sh", "-c", "sleep 1000 & echo started"]) as process:
        async with asyncio.timeout(15):
            out, _, code = await collect(process)
    assert (out, code) == ("started\n", 0)


async def test_a_missing_program_is_refused_in_runcs_words(bench, container):
    with pytest.raises(RuntimeFailure, match="/no/such/program"):
        await bench.runtime.exec(container.id, ["/no/such/program"])


async def test_an_exited_container_is_refused(bench, container):
    await bench.runtime.stop(container.id, 0)
    with pytest.raises(NotFound, match="has exited"):
        await bench.runtime.exec(container.id, ["true"])
