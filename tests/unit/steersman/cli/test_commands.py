"""What commands make of words, without a cluster."""

import click
import pytest

from steersman.cli import describe, nodes, output, streams, waiting, workloads
from steersman.cli.main import _global_options_first
from steersman.types import Deployment


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (600, "10m"), (3 * 3600 - 1, "179m"), (3 * 3600, "3h"),
        (7 * 3600 + 60, "7h1m"), (10 * 3600, "10h"), (49 * 3600, "2d1h"), (9 * 86400, "9d"), (800 * 86400, "2y70d"),
    ],
)  # fmt: skip
def test_ages_are_written_as_kubernetes_writes_them(seconds: int, text: str) -> None:
    assert describe.human_duration(seconds) == text


def test_global_options_may_stand_anywhere_before_the_command_of_exec() -> None:
    assert _global_options_first(["get", "pods", "-n", "x", "-o", "wide"]) == ["-n", "x", "get", "pods", "-o", "wide"]
    assert _global_options_first(["exec", "a", "--", "ls", "-n", "1"]) == ["exec", "a", "--", "ls", "-n", "1"]
    assert _global_options_first(["lab", "up", "--name", "x"]) == ["lab", "up", "--name", "x"]
    assert _global_options_first(["--cluster", "lab", "get", "a", "-n", "x"]) == [
        "--cluster",
        "lab",
        "-n",
        "x",
        "get",
        "a",
    ]


def test_table_columns_of_low_priority_are_wide_only() -> None:
    table = {
        "columnDefinitions": [{"name": "Name"}, {"name": "Node", "priority": 1}],
        "rows": [{"cells": ["a", None], "object": {"metadata": {"namespace": "x"}}}],
    }
    assert output.rows_of(table, wide=False, headers=True, namespaces=True) == [["NAMESPACE", "NAME"], ["x", "a"]]
    assert output.rows_of(table, wide=True, headers=False, namespaces=False) == [["a", "<none>"]]


def test_rows_that_follow_stand_under_those_before() -> None:
    widths: list[int] = []
    assert output.aligned([["NAME", "READY"], ["web-1", "1/1"]], widths=widths) == ["NAME    READY", "web-1   1/1"]
    assert output.aligned([["a", "0/1"]], widths=widths) == ["a       0/1"]


def test_exec_words_split_into_pod_options_and_command() -> None:
    what, options, command = streams._exec_words(("deploy/web", "-it", "-c", "main", "--", "sh", "-c", "x"))
    assert (what, command) == (["deploy/web"], ["sh", "-c", "x"])
    assert options == {"stdin": True, "tty": True, "container": "main"}
    assert streams._exec_words(("web-1", "hostname"))[2] == ["hostname"]


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("1h30m", 5400), ("5m", 300)])
def test_durations(text: str, seconds: int) -> None:
    assert streams.seconds_of(text) == seconds


def test_a_bad_duration_is_refused_with_examples() -> None:
    with pytest.raises(click.UsageError, match="write 10s, 5m or 1h30m"):
        streams.seconds_of("ten")


@pytest.mark.parametrize(
    ("goal", "document", "met"),
    [
        ("condition=Ready", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, True),
        ("condition=Ready=false", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, False),
        ("jsonpath={.status.readyReplicas}=3", {"status": {"readyReplicas": 3}}, True),
        ("jsonpath={.status.phase}", {"status": {}}, False),
        ("jsonpath=.spec.paused=true", {"spec": {"paused": True}}, True),
        ("create", {}, True),
    ],
)
def test_wait_conditions(goal: str, document: dict, met: bool) -> None:
    assert waiting.condition_of(goal)(document) is met


def test_taints_are_parsed_or_refused() -> None:
    assert nodes.parse_taint("a=b:NoSchedule") == ({"key": "a", "value": "b", "effect": "NoSchedule"}, False)
    assert nodes.parse_taint("a:NoExecute-") == ({"key": "a", "value": "", "effect": "NoExecute"}, True)
    with pytest.raises(click.UsageError, match="effects: NoSchedule"):
        nodes.parse_taint("a=b:Never")


def deployment(**status: int) -> Deployment:
    return Deployment.from_dict(
        {"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3}, "status": status}
    )


@pytest.mark.parametrize(
    ("status", "told", "done"),
    [
        ({"observedGeneration": 1}, "spec update to be observed", False),
        ({"observedGeneration": 2, "updatedReplicas": 1}, "1 out of 3 new replicas have been updated", False),
        (
            {"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4},
            "1 old replicas are pending termination",
            False,
        ),
        (
            {"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2},
            "2 of 3 updated replicas are available",
            False,
        ),
        (
            {"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3},
            "successfully rolled out",
            True,
        ),
    ],
)
def test_rollout_status_says_how_far_it_is(status: dict[str, int], told: str, done: bool) -> None:
    text, finished = workloads.rollout_state(deployment(**status))
    assert told in text
    assert finished is done
