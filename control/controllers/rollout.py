"""The arithmetic of a Deployment: names, revisions, surge, proportions. Pure functions on numbers and ReplicaSets.

Source of the rules: k8s.io/kubernetes/pkg/controller/deployment/util. One rule is stricter here: a ReplicaSet's
available pods never count for more than its wanted ones (`available`), because a set that was just scaled down still
reports the pods it is about to lose; counting them would break maxUnavailable.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from control.views import Deployment, ReplicaSet
from steersman.clock import SUFFIX_ALPHABET
from steersman.types.apps import RollingUpdateDeployment

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
NOT_COPIED = frozenset(
    (
        "kubectl.kubernetes.io/last-applied-configuration",
        "deprecated.deployment.rollback.to",
        REVISION,
        REVISION_HISTORY,
        DESIRED,
        MAXIMUM,
    )
)
HASH_LENGTH = 10  # 27^10 values: collisions are as good as impossible, and counted anyway
NAME_MAX = 253


def template_document(raw: msgspec.Raw) -> dict[str, Any]:
    """A template as a document, without the hash label, so that a ReplicaSet's compares with its Deployment's."""
    document: dict[str, Any] = msgspec.json.decode(raw)
    meta = document.get("metadata")
    if meta and HASH_LABEL in (meta.get("labels") or {}):
        labels = {key: value for key, value in meta["labels"].items() if key != HASH_LABEL}
        document["metadata"] = {**meta, "labels": labels}
    return document


def template_hash(raw: msgspec.Raw, collisions: int = 0) -> str:
    """The name of a template: the same for equal templates whatever the order of their fields.

    `collisions` makes another name of the same template, for when the first is taken by something else.
    """
    canonical = msgspec.json.encode(template_document(raw), order="sorted")
    digest = hashlib.blake2b(canonical, digest_size=8, salt=collisions.to_bytes(4, "little")).digest()
    number, name = int.from_bytes(digest, "big"), ""
    for _ in range(HASH_LENGTH):
        number, digit = divmod(number, len(SUFFIX_ALPHABET))
        name += SUFFIX_ALPHABET[digit]
    return name


def child_name(deployment: Deployment) -> tuple[str, str]:
    """The name of the ReplicaSet for the present template, and its hash."""
    digest = template_hash(deployment.spec.template, deployment.status.collision_count or 0)
    return f"{deployment.name[: NAME_MAX - HASH_LENGTH - 1]}-{digest}", digest


def newest(deployment: Deployment, sets: Iterable[ReplicaSet]) -> ReplicaSet | None:
    """The ReplicaSet with the Deployment's template; the oldest, should there be several."""
    wanted = template_document(deployment.spec.template)
    same = [rs for rs in sets if template_document(rs.spec.template) == wanted]
    return min(same, key=_age, default=None)


def _age(rs: ReplicaSet) -> tuple[str, str]:
    return rs.metadata.creation_timestamp, rs.name


def oldest_first(sets: Iterable[ReplicaSet]) -> list[ReplicaSet]:
    return sorted(sets, key=_age)


def revision(annotations: Mapping[str, str]) -> int:
    """The revision in an object's annotations; 0 when there is none or it is not a number."""
    try:
        return int(annotations.get(REVISION, "0"))
    except ValueError:
        return 0


def annotated(rs: ReplicaSet, key: str) -> int | None:
    """A number that an earlier round wrote on the ReplicaSet, or None."""
    try:
        return int(rs.metadata.annotations[key])
    except (KeyError, ValueError):
        return None


def scaled(value: int | str, total: int, *, up: bool) -> int:
    """A number, or a percentage of `total` rounded up or down."""
    if isinstance(value, int):
        return value
    exact = int(value.rstrip("%")) * total / 100
    return math.ceil(exact) if up else math.floor(exact)


def limits(deployment: Deployment) -> tuple[int, int]:
    """MaxSurge and maxUnavailable as numbers of pods; never both 0, or nothing could ever move."""
    if deployment.spec.strategy.type != "RollingUpdate":
        return 0, 0
    rolling = deployment.spec.strategy.rolling_update or RollingUpdateDeployment()
    surge = scaled(rolling.max_surge, deployment.spec.replicas, up=True)
    unavailable = scaled(rolling.max_unavailable, deployment.spec.replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, min(unavailable, deployment.spec.replicas)


def maximum(deployment: Deployment) -> int:
    """How many pods there may be in all while rolling."""
    return deployment.spec.replicas + limits(deployment)[0] if deployment.spec.replicas else 0


def available(rs: ReplicaSet, replicas: int | None = None) -> int:
    """Pods that are available and will stay, when the set is to have `replicas` (default: its spec's)."""
    return min(rs.status.available_replicas, rs.spec.replicas if replicas is None else replicas)


def new_replicas(deployment: Deployment, new: int, total: int) -> int:
    """How many pods the new ReplicaSet should have, when it has `new` of `total`."""
    wanted = deployment.spec.replicas
    if deployment.spec.strategy.type != "RollingUpdate" or new >= wanted:
        return wanted
    room = wanted + limits(deployment)[0] - total
    return new + max(min(room, wanted - new), 0)


def proportions(deployment: Deployment, sets: Sequence[ReplicaSet]) -> dict[str, int]:
    """New sizes by name of the ReplicaSets of a rolling Deployment whose `replicas` changed.

    The change is spread in proportion to the sizes; what rounding leaves goes to the largest set.
    """
    total = sum(rs.spec.replicas for rs in sets)
    change = maximum(deployment) - total
    if change > 0:  # larger first, of equals the newer
        newest_first = sorted(sets, key=_age, reverse=True)
        ordered = sorted(newest_first, key=lambda rs: -rs.spec.replicas)
    else:  # larger first, of equals the older
        ordered = sorted(oldest_first(sets), key=lambda rs: -rs.spec.replicas)
    sizes = {rs.name: rs.spec.replicas for rs in ordered}
    added = 0
    for rs in ordered:
        if change == 0:
            break
        part = max(_part(deployment, rs, change, added), -rs.spec.replicas)
        sizes[rs.name] += part
        added += part
    for rs in ordered:
        part = max(change - added, -sizes[rs.name])
        sizes[rs.name] += part
        added += part
    return sizes


def _part(deployment: Deployment, rs: ReplicaSet, change: int, added: int) -> int:
    """The set's part of the change, at most what is left of it."""
    if rs.spec.replicas == 0:
        return 0
    if deployment.spec.replicas == 0:
        fraction = -rs.spec.replicas
    else:
        before = annotated(rs, MAXIMUM) or deployment.status.replicas or rs.spec.replicas
        fraction = math.floor(rs.spec.replicas * maximum(deployment) / before + 0.5) - rs.spec.replicas
    left = change - added
    return min(fraction, left) if change > 0 else max(fraction, left)
