from dataclasses import replace

import pytest

from node.runtime import spec as oci
from node.runtime.interface import (
    ContainerKey,
    ContainerSpec,
    Image,
    Mount,
    Resources,
    RuntimeFailure,
    Sandbox,
    Security,
)
from node.runtime.users import User

IMAGE = Image("docker.io/library/x:1", "sha256:1", "sha256:2", 1, ("/entry",), ("default",), ("PATH=/img", "A=image"))
SPEC = ContainerSpec(
    key=ContainerKey("uid-1", "default", "pod-1", "main"),
    image=IMAGE,
    sandbox=Sandbox("uid-1", "/s/net", "/s/ipc", "/s/uts", "/s/shm"),
    hostname="pod-1",
    log_path="/logs/0.log",
)
HOST = oci.HostLimits("parent", frozenset(oci.ALL_CAPABILITIES) - {"CAP_SYS_RESOURCE"}, 0, ())


ROOT = User()


def build(user=ROOT, **changes):
    return oci.build(replace(SPEC, **changes), user, HOST)


@pytest.mark.parametrize(
    ("command", "args", "argv"),
    [
        (None, None, ("/entry", "default")),
        (None, ("a",), ("/entry", "a")),
        (("/cmd",), None, ("/cmd",)),
        (("/cmd",), ("a",), ("/cmd", "a")),
    ],
)
def test_command_and_args_join_the_image_as_in_kubernetes(command, args, argv):
    assert oci.arguments(IMAGE, command, args) == argv


def test_nothing_to_run_is_refused():
    with pytest.raises(RuntimeFailure, match="no command specified"):
        oci.arguments(replace(IMAGE, entrypoint=(), command=()), None, None)


def test_the_pods_environment_wins_over_the_images():
    env = build(env=(("A", "1"), ("A", "2"), ("HOME", "/elsewhere")))["process"]["env"]
    assert set(env) == {"PATH=/img", "HOSTNAME=pod-1", "HOME=/elsewhere", "A=2"}


def test_the_sandbox_is_joined_and_mount_and_pid_are_its_own():
    namespaces = build()["linux"]["namespaces"]
    assert {n["type"]: n.get("path") for n in namespaces} == {
        "mount": None,
        "pid": None,
        "network": "/s/net",
        "ipc": "/s/ipc",
        "uts": "/s/uts",
    }


def test_a_pod_on_the_host_joins_nothing_and_sets_no_hostname():
    spec = build(sandbox=Sandbox("uid-1", "", "", "", "/dev/shm", host_pid=True))
    assert [n["type"] for n in spec["linux"]["namespaces"]] == ["mount"]
    assert spec["hostname"] == ""


def test_capabilities_are_dropped_and_added_within_what_the_agent_holds():
    only = build(security=Security(drop_capabilities=("ALL",), add_capabilities=("net_admin",)))["process"]
    assert only["capabilities"]["bounding"] == ["CAP_NET_ADMIN"]
    without = build(security=Security(drop_capabilities=("CAP_NET_RAW",)))["process"]["capabilities"]["effective"]
    assert set(oci.DEFAULT_CAPABILITIES) - set(without) == {"CAP_NET_RAW"}
    everything = build(security=Security(add_capabilities=("ALL",)))["process"]["capabilities"]["bounding"]
    assert set(everything) == HOST.capabilities
    with pytest.raises(RuntimeFailure, match="unknown capability CAP_FLY"):
        build(security=Security(add_capabilities=("FLY",)))


def test_a_user_other_than_root_has_no_effective_capabilities():
    capabilities = build(user=User(33, 33))["process"]["capabilities"]
    assert capabilities["effective"] == capabilities["permitted"] == []
    assert capabilities["bounding"]


def test_an_oom_score_below_the_agents_own_is_raised_to_it():
    assert build(resources=Resources(oom_score_adj=-997))["process"]["oomScoreAdj"] == 0
    assert build(resources=Resources(oom_score_adj=500))["process"]["oomScoreAdj"] == 500


def test_resources_become_shares_quota_and_limit():
    resources = build(resources=Resources(cpu_request=250, cpu_limit=1500, memory_limit=1 << 20))["linux"]["resources"]
    assert resources["cpu"] == {"shares": 256, "period": 100_000, "quota": 150_000}
    assert resources["memory"] == {"limit": 1 << 20}
    assert build()["linux"]["resources"]["cpu"] == {"shares": 2}
    assert build(resources=Resources(cpu_limit=500))["linux"]["resources"]["cpu"]["shares"] == 512


def test_outer_mounts_come_before_inner_ones():
    mounts = (Mount("/b", "/data/inner", read_only=True), Mount("/a", "/data"))
    binds = [m for m in build(mounts=mounts)["mounts"] if m["source"] in ("/a", "/b")]
    assert [m["destination"] for m in binds] == ["/data", "/data/inner"]
    assert [m["options"][-1] for m in binds] == ["rw", "ro"]


def test_privileged_lifts_masks_and_the_device_filter():
    linux = build(security=Security(privileged=True))["linux"]
    assert "maskedPaths" not in linux
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert build()["linux"]["maskedPaths"]


def test_the_cgroup_is_below_the_pods():
    assert build()["linux"]["cgroupsPath"] == f"/parent/poduid-1/{SPEC.key.id}"


def test_a_containers_id_is_its_attempts_alone():
    assert SPEC.key.id == replace(SPEC.key, pod="renamed").id
    assert SPEC.key.id != replace(SPEC.key, attempt=1).id
    assert len(SPEC.key.id) == 64


def test_a_repository_is_told_from_a_registrys_port():
    assert replace(IMAGE, name="r:5000/a/b:1").repo_digest == "r:5000/a/b@sha256:2"
    assert replace(IMAGE, name=f"r/a@{'sha256:9'}").repo_digest == "r/a@sha256:2"
