"""Neither the agent's end nor containerd's ends a container, hides an exit, or loses output."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from node.runtime.interface import ConnectionChanged, Exited, LogOptions
from steersman.clock import SystemEntropy

# Ten numbered lines a second until TERM, then an exit code that can be told from others.
COUNTER = "trap 'exit 9' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"


async def numbers(runtime, container, until=None):
    found = []
    async for line in runtime.logs(container.log_path, LogOptions(follow=until is not None)):
        found.append(int(line.text))
        if until is not None and found[-1] >= until:
            break
    return found


def gone(pid):
    return not Path(f"/proc/{pid}").exists()


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_new_agent_adopts_what_runs_and_no_line_is_missing(bench):
    container = await bench.run("sh", "-c", COUNTER, labels=(("tier", "web"),))
    seen = await numbers(bench.runtime, container, until=5)
    await bench.again()
    await bench.runtime.start()
    assert await bench.runtime.containers() == [container]
    more = await numbers(bench.runtime, container, until=seen[-1] + 10)
    assert more == list(range(1, more[-1] + 1))
    exit_ = await bench.runtime.stop(container.id, 20)
    assert exit_.code == 9


async def test_an_exit_that_no_agent_saw_is_found_with_code_and_output(bench):
    container = await bench.run("sh", "-c", COUNTER)
    await numbers(bench.runtime, container, until=3)
    await bench.again()
    os.kill(container.pid, signal.SIGTERM)
    await until(lambda: gone(container.pid))
    await bench.runtime.start()
    (found,) = await bench.runtime.containers()
    assert (found.exit.code, found.exit.reason, found.pid) == (9, "Error", 0)
    all_numbers = await numbers(bench.runtime, container)
    assert all_numbers == list(range(1, all_numbers[-1] + 1))


async def test_an_exit_is_remembered_by_later_agents(bench):
    container = await bench.ended("sh", "-c", "exit 4")
    await bench.again()
    await bench.runtime.start()
    assert await bench.runtime.containers() == [container]


async def test_much_output_while_no_agent_runs_blocks_its_writer_but_is_kept(bench):
    sandbox = await bench.sandbox()
    gate = Path(sandbox.shm) / "gate"
    os.mkfifo(gate)
    container = await bench.run("sh", "-c", "read x < /dev/shm/gate; exec seq 1 500000", sandbox=sandbox)
    await bench.again()
    gate.write_text("go\n")
    await until(lambda: Path(f"/proc/{container.pid}/comm").read_text() == "seq\n")
    await bench.runtime.start()
    assert await numbers(bench.runtime, container, until=500_000) == list(range(1, 500_001))


async def test_containerds_death_ends_no_container_and_hides_no_exit(bench, containerd):
    lives = await bench.run("sh", "-c", COUNTER)
    ends = await bench.run("sleep", "1000")
    events = bench.runtime.events()
    containerd.kill()
    assert await anext(events) == ConnectionChanged(False)
    os.kill(ends.pid, signal.SIGKILL)
    await until(lambda: gone(ends.pid))
    containerd.start()
    seen = [await anext(events), await anext(events)]
    assert ConnectionChanged(True) in seen
    (exited,) = [event for event in seen if isinstance(event, Exited)]
    assert (exited.container.id, exited.container.exit.code) == (ends.id, 137)
    (running,) = [c for c in await bench.runtime.containers() if c.running]
    assert running == lives
    more = await numbers(bench.runtime, lives, until=50)
    assert more == list(range(1, more[-1] + 1))
    assert (await bench.runtime.stop(lives.id, 20)).code == 9


async def test_a_start_that_a_crash_cut_off_leaves_nothing(bench, containerd):
    spec = await bench.spec("sleep", "1000")
    bench.runtime._make_home(spec)
    await bench.runtime._prepare(spec)
    await bench.runtime._learn_users(
        spec.image.chain_id,
        (
            await bench.runtime._client.snapshots.Mounts(
                mounts_request(bench, spec), metadata=bench.runtime._client.metadata
            )
        ).mounts,
    )
    await bench.runtime._create_record(spec)
    orphan = await bench.spec("sleep", "1000", container="orphan")
    await bench.runtime._prepare(orphan)
    await bench.again()
    await bench.runtime.start()
    assert await bench.runtime.containers() == []
    assert containerd.ctr("containers", "ls", "-q").stdout == ""
    snapshots = containerd.ctr("snapshots", "ls").stdout
    assert spec.key.id not in snapshots
    assert orphan.key.id not in snapshots
    # And the same attempt can be started after all.
    assert (await bench.runtime.start_container(spec)).running


def mounts_request(bench, spec):
    from node.runtime.containerd import snapshots_pb2

    return snapshots_pb2.MountsRequest(snapshotter=bench.runtime._client.snapshotter, key=spec.key.id)


async def test_a_cancelled_start_is_finished_and_can_be_removed(bench, containerd):
    spec = await bench.spec("sleep", "1000")
    starting = asyncio.create_task(bench.runtime.start_container(spec))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await bench.runtime.remove(spec.key.id)
    assert await bench.runtime.containers() == []
    assert containerd.ctr("containers", "ls", "-q").stdout == ""


async def test_containers_that_end_at_once_are_all_told(bench):
    entropy = SystemEntropy()
    events = bench.runtime.events()
    sandbox = await bench.sandbox()
    started = await asyncio.gather(
        *(bench.run("true", sandbox=sandbox, container=f"c{entropy.suffix()}{n}") for n in range(12))
    )
    ended = {(await anext(events)).container.id for _ in started}
    assert ended == {container.id for container in started}
