"""An agent killed at any moment of its starts leaves nothing that the next one does not put right."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from node.runtime.interface import SandboxSpec

PODS = 6


@pytest.mark.parametrize(("word", "count"), [("starting", 3), ("starting", 6), ("started", 1), ("started", 3)])
async def test_a_killed_agents_starts_are_finished_or_undone(bench, containerd, word, count):
    await bench.image()
    await bench.runtime.close()
    pods = [bench.entropy.uid() for _ in range(PODS)]
    program = Path(__file__).with_name("agent_that_dies.py")
    command = [sys.executable, program, containerd.socket, bench.directory, bench.cgroup, *pods]
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 - it is to die, not to be awaited
    seen = 0
    while seen < count:
        seen += agent.stdout.readline().strip() == word
    agent.kill()
    agent.wait()
    agent.stdout.close()

    bench.runtime = bench.make()
    bench.sandboxes = pods
    await bench.runtime.start()
    adopted = {c.key.pod_uid: c for c in await bench.runtime.containers()}
    assert all(container.running for container in adopted.values())

    async def again(pod_uid):
        sandbox = await bench.runtime.create_sandbox(SandboxSpec(pod_uid, "pod-1"))
        return await bench.runtime.start_container(await bench.spec("sleep", "1000", sandbox=sandbox))

    containers = await asyncio.gather(*map(again, pods))
    for container in containers:
        if container.key.pod_uid in adopted:
            assert container == adopted[container.key.pod_uid]
    assert sorted(containerd.ctr("tasks", "ls", "-q").stdout.split()) == sorted(c.id for c in containers)
    for container in containers:
        assert (await bench.runtime.stop(container.id, 0)).code == 137
        await bench.runtime.remove(container.id)
        await bench.runtime.remove_sandbox(container.key.pod_uid)
    assert containerd.ctr("containers", "ls", "-q").stdout == ""
    snapshots = containerd.ctr("snapshots", "ls").stdout
    assert not [c for c in containers if c.id in snapshots]
    assert list((bench.directory / "containers").iterdir()) == []
    assert list(Path("/sys/fs/cgroup").glob(f"*/{bench.cgroup}/pod*")) == []
