from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from control.scheduler.nodes import NodeTable
from control.scheduler.pod import PodFacts, facts
from control.views import Pod
from steersman.types import Node


def make_node(name: str, cpu: str = "4", memory: str = "8Gi", pods: str = "110", **more: Any) -> Node:
    return Node.from_dict(
        {
            "metadata": {"name": name, "labels": more.pop("labels", {})},
            "spec": more,
            "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": pods} | more.pop("extended", {})},
        }
    )


def make_pod(name: str = "p", cpu: str = "", memory: str = "", owner: str = "", **spec: Any) -> PodFacts:
    requests = {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value}
    requests |= spec.pop("requests", {})
    meta: dict[str, Any] = {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}",
        "labels": spec.pop("labels", {}),
    }
    if owner:
        meta["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": True}
        ]
    containers = [{"name": "c", "resources": {"requests": requests}, "ports": spec.pop("ports", [])}]
    return facts(Pod.from_dict({"metadata": meta, "spec": {"containers": containers, **spec}}))


@pytest.fixture
def node() -> Callable[..., Node]:
    return make_node


@pytest.fixture
def pod() -> Callable[..., PodFacts]:
    return make_pod


@pytest.fixture
def table() -> Callable[..., NodeTable]:
    def build(*nodes: Node) -> NodeTable:
        found = NodeTable()
        for one in nodes:
            found.set_node(one)
        return found

    return build
