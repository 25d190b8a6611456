"""A containerd and a registry of our own, with images made on the spot; everything is gone afterwards."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import images
from node.runtime.cgroups import Cgroups
from node.runtime.containers import ContainerdRuntime
from node.runtime.interface import ContainerKey, ContainerSpec, Exited, Image, LogOptions, Sandbox, SandboxSpec
from steersman.clock import SystemEntropy


def wait_until(condition, seconds=20.0):
    """Wait for a condition of the world outside this process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition did not come true"
        time.sleep(0.01)


@dataclass
class Containerd:
    """One containerd process with its own root, state and socket."""

    directory: Path
    log: Path  # kept with pytest's own temporary files
    process: subprocess.Popen | None = None

    @property
    def socket(self) -> str:
        return str(self.directory / "containerd.sock")

    def start(self):
        config = self.directory / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{self.directory}/root"\nstate = "{self.directory}/state"\noom_score = 0\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", '
            '"io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", '
            '"io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]\n'
            f'[grpc]\naddress = "{self.socket}"\n[ttrpc]\naddress = "{self.socket}.ttrpc"\n'
        )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(["containerd", "-c", config], stdout=log, stderr=log)
        wait_until(self._answers)

    def _answers(self):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(self.socket)
            return True
        return False

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ctr(self, *arguments, check=True):
        return subprocess.run(
            ["ctr", "-a", self.socket, "-n", "steersman", *arguments], check=check, capture_output=True, text=True
        )

    def stop(self):
        """Everything that runs in it ends with it."""
        for line in self.ctr("tasks", "ls", "-q", check=False).stdout.split():
            self.ctr("tasks", "rm", "-f", line, check=False)
        self.process.terminate()
        self.process.wait(timeout=20)
        for pid in self.shims():
            os.kill(pid, signal.SIGKILL)

    def shims(self) -> list:
        """Shims that belong to this very containerd: its socket has a random name that nobody else's has."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                arguments = path.read_bytes().decode("utf-8", "replace").split("\0")
                if arguments[0].endswith("containerd-shim-runc-v2") and self.socket in arguments:
                    found.append(int(path.parent.name))
        return found


@pytest.fixture(scope="session")
def containerd(tmp_path_factory):
    daemon = Containerd(Path(f"/tmp/st{secrets.token_hex(4)}"), tmp_path_factory.mktemp("containerd") / "log")
    daemon.directory.mkdir()
    daemon.start()
    yield daemon
    daemon.stop()
    for mount in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        target = mount.split()[1]
        if target.startswith(str(daemon.directory)):
            subprocess.run(["umount", "-l", target], check=False)
    shutil.rmtree(daemon.directory)


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    """A registry on the loopback that holds `library/busybox:latest`; its URL."""
    directory = tmp_path_factory.mktemp("registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = directory / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def answers():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        wait_until(answers)
        url = f"http://127.0.0.1:{port}"
        images.push(images.busybox_image(), url, "library/busybox", "latest")
        yield url
    finally:
        process.terminate()
        process.wait()


@dataclass
class Bench:
    """A runtime, and the short ways to use it that most tests want."""

    runtime: ContainerdRuntime
    directory: Path
    cgroup: str
    make: Callable
    entropy: SystemEntropy = field(default_factory=SystemEntropy)
    sandboxes: list = field(default_factory=list)

    async def image(self, name="busybox") -> Image:
        return await self.runtime.image(name) or await self.runtime.pull(name)

    async def sandbox(self, **settings) -> Sandbox:
        sandbox = await self.runtime.create_sandbox(SandboxSpec(self.entropy.uid(), "pod-1", **settings))
        self.sandboxes.append(sandbox.pod_uid)
        return sandbox

    async def spec(self, *argv, sandbox=None, container="main", attempt=0, image=None, **settings) -> ContainerSpec:
        sandbox = sandbox or await self.sandbox()
        key = ContainerKey(sandbox.pod_uid, "default", "pod-1", container, attempt)
        return ContainerSpec(
            key=key,
            image=image or await self.image(),
            sandbox=sandbox,
            hostname="pod-1",
            log_path=str(self.directory / "logs" / sandbox.pod_uid / container / f"{attempt}.log"),
            command=argv or None,
            **settings,
        )

    async def run(self, *argv, **settings):
        return await self.runtime.start_container(await self.spec(*argv, **settings))

    async def text(self, container, stream=None) -> str:
        lines = [line async for line in self.runtime.logs(container.log_path)]
        return b"".join(line.text for line in lines if stream in (None, line.stream)).decode()

    async def ended(self, *argv, **settings):
        """Run to the end."""
        events = self.runtime.events()
        container = await self.run(*argv, **settings)
        async for event in events:
            if isinstance(event, Exited) and event.container.id == container.id:
                return event.container
        raise AssertionError

    async def output_of(self, *argv, **settings) -> str:
        """Run to the end; standard output and error together."""
        return await self.text(await self.ended(*argv, **settings))

    async def printed(self, container, text):
        """Wait until a container has printed something."""
        async for line in self.runtime.logs(container.log_path, LogOptions(follow=True)):
            if text in line.text.decode():
                return
        raise AssertionError(f"{text!r} was not printed")

    async def again(self) -> "Bench":
        """Another runtime on the same directories, as after a restart of the agent."""
        await self.runtime.close()
        self.runtime = self.make()
        return self


@pytest.fixture
async def bench(containerd, registry):
    directory = containerd.directory / secrets.token_hex(4)
    directory.mkdir()
    cgroup = f"st{secrets.token_hex(4)}"

    def make():
        mirrors = {"docker.io": registry, "registry.test": registry}
        return ContainerdRuntime(containerd.socket, directory, cgroup_parent=cgroup, mirrors=mirrors)

    runtime = make()
    await runtime.start()
    bench = Bench(runtime, directory, cgroup, make)
    try:
        yield bench
    finally:
        try:
            for container in await bench.runtime.containers():
                await bench.runtime.remove(container.id)
            for pod_uid in bench.sandboxes:
                await bench.runtime.remove_sandbox(pod_uid)
        finally:
            await bench.runtime.close()
            Cgroups().remove(cgroup)
