"""Differences are told field by field, and items of lists by their names."""

import pytest

from steersman.changes import ABSENT, Change, changes

A, B = {"name": "a", "image": "x:1"}, {"name": "b", "image": "y:1"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"spec": {"replicas": 2}}, {"spec": {"replicas": 3}}, [Change("spec.replicas", 2, 3)]),
        ({"a": 1}, {"a": 1, "b": {"c": 2}}, [Change("b", ABSENT, {"c": 2})]),
        ({"a": 1, "b": None}, {"a": 1}, [Change("b", None, ABSENT)]),
        ({"metadata": {"labels": {}}}, {"metadata": {"labels": {"app.io/x": "1"}}}, [Change("metadata.labels[app.io/x]", ABSENT, "1")]),
        ({"c": [A, B]}, {"c": [B, A]}, []),
        ({"c": [A]}, {"c": [B, {**A, "image": "x:2"}]}, [Change("c[a].image", "x:1", "x:2"), Change("c[b]", ABSENT, B)]),
        ({"args": ["x", "y"]}, {"args": ["x", "z", "w"]}, [Change("args[1]", "y", "z"), Change("args[2]", ABSENT, "w")]),
        ({"c": [A, A]}, {"c": [A]}, [Change("c[1]", A, ABSENT)]),
        ({"c": [A]}, {"c": "text"}, [Change("c", [A], "text")]),
        ({"ports": [{"containerPort": 80}]}, {"ports": [{"containerPort": 80, "protocol": "UDP"}]}, [Change("ports[80].protocol", ABSENT, "UDP")]),
        ({"metadata": {"resourceVersion": "1", "generation": 1, "managedFields": []}}, {"metadata": {"resourceVersion": "2", "generation": 2}}, []),
    ],
)  # fmt: skip
def test_changes(before: dict, after: dict, expected: list[Change]) -> None:
    assert changes(before, after) == expected
