"""Strategic merge: patches that know which lists are sets of named things.

The schema says of each field how it merges (x-kubernetes-patch-strategy, -merge-key): a list with strategy "merge" is a
map in disguise, its members told apart by the merge key; every other list is one value. Where the schema knows a fuller
key (x-kubernetes-list-map-keys: a port's number and its protocol), that one counts, so that 53/UDP and 53/TCP stay two; a
patch that gives only the merge key means the one member that has it. A patch may hold directives:

    $patch: delete | replace | merge          in an object or a list's member: remove it, or take the patch as it is
    $retainKeys: [a, b]                       of the object's fields only these survive (unions: one of many sources)
    $setElementOrder/FIELD: [...]             the order that the merged list shall have
    $deleteFromPrimitiveList/FIELD: [...]     values to take out of a list of plain values

Where a list has members that the patch does not name, both orders are kept: the patch's among the members it names, the
object's among the others, interleaved as the object had them.

`apply_three_way` is what `kubectl apply` does with three documents, without the detour of writing the patch down: what
the last applied manifest had and the new one has not is removed; what the new one has is merged in; the rest, which
others wrote, stays.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final

import msgspec

from control.registry.schemas import Field, Node
from steersman.errors import bad_request

PATCH, RETAIN, ORDER, DELETE = "$patch", "$retainKeys", "$setElementOrder/", "$deleteFromPrimitiveList/"
MERGE, RETAIN_KEYS = "merge", "retainKeys"
_ANY: Final = Field(Node("any"))

Dict = dict[str, Any]


def merge(node: Node, original: Dict, patch: Dict) -> Dict:
    """Apply a strategic merge patch to an object that `node` describes. Neither argument changes.

    Raises:
        ApiError: 400, the patch names no merge key where it must, or has an unknown directive.
    """
    directive = patch.get(PATCH)
    if directive == "replace":
        return _plain_object(patch)
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"$patch: {directive!r} is unknown: use merge, replace or delete")
    result = dict(original)
    retained = patch.get(RETAIN)
    if retained is not None:
        if not isinstance(retained, list):
            raise bad_request("$retainKeys must be a list of field names")
        result = {key: value for key, value in result.items() if key in retained}
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        field = _field(node, key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            below = result.get(key)
            if value.get(PATCH) == "delete":
                result.pop(key, None)
            else:
                result[key] = merge(field.node, below if isinstance(below, dict) else {}, value)
        elif isinstance(value, list) and MERGE in field.strategy:
            below = result.get(key)
            result[key] = _merge_list(
                field.node, below if isinstance(below, list) else [], value, key, patch.get(ORDER + key)
            )
        else:
            result[key] = value
    for key, values in patch.items():
        if key.startswith(DELETE) and isinstance(values, list):
            name = key[len(DELETE) :]
            if isinstance(result.get(name), list):
                result[name] = [value for value in result[name] if value not in values]
        elif key.startswith(ORDER) and key[len(ORDER) :] not in patch and isinstance(values, list):
            name = key[len(ORDER) :]
            if isinstance(result.get(name), list):
                identity = _identity(_field(node, name).node, name, result[name])
                result[name] = _in_order(result[name], values, result[name], identity)
    return result


def _field(node: Node, key: str) -> Field:
    if node.type == "map" and node.item is not None:
        return Field(node.item)
    return node.fields.get(key, _ANY)


def _plain(value: Any) -> Any:
    """A patch's value where there is nothing to merge with: without nulls and directives."""
    return _plain_object(value) if isinstance(value, dict) else value


def _plain_object(value: Dict) -> Dict:
    return {key: _plain(inner) for key, inner in value.items() if inner is not None and not key.startswith("$")}


_KEY_DEFAULTS: Final = {"protocol": "TCP"}  # of the further keys, where a member leaves one out

Identity = Callable[[Any], Hashable]


def _identity(node: Node, path: str, present: list[Any]) -> Identity:
    """What tells a list's members apart: the keys' values, or a plain value itself. `present` is the list as it is."""
    key = node.merge_key
    if not key:
        return _hashable
    keys = node.list_keys if key in node.list_keys else (key,)
    by_merge_key: dict[Hashable, list[Hashable]] = {}

    def of(member: Any) -> Hashable:
        if not isinstance(member, dict) or key not in member:
            raise bad_request(f"a member of {path} must name its merge key {key!r}")
        same = by_merge_key.get(_hashable(member[key]), ())
        if len(same) == 1 and any(name not in member for name in keys):
            return same[0]
        return tuple(_hashable(member.get(name, _KEY_DEFAULTS.get(name))) for name in keys)

    if len(keys) > 1:
        for member in present:
            named = of(member)
            if named not in by_merge_key.setdefault(_hashable(member[key]), []):
                by_merge_key[_hashable(member[key])].append(named)
    return of


def _hashable(value: Any) -> Hashable:
    return msgspec.json.encode(value) if isinstance(value, dict | list) else value


def _merge_list(node: Node, original: list[Any], patch: list[Any], path: str, order: Any) -> list[Any]:
    assert node.item is not None
    identity = _identity(node, path, original)
    if any(isinstance(member, dict) and member.get(PATCH) == "replace" for member in patch):
        return [_plain(member) for member in patch if not (isinstance(member, dict) and member.get(PATCH) == "replace")]
    removed = {identity(m) for m in patch if isinstance(m, dict) and m.get(PATCH) == "delete"}
    given = [m for m in patch if not (isinstance(m, dict) and m.get(PATCH) == "delete")]
    merged = {identity(member): member for member in original if identity(member) not in removed}
    for member in given:
        name = identity(member)
        if isinstance(member, dict):
            merged[name] = merge(node.item, merged.get(name, {}), member)
        else:
            merged[name] = member
    named = order if isinstance(order, list) else given
    return _in_order(list(merged.values()), named, original, identity)


def _in_order(members: list[Any], named: list[Any], before: list[Any], identity: Identity) -> list[Any]:
    """Put members into order: the named ones as named, the others as before, interleaved as before."""
    wanted = {identity(member): index for index, member in enumerate(named)}
    place = {identity(member): index for index, member in enumerate(before)}
    ours = sorted((m for m in members if identity(m) in wanted), key=lambda m: wanted[identity(m)])
    others = [m for m in members if identity(m) not in wanted]
    others.sort(key=lambda m: place.get(identity(m), len(place)))
    result: list[Any] = []
    while ours and others:
        left, right = place.get(identity(others[0])), place.get(identity(ours[0]))
        first = others if left is not None and right is not None and left < right else ours
        result.append(first.pop(0))
    return result + ours + others


def apply_three_way(node: Node, last: Dict, wanted: Dict, current: Dict) -> Dict:
    """The object that applying `wanted` makes of `current`, when `last` was applied before. No argument changes."""
    result = dict(current)
    for key in last:
        if key not in wanted:
            result.pop(key, None)
    for key, value in wanted.items():
        field = _field(node, key)
        before, now = last.get(key), current.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(now, dict):
            below = apply_three_way(field.node, before if isinstance(before, dict) else {}, value, now)
            result[key] = _retained(field, value, below, now)
        elif isinstance(value, list) and isinstance(now, list) and MERGE in field.strategy:
            result[key] = _apply_list(field, before if isinstance(before, list) else [], value, now, key)
        else:
            result[key] = _plain(value)
    return result


def _retained(field: Field, wanted: Dict, merged: Dict, current: Dict) -> Dict:
    """Of a union that changes, only what the manifest names survives: the other branch's fields would contradict it."""
    if RETAIN_KEYS not in field.strategy or merged == current:
        return merged
    return {key: value for key, value in merged.items() if key in wanted}


def _apply_list(field: Field, last: list[Any], wanted: list[Any], current: list[Any], path: str) -> list[Any]:
    node = field.node
    assert node.item is not None
    identity = _identity(node, path, current)
    before, now = {identity(m): m for m in last}, {identity(m): m for m in current}
    ours = {identity(m) for m in wanted}
    if len(ours) < len(wanted):  # members that can't be told apart: taken as they are, for validation to judge
        others = [member for name, member in now.items() if name not in ours and name not in before]
        return [_plain(member) for member in wanted] + others
    merged = {name: member for name, member in now.items() if name in ours or name not in before}
    for member in wanted:
        name = identity(member)
        existing = now.get(name)
        if isinstance(member, dict) and isinstance(existing, dict):
            below = apply_three_way(node.item, before.get(name, {}), member, existing)
            merged[name] = _retained(field, member, below, existing)
        else:
            merged[name] = _plain(member)
    return _in_order(list(merged.values()), wanted, current, identity)
