from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.controllers import rollout
from control.views import Deployment, ReplicaSet


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (10, "25%", "25%", (3, 2)),
        (1, "25%", "25%", (1, 0)),
        (4, 0, 0, (0, 1)),
        (3, 2, 9, (2, 3)),
        (0, "25%", "25%", (0, 0)),
    ],
)
def test_limits_round_surge_up_and_unavailable_down(
    deployment: Any, replicas: int, surge: Any, unavailable: Any, expected: tuple[int, int]
) -> None:
    found = deployment(replicas, strategy={"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
    assert rollout.limits(found) == expected


def test_hash_ignores_field_order_and_the_hash_label_but_nothing_else() -> None:
    one = msgspec.Raw(b'{"metadata":{"labels":{"a":"b"}},"spec":{"x":1,"y":2}}')
    two = msgspec.Raw(b'{"spec":{"y":2,"x":1},"metadata":{"labels":{"pod-template-hash":"zz","a":"b"}}}')
    other = msgspec.Raw(b'{"metadata":{"labels":{"a":"b"}},"spec":{"x":1,"y":3}}')
    assert rollout.template_hash(one) == rollout.template_hash(two)
    assert rollout.template_hash(one) != rollout.template_hash(other)
    assert rollout.template_hash(one) != rollout.template_hash(one, collisions=1)
    assert len(rollout.template_hash(one)) == rollout.HASH_LENGTH


@given(
    sizes=st.lists(st.integers(0, 40), min_size=2, max_size=5),
    before=st.integers(1, 80),
    wanted=st.integers(0, 80),
    surge=st.integers(0, 10),
)
def test_proportional_scaling_adds_up(sizes: list[int], before: int, wanted: int, surge: int) -> None:
    spec = {"replicas": wanted, "strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": 1}}}
    found = Deployment.from_dict({"metadata": {"name": "d"}, "spec": spec})
    annotations = {rollout.MAXIMUM: str(before)}
    sets = [
        ReplicaSet.from_dict({"metadata": {"name": f"s{n}", "annotations": annotations}, "spec": {"replicas": size}})
        for n, size in enumerate(sizes)
        if size
    ]
    new = rollout.proportions(found, sets)
    assert all(size >= 0 for size in new.values())
    if sets:
        assert sum(new.values()) == rollout.maximum(found)
