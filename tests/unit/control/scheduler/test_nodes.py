from __future__ import annotations

from typing import Any

from steersman.selectors import parse


def test_a_confirmed_assumption_changes_nothing(table: Any, node: Any, pod: Any) -> None:
    nodes = table(node("a"), node("b"))
    one = pod(cpu="1")
    nodes.place(one, "a")
    nodes.place(one, "a")
    assert nodes.free("cpu")[nodes.rows["a"]] == 3000
    nodes.place(one, "b")
    assert [int(free) for free in nodes.free("cpu")[:2]] == [4000, 3000]
    assert nodes.remove(one.uid)
    assert not nodes.remove(one.uid)
    assert nodes.used.sum() == nodes.scored.sum() == 0


def test_pods_may_be_seen_before_their_node(table: Any, node: Any, pod: Any) -> None:
    nodes = table()
    nodes.place(pod(cpu="1"), "late")
    assert nodes.count == 0
    nodes.set_node(node("late"))
    assert (nodes.count, int(nodes.free("cpu")[nodes.rows["late"]])) == (1, 3000)


def test_a_row_is_used_again_only_when_its_node_and_pods_are_gone(table: Any, node: Any, pod: Any) -> None:
    nodes = table(node("a"))
    nodes.place(pod(), "a")
    nodes.remove_node("a")
    assert nodes.count == 0
    nodes.set_node(node("b"))
    assert nodes.rows == {"a": 0, "b": 1}
    nodes.remove("uid-p")
    nodes.set_node(node("c"))
    assert nodes.rows == {"c": 0, "b": 1}
    assert sorted(nodes.named(nodes.alive)) == ["b", "c"]


def test_counts_stay_current_and_survive_growth(table: Any, node: Any, pod: Any) -> None:
    nodes = table(*(node(f"n{i}") for i in range(10)))
    group = (frozenset(("default",)), parse("app=web"))
    assert nodes.counted(group).sum() == 0
    for number in range(30):
        nodes.set_node(node(f"m{number}"))
        nodes.place(pod(f"p{number}", labels={"app": "web"}), f"m{number}")
    assert nodes.counted(group).sum() == 30
    assert nodes.counted(group).shape == nodes.alive.shape
    nodes.remove("uid-p7")
    assert nodes.counted(group)[nodes.rows["m7"]] == 0


def test_status_reports_keep_static_verdicts(table: Any, node: Any) -> None:
    nodes = table(node("a"))
    before = nodes.generation
    nodes.set_node(node("a", cpu="2"))
    assert nodes.generation == before
    nodes.set_node(node("a", unschedulable=True))
    assert nodes.generation > before
