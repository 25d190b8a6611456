"""One real member: TLS, bad peers, health, metrics, joining, life and death."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
from contextlib import aclosing
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from control.ca import files
from control.identity import MASTERS, Caller, SubjectCache, forwarded_metadata
from steersman import ApiError, AsyncClient
from steersman.clock import ManualClock, SystemClock
from steersman.transport import GrpcTransport, credentials
from steersman.v1 import node_pb2, node_pb2_grpc


async def test_the_cluster_begins_with_what_every_cluster_has(control):
    async with control.client() as client:
        namespaces = {item["metadata"]["name"] for item in await client.list("namespaces")}
        assert {"default", "kube-system", "kube-public", "kube-node-lease"} <= namespaces
        assert (await client.get("services", "kubernetes"))["spec"]["clusterIP"] == "10.96.0.1"
        assert (await client.get("services", "kube-dns", "kube-system"))["spec"]["clusterIP"] == "10.96.0.10"
        async for event in client.watch("endpointslices", "default"):
            if event.object["metadata"]["name"] == "kubernetes":
                assert event.object["endpoints"][0]["addresses"] == ["127.0.0.1"]
                break


async def test_a_watch_over_the_wire_tells_of_a_write(control):
    async with control.client() as client, aclosing(client.watch("configmaps", labels="test=watch")) as events:
        async with asyncio.timeout(10):
            step = asyncio.ensure_future(anext(events))
            body = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"generateName": "w-", "labels": {"test": "watch"}},
            }
            created = await client.create(body)
            event = await step
            assert (event.type, event.object) == ("ADDED", created)
            assert event.cause.actor == "user:admin/steersman" or event.cause.actor == "user:admin"


async def test_errors_arrive_whole(control):
    async with control.client() as client:
        with pytest.raises(ApiError) as refused:
            await client.create(
                {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "No_Name"}, "spec": {"containers": []}}
            )
        assert refused.value.code == 422
        assert {cause.field for cause in refused.value.causes} == {"metadata.name", "spec.containers"}


async def test_an_error_that_is_too_long_for_a_trailer_is_cut(control):
    labels = {f"bad key {number}": "x" for number in range(500)}
    async with control.client() as client:
        with pytest.raises(ApiError) as refused:
            await client.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": labels}})
        assert refused.value.code == 422
        assert refused.value.causes


async def test_a_5_mb_object_is_refused_in_words(control):
    async with control.client() as client:
        with pytest.raises(ApiError) as refused:
            await client.create(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"x": "y" * (5 << 20)}}
            )
        assert (refused.value.code, refused.value.reason) == (413, "RequestEntityTooLarge")
        await client.get("namespaces", "default", "")


async def test_a_user_without_rights_is_refused(control):
    async with control.client("alice") as client:
        with pytest.raises(ApiError) as refused:
            await client.list("nodes", "")
        assert refused.value.message == (
            'nodes is forbidden: User "alice" cannot list resource "nodes" in API group "" at the cluster scope'
        )


async def test_nobody_but_a_member_may_speak_for_others(control):
    forged = forwarded_metadata(Caller("boss", frozenset((MASTERS,))))
    own = credentials(control.folder / "ca" / "ca.crt", control.folder / "alice.crt", control.folder / "alice.key")
    transport = GrpcTransport([control.members[0].grpc], own, metadata=forged)
    async with AsyncClient(transport) as client:
        with pytest.raises(ApiError) as refused:
            await client.list("nodes", "")
        assert "cannot speak for others" in refused.value.message


def foreign_user(folder: Path, control, kind: str) -> grpc.ChannelCredentials:
    """A client that trusts the cluster but is not trusted by it."""
    clock = ManualClock()  # a certificate of half a year ago … for `expired`
    if kind == "foreign":
        files.create_ca(folder, SystemClock())
        files.create_user(folder, folder, "admin", [MASTERS], SystemClock())
    else:
        clock._now = SystemClock().now().replace(year=2020)
        files.create_user(folder, control.folder / "ca", "admin", [MASTERS], clock)
    return credentials(control.folder / "ca" / "ca.crt", folder / "admin.crt", folder / "admin.key")


@pytest.mark.parametrize("kind", ["foreign", "expired"])
async def test_a_certificate_that_is_not_good_gets_nowhere(control, tmp_path, kind):
    async with AsyncClient(GrpcTransport([control.members[0].grpc], foreign_user(tmp_path, control, kind))) as client:
        with pytest.raises(ApiError) as refused:
            await client.list("nodes", "", timeout=2)
        assert refused.value.reason in ("ServiceUnavailable", "Timeout")
    async with control.client() as client:
        assert await client.list("nodes", "") is not None


@pytest.mark.parametrize("port", ["grpc", "bootstrap", "rest", "raft"])
@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 4_096, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\xff" * 70_000, bytes(range(256)) * 64],
)
async def test_garbage_on_a_port_harms_nobody(control, port, garbage):
    host, _, number = getattr(control.members[0], port).rpartition(":")
    with socket.create_connection((host, int(number)), timeout=5) as connection:
        connection.settimeout(1)
        try:
            connection.sendall(garbage)
            while connection.recv(65_536):
                pass
        except OSError:
            pass
    async with control.client() as client:
        assert (await client.get("namespaces", "default", ""))["metadata"]["name"] == "default"


async def test_garbage_inside_tls_harms_nobody(control):
    tls = ssl.create_default_context(cafile=str(control.folder / "ca" / "ca.crt"))
    tls.load_cert_chain(str(control.folder / "alice.crt"), str(control.folder / "alice.key"))
    tls.set_alpn_protocols(["h2"])
    host, _, number = control.members[0].grpc.rpartition(":")
    with (
        socket.create_connection((host, int(number)), timeout=5) as raw,
        tls.wrap_socket(raw, server_hostname=host) as connection,
    ):
        connection.settimeout(1)
        try:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 10_000)
            while connection.recv(65_536):
                pass
        except OSError:
            pass
    async with control.client() as client:
        await client.get("namespaces", "default", "")


async def channel(control) -> grpc.aio.Channel:
    own = credentials(control.folder / "ca" / "ca.crt", control.folder / "admin.crt", control.folder / "admin.key")
    return grpc.aio.secure_channel(control.members[0].grpc, own)


async def test_health_and_reflection_answer(control):
    async with await channel(control) as connection:
        health = health_pb2_grpc.HealthStub(connection)
        for service in ("", "steersman.v1.Objects"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(connection).ServerReflectionInfo(iter([asked]))
        answer = await anext(aiter(call))
        names = {service.name for service in answer.list_services_response.service}
        assert {"steersman.v1.Objects", "steersman.v1.Cluster", "steersman.v1.NodeGateway"} <= names


async def test_what_does_not_parse_is_refused_by_grpc(control):
    async with await channel(control) as connection:
        call = connection.unary_unary("/steersman.v1.Objects/Get")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"\xff" * 100)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await connection.unary_unary("/steersman.v1.Objects/Nonsense")(b"")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_rest_tells_health_and_version_to_anyone_and_metrics_to_users(control):
    member = control.members[0]
    for path in ("/healthz", "/livez", "/readyz"):
        assert member.ask(path) == (200, "ok")
    assert "[+]reads ok" in member.ask("/readyz?verbose")[1]
    assert json.loads(member.ask("/version")[1])["gitVersion"].startswith("v1.37.0")
    status, text = member.ask("/nonsense")
    assert (status, json.loads(text)["reason"]) == (404, "NotFound")
    assert member.ask("/metrics")[0] == 401
    assert member.ask("/metrics", "alice")[0] == 200


async def test_metrics_tell_of_requests_raft_scheduler_and_controllers(control):
    member = control.members[0]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "nowhere"}}
    async with control.client() as client:
        await client.create({**pod, "spec": {"containers": [{"name": "c", "image": "i"}]}})
        with pytest.raises(ApiError):
            await client.create({**pod, "spec": {"containers": []}})
        async for event in client.watch("pods", "default"):
            if event.object.get("status", {}).get("conditions"):
                break  # the scheduler has looked at it
        await client.delete("pods", "nowhere", "default", grace=0)
    text = member.ask("/metrics", "admin")[1]
    for series in (
        r'steersman_api_requests_total{code="OK",interface="grpc",verb="Create"}',
        r'steersman_api_requests_total{code="Invalid",interface="grpc",verb="Create"}',
        r'steersman_api_request_duration_seconds_bucket{interface="grpc",le="0.001",verb="Create"}',
        "steersman_raft_term ",
        "steersman_raft_is_leader 1.0",
        "steersman_raft_leader_changes_total ",
        'steersman_raft_commit_seconds_bucket{le="0.01"}',
        'steersman_raft_save_seconds_bucket{le="0.01"}',
        'steersman_store_commit_seconds_bucket{le="0.01"}',
        "steersman_scheduler_decision_seconds_bucket",
        "steersman_scheduler_pod_seconds_bucket",
        'steersman_scheduler_refusals_total{plugin="",reason="no nodes available to schedule pods"}',
        'steersman_controller_reconcile_seconds_bucket{controller="node-controller"',
        "process_resident_memory_bytes ",
    ):
        assert series in text, series


# --- joining ---


def certificate_request() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM)


async def join(control, token: str, name: str = "node-1", csr: bytes = b"") -> node_pb2.JoinResponse:
    trusted = grpc.ssl_channel_credentials((control.folder / "ca" / "ca.crt").read_bytes())
    async with grpc.aio.secure_channel(control.members[0].bootstrap, trusted) as connection:
        request = node_pb2.JoinRequest(token=token, node_name=name, csr_pem=csr or certificate_request())
        try:
            return await node_pb2_grpc.NodeBootstrapStub(connection).Join(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            raise ApiError.from_rpc(error) from None


async def test_a_token_is_traded_for_a_nodes_certificate(control):
    async with control.client() as client:
        token = await client.create_join_token(uses=1, description="test")
    assert token.ca_hash == control.authority.hash
    answer = await join(control, token.token)
    caller = SubjectCache().caller(answer.certificate_pem)
    assert caller.node == "node-1"
    assert list(answer.members) == [control.members[0].grpc]
    with pytest.raises(ApiError, match="is used up") as refused:
        await join(control, token.token, "node-2")
    assert refused.value.code == 401


async def test_the_installers_token_lets_join(control):
    assert (await join(control, (control.folder / "token").read_text().strip(), "node-9")).certificate_pem


@pytest.mark.parametrize(
    ("token", "name", "csr"),
    [
        ("", "node-1", b""),
        ("zzzzzz.0123456789abcdef", "node-1", b""),
        ("abcdef.0123456789abcdef", "No_Node", b""),
        ("abcdef.0123456789abcdef", "n", b"nonsense"),
    ],
)
async def test_who_may_not_join_is_told_why(control, token, name, csr):
    with pytest.raises(ApiError) as refused:
        await join(control, token, name, csr)
    assert refused.value.code in (400, 401)


async def test_a_join_that_is_too_large_is_refused(control):
    with pytest.raises(ApiError) as refused:
        await join(control, "abcdef.0123456789abcdef", csr=b"x" * (1 << 20))
    assert "larger than max" in refused.value.message


def test_the_server_shows_the_ca_that_nodes_pin(control):
    """A joining node trusts nobody yet: it looks at the chain and compares the CA's hash."""
    host, _, port = control.members[0].bootstrap.rpartition(":")
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", f"{host}:{port}", "-showcerts"],
        input=b"",
        capture_output=True,
        check=False,
        timeout=20,
    ).stdout.decode()
    chain = re.findall("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", shown, re.DOTALL)
    from control.ca.certificates import ca_hash

    assert ca_hash(chain[1].encode()) == control.authority.hash


# --- the command ---


def steer_control(*argv: str) -> subprocess.CompletedProcess[str]:
    import sys

    return subprocess.run(
        [sys.executable, "-m", "control.main", *argv], capture_output=True, text=True, check=False, timeout=30
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (("--name", "Wrong_Name"), "--name 'Wrong_Name'"),
        (("--name", "other"), "but not this member: --name other"),
        (("--initial-cluster", "nonsense"), "is not NAME=HOST:PORT"),
        (("--grpc-listen", "7443"), "--grpc-listen '7443' is not HOST:PORT"),
        (("--service-cidr", "10.244.0.0/20"), "overlap"),
        (("--dns-ip", "10.1.1.1"), "must be in --service-cidr"),
        (("--node-lease", "soon"), "is not a duration"),
        (("--pki-dir", "/nonexistent"), "cannot read /nonexistent"),
    ],
)
def test_bad_flags_are_told_with_their_remedy(control, changes, told):
    result = steer_control(*control.members[0].argv(*changes)[3:])
    assert result.returncode in (1, 2)
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_told(control, tmp_path):
    member = control.members[0]
    result = steer_control(*member.argv("--data-dir", str(tmp_path), "--raft-listen", "127.0.0.1:1")[3:])
    assert result.returncode == 1
    assert f"cannot listen on {member.grpc}: the port is in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_pki_commands_make_what_run_needs(tmp_path):
    ca, member = str(tmp_path / "ca"), str(tmp_path / "m")
    made = steer_control("pki", "init", "--dir", ca)
    assert re.search("sha256:[0-9a-f]{64}", made.stdout)
    assert (
        steer_control("pki", "member", "--dir", member, "--ca-dir", ca, "--name", "c1", "--address", "::1").returncode
        == 0
    )
    assert steer_control("pki", "user", "--dir", member, "--ca-dir", ca, "--name", "me").returncode == 0
    again = steer_control("pki", "init", "--dir", ca)
    assert again.returncode == 1
    assert "never overwritten" in again.stderr


def test_memory_at_rest_is_in_its_budget(control):
    pages = int(Path(f"/proc/{control.members[0].pid}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") < 150 << 20


async def test_an_acknowledged_write_survives_kill_9_and_a_stop_is_clean(control):
    async with control.client() as client:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}}
        created = await client.create(body)
        (member,) = control.members
        member.end(signal.SIGKILL)
        member.start()
        assert await client.get("configmaps", "kept", timeout=20) == created
        assert await asyncio.to_thread(member.end) == 0
        member.start()
        assert await client.get("configmaps", "kept", timeout=20) == created
