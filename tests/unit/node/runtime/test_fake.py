"""The fake keeps the promises that its users' tests lean on."""

import asyncio

import pytest

from node.runtime.fake import FakeRuntime
from node.runtime.interface import (
    ERR_IMAGE_PULL,
    ContainerKey,
    ContainerSpec,
    Exited,
    LogOptions,
    NotFound,
    Runtime,
    RuntimeFailure,
    SandboxSpec,
)
from steersman.clock import ManualClock


@pytest.fixture
async def runtime():
    runtime = FakeRuntime(ManualClock(), images=["busybox"])
    checked: Runtime = runtime
    await checked.start()
    return runtime


async def started(runtime, attempt=0):
    sandbox = await runtime.create_sandbox(SandboxSpec("uid-1", "pod-1"))
    key = ContainerKey("uid-1", "default", "pod-1", "main", attempt)
    image = await runtime.pull("busybox")
    return await runtime.start_container(ContainerSpec(key, image, sandbox, "pod-1", f"/logs/{attempt}.log"))


async def test_an_exit_is_told_once_and_remembered(runtime):
    container = await started(runtime)
    assert await started(runtime) == container
    events = runtime.events()
    runtime.exit(container.id, 3)
    runtime.exit(container.id, 4)
    event = await anext(events)
    assert isinstance(event, Exited)
    assert (event.container.exit.code, event.container.exit.reason) == (3, "Error")
    assert await runtime.containers() == [event.container]
    await runtime.close()
    assert [event async for event in events] == []


async def test_a_stop_ends_by_the_signal_or_by_kill(runtime):
    first = await started(runtime)
    assert (await runtime.stop(first.id, 30)).code == 143
    second = await started(runtime, attempt=1)
    runtime.obeys_signals = False
    assert (await runtime.stop(second.id, 30)).code == 137
    await runtime.remove(second.id)
    with pytest.raises(NotFound):
        await runtime.stop(second.id, 1)


async def test_failures_come_when_ordered(runtime):
    runtime.fail("pull", RuntimeFailure(ERR_IMAGE_PULL, "no route"), times=2)
    for _ in range(2):
        with pytest.raises(RuntimeFailure, match="no route"):
            await runtime.pull("busybox")
    assert await runtime.pull("busybox") == await runtime.image("docker.io/library/busybox:latest")
    with pytest.raises(RuntimeFailure, match="MANIFEST_UNKNOWN"):
        await runtime.pull("other")


async def test_a_log_is_followed_to_the_end(runtime):
    container = await started(runtime)
    runtime.write(container.id, "one\ntwo\n")

    async def follow():
        return [line.text async for line in runtime.logs(container.log_path, LogOptions(follow=True, tail_lines=1))]

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    runtime.write(container.id, "three\n")
    runtime.exit(container.id)
    assert await following == [b"two\n", b"three\n"]


async def test_exec_answers_what_the_test_says(runtime):
    container = await started(runtime)
    runtime.on_exec = lambda container, argv: (1, " ".join(argv).encode(), b"oops")
    async with await runtime.exec(container.id, ["a", "b"]) as process:
        assert [chunk async for chunk in process.output()] == [("stdout", b"a b"), ("stderr", b"oops")]
        assert await process.wait() == 1
