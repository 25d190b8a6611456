from __future__ import annotations

from typing import Any

import msgspec

from node.assignments import Assignments, Kill, ReportGone, Start, Update, plan
from steersman.types import Pod
from steersman.v1 import node_pb2
from steersman.v1 import objects_pb2 as pb


def event(kind: str, document: dict[str, Any], what: int = pb.WatchEvent.ADDED) -> pb.WatchEvent:
    metadata = document["metadata"]
    return pb.WatchEvent(
        kind=what,
        object=pb.Object(
            kind=kind,
            namespace=metadata.get("namespace", ""),
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            revision=int(metadata.get("resourceVersion", 0)),
            json=msgspec.json.encode(document),
        ),
    )


def changes(*events: pb.WatchEvent, synced: bool = False) -> node_pb2.Changes:
    return node_pb2.Changes(events=events, revision=9, synced=synced)


def names(actions: list[Any]) -> list[tuple[str, str]]:
    return [(type(a).__name__, a.uid if isinstance(a, Kill) else a.pod.name) for a in actions]


def test_nothing_is_taken_away_before_a_session_is_synced(pod: Any) -> None:
    assignments = Assignments()
    assignments.seed(msgspec.json.encode(pod("old")))
    assignments.begin()
    assignments.apply(changes(event("Pod", pod("new"))))
    assert plan(assignments.pods, {"uid-old"}, synced=assignments.synced) == [
        Update(assignments.pods["default/old"]),
        Start(assignments.pods["default/new"]),
    ]
    difference = assignments.apply(changes(synced=True))
    assert difference.pods == {"default/old"}
    assert names(plan(assignments.pods, {"uid-old"}, synced=True)) == [("Kill", "uid-old"), ("Start", "new")]


def test_a_later_session_that_breaks_before_its_sync_takes_nothing_away(pod: Any) -> None:
    assignments = Assignments()
    assignments.begin()
    assignments.apply(changes(event("Pod", pod("a")), synced=True))
    assignments.begin()
    assert names(plan(assignments.pods, {"uid-a"}, synced=assignments.synced)) == [("Update", "a")]


def test_another_pod_of_the_same_name_replaces_the_first(pod: Any) -> None:
    second = Pod.from_dict(pod("a", metadata={"uid": "second"}))
    assert names(plan({second.key: second}, {"uid-a"}, synced=True)) == [("Kill", "uid-a"), ("Start", "a")]


def test_finished_pods_are_not_started_and_absent_deleted_ones_are_reported(pod: Any) -> None:
    finished = Pod.from_dict(pod("done") | {"status": {"phase": "Succeeded"}})
    deleting = Pod.from_dict(pod("going", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}))
    actions = plan({p.key: p for p in (finished, deleting)}, set(), synced=True)
    assert actions == [ReportGone(deleting)]


def test_a_change_of_a_config_map_concerns_the_pods_that_name_it(pod: Any) -> None:
    user = pod("user", volumes=[{"name": "v", "projected": {"sources": [{"configMap": {"name": "conf"}}]}}])
    assignments = Assignments()
    assignments.begin()
    conf = {"metadata": {"name": "conf", "namespace": "default", "resourceVersion": "3"}, "data": {"a": "1"}}
    difference = assignments.apply(changes(event("Pod", user), event("Pod", pod("other")), event("ConfigMap", conf)))
    assert [p.name for p in assignments.naming(difference)] == ["user"]
    again = assignments.apply(changes(event("ConfigMap", conf, pb.WatchEvent.MODIFIED)))
    assert not again.config_maps, "the same revision is no change"
    gone = assignments.apply(changes(event("ConfigMap", conf, pb.WatchEvent.DELETED)))
    assert gone.config_maps == {"default/conf"}
    assert assignments.config_maps == {}


def test_unknown_kinds_are_skipped() -> None:
    assignments = Assignments()
    assignments.apply(changes(event("Gadget", {"metadata": {"name": "x"}}), synced=True))
    assert assignments.revision == 9
