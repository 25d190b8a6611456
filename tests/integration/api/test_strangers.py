"""What an authenticated stranger, and an agent, may do: nothing. Asked of every method that a member serves."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from control.api import forwarding_pb2
from control.identity import NODE_PREFIX
from steersman.transport import credentials
from steersman.v1 import cluster_pb2, encryption_pb2, node_pb2, objects_pb2, streams_pb2

MODULES = (objects_pb2, cluster_pb2, encryption_pb2, streams_pb2, node_pb2, forwarding_pb2)
METHODS = [
    method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if service.name != "NodeBootstrap"  # on its own port
]
# Which kinds there are, and which revision was the newest when: told to whoever has a certificate.
OPEN = {"Objects.Kinds", "Objects.Moment"}
AGENTS = {"NodeGateway.Session", "NodeGateway.Stream", "NodeGateway.Renew"}


def plausible(method: MethodDescriptor) -> Message:
    """A request that would be answered if it came from an administrator."""
    request: Any = message_factory.GetMessageClass(method.input_type)()
    fields = method.input_type.fields_by_name
    for holder in (request, request.list if "list" in fields else request):
        if "type" in holder.DESCRIPTOR.fields_by_name:
            holder.type.kind, holder.type.api_version = "Pod", "v1"
        if "namespace" in holder.DESCRIPTOR.fields_by_name:
            holder.namespace = "default"
    if "name" in fields:
        request.name = "control-1"
    if "object" in fields:
        metadata = {"name": "x", "namespace": "default"}
        request.object.json = msgspec.json.encode({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    match method.full_name:
        case "steersman.v1.Objects.Batch":
            request.writes.add().delete.CopyFrom(
                objects_pb2.DeleteRequest(type=objects_pb2.Type(kind="Pod"), namespace="default", name="x")
            )
        case "steersman.v1.Encryption.ReportEncryption":
            request.member.name = "control-1"
        case "steersman.v1.Objects.Patch":
            request.format, request.patch = objects_pb2.PatchRequest.MERGE, b"{}"
        case "steersman.v1.Streams.Logs":
            request.pod = "x"
        case "steersman.v1.Streams.Exec":
            request.exec.CopyFrom(streams_pb2.ExecStart(namespace="default", pod="x", command=["id"]))
    return request


async def asked(channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
    """The first answer, or EOF."""
    service = method.containing_service.full_name
    answers = message_factory.GetMessageClass(method.output_type)
    codec = {
        "request_serializer": type(plausible(method)).SerializeToString,
        "response_deserializer": answers.FromString,
    }
    path, request = f"/{service}/{method.name}", plausible(method)
    if not method.server_streaming:
        return await channel.unary_unary(path, **codec)(request, timeout=10)
    if not method.client_streaming:
        return await channel.unary_stream(path, **codec)(request, timeout=10).read()
    call = channel.stream_stream(path, **codec)(timeout=10)
    await call.write(request)
    return await call.read()


def credentials_of(control: Any, user: str) -> grpc.ChannelCredentials:
    folder = control.folder
    if user.startswith(NODE_PREFIX) and not (folder / f"{user}.crt").exists():
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        pem = csr.public_bytes(serialization.Encoding.PEM)
        (folder / f"{user}.crt").write_bytes(control.authority.sign_node(pem, user.removeprefix(NODE_PREFIX)))
        plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (folder / f"{user}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    return credentials(folder / "ca" / "ca.crt", folder / f"{user}.crt", folder / f"{user}.key")


@pytest.mark.parametrize("user", ["alice", "system:node:node-9"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.containing_service.name}.{method.name}")
async def test_a_stranger_gets_nothing(control, user, method):
    name = f"{method.containing_service.name}.{method.name}"
    if name in AGENTS and user != "alice":
        return
    async with grpc.aio.secure_channel(control.members[0].grpc, credentials_of(control, user)) as channel:
        if name in OPEN:
            await asked(channel, method)
            return
        if name == "Objects.Batch":
            assert (await asked(channel, method)).results[0].error.reason == "Forbidden"
            return
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked(channel, method)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED, refused.value.details()
