"""Containers on a real containerd: what they get, how they end, and that nothing of them stays."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from lab import images
from node.runtime.interface import (
    CREATE_CONTAINER_CONFIG_ERROR,
    RUN_CONTAINER_ERROR,
    LogOptions,
    Mount,
    NotFound,
    Resources,
    RuntimeFailure,
    SandboxSpec,
    Security,
)


async def test_a_container_runs_and_its_output_and_exit_are_told(bench):
    container = await bench.ended("sh", "-c", "hostname; echo bad >&2; exit 3")
    assert (container.exit.code, container.exit.reason) == (3, "Error")
    assert await bench.text(container, "stdout") == "pod-1\n"
    assert await bench.text(container, "stderr") == "bad\n"


async def test_a_container_gets_what_its_spec_says(bench, tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "note").write_text("mounted\n")
    out = await bench.output_of(
        "sh",
        "-c",
        "id -u; id -g; id -G; pwd; echo $COLOR $HOME $HOSTNAME; cat /mnt/note; touch /mnt/x /y; grep CapEff /proc/self/status",
        env=(("COLOR", "red"), ("COLOR", "blue")),
        working_dir="/var/www",
        mounts=(Mount(str(tmp_path), "/mnt", read_only=True),),
        security=Security(run_as_user=33, supplemental_groups=(4000,), read_only_root=True),
    )
    lines = out.splitlines()
    assert lines[:3] == ["33", "33", "33 4000"]
    assert lines[3] == "/var/www"
    assert lines[4] == "blue /var/www pod-1"
    assert lines[5] == "mounted"
    assert out.count("Read-only file system") == 2
    assert "CapEff:\t0000000000000000" in out


async def test_an_images_user_is_looked_up_by_name(bench, registry):
    image = images.build([images.busybox_files()], command=("id",), user="www-data:wheel", working_dir="/tmp")
    images.push(image, registry, "library/named", "1")
    out = await bench.output_of(image=await bench.image("named:1"))
    assert out.strip() == "uid=33(www-data) gid=10(wheel) groups=10(wheel)"


async def test_an_unknown_user_is_refused_and_nothing_is_left(bench, registry, containerd):
    images.push(images.build([images.busybox_files()], command=("id",), user="ghost"), registry, "library/ghost", "1")
    with pytest.raises(RuntimeFailure, match="unable to find user 'ghost'") as caught:
        await bench.run(image=await bench.image("ghost:1"))
    assert caught.value.reason == CREATE_CONTAINER_CONFIG_ERROR
    assert containerd.ctr("containers", "ls", "-q").stdout == ""


async def test_a_missing_program_is_refused_in_runcs_words_and_nothing_is_left(bench, containerd):
    spec = await bench.spec("/no/such/program")
    with pytest.raises(RuntimeFailure, match="/no/such/program") as caught:
        await bench.runtime.start_container(spec)
    assert caught.value.reason == RUN_CONTAINER_ERROR
    assert await bench.runtime.containers() == []
    for what in ("containers", "tasks"):
        assert containerd.ctr(what, "ls", "-q").stdout == ""
    assert spec.key.id not in containerd.ctr("snapshots", "ls").stdout
    assert not (bench.directory / "containers" / spec.key.id).exists()


async def test_starting_one_attempt_twice_starts_it_once(bench, containerd):
    spec = await bench.spec("sleep", "100")
    first, second = await asyncio.gather(bench.runtime.start_container(spec), bench.runtime.start_container(spec))
    assert first == second == await bench.runtime.start_container(spec)
    assert containerd.ctr("tasks", "ls", "-q").stdout.split() == [first.id]


async def test_a_container_that_traps_term_ends_in_its_own_way(bench):
    container = await bench.run("sh", "-c", "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done")
    await bench.printed(container, "up")
    exit_ = await bench.runtime.stop(container.id, 20)
    assert (exit_.code, exit_.reason) == (7, "Error")
    assert await bench.text(container) == "up\nbye\n"


async def test_a_container_that_ignores_term_is_killed_after_the_grace(bench):
    container = await bench.run("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    await bench.printed(container, "up")
    exit_ = await bench.runtime.stop(container.id, 0.3)
    assert (exit_.code, exit_.signal) == (137, signal.SIGKILL)


async def test_removal_leaves_nothing_but_the_log(bench, containerd):
    container = await bench.run("sleep", "100")
    pod_uid = container.key.pod_uid
    pid = container.pid
    await bench.runtime.remove(container.id)
    await bench.runtime.remove(container.id)
    await bench.runtime.remove_sandbox(pod_uid)
    await bench.runtime.remove_sandbox(pod_uid)
    assert not Path(f"/proc/{pid}").exists()
    assert await bench.runtime.containers() == []
    assert containerd.ctr("containers", "ls", "-q").stdout == ""
    assert container.id not in containerd.ctr("snapshots", "ls").stdout
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{bench.cgroup}/pod{pod_uid}"))
    assert pod_uid not in Path("/proc/self/mounts").read_text()
    assert await bench.runtime.sandboxes() == []
    assert Path(container.log_path).exists()
    with pytest.raises(NotFound):
        await bench.runtime.stop(container.id, 1)


async def test_containers_of_a_pod_share_its_namespaces_and_end_apart(bench):
    sandbox = await bench.sandbox()
    first = await bench.run("sleep", "100", sandbox=sandbox, container="first")
    second = await bench.run("sh", "-c", "echo x > /dev/shm/shared; sleep 100", sandbox=sandbox, container="second")
    for kind in ("net", "ipc", "uts"):
        assert os.readlink(f"/proc/{first.pid}/ns/{kind}") == os.readlink(f"/proc/{second.pid}/ns/{kind}")
    assert os.readlink(f"/proc/{first.pid}/ns/net") != os.readlink("/proc/self/ns/net")
    # The first container's shim carries the second one too, and must go on when the first has gone.
    await bench.runtime.remove(first.id)
    third = await bench.ended("cat", "/dev/shm/shared", sandbox=sandbox, container="third")
    assert await bench.text(third) == "x\n"
    assert (await bench.runtime.stop(second.id, 0)).code == 137


async def test_a_sandbox_has_a_loopback_and_may_be_asked_for_again(bench):
    sandbox = await bench.sandbox()
    assert await bench.runtime.create_sandbox(SandboxSpec(sandbox.pod_uid, "pod-1")) == sandbox
    out = await bench.output_of("ip", "addr", "show", "lo", sandbox=sandbox)
    assert "127.0.0.1" in out
    assert "LOOPBACK,UP" in out


async def test_limits_reach_the_cgroup_and_usage_is_read(bench):
    container = await bench.run(
        "sleep", "100", resources=Resources(cpu_request=250, cpu_limit=500, memory_limit=64 << 20, oom_score_adj=-997)
    )
    pod = f"{bench.cgroup}/pod{container.key.pod_uid}/{container.id}"
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        assert (root / pod / "memory.max").read_text() == f"{64 << 20}\n"
        assert (root / pod / "cpu.max").read_text() == "50000 100000\n"
    else:
        assert (root / "memory" / pod / "memory.limit_in_bytes").read_text() == f"{64 << 20}\n"
        assert (root / "cpu" / pod / "cpu.cfs_quota_us").read_text() == "50000\n"
        assert (root / "cpu" / pod / "cpu.shares").read_text() == "256\n"
    stats = await bench.runtime.stats(container.id)
    assert 0 < stats.memory_working_set_bytes <= stats.memory_bytes < 64 << 20
    assert stats.cpu_seconds > 0


async def test_an_out_of_memory_kill_is_named(bench):
    container = await bench.ended("sh", "-c", "tail /dev/zero", resources=Resources(memory_limit=16 << 20))
    assert (container.exit.code, container.exit.reason) == (137, "OOMKilled")


async def test_a_privileged_container_may_what_the_agent_may(bench):
    out = await bench.output_of(
        "sh",
        "-c",
        "mount -t tmpfs none /mnt && echo mounted; ls /dev/vda || ls /dev/kmsg",
        security=Security(privileged=True),
        working_dir="/",
        mounts=(),
        image=await with_directory(bench, "/mnt"),
    )
    assert "mounted\n/dev/" in out


async def with_directory(bench, path):
    files = [*images.busybox_files(), images.File(path, directory=True)]
    url = bench.runtime._images._registries._mirrors["docker.io"]
    images.push(images.build([files], command=("sh",)), url, "library/with-directory", "1")
    return await bench.image("with-directory:1")


async def test_following_a_log_ends_with_the_container_and_misses_nothing(bench):
    container = await bench.run("sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.05; done; printf end")
    lines = [line async for line in bench.runtime.logs(container.log_path, LogOptions(follow=True))]
    assert b"".join(line.text for line in lines) == b"line 1\nline 2\nline 3\nline 4\nline 5\nend"
    assert [line.time for line in lines] == sorted(line.time for line in lines)
    last = [line async for line in bench.runtime.logs(container.log_path, LogOptions(tail_lines=2))]
    assert b"".join(line.text for line in last) == b"line 5\nend"


async def test_much_output_is_rotated_and_read_whole(bench):
    count = 500_000  # lines of about 50 bytes with their prefix: 25 MB, two rotations
    container = await bench.run("seq", "1", str(count))
    numbers = [int(line.text) async for line in bench.runtime.logs(container.log_path, LogOptions(follow=True))]
    assert numbers == list(range(1, count + 1))
    assert [path.name for path in sorted(Path(container.log_path).parent.iterdir())] == ["0.log", "0.log.1", "0.log.2"]


async def test_a_terminal_gives_one_stream(bench):
    container = await bench.ended("sh", "-c", "tty; echo bad >&2", tty=True)
    lines = [line async for line in bench.runtime.logs(container.log_path)]
    assert {line.stream for line in lines} == {"stdout"}
    assert b"".join(line.text for line in lines) == b"/dev/pts/0\r\nbad\r\n"
