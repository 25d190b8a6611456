"""Agent and gateway over real gRPC with mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest

from node import credentials
from node.credentials import IdentityFile, JoinError
from node.main import Enrolment
from steersman.errors import ApiError
from steersman.types import ConfigMap, Event, Node
from steersman.types.meta import ObjectMeta
from steersman.v1 import streams_pb2


async def node_ready(plane: Any, name: str = "node-1") -> Node | None:
    node = await plane.client.get(Node, name)
    return node if node.ready else None


async def gone(plane: Any, name: str) -> bool:
    try:
        await plane.pod(name)
    except ApiError as error:
        return error.reason == "NotFound"
    return False


async def test_a_node_joins_and_is_ready_with_labels_and_a_range(plane: Any, host: Any, until: Any) -> None:
    node = await until(lambda: node_ready(plane), "node-1 Ready")
    labels = node.metadata.labels
    assert labels["kubernetes.io/hostname"] == "node-1"
    assert labels["kubernetes.io/os"] == "linux"
    assert node.internal_ip == "127.0.0.1"
    assert node.spec.pod_cidr == host.network.cidr
    assert {"cpu", "memory", "pods", "ephemeral-storage"} <= node.status.allocatable.keys()
    assert plane.heartbeats.last("node-1") is not None
    assert (host.data / "identity.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("token", "pin", "words"),
    [
        ("aaaaaa.0123456789abcdef", "", "the join token is not known"),
        ("nonsense", "", "has not the form"),
        ("", "sha256:" + "0" * 64, "--ca-hash is wrong"),
    ],
)
async def test_joining_with_a_wrong_token_or_ca_is_refused_in_words(
    plane: Any, tmp_path: Any, token: str, pin: str, words: str
) -> None:
    enrolment = Enrolment(IdentityFile(tmp_path), plane.clock, plane.entropy, patience_s=0.0)
    with pytest.raises(JoinError, match=words) as refused:
        await enrolment.enrol("node-9", [plane.address], token or plane.token, pin or plane.authority.hash)
    assert refused.value.final


async def test_a_living_nodes_name_cannot_be_taken(plane: Any, host: Any, tmp_path: Any, until: Any) -> None:
    await until(lambda: node_ready(plane))
    enrolment = Enrolment(IdentityFile(tmp_path), plane.clock, plane.entropy)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await enrolment.enrol("node-1", [plane.address], plane.token, plane.authority.hash)


async def test_a_bound_pod_runs_and_its_status_comes_back(plane: Any, host: Any, until: Any) -> None:
    await plane.run_pod("web")
    pod = await until(lambda: plane.ready("web"), "web Ready")
    assert pod.status.phase == "Running"
    assert pod.status.pod_ip == host.network.attached[pod.uid]
    assert pod.status.container_statuses[0].container_id.startswith("containerd://")
    assert pod.condition("Ready").status == "True"
    assert pod.status.qos_class == "BestEffort"
    events = await until(lambda: plane.client.list(Event, "default"), "events")
    reasons = await until(lambda: _reasons(plane, {"Pulled", "Created", "Started"}), "Started event")
    assert {"Pulled", "Created", "Started"} <= reasons
    assert len(events)


async def _reasons(plane: Any, wanted: set[str]) -> set[str] | None:
    found = {event.reason for event in (await plane.client.list(Event, "default")).items}
    return found if wanted <= found else None


async def test_a_graceful_deletion_ends_when_the_agent_has_nothing_left(plane: Any, host: Any, until: Any) -> None:
    await plane.run_pod("web")
    await until(lambda: plane.ready("web"))
    await plane.client.delete("pods", "web", "default", grace=5)
    await until(lambda: gone(plane, "web"), "web gone")
    assert await host.runtime.containers() == []
    assert host.network.attached == {}
    assert host.runtime.stops[0][1] > 3
    await until(lambda: not host.agent.workers)
    assert not any((host.data / "pods").iterdir())


async def test_a_forced_deletion_kills_what_the_node_no_longer_should_run(plane: Any, host: Any, until: Any) -> None:
    await plane.run_pod("web")
    await until(lambda: plane.ready("web"))
    await plane.client.delete("pods", "web", "default", grace=0)
    assert await gone(plane, "web")
    await until(lambda: not host.runtime._containers, "container gone")
    await until(lambda: host.network.attached == {}, "link gone")


async def test_a_config_map_reaches_the_pod_that_names_it_and_follows_changes(
    plane: Any, host: Any, until: Any
) -> None:
    volumes = [{"name": "conf", "configMap": {"name": "conf"}}]
    container = {"name": "main", "image": "busybox", "volumeMounts": [{"name": "conf", "mountPath": "/conf"}]}
    pod = await plane.run_pod("web", volumes=volumes, containers=[container])
    await until(lambda: pod.uid in host.agent.workers, "the agent waits for the ConfigMap")
    await plane.client.create(ConfigMap(metadata=ObjectMeta(name="conf", namespace="default"), data={"a": "1"}))
    await until(lambda: plane.ready("web"), "web Ready once its ConfigMap is there")
    file = host.data / "pods" / pod.uid / "volumes" / "conf" / "a"
    assert file.read_text() == "1"
    await plane.client.patch(ConfigMap, "conf", {"data": {"a": "2"}}, "default")
    await until(lambda: file.read_text() == "2", "live update of the file")


async def test_a_killed_agent_comes_back_to_the_same_containers(plane: Any, host: Any, until: Any) -> None:
    await plane.run_pod("web")
    pod = await until(lambda: plane.ready("web"))
    (before,) = await host.running()
    await host.kill()
    await host.start(token="")
    await until(lambda: plane.gateway.nodes == ["node-1"])
    await plane.run_pod("other")
    await until(lambda: plane.ready("other"))
    assert before.id in {c.id for c in await host.running()}
    assert (await plane.pod("web")).status.pod_ip == pod.status.pod_ip
    assert (await plane.pod("web")).status.container_statuses[0].restart_count == 0
    assert len(host.runtime.specs) == 2


async def test_what_was_deleted_while_the_agent_was_away_is_cleaned_up(plane: Any, host: Any, until: Any) -> None:
    await plane.run_pod("web")
    await until(lambda: plane.ready("web"))
    await host.kill()
    await plane.client.delete("pods", "web", "default", grace=0)
    await host.start()
    await until(lambda: not host.runtime._containers, "container gone")
    await until(lambda: not any((host.data / "pods").iterdir()), "record gone")


async def test_a_node_without_a_leader_fences_its_pods_in_time(plane: Any, host: Any, until: Any) -> None:
    await plane.run_pod(
        "web",
        tolerations=[
            {
                "key": "node.kubernetes.io/unreachable",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 0,
            }
        ],
    )
    await plane.run_pod(
        "stays", tolerations=[{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}]
    )
    await until(lambda: plane.ready("web"))
    await until(lambda: plane.ready("stays"))
    await plane.resign()
    lost = plane.clock.monotonic()
    await until(lambda: len([c for c in host.runtime._containers.values() if c.running]) == 1, "web fenced")
    assert 1.0 < plane.clock.monotonic() - lost < 3.5  # lease 2 s, counted from the last acknowledged heartbeat
    (left,) = await host.running()
    assert left.key.pod == "stays"
    plane.lead()
    await until(lambda: _phase(plane, "web", "Failed"), "the fence is told")


async def _phase(plane: Any, name: str, phase: str) -> bool:
    return (await plane.pod(name)).status.phase == phase


async def test_a_new_leader_gets_everything_told_again(plane: Any, host: Any, until: Any) -> None:
    await plane.run_pod("web")
    await until(lambda: plane.ready("web"))
    await plane.resign()
    host.runtime.exit((await host.running())[0].id, 4)
    plane.lead()
    await until(lambda: _restarts(plane, 1), "the restart is told to the new leader")


async def _restarts(plane: Any, count: int) -> bool:
    return (await plane.pod("web")).status.container_statuses[0].restart_count == count


async def test_conditions_of_others_survive_the_agents_reports(plane: Any, host: Any, until: Any) -> None:
    await plane.run_pod("web")
    await until(lambda: plane.ready("web"))
    pod = await plane.pod("web")
    mine = {"type": "DisruptionTarget", "status": "True", "reason": "Test"}
    body = msgspec.json.decode(pod.encode())
    body["status"]["conditions"].append(mine)
    await plane.client.update(body, subresource="status")
    host.runtime.exit((await host.running())[0].id, 1)
    await until(lambda: _restarts(plane, 1))
    assert (await plane.pod("web")).condition("DisruptionTarget").status == "True"


async def test_logs_and_exec_travel_through_the_gateway(plane: Any, host: Any, until: Any) -> None:
    await plane.run_pod("web")
    await until(lambda: plane.ready("web"))
    (container,) = await host.running()
    host.runtime.write(container.id, "one\ntwo\n")
    host.runtime.on_exec = lambda _c, argv: (7, b"out:" + argv[0].encode(), b"err")
    async with plane.user() as user:
        chunks = [c.data async for c in user.logs(streams_pb2.LogsRequest(namespace="default", pod="web"))]
        assert b"".join(chunks) == b"one\ntwo\n"
        stream = await user.exec(
            streams_pb2.ExecStart(namespace="default", pod="web", command=["id"], stdout=True, stderr=True)
        )
        frames = []
        while (frame := await stream.receive()) is not None:
            frames.append(frame)
        assert b"".join(f.stdout for f in frames) == b"out:id"
        assert b"".join(f.stderr for f in frames) == b"err"
        assert frames[-1].exit.code == 7
        with pytest.raises(ApiError, match="container nope is not valid for pod web"):
            async for _ in user.logs(streams_pb2.LogsRequest(namespace="default", pod="web", container="nope")):
                pass
        with pytest.raises(ApiError, match="not found"):
            async for _ in user.logs(streams_pb2.LogsRequest(namespace="default", pod="nope")):
                pass


async def test_followed_logs_come_as_they_are_written(plane: Any, host: Any, until: Any) -> None:
    await plane.run_pod("web", restartPolicy="Never")
    await until(lambda: plane.ready("web"))
    (container,) = await host.running()
    host.runtime.write(container.id, "one\n")
    async with plane.user() as user:
        stream = user.logs(streams_pb2.LogsRequest(namespace="default", pod="web", follow=True))
        assert (await anext(stream)).data == b"one\n"
        host.runtime.write(container.id, "two\n")
        assert (await anext(stream)).data == b"two\n"
        host.runtime.exit(container.id)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_only_nodes_may_open_sessions(plane: Any) -> None:
    from steersman.v1 import node_pb2

    async with plane.user() as user:
        duplex = user.transport.duplex("NodeGateway", "Session")
        with contextlib.suppress(ApiError):
            await duplex.send(node_pb2.AgentMessage(hello=node_pb2.Hello(node_name="node-1")))
        with pytest.raises(ApiError, match="is not a node") as refused:
            await duplex.receive()
        assert refused.value.reason == "Forbidden"


async def test_an_identity_of_another_cluster_is_not_used(plane: Any, host: Any, tmp_path: Any) -> None:
    enrolment = Enrolment(IdentityFile(host.data), plane.clock, plane.entropy)
    assert (await enrolment.enrol("node-1", [plane.address], "", plane.authority.hash)) == host.identity
    with pytest.raises(JoinError, match="is of another cluster"):
        await enrolment.enrol("node-1", [plane.address], "", "sha256:" + "0" * 64)


async def test_a_certificate_is_renewed_with_the_old_one(plane: Any, host: Any, until: Any) -> None:
    await until(lambda: plane.gateway.nodes)
    renewed = await credentials.renew(host.identity, host.agent.control.channel, "node-1")
    assert renewed.certificate != host.identity.certificate
    assert renewed.key != host.identity.key
    assert credentials.usable(renewed, plane.authority.hash, plane.clock) == ""
