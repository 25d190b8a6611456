"""What differs between two states of an object, field by field.

Lists whose items have names (containers, ports, conditions, environment variables, …) are compared by name, so that an
item that is put before others is one change; other lists are compared by position. Fields that every write changes
(`IGNORED`) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

LAST_APPLIED: Final = (
    "kubectl.kubernetes.io/last-applied-configuration"  # repeats the manifest, a Secret's values included
)
IGNORED: Final = frozenset(
    (
        "metadata.resourceVersion",
        "metadata.generation",
        "metadata.managedFields",
        f"metadata.annotations[{LAST_APPLIED}]",
    )
)
NAMES: Final = (
    "name",
    "type",
    "uid",
    "key",
    "mountPath",
    "containerPort",
    "port",
    "ip",
)  # of list items, the first that fits


class _Absent:
    """Stands for a field that is not there."""

    def __repr__(self) -> str:
        return "ABSENT"

    def __bool__(self) -> bool:
        return False


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class Change:
    """A field that differs; `before` or `after` is ABSENT when it came or went."""

    path: str
    before: Any
    after: Any


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The fields that differ, in the order of their paths' appearance in `before`, new ones last.

    >>> changes({"spec": {"replicas": 2}}, {"spec": {"replicas": 3}})
    [Change(path='spec.replicas', before=2, after=3)]
    """
    return list(_mappings("", before, after))


def _differences(path: str, before: Any, after: Any) -> Iterator[Change]:
    if path in IGNORED or before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _mappings(path, before, after)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _lists(path, before, after)
    else:
        yield Change(path, before, after)


def _mappings(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for key in (*before, *(key for key in after if key not in before)):
        yield from _differences(_member(path, key), before.get(key, ABSENT), after.get(key, ABSENT))


def _member(path: str, key: str) -> str:
    plain = "." not in key and "/" not in key
    if not path:
        return key
    return f"{path}.{key}" if plain else f"{path}[{key}]"


def _lists(path: str, before: Sequence[Any], after: Sequence[Any]) -> Iterator[Change]:
    name = _name_of((*before, *after))
    if name is not None:
        named = {str(item[name]): item for item in before}, {str(item[name]): item for item in after}
        if len(named[0]) == len(before) and len(named[1]) == len(after):
            for key in (*named[0], *(key for key in named[1] if key not in named[0])):
                yield from _differences(f"{path}[{key}]", named[0].get(key, ABSENT), named[1].get(key, ABSENT))
            return
    for at in range(max(len(before), len(after))):
        old = before[at] if at < len(before) else ABSENT
        yield from _differences(f"{path}[{at}]", old, after[at] if at < len(after) else ABSENT)


def _name_of(items: Sequence[Any]) -> str | None:
    """The field that names every item."""
    if not all(isinstance(item, Mapping) for item in items):
        return None
    return next((name for name in NAMES if all(isinstance(item.get(name), str | int) for item in items)), None)
