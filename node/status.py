"""A pod's status document as the kubelet writes it, from what the agent knows of the pod. Pure.

The agent owns the whole status but for the conditions that others write (PodScheduled, DisruptionTarget, readiness
gates): those are carried over from the pod object as the agent last saw it, and the gateway puts them right once more
against the newest one. Sources: k8s.io/kubernetes/pkg/kubelet/kubelet_pods.go (phase) and status/generate.go
(conditions).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from node.pods.state import ConditionLocal, ContainerLocal, PodLocal, Running, Terminated, Waiting
from node.resources import qos_class
from steersman.types.core import Container, Pod

READY_TO_START = "PodReadyToStartContainers"
INITIALIZED, READY, CONTAINERS_READY = "Initialized", "Ready", "ContainersReady"
OWN_CONDITIONS = (READY_TO_START, INITIALIZED, READY, CONTAINERS_READY)
RUNTIME_PREFIX = "containerd://"

Document = dict[str, Any]
Verdict = tuple[bool, str, str]  # whether a condition holds, and when not: reason and message


def sidecar(container: Container) -> bool:
    """Whether an init container runs beside the others instead of before them (KEP-753)."""
    return container.restart_policy == "Always"


def initialized(pod: Pod, local: PodLocal) -> bool:
    """Whether every init container succeeded; a sidecar counts once it started."""
    return not _uninitialized(pod, local)


def _uninitialized(pod: Pod, local: PodLocal) -> list[str]:
    missing = []
    for container in pod.spec.init_containers:
        state = local.init.get(container.name)
        if state is None or not (bool(state.started) if sidecar(container) else state.done and state.succeeded):
            missing.append(container.name)
    return missing


def phase(pod: Pod, local: PodLocal) -> str:
    """Pending, Running, Succeeded or Failed by what the containers did and the pod's restart policy."""
    if local.ended is not None:
        return "Failed"
    plain = [local.init.get(c.name) for c in pod.spec.init_containers if not sidecar(c)]
    if any(state is not None and state.done and not state.succeeded for state in plain):
        return "Failed"
    if not initialized(pod, local) and not any(_ran(state) for state in local.containers.values()):
        return "Pending"
    states = [local.containers.get(container.name) for container in pod.spec.containers]
    if any(state is None or not _ran(state) for state in states):
        return "Pending"
    known = [state for state in states if state is not None]
    if not all(state.done for state in known):
        return "Running"
    return "Succeeded" if all(state.succeeded for state in known) else "Failed"


def _ran(state: ContainerLocal) -> bool:
    """Whether an instance of the container ran or was given up for good."""
    return state.last is not None or not isinstance(state.state, Waiting)


def _verdicts(pod: Pod, local: PodLocal, now_phase: str) -> dict[str, Verdict]:
    verdicts: dict[str, Verdict] = {READY_TO_START: (local.sandbox_ready, "", "")}
    if now_phase == "Succeeded":
        completed = (False, "PodCompleted", "")
        return verdicts | {INITIALIZED: (True, "PodCompleted", ""), READY: completed, CONTAINERS_READY: completed}
    waiting = _uninitialized(pod, local)
    verdicts[INITIALIZED] = (
        (False, "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(waiting)}]")
        if waiting and now_phase != "Running"
        else (True, "", "")
    )
    if now_phase == "Failed":
        failed = (False, "PodFailed", "")
        return verdicts | {READY: failed, CONTAINERS_READY: failed}
    unready = [name for name, state in _counted(pod, local) if state is None or not state.ready]
    containers = (False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    verdicts[CONTAINERS_READY] = containers if unready else (True, "", "")
    gates = _closed_gates(pod)
    if unready:
        verdicts[READY] = containers
    elif gates:
        verdicts[READY] = (False, "ReadinessGatesNotReady", "\n".join(gates))
    else:
        verdicts[READY] = (True, "", "")
    return verdicts


def _counted(pod: Pod, local: PodLocal) -> Iterable[tuple[str, ContainerLocal | None]]:
    """The containers that readiness depends on: the plain ones, and sidecars."""
    for container in pod.spec.init_containers:
        if sidecar(container):
            yield container.name, local.init.get(container.name)
    for container in pod.spec.containers:
        yield container.name, local.containers.get(container.name)


def _closed_gates(pod: Pod) -> list[str]:
    closed = []
    for gate in pod.spec.readiness_gates:
        condition = pod.condition(gate.condition_type)
        if condition is None:
            closed.append(f'corresponding condition of pod readiness gate "{gate.condition_type}" does not exist.')
        elif condition.status != "True":
            closed.append(
                f'the status of pod readiness gate "{gate.condition_type}" is not "True", but {condition.status}'
            )
    return closed


def _state(state: Waiting | Running | Terminated | None) -> Document:
    match state:
        case Waiting(reason=reason, message=message):
            return {"waiting": {"reason": reason} | ({"message": message} if message else {})}
        case Running(started_at=started):
            return {"running": {"startedAt": started}}
        case Terminated():
            document: Document = {"exitCode": state.exit_code}
            if state.signal:
                document["signal"] = state.signal
            document["reason"] = state.reason
            if state.message:
                document["message"] = state.message
            document |= {"startedAt": state.started_at, "finishedAt": state.finished_at}
            if state.container_id:
                document["containerID"] = RUNTIME_PREFIX + state.container_id
            return {"terminated": document}
    return {}


def _container_status(container: Container, local: ContainerLocal | None, *, default: Waiting) -> Document:
    if local is None:
        local = ContainerLocal(container.name, image=container.image, state=default)
    document: Document = {"name": container.name, "state": _state(local.state), "lastState": _state(local.last)}
    document |= {
        "ready": local.ready,
        "restartCount": local.restart_count,
        "image": local.image or container.image,
        "imageID": local.image_id,
    }
    if local.container_id:
        document["containerID"] = RUNTIME_PREFIX + local.container_id
    document["started"] = bool(local.started)
    return document


def pod_status(pod: Pod, local: PodLocal, *, host_ip: str, now: str) -> Document:
    """The PodStatus document. Remembers in `local.conditions` since when each condition has been what it is."""
    now_phase = phase(pod, local)
    conditions: list[Document] = []
    for kind, (holds, reason, message) in _verdicts(pod, local, now_phase).items():
        status = "True" if holds else "False"
        known = local.conditions.get(kind)
        if known is None or known.status != status:
            known = local.conditions[kind] = ConditionLocal(status, now)
        condition: Document = {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": known.since}
        if reason:
            condition["reason"] = reason
        if message:
            condition["message"] = message
        if pod.metadata.generation:
            condition["observedGeneration"] = pod.metadata.generation
        conditions.append(condition)
    conditions += [c.to_dict() for c in pod.status.conditions if c.type not in OWN_CONDITIONS]

    status_document: Document = {
        "phase": now_phase,
        "conditions": conditions,
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": local.start_time,
        "qosClass": qos_class(pod),
    }
    if pod.metadata.generation:
        status_document["observedGeneration"] = pod.metadata.generation
    if local.ended is not None:
        status_document["reason"], status_document["message"] = local.ended
    address = host_ip if pod.spec.host_network else local.ip
    if address:
        status_document |= {"podIP": address, "podIPs": [{"ip": address}]}
    default = Waiting("PodInitializing" if pod.spec.init_containers else "ContainerCreating")
    first_default = Waiting("PodInitializing")
    if pod.spec.init_containers:
        status_document["initContainerStatuses"] = [
            _container_status(container, local.init.get(container.name), default=first_default)
            for container in pod.spec.init_containers
        ]
    status_document["containerStatuses"] = [
        _container_status(container, local.containers.get(container.name), default=default)
        for container in pod.spec.containers
    ]
    return status_document
