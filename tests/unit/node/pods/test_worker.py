from __future__ import annotations

from typing import Any

from node.runtime.interface import ERR_IMAGE_PULL, RUN_CONTAINER_ERROR, RUNTIME_UNAVAILABLE, RuntimeFailure
from steersman.types import ConfigMap
from steersman.types.meta import ObjectMeta


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in status["conditions"]}


def main(status: dict[str, Any]) -> dict[str, Any]:
    return status["containerStatuses"][0]


async def test_pod_without_probes_is_ready_as_soon_as_it_runs(node: Any, pod: Any) -> None:
    worker = await node.start(pod())
    status = worker.status()
    assert status["phase"] == "Running"
    assert conditions(status) == {
        "PodReadyToStartContainers": "True",
        "Initialized": "True",
        "Ready": "True",
        "ContainersReady": "True",
        "PodScheduled": "True",
    }
    assert main(status)["ready"]
    assert main(status)["started"]
    assert main(status)["restartCount"] == 0
    assert main(status)["containerID"] == f"containerd://{(await node.running()).id}"
    assert main(status)["imageID"].startswith("docker.io/library/busybox@sha256:")
    assert status["podIP"] == node.network.attached["uid-web"]
    assert [event["reason"] for event in node.events] == ["Pulling", "Pulled", "Created", "Started"]


async def test_a_failing_container_restarts_at_once_then_backs_off_and_says_why(node: Any, pod: Any) -> None:
    worker = await node.start(pod())
    await node.exit(code=3)
    status = main(worker.status())
    assert status["restartCount"] == 1
    assert "running" in status["state"]
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert status["lastState"]["terminated"]["reason"] == "Error"
    await node.exit(code=3)
    status = main(worker.status())
    assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert (
        status["state"]["waiting"]["message"]
        == "back-off 10s restarting failed container=main pod=web_default(uid-web)"
    )
    assert not status["ready"]
    assert conditions(worker.status())["Ready"] == "False"
    await node.time.advance(9)
    assert "waiting" in main(worker.status())["state"]
    await node.time.advance(1.5)
    assert main(worker.status())["restartCount"] == 2
    await node.exit(code=3)
    assert "back-off 20s" in main(worker.status())["state"]["waiting"]["message"]
    assert node.told("BackOff")


async def test_a_long_run_clears_the_back_off(node: Any, pod: Any) -> None:
    worker = await node.start(pod())
    for _ in range(2):
        await node.exit(code=1)
    await node.time.advance(11)
    await node.time.advance(601)
    await node.exit(code=1)
    assert "running" in main(worker.status())["state"]


async def test_restart_policy_decides_the_phase(node: Any, pod: Any) -> None:
    done = await node.start(pod("done", restartPolicy="OnFailure"))
    await node.exit(code=0)
    assert done.torn_down
    assert done.status()["phase"] == "Succeeded"
    assert conditions(done.status())["Ready"] == "False"
    failed = await node.start(pod("failed", restartPolicy="Never"))
    await node.exit(code=2)
    assert failed.torn_down
    assert failed.status()["phase"] == "Failed"
    assert main(failed.status())["state"]["terminated"]["exitCode"] == 2
    assert node.network.attached == {}
    assert await node.runtime.sandboxes() == []


async def test_init_containers_run_in_order_and_their_failure_fails_a_pod_that_never_restarts(
    node: Any, pod: Any
) -> None:
    init = [{"name": "one", "image": "busybox"}, {"name": "two", "image": "busybox"}]
    worker = await node.start(pod(initContainers=init, restartPolicy="Never"))
    assert [c.key.container for c in await node.runtime.containers()] == ["one"]
    status = worker.status()
    assert status["phase"] == "Pending"
    assert main(status)["state"]["waiting"]["reason"] == "PodInitializing"
    assert next(c for c in status["conditions"] if c["type"] == "Initialized")["message"].endswith("[one two]")
    await node.exit("one")
    await node.exit("two", code=1)
    assert worker.status()["phase"] == "Failed"
    assert worker.torn_down
    assert not any(spec.key.container == "main" for spec in node.runtime.specs.values())


async def test_a_sidecar_starts_first_and_stops_last(node: Any, pod: Any) -> None:
    init = [{"name": "proxy", "image": "nginx", "restartPolicy": "Always"}]
    worker = await node.start(pod(initContainers=init, restartPolicy="Never"))
    assert {c.key.container for c in await node.runtime.containers()} == {"proxy", "main"}
    assert conditions(worker.status())["Ready"] == "True"
    await node.exit("main")
    assert worker.torn_down
    assert worker.status()["phase"] == "Succeeded"


async def test_an_image_that_cannot_be_pulled_is_told_in_the_registrys_words_and_retried(node: Any, pod: Any) -> None:
    worker = await node.start(pod(containers=[{"name": "main", "image": "nosuch:1", "imagePullPolicy": "Always"}]))
    waiting = main(worker.status())["state"]["waiting"]
    assert waiting["reason"] == ERR_IMAGE_PULL
    assert "manifest unknown" in waiting["message"]
    await node.time.advance(3)
    assert main(worker.status())["state"]["waiting"]["reason"] == "ImagePullBackOff"
    node.runtime.add_image("nosuch:1")
    await node.time.advance(10)
    assert worker.status()["phase"] == "Running"
    assert "Error: ErrImagePull" in node.told("Failed")
    assert node.told("BackOff") == ['Back-off pulling image "nosuch:1"']


async def test_pull_policy_never_uses_only_what_is_there(node: Any, pod: Any) -> None:
    worker = await node.start(pod(containers=[{"name": "main", "image": "busybox", "imagePullPolicy": "Never"}]))
    assert main(worker.status())["state"]["waiting"]["reason"] == "ErrImageNeverPull"
    assert node.runtime.pulls == []


async def test_a_command_that_cannot_run_counts_as_a_crash(node: Any, pod: Any) -> None:
    node.runtime.fail("start_container", RuntimeFailure(RUN_CONTAINER_ERROR, 'exec: "nope": not found'), times=2)
    worker = await node.start(pod())
    status = main(worker.status())
    assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert status["lastState"]["terminated"]["reason"] == "StartError"
    assert status["lastState"]["terminated"]["exitCode"] == 128
    assert "nope" in status["lastState"]["terminated"]["message"]
    await node.time.advance(11)
    assert worker.status()["phase"] == "Running"
    assert main(worker.status())["restartCount"] == 2


async def test_a_missing_config_map_is_named_and_the_pod_starts_when_it_comes(node: Any, pod: Any) -> None:
    source = [{"name": "main", "image": "busybox", "envFrom": [{"configMapRef": {"name": "settings"}}]}]
    worker = await node.start(pod(containers=source))
    waiting = main(worker.status())["state"]["waiting"]
    assert waiting == {"reason": "CreateContainerConfigError", "message": 'configmap "settings" not found'}
    node.add(ConfigMap(metadata=ObjectMeta(name="settings", namespace="default"), data={"COLOUR": "blue"}))
    worker.surroundings_changed()
    await node.time.advance(0)
    assert worker.status()["phase"] == "Running"
    assert ("COLOUR", "blue") in node.runtime.specs[(await node.running()).id].env


async def test_deletion_stops_within_the_grace_and_reports_that_nothing_is_left(node: Any, pod: Any) -> None:
    document = pod()
    worker = await node.start(document)
    deleting = {"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30}
    await node.update(worker, {**document, "metadata": {**document["metadata"], **deleting}})
    assert worker.terminated
    assert node.runtime.stops[0][1] == 30.0
    assert main(worker.status())["state"]["terminated"]["exitCode"] == 143
    assert await node.runtime.containers() == []
    assert node.network.attached == {}
    assert node.told("Killing") == ["Stopping container main"]


async def test_the_pre_stop_hook_runs_before_the_signal_and_only_within_the_grace(node: Any, pod: Any) -> None:
    hook = {"preStop": {"sleep": {"seconds": 60}}}
    document = pod(containers=[{"name": "main", "image": "busybox", "lifecycle": hook}])
    worker = await node.start(document)
    worker.stop(20.0)
    await node.time.advance(19)
    assert node.runtime.stops == []
    await node.time.advance(2)
    assert worker.torn_down
    assert node.runtime.stops[0][1] == 2.0


async def test_a_forced_stop_overtakes_a_graceful_one(node: Any, pod: Any) -> None:
    hook = {"preStop": {"sleep": {"seconds": 60}}}
    worker = await node.start(pod(containers=[{"name": "main", "image": "busybox", "lifecycle": hook}]))
    worker.stop(30.0)
    await node.time.advance(1)
    worker.stop(0.0)
    await node.time.advance(0)
    assert worker.torn_down
    assert main(worker.status())["state"]["terminated"]["exitCode"] == 137


async def test_a_restarted_agent_adopts_what_runs_and_restarts_nothing(node: Any, pod: Any) -> None:
    await node.start(pod())
    before = await node.running()
    address = node.network.attached["uid-web"]
    worker = (await node.restart())["uid-web"]
    assert (await node.running()).id == before.id
    status = worker.status()
    assert status["phase"] == "Running"
    assert main(status)["restartCount"] == 0
    assert main(status)["ready"]
    assert status["podIP"] == address == node.addresses.allocate("uid-web")
    await node.exit(code=1)
    assert main(worker.status())["restartCount"] == 1


async def test_an_exit_while_the_agent_was_away_is_seen(node: Any, pod: Any) -> None:
    await node.start(pod(restartPolicy="Never"))
    container = await node.running()
    await node.kill()
    node.runtime.exit(container.id, 9)
    worker = (await node.restart())["uid-web"]
    assert worker.status()["phase"] == "Failed"
    assert main(worker.status())["state"]["terminated"]["exitCode"] == 9
    again = (await node.restart())["uid-web"]
    assert again.status()["phase"] == "Failed"
    assert len(node.runtime.specs) == 1


async def test_a_host_that_lost_its_containers_starts_them_again(node: Any, pod: Any) -> None:
    await node.start(pod())
    container = await node.running()
    await node.kill()
    node.runtime._containers.clear()
    worker = (await node.restart())["uid-web"]
    status = main(worker.status())
    assert status["restartCount"] == 1
    assert "running" in status["state"]
    assert status["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert (await node.running()).id != container.id


async def test_a_crash_between_record_and_start_starts_the_same_attempt_once(node: Any, pod: Any) -> None:
    node.runtime.fail("start_container", RuntimeFailure(RUNTIME_UNAVAILABLE, "away"), times=1)
    worker = await node.start(pod())
    assert main(worker.status())["state"]["waiting"]["reason"] == RUNTIME_UNAVAILABLE
    worker = (await node.restart())["uid-web"]
    await node.time.advance(1)
    assert main(worker.status())["restartCount"] == 0
    assert len(node.runtime.specs) == 1


async def test_a_setup_that_fails_is_retried_and_told(node: Any, pod: Any) -> None:
    node.network.problem = OSError("no such bridge")
    worker = await node.start(pod())
    assert worker.status()["phase"] == "Pending"
    assert "no such bridge" in node.told("FailedCreatePodSandBox")[0]
    node.network.problem = None
    await node.time.advance(1)
    assert worker.status()["phase"] == "Running"


async def test_a_pod_past_its_deadline_fails(node: Any, pod: Any) -> None:
    worker = await node.start(pod(activeDeadlineSeconds=30))
    await node.time.advance(31)
    status = worker.status()
    assert status["phase"] == "Failed"
    assert status["reason"] == "DeadlineExceeded"
    assert worker.torn_down


async def test_liveness_failures_restart_and_readiness_failures_only_unready(node: Any, pod: Any) -> None:
    healthy = {"ready": True, "live": True}
    node.runtime.on_exec = lambda _c, argv: (0 if healthy[argv[0]] else 1, b"", b"sick")
    probes = {
        "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 5, "failureThreshold": 1},
        "livenessProbe": {"exec": {"command": ["live"]}, "periodSeconds": 5, "failureThreshold": 2},
    }
    worker = await node.start(pod(containers=[{"name": "main", "image": "busybox", **probes}]))
    assert main(worker.status())["ready"]
    healthy["ready"] = False
    await node.time.advance(5)
    assert not main(worker.status())["ready"]
    assert main(worker.status())["restartCount"] == 0
    healthy.update(ready=True, live=False)
    await node.time.advance(11)
    assert main(worker.status())["restartCount"] == 1
    assert "Container main failed liveness probe, will be restarted" in node.told("Killing")
    assert any(text.startswith("Liveness probe failed: sick") for text in node.told("Unhealthy"))


async def test_a_startup_probe_holds_back_the_others(node: Any, pod: Any) -> None:
    up = {"up": False}
    node.runtime.on_exec = lambda _c, argv: (0 if up["up"] else 1, b"", b"")
    probe = {"startupProbe": {"exec": {"command": ["up"]}, "periodSeconds": 1, "failureThreshold": 30}}
    worker = await node.start(pod(containers=[{"name": "main", "image": "busybox", **probe}]))
    assert not main(worker.status())["started"]
    assert not main(worker.status())["ready"]
    up["up"] = True
    await node.time.advance(1)
    assert main(worker.status())["started"]
    assert main(worker.status())["ready"]


async def test_a_pod_whose_volume_outgrows_its_limit_is_evicted(node: Any, pod: Any) -> None:
    worker = await node.start(pod(volumes=[{"name": "cache", "emptyDir": {"sizeLimit": "64Ki"}}]))
    await node.time.advance(11)
    assert worker.status()["phase"] == "Running"
    (node.root / "pods" / "uid-web" / "volumes" / "cache" / "large").write_bytes(b"x" * (128 << 10))
    await node.until(lambda: worker.torn_down)
    status = worker.status()
    assert (status["phase"], status["reason"]) == ("Failed", "Evicted")
    assert status["message"] == 'Usage of EmptyDir volume "cache" exceeds the limit "64Ki".'
    assert node.told("Evicted") == [status["message"]]
