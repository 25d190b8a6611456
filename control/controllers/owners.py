"""Which objects belong to which controller: references, adoption, release.

An object has at most one controlling owner. A controller adopts an object without one whose labels its selector
matches, and releases one of its own that its selector matches no longer. Both are patches that insist on the uid.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from control.controllers.intents import Patch, Plan
from steersman.selectors import Selector
from steersman.types import KubeObject

K = TypeVar("K", bound=KubeObject)


def controller_reference(owner: KubeObject) -> dict[str, Any]:
    """The ownerReferences entry of what `owner` creates."""
    return {
        "apiVersion": owner.API_VERSION,
        "kind": owner.KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def controlled_by(obj: KubeObject, owner: KubeObject) -> bool:
    """Whether `owner` is the object's controller."""
    reference = obj.metadata.controller
    return reference is not None and reference.uid == owner.uid


def claim(owner: KubeObject, selector: Selector, candidates: Iterable[K], plan: Plan) -> list[K]:
    """The candidates that belong to `owner`, after the adoptions and releases that are added to `plan`.

    An owner that is being deleted adopts and releases nothing; an object that is being deleted is not adopted.
    """
    claimed = []
    for obj in candidates:
        reference = obj.metadata.controller
        matches = selector.matches(obj.metadata.labels)
        if reference is not None:
            if reference.uid != owner.uid:
                continue
            if matches or owner.deleting:
                claimed.append(obj)
            else:
                plan.add(
                    _reference_patch(obj, {"$patch": "delete", "uid": owner.uid}),
                    f"release {obj.KIND} {obj.name}: the selector {selector} does not match it any more",
                )
        elif matches and not owner.deleting and not obj.deleting:
            plan.add(
                _reference_patch(obj, controller_reference(owner)),
                f"adopt {obj.KIND} {obj.name}: the selector {selector} matches it and it has no controller",
            )
            claimed.append(obj)
    return claimed


def _reference_patch(obj: KubeObject, entry: dict[str, Any]) -> Patch:
    return Patch(
        type(obj),
        obj.name,
        {"metadata": {"ownerReferences": [entry]}},
        obj.namespace,
        format="strategic",
        uid=obj.uid,
    )
