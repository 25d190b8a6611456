"""/etc files, volumes' content, records."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from node.checkpoint import Checkpoint, LeaseRecord
from node.environment import ConfigError, Surroundings
from node.podfiles import hostname, hosts, parse_resolv_conf, resolv_conf
from node.pods.state import ContainerLocal, PodLocal, Running, Terminated
from node.volumes import File, VolumeError, Volumes, payload, write_payload
from steersman.types import ConfigMap, Pod, Secret

HOST = parse_resolv_conf("# a comment\nsearch example.org\nnameserver 192.0.2.1\noptions ndots:2 rotate\n")


def test_cluster_first_names_the_cluster_then_the_host(pod: Any) -> None:
    text = resolv_conf(Pod.from_dict(pod()), "10.96.0.10", "cluster.local", HOST)
    assert text == (
        "search default.svc.cluster.local svc.cluster.local cluster.local example.org\n"
        "nameserver 10.96.0.10\noptions ndots:5\n"
    )


def test_dns_policies_and_config(pod: Any) -> None:
    host = Pod.from_dict(pod(hostNetwork=True))
    assert resolv_conf(host, "10.96.0.10", "cluster.local", HOST) == (
        "search example.org\nnameserver 192.0.2.1\noptions ndots:2 rotate\n"
    )
    config = {
        "nameservers": ["9.9.9.9"],
        "searches": ["x.y"],
        "options": [{"name": "ndots", "value": "1"}, {"name": "edns0"}],
    }
    none = Pod.from_dict(pod(dnsPolicy="None", dnsConfig=config))
    assert (
        resolv_conf(none, "10.96.0.10", "cluster.local", HOST)
        == "search x.y\nnameserver 9.9.9.9\noptions ndots:1 edns0\n"
    )


def test_hosts_has_the_pod_its_full_name_and_aliases(pod: Any) -> None:
    aliases = [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]
    text = hosts(Pod.from_dict(pod("web-0", subdomain="web", hostAliases=aliases)), "10.244.1.5", "cluster.local")
    assert "10.244.1.5\tweb-0.web.default.svc.cluster.local\tweb-0\n" in text
    assert text.endswith("1.2.3.4\ta\tb\n")
    assert len(hostname(Pod.from_dict(pod("x" * 62 + "-y")))) == 62


def around() -> Surroundings:
    conf = ConfigMap.from_dict(
        {"metadata": {"name": "conf", "namespace": "default"}, "data": {"a": "1"}, "binaryData": {"b": "AAE="}}
    )
    encoded = base64.b64encode(b"s").decode()
    secret = Secret.from_dict({"metadata": {"name": "sec", "namespace": "default"}, "data": {"k": encoded}})
    return Surroundings(config_maps={conf.key: conf}, secrets={secret.key: secret})


def volume(pod: Any, source: dict[str, Any]) -> Pod:
    return Pod.from_dict(pod(volumes=[{"name": "v", **source}], metadata={"labels": {"x": 'q"t'}}))


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ({"configMap": {"name": "conf"}}, {"a": File(b"1", 0o644), "b": File(b"\0\1", 0o644)}),
        (
            {"configMap": {"name": "conf", "items": [{"key": "a", "path": "d/x", "mode": 256}]}},
            {"d/x": File(b"1", 0o400)},
        ),
        ({"configMap": {"name": "no", "optional": True}}, {}),
        ({"secret": {"secretName": "sec", "defaultMode": 0o600}}, {"k": File(b"s", 0o600)}),
        (
            {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"l": File(b'x="q\\"t"', 0o644)},
        ),
        (
            {
                "projected": {
                    "sources": [
                        {"configMap": {"name": "conf", "items": [{"key": "a", "path": "a"}]}},
                        {"secret": {"name": "sec"}},
                    ]
                }
            },
            {"a": File(b"1", 0o644), "k": File(b"s", 0o644)},
        ),
        ({"emptyDir": {}}, None),
    ],
)
def test_what_a_volume_holds(pod: Any, source: dict[str, Any], files: Any) -> None:
    found = volume(pod, source)
    assert payload(found, found.spec.volumes[0], around()) == files


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"configMap": {"name": "no"}}, 'configmap "no" not found'),
        ({"secret": {"secretName": "sec", "items": [{"key": "z", "path": "z"}]}}, "non-existent config key: z"),
        ({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}, "serviceAccountToken is not served"),
    ],
)
def test_what_a_volume_lacks_is_named(pod: Any, source: dict[str, Any], words: str) -> None:
    found = volume(pod, source)
    with pytest.raises(ConfigError, match=words):
        payload(found, found.spec.volumes[0], around())


def test_files_change_all_at_once_and_only_when_they_differ(tmp_path: Path) -> None:
    first = {"a": File(b"1", 0o644), "d/b": File(b"2", 0o600)}
    assert write_payload(tmp_path, first, "data-1")
    inode = (tmp_path / "..data").resolve()
    assert (tmp_path / "a").read_bytes() == b"1"
    assert (tmp_path / "d" / "b").stat().st_mode & 0o777 == 0o600
    assert not write_payload(tmp_path, first, "data-2")
    assert write_payload(tmp_path, {"a": File(b"3", 0o644)}, "data-2")
    assert (tmp_path / "a").read_bytes() == b"3"
    assert not (tmp_path / "d").is_symlink()
    assert not inode.exists()
    assert os.readlink(tmp_path / "a") == "..data/a"


def test_a_sub_path_cannot_leave_its_volume(pod: Any, tmp_path: Path) -> None:
    mount = {"name": "v", "mountPath": "/x", "subPath": "link/etc"}
    found = Pod.from_dict(
        pod(volumes=[{"name": "v", "emptyDir": {}}], containers=[{"name": "c", "volumeMounts": [mount]}])
    )
    volumes = Volumes(tmp_path)
    volumes.set_up(found, around())
    (volumes.path(found, found.spec.volumes[0]) / "link").symlink_to("/")
    with pytest.raises(VolumeError, match="leads out of volume"):
        volumes.mounts(found, found.spec.containers[0])


def test_an_unserved_volume_is_refused_in_words(pod: Any, tmp_path: Path) -> None:
    found = volume(pod, {"nfs": {"server": "x", "path": "/"}})
    with pytest.raises(VolumeError, match=r'MountVolume\.SetUp failed for volume "v" : its source is not served'):
        Volumes(tmp_path).set_up(found, around())


def test_a_record_survives_whole_and_a_torn_one_counts_as_absent(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    local = PodLocal("u1", "default", "web", "2026-01-01T00:00:00Z", ip="10.0.0.5")
    local.containers["main"] = ContainerLocal(
        "main", state=Running("t"), last=Terminated(1, "Error", "t"), restart_count=2
    )
    checkpoint.save(b'{"kind":"Pod"}', local)
    checkpoint.directory("u2").mkdir()
    (checkpoint.directory("u2") / "record.json").write_bytes(b'{"docu')
    (record,) = Checkpoint(tmp_path).load().values()
    assert record.local == local
    assert bytes(record.document) == b'{"kind":"Pod"}'
    checkpoint.remove("u1")
    assert checkpoint.directories() == ["u2"]
    assert checkpoint.load() == {}


def test_a_lease_counts_only_within_its_boot(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save_lease(LeaseRecord("boot-1", 12.5, 8.0))
    assert checkpoint.load_lease("boot-1") == LeaseRecord("boot-1", 12.5, 8.0)
    assert checkpoint.load_lease("boot-2") is None


def test_a_volume_on_the_disk_is_held_to_its_limit_by_what_it_takes(tmp_path: Path, pod: Any) -> None:
    volumes = Volumes(tmp_path)
    wanted = Pod.from_dict(
        pod(
            volumes=[
                {"name": "free", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1"}},
                {"name": "cache", "emptyDir": {"sizeLimit": "64Ki"}},
            ]
        )
    )
    for name in ("free", "memory", "cache/deep"):
        (tmp_path / "uid-web" / "volumes" / name).mkdir(parents=True)
        (tmp_path / "uid-web" / "volumes" / name / "small").write_bytes(b"x" * 8192)
    (tmp_path / "uid-web" / "volumes" / "free" / "big").write_bytes(b"x" * (1 << 20))
    cache = tmp_path / "uid-web" / "volumes" / "cache"
    (cache / "holes").touch()
    os.truncate(cache / "holes", 1 << 30)
    (cache / "out").symlink_to(tmp_path / "uid-web" / "volumes" / "free")
    for number in range(20):
        (cache / f"again-{number}").hardlink_to(cache / "deep" / "small")
    assert volumes.excess(wanted) == ""
    (cache / "deep" / "large").write_bytes(b"x" * (64 << 10))
    assert volumes.excess(wanted) == 'Usage of EmptyDir volume "cache" exceeds the limit "64Ki".'
