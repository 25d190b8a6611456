"""The node as the agent sees it: what it has, how it is, what runs on it. `document` is pure; `Observer` reads the host."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.runtime.interface import Image
from steersman import quantity

MAX_PODS = 110  # the kubelet's default
MEMORY_RESERVE = 100 << 20  # bytes kept from pods: below this much available memory the kubelet evicts
DISK_RESERVE = 0.10  # of the file system: likewise
PIDS_RESERVE = 0.05
MAX_IMAGES = 50  # reported, the largest first, as the kubelet's
KUBERNETES_VERSION = "v1.37.0"  # of the API that the agent speaks
AGENT_VERSION = "0.1.0"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What does not change while the host is up. Bytes and counts."""

    cpus: int
    memory: int
    disk: int
    machine_id: str
    system_uuid: str
    boot_id: str
    kernel: str
    os_image: str
    architecture: str


@dataclass(frozen=True, slots=True)
class HostLoad:
    """What does."""

    memory_available: int
    disk_available: int
    pids: int
    pids_max: int


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _meminfo() -> dict[str, int]:
    pairs = (line.split(":", 1) for line in _text("/proc/meminfo").splitlines() if ":" in line)
    return {name: int(value.split()[0]) << 10 for name, value in pairs}


class Observer:
    """Reads the host, with the disk under the agent's data directory as the pods' disk."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def facts(self) -> HostFacts:
        release = dict(line.split("=", 1) for line in _text("/etc/os-release").splitlines() if "=" in line)
        machine = platform.machine()
        return HostFacts(
            cpus=len(os.sched_getaffinity(0)),
            memory=_meminfo().get("MemTotal", 0),
            disk=shutil.disk_usage(self._data_dir).total,
            machine_id=_text("/etc/machine-id"),
            system_uuid=_text("/sys/class/dmi/id/product_uuid"),
            boot_id=_text("/proc/sys/kernel/random/boot_id"),
            kernel=platform.release(),
            os_image=release.get("PRETTY_NAME", "Linux").strip('"'),
            architecture={"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
        )

    def load(self) -> HostLoad:
        return HostLoad(
            memory_available=_meminfo().get("MemAvailable", 0),
            disk_available=shutil.disk_usage(self._data_dir).free,
            pids=int(_text("/proc/loadavg").split()[3].split("/")[1]),
            pids_max=int(_text("/proc/sys/kernel/pid_max") or 32768),
        )


def capacity(facts: HostFacts) -> dict[str, str]:
    return {
        "cpu": str(facts.cpus),
        "memory": f"{facts.memory >> 10}Ki",
        "ephemeral-storage": f"{facts.disk >> 10}Ki",
        "pods": str(MAX_PODS),
    }


def allocatable(facts: HostFacts) -> dict[str, str]:
    """What pods may request: the capacity less what the node keeps so that it does not have to evict."""
    return {
        "cpu": str(facts.cpus),
        "memory": f"{max(0, facts.memory - MEMORY_RESERVE) >> 10}Ki",
        "ephemeral-storage": quantity.render("ephemeral-storage", int(facts.disk * (1 - DISK_RESERVE))),
        "pods": str(MAX_PODS),
    }


def _conditions(facts: HostFacts, load: HostLoad, problem: str) -> list[Document]:
    pressure = {
        "MemoryPressure": (
            load.memory_available < MEMORY_RESERVE,
            "HasInsufficientMemory",
            "HasSufficientMemory",
            "memory",
        ),
        "DiskPressure": (
            load.disk_available < facts.disk * DISK_RESERVE,
            "HasDiskPressure",
            "HasNoDiskPressure",
            "disk",
        ),
        "PIDPressure": (
            load.pids > load.pids_max * (1 - PIDS_RESERVE),
            "HasInsufficientPID",
            "HasSufficientPID",
            "PID",
        ),
    }
    texts = {
        "memory": ("kubelet has insufficient memory available", "kubelet has sufficient memory available"),
        "disk": ("kubelet has disk pressure", "kubelet has no disk pressure"),
        "PID": ("kubelet has insufficient PID available", "kubelet has sufficient PID available"),
    }
    conditions: list[Document] = [
        {
            "type": kind,
            "status": "True" if pressed else "False",
            "reason": "Kubelet" + (bad if pressed else good),
            "message": texts[what][0 if pressed else 1],
        }
        for kind, (pressed, bad, good, what) in pressure.items()
    ]
    conditions.append(
        {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": problem}
        if problem
        else {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    )
    return conditions


class NodeStatus:
    """The node's status over time: since when each condition is what it is, and whether anything changed."""

    def __init__(self, name: str, address: str, facts: HostFacts, runtime_version: str) -> None:
        self._name = name
        self._address = address
        self._facts = facts
        self._runtime_version = runtime_version
        self._since: dict[str, tuple[str, str]] = {}
        self._last: Document | None = None
        self._cpu = capacity(facts), allocatable(facts)

    def document(self, load: HostLoad, images: Sequence[Image], *, problem: str, now: str) -> tuple[Document, bool]:
        """The NodeStatus document, and whether it differs from the last one but for the times of observation.

        `problem` says why the node cannot run pods; "" when it can.
        """
        conditions = _conditions(self._facts, load, problem)
        for condition in conditions:
            known = self._since.get(condition["type"])
            if known is None or known[0] != condition["status"]:
                known = self._since[condition["type"]] = (condition["status"], now)
            condition["lastTransitionTime"] = known[1]
        facts = self._facts
        largest = sorted(images, key=lambda image: (-image.size_bytes, image.name))[:MAX_IMAGES]
        status: Document = {
            "capacity": self._cpu[0],
            "allocatable": self._cpu[1],
            "conditions": conditions,
            "addresses": [
                {"type": "InternalIP", "address": self._address},
                {"type": "Hostname", "address": self._name},
            ],
            "nodeInfo": {
                "machineID": facts.machine_id,
                "systemUUID": facts.system_uuid,
                "bootID": facts.boot_id,
                "kernelVersion": facts.kernel,
                "osImage": facts.os_image,
                "containerRuntimeVersion": self._runtime_version,
                "kubeletVersion": f"{KUBERNETES_VERSION}+steersman.{AGENT_VERSION}",
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": facts.architecture,
            },
            "images": [{"names": [image.repo_digest, image.name], "sizeBytes": image.size_bytes} for image in largest],
        }
        changed = status != self._last
        self._last = {**status, "conditions": [dict(condition) for condition in conditions]}
        for condition in conditions:
            condition["lastHeartbeatTime"] = now
        return status, changed

    def node(self, status: Document) -> Document:
        """The Node document with which the agent introduces itself."""
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self._name,
                "labels": {
                    "kubernetes.io/hostname": self._name,
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": self._facts.architecture,
                    "beta.kubernetes.io/os": "linux",
                    "beta.kubernetes.io/arch": self._facts.architecture,
                },
            },
            "status": status,
        }
