from __future__ import annotations

from typing import Any

import pytest

from control.controllers.garbage import Dependent, Key, Owner, View, reconcile
from control.controllers.intents import Delete, Patch, RecordEvent
from steersman.types import OwnerReference, ReplicaSet

KEY = Key("apps/v1/ReplicaSet", "default", "rs")


def obj(*owners: str, finalizers: tuple[str, ...] = (), deleting: bool = False, name: str = "rs") -> ReplicaSet:
    meta: dict[str, Any] = {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": "9"}
    meta["ownerReferences"] = [{"apiVersion": "apps/v1", "kind": "Deployment", "name": o, "uid": o} for o in owners]
    meta["finalizers"] = list(finalizers)
    if deleting:
        meta["deletionTimestamp"] = "2026-01-01T11:00:00Z"
    return ReplicaSet.from_dict({"metadata": meta})


def dependent(name: str, *, other: bool = False, blocks: bool = True, deleting: bool = False) -> Dependent:
    ref = OwnerReference(api_version="apps/v1", kind="ReplicaSet", name="rs", uid="uid-rs", block_owner_deletion=blocks)
    owners = ("uid-rs", "other") if other else ("uid-rs",)
    key = Key("v1/Pod", "default", name)
    return Dependent(key, obj(*owners, name=name, deleting=deleting), ref, other)


@pytest.mark.parametrize(
    ("states", "finalizers", "owns", "expected"),
    [
        ({"a": Owner.PRESENT}, (), False, None),
        ({"a": Owner.ABSENT}, (), False, "Background"),
        ({"a": Owner.ABSENT}, ("orphan",), False, "Orphan"),
        ({"a": Owner.ABSENT}, ("foregroundDeletion",), False, "Foreground"),
        ({"a": Owner.WAITING}, (), True, "Foreground"),
        ({"a": Owner.WAITING}, (), False, "Background"),
        ({"a": Owner.ABSENT, "b": Owner.ABSENT}, (), False, "Background"),
    ],
)
def test_an_object_goes_with_its_last_owner(
    now: Any, states: dict[str, Owner], finalizers: tuple[str, ...], owns: bool, expected: str | None
) -> None:
    result = reconcile(View(KEY, obj(*states, finalizers=finalizers), states, (), owns), now)
    assert [(i.propagation, i.uid) for i in result.intents] == ([(expected, "uid-rs")] if expected else [])


def test_references_to_gone_owners_are_dropped_while_another_is_left(now: Any) -> None:
    states = {"a": Owner.ABSENT, "b": Owner.PRESENT, "c": Owner.WAITING}
    (patch,) = reconcile(View(KEY, obj("a", "b", "c"), states), now).intents
    assert isinstance(patch, Patch)
    assert [ref["uid"] for ref in patch.patch["metadata"]["ownerReferences"]] == ["b"]
    assert (patch.uid, patch.revision) == ("uid-rs", "9")


def test_an_owner_that_cannot_be_found_keeps_its_object(now: Any) -> None:
    (event,) = reconcile(View(KEY, obj("a"), {"a": Owner.INVALID}), now).intents
    assert isinstance(event, RecordEvent)


def test_foreground_deletes_dependents_first(now: Any) -> None:
    owner = obj(finalizers=("foregroundDeletion",), deleting=True)
    dependents = (dependent("a"), dependent("b", deleting=True), dependent("c", other=True))
    result = reconcile(View(KEY, owner, {}, dependents), now)
    assert [(type(i).__name__, i.name) for i in result.intents] == [("Delete", "a"), ("Patch", "c")]
    free = reconcile(View(KEY, owner, {}, (dependent("d", blocks=False, deleting=True),)), now)
    (patch,) = free.intents
    assert patch.patch == {"metadata": {"finalizers": []}}


def test_orphans_lose_their_reference_before_the_owner_goes(now: Any) -> None:
    owner = obj(finalizers=("orphan",), deleting=True)
    (patch,) = reconcile(View(KEY, owner, {}, (dependent("a", other=True),)), now).intents
    assert [ref["uid"] for ref in patch.patch["metadata"]["ownerReferences"]] == ["other"]
    (last,) = reconcile(View(KEY, owner), now).intents
    assert (last.name, last.patch) == ("rs", {"metadata": {"finalizers": []}})
    assert not any(isinstance(intent, Delete) for intent in (patch, last))
