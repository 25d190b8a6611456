from __future__ import annotations

import math
from typing import Any

import pytest

from node.fencing import UNREACHABLE, deadline, fence, next_deadline
from steersman.types import Pod


def tolerating(pod: Any, name: str, *seconds: float | None) -> Pod:
    tolerations = [
        {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute"}
        | ({} if s is None else {"tolerationSeconds": s})
        for s in seconds
    ]
    return Pod.from_dict(pod(name, tolerations=tolerations))


@pytest.mark.parametrize(
    ("seconds", "at"),
    [((), 18.0), ((5,), 23.0), ((None,), math.inf), ((5, 60), 23.0), ((None, 5), 23.0), ((-3,), 18.0)],
)
def test_a_pod_lives_for_the_lease_and_its_shortest_toleration(pod: Any, seconds: Any, at: float) -> None:
    assert deadline(tolerating(pod, "p", *seconds), 10.0, 8.0) == at


def test_a_toleration_of_everything_counts_and_one_of_other_taints_does_not(pod: Any) -> None:
    everything = Pod.from_dict(pod(tolerations=[{"operator": "Exists"}]))
    other = Pod.from_dict(pod(tolerations=[{"key": UNREACHABLE, "operator": "Exists", "effect": "NoSchedule"}]))
    assert deadline(everything, 0, 8) == math.inf
    assert deadline(other, 0, 8) == 8


def test_the_fence_falls_exactly_at_the_deadline_and_says_why(pod: Any) -> None:
    pods = {"a": tolerating(pod, "a", 5), "b": tolerating(pod, "b", None)}
    assert fence(pods, 10.0, 8.0, 22.99) == []
    (stopped,) = fence(pods, 10.0, 8.0, 23.0)
    assert stopped.uid == "a"
    assert "13.0 s" in stopped.reason
    assert "8 s" in stopped.reason
    assert next_deadline(pods.values(), 10.0, 8.0) == 23.0
    assert next_deadline([], 10.0, 8.0) == math.inf
