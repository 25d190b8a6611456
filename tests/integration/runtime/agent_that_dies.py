"""Starts containers, says so on standard output, and waits to be killed: run by test_crashes.

python agent_that_dies.py SOCKET DIRECTORY CGROUP POD_UID…
"""

import asyncio
import sys
from pathlib import Path

from node.runtime.containers import ContainerdRuntime
from node.runtime.interface import ContainerKey, ContainerSpec, SandboxSpec


async def start(runtime, directory, pod_uid):
    sandbox = await runtime.create_sandbox(SandboxSpec(pod_uid, "pod-1"))
    image = await runtime.image("busybox")
    key = ContainerKey(pod_uid, "default", "pod-1", "main")
    log_path = f"{directory}/logs/{pod_uid}/main/0.log"
    spec = ContainerSpec(key, image, sandbox, "pod-1", log_path, command=("sleep", "1000"))
    print("starting", flush=True)
    await runtime.start_container(spec)
    print("started", flush=True)


async def main():
    socket, directory, cgroup, *pods = sys.argv[1:]
    runtime = ContainerdRuntime(socket, Path(directory), cgroup_parent=cgroup)
    await runtime.start()
    await asyncio.gather(*(start(runtime, directory, pod) for pod in pods))
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main())
