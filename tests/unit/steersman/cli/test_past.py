"""What `diff` and `history` print."""

import datetime as dt

from steersman.cli import past
from steersman.v1 import objects_pb2 as pb


def config(value: str, revision: str = "1", kind: str = "ConfigMap") -> dict:
    metadata = {"name": "c", "namespace": "default", "resourceVersion": revision}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": {"v": value, "same": "x"}}


def test_a_diff_shows_the_fields_that_differ_and_not_the_revision() -> None:
    lines = list(past.unified(config("1"), config("2", "2")))
    assert lines[:2] == ["--- configmap/c (namespace default)", "+++ configmap/c (namespace default)"]
    assert [line for line in lines[2:] if line[0] in "+-"] == ["-  v: '1'", "+  v: '2'"]
    assert not past.differ(config("1"), config("1", "2"))
    assert past.coloured("-a") != "-a"


def test_created_and_deleted_objects_are_told_whole() -> None:
    created = list(past.unified(None, config("1")))
    assert created[0] == "--- /dev/null"
    assert "+kind: ConfigMap" in created
    assert past.change_document(config("1"), None)["change"] == "deleted"


def test_secrets_show_which_value_changed_but_not_the_value() -> None:
    lines = "\n".join(past.unified(config("aaaa", kind="Secret"), config("bbbb", kind="Secret")))
    assert "-  v: '*** (before)'" in lines
    assert "+  v: '*** (after)'" in lines
    assert "aaaa" not in lines
    assert "same: '***'" in lines
    assert "bbbb" not in str(past.change_document(config("aaaa", kind="Secret"), config("bbbb", kind="Secret")))
    assert "aaaa" not in "\n".join(past.unified(None, config("aaaa", kind="Secret")))


def test_what_was_applied_last_is_not_repeated() -> None:
    before, after = config("1"), config("2")
    before["metadata"]["annotations"] = {past.LAST_APPLIED: "secret"}
    assert "secret" not in "\n".join(past.unified(before, after))


def test_changes_for_programs_have_paths_and_values() -> None:
    assert past.change_document(config("1"), config("2"))["fields"] == [{"path": "data.v", "from": "1", "to": "2"}]


def entry(*changes: tuple[str, str, str], kind: int = pb.WatchEvent.MODIFIED, of: str = "Pod") -> pb.HistoryEntry:
    return pb.HistoryEntry(
        revision=7,
        time="2026-01-01T00:00:00.5Z",
        kind=kind,
        cause=pb.Cause(revision=5, actor="scheduler"),
        chain=[pb.HistoryLink(revision=5, actor="replicaset-controller"), pb.HistoryLink(revision=3, actor="user:a")],
        changes=[pb.FieldChange(path=p, before=b, after=a) for p, b, a in changes],
        object=pb.Object(kind=of),
    )


def test_history_rows_tell_who_why_and_what() -> None:
    answer = pb.HistoryResponse(entries=[entry(("spec.nodeName", "", '"n1"'), ("spec.x", '{"a":1}', ""))])
    (row,) = past.history_rows(answer, dt.datetime(2026, 1, 1, 0, 1, 40, tzinfo=dt.UTC), headers=False)
    assert row == [
        "7",
        "2026-01-01 00:00:00",
        "99s",
        "scheduler",
        "5 replicaset-controller < 3 user:a",
        "spec.nodeName: <none> -> n1, spec.x",
    ]
    assert past.history_document(answer)["entries"][0]["fields"][0] == {"path": "spec.nodeName", "to": "n1"}


def test_history_is_short_and_keeps_secrets() -> None:
    many = entry(*((f"a{n}", "1", "2") for n in range(5)))
    assert past.changed_text(many, 3) == "a0: 1 -> 2, a1: 1 -> 2, a2: 1 -> 2, … 2 more"
    assert past.changed_text(many, None).count("->") == 5
    assert past.changed_text(entry(("data.p", '"x"', '"y"'), of="Secret"), 3) == "data.p"
    assert past.changed_text(entry(kind=pb.WatchEvent.ADDED), 3) == "created"


def test_a_long_chain_of_causes_keeps_its_beginning_and_its_end() -> None:
    links = [pb.HistoryLink(revision=9 - n, actor=f"a{n}") for n in range(6)]
    long = pb.HistoryEntry(chain=links)
    assert past.chain_text(long, 3) == "9 a0 < 8 a1 < … < 4 a5"
    assert past.chain_text(long, None).count("<") == 5
    assert past.chain_text(pb.HistoryEntry(chain=links[:3]), 3) == "9 a0 < 8 a1 < 7 a2"
