"""Containers on a real containerd."""


async def test_a_container_runs_and_its_output_and_exit_are_told(bench):
    events = bench.runtime.events()
    container = await bench.run("sh", "-c", "hostname; echo bad >&2; exit 3")
    async for event in events:
        assert event.container.id == container.id
        break
    exit_ = event.container.exit
    assert (exit_.code, exit_.reason) == (3, "Error")
    assert await bench.text(container, "stdout") == "pod-1\n"
    assert await bench.text(container, "stderr") == "bad\n"
