"""Starting and removing many containers: our runtime against `ctr run -d`, two at a time, in one run.

    python -m bench.runtime [--count 50] [--rounds 3]

Both use the same containerd (started here, with its own directories), the same image and the same command. Ours makes
what a pod needs besides: network, IPC and UTS namespaces, a /dev/shm, log files; `ctr` makes a network namespace. Rounds
alternate, and medians are printed with their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from lab import images
from node.runtime.cgroups import Cgroups
from node.runtime.containers import ContainerdRuntime
from node.runtime.interface import ContainerKey, ContainerSpec, SandboxSpec
from steersman.clock import SystemEntropy

CTR_AT_ONCE = 2
COMMAND = ("sleep", "3600")


def wait_for(path: Path) -> None:
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            return
        time.sleep(0.02)


class Ctr:
    """The floor: containerd's own command line."""

    def __init__(self, address: Path) -> None:
        self._base = ("ctr", "-a", str(address), "-n", "steersman")
        self._slots = asyncio.Semaphore(CTR_AT_ONCE)

    async def _do(self, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._base, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        _, words = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(words.decode())

    async def run(self, name: str) -> None:
        async with self._slots:
            await self._do("run", "-d", "docker.io/library/busybox:latest", name, *COMMAND)

    async def remove(self, name: str) -> None:
        async with self._slots:
            await self._do("task", "rm", "-f", name)
            await self._do("container", "rm", name)


class Ours:
    def __init__(self, runtime: ContainerdRuntime, directory: Path) -> None:
        self._runtime, self._directory = runtime, directory
        self._entropy = SystemEntropy()
        self._pods: dict[str, tuple[str, str]] = {}

    async def run(self, name: str) -> None:
        uid = self._entropy.uid()
        sandbox = await self._runtime.create_sandbox(SandboxSpec(uid, name))
        image = await self._runtime.image("busybox")
        assert image is not None
        log_path = str(self._directory / "logs" / uid / "main" / "0.log")
        spec = ContainerSpec(ContainerKey(uid, "default", name, "main"), image, sandbox, name, log_path, COMMAND)
        container = await self._runtime.start_container(spec)
        self._pods[name] = (uid, container.id)

    async def remove(self, name: str) -> None:
        uid, container_id = self._pods.pop(name)
        await self._runtime.remove(container_id)
        await self._runtime.remove_sandbox(uid)


async def timed(what: Callable[[str], Awaitable[None]], names: list[str]) -> float:
    began = time.monotonic()
    await asyncio.gather(*(what(name) for name in names))
    return time.monotonic() - began


async def measure(directory: Path, registry: str, count: int, rounds: int, at_once: int | None) -> None:
    address = directory / "containerd.sock"
    runtime = ContainerdRuntime(
        str(address),
        directory / "node",
        cgroup_parent=directory.name,
        mirrors={"docker.io": registry},
        starts_at_once=at_once,
    )
    await runtime.start()
    began = time.monotonic()
    await runtime.pull("busybox")
    print(f"pull and unpack                    {1000 * (time.monotonic() - began):8.1f} ms")
    ours, ctr = Ours(runtime, directory), Ctr(address)
    names = [f"c{number}" for number in range(count)]
    took: dict[str, list[float]] = {"ctr run": [], "ours run": [], "ctr remove": [], "ours remove": []}
    for _ in range(rounds):
        for label, side in (("ctr", ctr), ("ours", ours)):
            took[f"{label} run"].append(await timed(side.run, names))
            took[f"{label} remove"].append(await timed(side.remove, names))
    for what in ("run", "remove"):
        floor, own = (statistics.median(took[f"{side} {what}"]) for side in ("ctr", "ours"))
        print(f"{what:6} {count} containers: ctr {floor:6.2f} s, ours {own:6.2f} s, ratio {own / floor:5.2f}   {took}")
    await runtime.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=None, help="containers that our runtime starts at once")
    arguments = parser.parse_args()
    directory = Path(f"/tmp/st{secrets.token_hex(4)}")
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        stack.callback(Cgroups().remove, directory.name)
        registry = stack.enter_context(running_registry(directory))
        stack.enter_context(running_containerd(directory))
        asyncio.run(measure(directory, registry, arguments.count, arguments.rounds, arguments.at_once))


@contextlib.contextmanager
def running_containerd(directory: Path) -> Iterator[None]:
    address = directory / "containerd.sock"
    config = directory / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\noom_score = 0\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{address}"\n[ttrpc]\naddress = "{address}.ttrpc"\n'
    )
    with (directory / "containerd.log").open("wb") as log:
        process = subprocess.Popen(["containerd", "-c", config], stdout=log, stderr=log)
    try:
        wait_for(address)
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def running_registry(directory: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = directory / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        while True:
            with contextlib.suppress(OSError):
                images.push(images.busybox_image(), url, "library/busybox", "latest")
                break
            time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
