"""Objects as a view would show them, written shortly."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from control.views import Deployment, Pod, ReplicaSet

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
def now() -> dt.datetime:
    return NOW


@pytest.fixture
def pod() -> Callable[..., Pod]:
    def build(
        name: str,
        *,
        owner: Any = None,
        node: str = "",
        phase: str = "Running",
        ready: bool = True,
        since: str = "2026-01-01T11:00:00Z",
        labels: dict[str, str] | None = None,
        ip: str = "",
        **more: Any,
    ) -> Pod:
        meta: dict[str, Any] = {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "labels": {"app": "web"} if labels is None else labels,
            "creationTimestamp": since,
            "resourceVersion": "5",
        }
        if owner is not None:
            meta["ownerReferences"] = [
                {"apiVersion": "apps/v1", "kind": owner.KIND, "name": owner.name, "uid": owner.uid, "controller": True}
            ]
        meta |= more.pop("meta", {})
        condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": since}
        status = {"phase": phase, "conditions": [condition], "podIP": ip} | more.pop("status", {})
        spec = {"nodeName": node, "containers": [{"name": "c"}]} | more
        return Pod.from_dict({"metadata": meta, "spec": spec, "status": status})

    return build


@pytest.fixture
def replica_set() -> Callable[..., ReplicaSet]:
    def build(name: str = "web-1", replicas: int = 3, *, image: str = "web:1", **more: Any) -> ReplicaSet:
        labels = {"app": "web"}
        document = {
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"uid-{name}",
                "generation": 1,
                "labels": labels,
                "resourceVersion": "7",
                **more.pop("meta", {}),
            },
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "c", "image": image}], "futureField": 1},
                },
                **more.pop("spec", {}),
            },
            "status": more.pop("status", {}),
        }
        return ReplicaSet.decode(msgspec.json.encode(document))

    return build


@pytest.fixture
def deployment() -> Callable[..., Deployment]:
    def build(replicas: int = 4, *, image: str = "web:1", **more: Any) -> Deployment:
        labels = {"app": "web"}
        document = {
            "metadata": {
                "name": "web",
                "namespace": "default",
                "uid": "uid-web",
                "generation": 1,
                "resourceVersion": "7",
                **more.pop("meta", {}),
            },
            "status": more.pop("status", {}),
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "c", "image": image}], "futureField": 1},
                },
                **more,
            },
        }
        return Deployment.decode(msgspec.json.encode(document))

    return build
