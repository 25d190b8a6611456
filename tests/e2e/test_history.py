"""What a person asks of the past, and what a thief finds on the members' disks."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from control.ca import files
from tests.e2e.raised import Lab, deployment, eventually

SECRET = base64.b64encode(b"correct-horse-battery-staple").decode()


def config(value: str) -> str:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "colour"}, "data": {"value": value}}
    return json.dumps(body)


@pytest.fixture
def painted(lab: Lab, namespace: str) -> list[int]:
    """A ConfigMap that was red, green and is gone; answers its revisions."""
    for value in ("red", "green"):
        lab.steer("-n", namespace, "apply", "-f", "-", stdin=config(value))
    lab.steer("-n", namespace, "delete", "configmap", "colour")
    told = json.loads(lab.steer("-n", namespace, "history", "cm/colour", "-o", "json"))
    return [entry["revision"] for entry in reversed(told["entries"])]


def test_objects_are_shown_as_they_were(lab: Lab, namespace: str, painted: list[int]) -> None:
    red, green, deleted = painted
    for revision, value in ((red, "red"), (green, "green"), (deleted - 1, "green")):
        assert f"value: {value}" in lab.steer(
            "-n", namespace, "get", "cm", "colour", "--at", str(revision), "-o", "yaml"
        )
    assert "colour" in lab.steer("-n", namespace, "get", "configmaps", "--at", str(green))
    assert "colour" not in lab.run("-n", namespace, "get", "configmaps", "--at", "0s").stdout
    time = lab.client.moment(str(red)).time
    assert "value: red" in lab.steer("-n", namespace, "get", "cm", "colour", "--at", time, "-o", "yaml")
    gone = lab.run("-n", namespace, "get", "cm", "colour", "--at", str(red - 1))
    assert (gone.returncode, "NotFound" in gone.stderr) == (1, True)


def test_what_was_forgotten_or_never_was_is_refused_in_one_sentence(lab: Lab, namespace: str) -> None:
    early = lab.run("get", "nodes", "--at", "9d")
    assert early.returncode == 1
    assert "Error from server (Expired): the state at 9d is not kept any more: revisions " in early.stderr
    assert " of 20" in early.stderr
    assert "10m, 1h30m" in lab.run("get", "nodes", "--at", "yesterday").stderr
    assert lab.run("get", "nodes", "--at", "10m", "--watch").returncode == 2


def test_a_diff_shows_what_changed_and_ends_with_one(lab: Lab, namespace: str, painted: list[int]) -> None:
    red, green, deleted = (str(revision) for revision in painted)
    changed = lab.run("-n", namespace, "diff", "--from", red, "--to", green, "cm")
    assert changed.returncode == 1
    assert f"--- configmap/colour (namespace {namespace})" in changed.stdout
    assert "-  value: red\n+  value: green\n" in changed.stdout
    everything = lab.run("-n", namespace, "diff", "--from", green, "--to", deleted, "-o", "json")
    found = [entry for entry in json.loads(everything.stdout) if entry["name"] == "colour"]
    assert [entry["change"] for entry in found] == ["deleted"]
    same = lab.run("-n", namespace, "diff", "--from", green, "--to", green, "cm", "colour")
    assert (same.returncode, same.stdout) == (0, "")
    assert "not there at either moment" in lab.run("-n", namespace, "diff", "--from", red, "cm", "nobody").stderr


def test_history_tells_who_did_what_and_shows_each_state(lab: Lab, namespace: str, painted: list[int]) -> None:
    rows = lab.steer("-n", namespace, "history", "cm", "colour").splitlines()
    assert rows[0].split() == ["REVISION", "TIME", "AGE", "WHO", "CAUSED", "BY", "CHANGED"]
    assert [row.split()[0] for row in rows[1:]] == [str(revision) for revision in painted[::-1]]
    assert rows[1].endswith("deleted")
    assert rows[2].endswith("data.value: red -> green")
    assert "user:admin" in rows[2]
    shown = lab.steer("-n", namespace, "history", "cm", "colour", "--show", str(painted[0]))
    assert "value: red" in shown


def test_a_pods_history_leads_back_to_the_person_who_applied(lab: Lab, namespace: str) -> None:
    lab.apply(deployment("web", 1), namespace=namespace)
    (pod,) = lab.wait_count(namespace, "app=web", 1)
    told = json.loads(lab.steer("-n", namespace, "history", f"pod/{pod.name}", "-o", "json"))["entries"]
    created = told[-1]
    assert created["change"] == "ADDED"
    assert created["causedBy"], told
    assert created["causedBy"][-1]["actor"] == "user:admin"
    bound = next(entry for entry in told if any(field["path"] == "spec.nodeName" for field in entry["fields"]))
    assert "scheduler" in bound["actor"]


@pytest.fixture
def key_files(lab: Lab) -> list[Path]:
    """The folders of the members' keys; the first is the administrator's."""
    pki = [lab.topology.host_directory(host) / "etc" / "pki" for host in lab.topology.controls]
    return [lab.topology.directory / "pki", *pki]


def disks_with(lab: Lab, needle: bytes) -> list[str]:
    """Files of the members' data folders in which something stands."""
    found = []
    for host in lab.topology.controls:
        folder = lab.topology.host_directory(host)
        logs = [path for path in folder.rglob("*") if path.is_file() and "raft" in path.parts]
        assert logs, folder
        found += [str(path) for path in logs if needle in path.read_bytes()]
    return found


def test_secrets_are_on_no_disk_and_their_key_can_be_changed(lab: Lab, namespace: str, key_files: list[Path]) -> None:
    (old,) = files.change_keys(key_files[0], [])[:1]
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "data": {"password": SECRET}}
    lab.apply(secret, namespace=namespace)
    visible = "plain-" + SECRET[::-1]
    plain = {**secret, "kind": "ConfigMap", "data": {"password": visible}}
    lab.apply(plain, namespace=namespace)
    assert disks_with(lab, SECRET.encode()) == []
    assert len(disks_with(lab, visible.encode())) == len(lab.members)

    new = files.change_keys(key_files[0], key_files[1:], rotate=True)[0]

    def taken_up() -> bool:
        rows = [line.split() for line in lab.steer("cluster", "encryption").splitlines()[1:]]
        return [row[2] for row in rows] == [new.id] * len(lab.members)

    eventually(taken_up, "every member encrypts with the new key", 20)
    said = lab.steer("cluster", "rotate-encryption", timeout=90)
    assert f"nothing needs key {old.id} any more" in said
    assert disks_with(lab, b"st1" + old.id.encode()) == []
    files.change_keys(key_files[0], key_files[1:], drop=old.id)
    assert SECRET in lab.steer("-n", namespace, "get", "secret", "db", "-o", "yaml")
