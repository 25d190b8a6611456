from __future__ import annotations

from typing import Any

import pytest

from control.controllers.intents import Delete, Failure, Patch, UpdateStatus
from control.controllers.namespace import Content, View, reconcile
from steersman.types import Namespace


def namespace(deleting: bool = True) -> Namespace:
    meta = {"name": "team", "uid": "n"} | ({"deletionTimestamp": "2026-01-01T11:00:00Z"} if deleting else {})
    return Namespace.from_dict({"metadata": meta, "spec": {"finalizers": ["kubernetes"]}})


def told(result: Any) -> dict[str, tuple[str, str]]:
    (status,) = [intent for intent in result.intents if isinstance(intent, UpdateStatus)]
    return {c["type"]: (c["status"], c["message"]) for c in status.status["conditions"]}


def test_an_active_namespace_is_left_alone(now: Any) -> None:
    assert reconcile(View(namespace(deleting=False)), now).intents == ()


def test_content_is_deleted_once_and_told(pod: Any, now: Any) -> None:
    held = pod("b", meta={"deletionTimestamp": "2026-01-01T11:00:00Z", "finalizers": ["example.com/hold"]})
    content = (Content("v1/Pod", "pods", pod("a")), Content("v1/Pod", "pods", held))
    result = reconcile(View(namespace(), content), now)
    assert [i.name for i in result.intents if isinstance(i, Delete)] == ["a"]
    conditions = told(result)
    assert conditions["NamespaceContentRemaining"] == (
        "True",
        "Some resources are remaining: pods has 2 resource instances",
    )
    assert conditions["NamespaceFinalizersRemaining"][1].endswith("example.com/hold in 1 resource instances")


def test_an_empty_namespace_is_let_go(now: Any) -> None:
    (patch,) = reconcile(View(namespace()), now).intents
    assert isinstance(patch, Patch)
    assert (patch.subresource, patch.patch) == ("finalize", {"spec": {"finalizers": []}})


@pytest.mark.parametrize(
    ("view", "kind"),
    [
        (View(namespace(), problem="Cannot list"), "NamespaceDeletionDiscoveryFailure"),
        (
            View(namespace(), problem="x", failure=Failure("Forbidden", "no", "Pod", "delete")),
            "NamespaceDeletionContentFailure",
        ),
    ],
)
def test_what_cannot_be_listed_or_deleted_holds_it(view: View, kind: str, now: Any) -> None:
    result = reconcile(view, now)
    assert told(result)[kind][0] == "True"
    assert not any(isinstance(intent, Patch) for intent in result.intents)
    assert result.requeue_after is not None
