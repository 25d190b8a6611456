import pytest

from node.runtime import cgroups
from node.runtime.interface import Stats


@pytest.fixture
def v2(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    pod = tmp_path / "parent" / "poduid" / "c1"
    pod.mkdir(parents=True)
    (pod / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (pod / "memory.current").write_text("5000\n")
    (pod / "memory.stat").write_text("anon 100\ninactive_file 2000\n")
    (pod / "memory.events").write_text("oom 1\noom_kill 2\n")
    return cgroups.Cgroups(tmp_path)


@pytest.fixture
def v1(tmp_path):
    for controller in ("cpuacct", "memory", "pids"):
        (tmp_path / controller / "parent" / "poduid" / "c1").mkdir(parents=True)
    (tmp_path / "cpu").symlink_to("cpuacct")
    (tmp_path / "cpuacct/parent/poduid/c1/cpuacct.usage").write_text("1500000000\n")
    memory = tmp_path / "memory/parent/poduid/c1"
    (memory / "memory.usage_in_bytes").write_text("5000\n")
    (memory / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 2000\n")
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    return cgroups.Cgroups(tmp_path)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_both_versions_tell_the_same(version, request):
    trees = request.getfixturevalue(version)
    path = cgroups.container_path("/parent/", "uid", "c1")
    assert path == "/parent/poduid/c1"
    assert trees.stats(path) == Stats(1.5, 5000, 3000)
    assert trees.oom_kills(path) == 2
    assert trees.stats("/parent/poduid/gone") is None
    assert trees.oom_kills("/parent/poduid/gone") == 0


def test_removal_takes_every_tree_and_is_idempotent(tmp_path):
    for controller in ("memory", "pids"):
        (tmp_path / controller / "parent" / "poduid" / "c1").mkdir(parents=True)
    trees = cgroups.Cgroups(tmp_path)
    for _ in range(2):
        trees.remove(cgroups.pod_path("parent", "uid"))
        assert not list(tmp_path.glob("*/parent/*"))
    assert (tmp_path / "memory" / "parent").exists()
