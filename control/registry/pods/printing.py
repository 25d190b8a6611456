"""A pod in one line: READY, STATUS and RESTARTS tell what matters most about all its containers.

STATUS is the most telling word available, looked for in this order: being deleted; the first init container that is not
done; the first container (in the order of the spec) that waits or has ended; the pod's own reason; its phase.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from control.registry.pods.lifecycle import FINISHED
from control.registry.resources import Column
from control.registry.tables import NONE, age, created

COLUMNS = (
    Column("Name", format="name", description="Name of the object, unique in its namespace"),
    Column("Ready", description="Containers that are ready, of all that should be"),
    Column("Status", description="What the pod does, or what keeps it from it"),
    Column("Restarts", description="Restarts of its containers, and when the last one was"),
    Column("Age", description="Time since it was created"),
    Column("IP", priority=1, description="The pod's address"),
    Column("Node", priority=1, description="The node that it runs on"),
    Column("Nominated Node", priority=1, description="The node on which room is being made for it"),
    Column("Readiness Gates", priority=1, description="Conditions asked for beyond its containers, and how many hold"),
)


@dataclass(slots=True)
class Summary:
    """What the columns tell."""

    status: str
    ready: int = 0
    total: int = 0
    restarts: int = 0
    last_restart: str = ""  # RFC 3339, the latest


def summarize(pod: Mapping[str, Any]) -> Summary:
    """READY, STATUS and RESTARTS of a pod."""
    spec, status = pod.get("spec", {}), pod.get("status", {})
    init_specs = {container["name"]: container for container in spec.get("initContainers", ())}
    sidecars = {name for name, container in init_specs.items() if container.get("restartPolicy") == "Always"}
    summary = Summary(status.get("reason") or status.get("phase") or "Unknown")
    summary.total = len(spec.get("containers", ())) + len(sidecars)
    if _condition(status, "PodScheduled", "False", "SchedulingGated"):
        summary.status = "SchedulingGated"
    initializing = _summarize_init(summary, status.get("initContainerStatuses", ()), sidecars, len(init_specs))
    if not initializing or _condition(status, "Initialized", "True"):
        _summarize_main(summary, status, sidecars)
    if pod["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            summary.status = "Unknown"
        elif status.get("phase") not in FINISHED:
            summary.status = "Terminating"
    return summary


def _summarize_init(summary: Summary, statuses: Any, sidecars: set[str], total: int) -> bool:
    """Look at the init containers; answer whether one of them is not done yet."""
    for index, status in enumerate(statuses):
        _count_restarts(summary, status)
        state = status.get("state", {})
        terminated, waiting = state.get("terminated"), state.get("waiting")
        if terminated is not None and terminated.get("exitCode") == 0:
            continue
        if status.get("name") in sidecars and status.get("started"):
            summary.ready += bool(status.get("ready"))
            continue
        if terminated is not None:
            summary.status = f"Init:{_end(terminated)}"
        elif waiting is not None and waiting.get("reason") not in (None, "", "PodInitializing"):
            summary.status = f"Init:{waiting['reason']}"
        else:
            summary.status = f"Init:{index}/{total}"
        return True
    return False


def _summarize_main(summary: Summary, status: Mapping[str, Any], sidecars: set[str]) -> None:
    # Once the main containers' turn has come, restarts of plain init containers are history.
    summary.restarts, summary.last_restart = 0, ""
    for init in status.get("initContainerStatuses", ()):
        if init.get("name") in sidecars:
            _count_restarts(summary, init)
    running = False
    for container in reversed(status.get("containerStatuses", ())):
        _count_restarts(summary, container)
        state = container.get("state", {})
        waiting, terminated = state.get("waiting"), state.get("terminated")
        if waiting is not None and waiting.get("reason"):
            summary.status = waiting["reason"]
        elif terminated is not None:
            summary.status = _end(terminated)
        elif container.get("ready") and "running" in state:
            running = True
            summary.ready += 1
    if summary.status == "Completed" and running:  # some have ended well, some still run
        summary.status = "Running" if _condition(status, "Ready", "True") else "NotReady"


def _end(terminated: Mapping[str, Any]) -> str:
    """How a container ended."""
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _count_restarts(summary: Summary, status: Mapping[str, Any]) -> None:
    summary.restarts += status.get("restartCount", 0)
    ended = status.get("lastState", {}).get("terminated", {}).get("finishedAt") or ""
    summary.last_restart = max(summary.last_restart, ended)


def _condition(status: Mapping[str, Any], kind: str, value: str, reason: str = "") -> bool:
    return any(
        condition.get("type") == kind and condition.get("status") == value and reason in ("", condition.get("reason"))
        for condition in status.get("conditions", ())
    )


def row(pod: dict[str, Any], now: dt.datetime) -> list[Any]:
    """The cells of a pod's row."""
    summary, spec, status = summarize(pod), pod.get("spec", {}), pod.get("status", {})
    restarts = str(summary.restarts)
    if summary.restarts and summary.last_restart:
        restarts = f"{restarts} ({age(summary.last_restart, now)} ago)"
    gates = [gate.get("conditionType", "") for gate in spec.get("readinessGates", ())]
    held = sum(_condition(status, gate, "True") for gate in gates)
    return [
        pod["metadata"]["name"],
        f"{summary.ready}/{summary.total}",
        summary.status,
        restarts,
        created(pod, now),
        status.get("podIP") or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        f"{held}/{len(gates)}" if gates else NONE,
    ]
