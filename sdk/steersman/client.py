"""The asynchronous client: Kubernetes' verbs on typed views or plain documents.

A kind is named by a view class (`Pod`) or by a string (`"pods"`, `"deploy"`, `"Widget.example.com"` once such a kind
exists). With a class, objects come back as that view; with a string, as parsed JSON documents. Every method raises
`ApiError`.

    async with AsyncClient.connect() as client:
        for pod in (await client.list(Pod, namespace="default", labels="app=web")).items:
            print(pod.name, pod.status.phase)

The module is long because a client has every verb of the API, each a few lines, in one class.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar, overload

import msgspec
import yaml

from steersman import config as configuration
from steersman.clock import Entropy, SystemEntropy
from steersman.errors import ApiError
from steersman.transport import DEFAULT_TIMEOUT_S, Duplex, GrpcTransport, Transport
from steersman.types import KubeObject
from steersman.v1 import cluster_pb2, streams_pb2
from steersman.v1 import objects_pb2 as pb

K = TypeVar("K", bound=KubeObject)
T = TypeVar("T")
Document = dict[str, Any]
Propagation = Literal["", "Background", "Foreground", "Orphan"]
PatchFormat = Literal["json", "merge", "strategic"]

_PROPAGATION: dict[str, Any] = {
    "": pb.DeleteRequest.PROPAGATION_UNSPECIFIED,
    "Background": pb.DeleteRequest.BACKGROUND,
    "Foreground": pb.DeleteRequest.FOREGROUND,
    "Orphan": pb.DeleteRequest.ORPHAN,
}
_FORMAT: dict[str, Any] = {
    "json": pb.PatchRequest.JSON,
    "merge": pb.PatchRequest.MERGE,
    "strategic": pb.PatchRequest.STRATEGIC,
}
RESUME_BACKOFF_S = (0.02, 0.1, 0.3, 1.0)  # between tries to resume a watch; the last one repeats


@dataclass(frozen=True, slots=True)
class ObjectList(Generic[T]):
    """One consistent list: all items show the state at `revision`."""

    items: tuple[T, ...]
    revision: int
    continue_token: str = ""

    def __iter__(self) -> Any:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T]):
    """`type` is ADDED, MODIFIED, DELETED or BOOKMARK (whose object is None)."""

    type: str
    object: T
    revision: int
    cause: pb.Cause


@dataclass(frozen=True, slots=True)
class WriteResult:
    """How one write ended: `outcome` is CREATED, CHANGED, UNCHANGED, DELETED, DELETING, or "" when `error` is set."""

    outcome: str
    object: pb.Object | None
    warnings: tuple[str, ...] = ()
    error: ApiError | None = None

    @property
    def document(self) -> Document:
        """The stored document. Raises the write's error, if it has one."""
        if self.error is not None:
            raise self.error
        return msgspec.json.decode(self.object.json) if self.object is not None and self.object.json else {}


def type_of(kind: type[KubeObject] | str) -> pb.Type:
    """The wire's name of a kind. A string may be kind, plural, singular, short name, each with `.group` or as `group/version/kind`."""
    if not isinstance(kind, str):
        return pb.Type(api_version=kind.API_VERSION, kind=kind.KIND)
    head, slash, tail = kind.rpartition("/")
    if slash:
        return pb.Type(api_version=head, kind=tail) if tail[:1].isupper() else pb.Type(api_version=head, resource=tail)
    return pb.Type(kind=kind) if kind[:1].isupper() else pb.Type(resource=kind)


def _decode(kind: type[K] | str, message: pb.Object) -> Any:
    return msgspec.json.decode(message.json) if isinstance(kind, str) else kind.decode(message.json)


def encode(obj: KubeObject | Document) -> bytes:
    """An object's JSON document."""
    return obj.encode() if isinstance(obj, KubeObject) else msgspec.json.encode(obj)


def manifests(source: str | bytes | Document | Iterable[Any]) -> list[Document]:
    """The documents of a manifest: YAML or JSON text (several documents, or a List), one document, or a sequence of them.

    Raises:
        ValueError: the text is not YAML, or a document is not an object.
    """
    if isinstance(source, str | bytes):
        try:
            loaded = [document for document in yaml.load_all(source, _LOADER) if document is not None]
        except yaml.YAMLError as error:
            raise ValueError(f"not YAML or JSON: {_where(error)}") from error
    elif isinstance(source, dict):
        loaded = [source]
    else:
        loaded = [item.to_dict() if isinstance(item, KubeObject) else item for item in source]
    documents: list[Document] = []
    for document in loaded:
        if not isinstance(document, dict):
            raise ValueError(
                f"a manifest is a mapping with apiVersion, kind and metadata; found {type(document).__name__}"
            )
        if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
            documents.extend(manifests(document["items"]))
        else:
            documents.append(document)
    return documents


def _where(error: yaml.YAMLError) -> str:
    """PyYAML's error in one line: what was expected or found, and where."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    parts = [part for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part]
    return f"line {mark.line + 1}, column {mark.column + 1}: {', '.join(parts)}"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Kubernetes reads it: dates stay strings, a key may not stand twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        self.flatten_mapping(node)
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_LOADER = _Loader


class AsyncClient:
    """A client of one cluster.

    Args:
        transport: how calls travel; `connect` makes the usual one.
        namespace: of namespaced objects that name none.
        actor: recorded as the cause of writes; the server writes the user when it is empty.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        namespace: str = "default",
        actor: str = "",
        field_manager: str = "",
        entropy: Entropy | None = None,
    ) -> None:
        self.transport = transport
        self.namespace = namespace
        self._actor = actor
        self._field_manager = field_manager or actor or "steersman"
        self._entropy = entropy or SystemEntropy()

    @classmethod
    def connect(cls, cluster: str = "", *, path: Path | None = None) -> AsyncClient:
        """A client of a cluster in the configuration file (`steersman.config`).

        Raises:
            ConfigError: there is none, or its files cannot be read.
        """
        found = configuration.load(path, cluster)
        return cls(GrpcTransport.from_config(found), namespace=found.namespace)

    def acting_as(self, actor: str) -> AsyncClient:
        """The same client, its writes caused by `actor`."""
        return AsyncClient(self.transport, namespace=self.namespace, actor=actor, entropy=self._entropy)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.transport.close()

    async def _objects(self, method: str, request: Any, timeout: float, *, idempotent: bool = True) -> Any:
        return await self.transport.unary("Objects", method, request, timeout=timeout, idempotent=idempotent)

    def _namespace(self, kind: type[KubeObject] | str, namespace: str | None) -> str:
        if namespace is not None:
            return namespace
        return "" if not isinstance(kind, str) and not kind.NAMESPACED else self.namespace

    def options(self, cause: int = 0, *, dry_run: bool = False, validation: str = "") -> pb.WriteOptions:
        """What this client says with every write."""
        return pb.WriteOptions(
            dry_run=dry_run,
            field_manager=self._field_manager,
            field_validation=pb.WriteOptions.FieldValidation.Value(validation)
            if validation
            else pb.WriteOptions.FIELD_VALIDATION_UNSPECIFIED,
            cause=pb.Cause(revision=cause, actor=self._actor),
        )

    # --- reads ---

    @overload
    async def get(
        self,
        kind: type[K],
        name: str,
        namespace: str | None = ...,
        *,
        revision: int = ...,
        at: str = ...,
        timeout: float = ...,
    ) -> K: ...
    @overload
    async def get(
        self,
        kind: str,
        name: str,
        namespace: str | None = ...,
        *,
        revision: int = ...,
        at: str = ...,
        timeout: float = ...,
    ) -> Document: ...
    async def get(
        self,
        kind: Any,
        name: str,
        namespace: str | None = None,
        *,
        revision: int = 0,
        at: str = "",
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Any:
        """Read one object, now, or as it was at a revision or a moment (`at`: "10m" ago, an RFC 3339 time, a revision).

        A past that is not kept any more is refused with `Expired`.
        """
        request = pb.GetRequest(
            type=type_of(kind), namespace=self._namespace(kind, namespace), name=name, revision=revision, at=at
        )
        return _decode(kind, (await self._objects("Get", request, timeout)).object)

    @overload
    async def list(
        self,
        kind: type[K],
        namespace: str | None = ...,
        *,
        labels: str = ...,
        fields: str = ...,
        limit: int = ...,
        continue_token: str = ...,
        revision: int = ...,
        at: str = ...,
        stale_ok: bool = ...,
        timeout: float = ...,
    ) -> ObjectList[K]: ...
    @overload
    async def list(
        self,
        kind: str,
        namespace: str | None = ...,
        *,
        labels: str = ...,
        fields: str = ...,
        limit: int = ...,
        continue_token: str = ...,
        revision: int = ...,
        at: str = ...,
        stale_ok: bool = ...,
        timeout: float = ...,
    ) -> ObjectList[Document]: ...
    async def list(
        self,
        kind: Any,
        namespace: str | None = "",
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 0,
        continue_token: str = "",
        revision: int = 0,
        at: str = "",
        stale_ok: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> ObjectList[Any]:
        """Read objects of one kind, of one namespace or ("") of all, now or at a revision or a moment (`at`, see `get`)."""
        request = pb.ListRequest(
            type=type_of(kind),
            namespace=self._namespace(kind, namespace),
            label_selector=labels,
            field_selector=fields,
            limit=limit,
            continue_token=continue_token,
            revision=revision,
            at=at,
            stale_ok=stale_ok,
        )
        answer = await self._objects("List", request, timeout)
        return ObjectList(tuple(_decode(kind, item) for item in answer.items), answer.revision, answer.continue_token)

    def watch_batches(
        self,
        kind: type[KubeObject] | str,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        revision: int = 0,
    ) -> AsyncIterator[pb.WatchResponse]:
        """The server's watch stream as it is: no resuming, whole revisions per response."""
        request = pb.WatchRequest(
            type=type_of(kind),
            namespace=namespace,
            label_selector=labels,
            field_selector=fields,
            revision=revision,
            bookmarks=True,
        )
        return self.transport.stream("Objects", "Watch", request)

    async def watch(
        self, kind: type[K] | str, namespace: str = "", *, labels: str = "", fields: str = "", revision: int = 0
    ) -> AsyncIterator[WatchEvent[Any]]:
        """Follow changes without end, from after `revision`; 0 begins with ADDED events of what there is.

        A broken stream is resumed where it broke, at another member if need be. Ends only with ApiError `Expired`: the
        place to resume was compacted while the connection was down, and what is known must be listed again.
        """
        failures = 0
        while True:
            initial = revision == 0
            try:
                async for response in self.watch_batches(
                    kind, namespace, labels=labels, fields=fields, revision=revision
                ):
                    failures = 0
                    for event in response.events:
                        name = pb.WatchEvent.Kind.Name(event.kind)
                        if name != "BOOKMARK":
                            yield WatchEvent(
                                name, _decode(kind, event.object), event.object.revision, event.object.cause
                            )
                    if response.synced or not initial:
                        revision = response.revision
            except ApiError as error:
                if error.reason not in ("ServiceUnavailable", "Timeout"):
                    raise
            pause = RESUME_BACKOFF_S[min(failures, len(RESUME_BACKOFF_S) - 1)]
            failures += 1
            await asyncio.sleep(pause * (0.5 + self._entropy.jitter() / 2))

    async def kinds(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> Sequence[pb.KindInfo]:
        """The kinds that the cluster serves."""
        return (await self._objects("Kinds", pb.KindsRequest(), timeout)).kinds  # type: ignore[no-any-return]

    async def history(
        self,
        kind: type[KubeObject] | str,
        name: str,
        namespace: str | None = None,
        *,
        limit: int = 0,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> pb.HistoryResponse:
        """What became of an object, newest write first: when, who, caused by what, and which fields changed."""
        request = pb.HistoryRequest(
            type=type_of(kind), namespace=self._namespace(kind, namespace), name=name, limit=limit
        )
        return await self._objects("History", request, timeout)  # type: ignore[no-any-return]

    async def moment(self, at: str = "", *, timeout: float = DEFAULT_TIMEOUT_S) -> pb.MomentResponse:
        """Which revision was the newest at a moment (`at`, see `get`; empty: now), and how far back the past can be read."""
        return await self._objects("Moment", pb.MomentRequest(at=at), timeout)  # type: ignore[no-any-return]

    async def table(self, request: pb.ListRequest, *, timeout: float = DEFAULT_TIMEOUT_S) -> Document:
        """A list as people read it: a meta.k8s.io/v1 Table."""
        request.as_table = True
        return msgspec.json.decode((await self._objects("List", request, timeout)).table)  # type: ignore[no-any-return]

    # --- writes ---

    async def create(
        self,
        obj: KubeObject | Document,
        *,
        namespace: str = "",
        cause: int = 0,
        dry_run: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Any:
        """Create an object; answers it as stored, as the same view or document. AlreadyExists when the name is taken."""
        request = pb.CreateRequest(
            object=pb.Object(json=encode(obj)),
            namespace=namespace or self.namespace,
            options=self.options(cause, dry_run=dry_run),
        )
        answer = await self._objects("Create", request, timeout, idempotent=False)
        return self._same(obj, answer.object)

    async def update(
        self,
        obj: KubeObject | Document,
        *,
        subresource: str = "",
        cause: int = 0,
        dry_run: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Any:
        """Replace an object whole. Conflict when its resourceVersion is not the current one."""
        request = pb.UpdateRequest(
            object=pb.Object(json=encode(obj)), subresource=subresource, options=self.options(cause, dry_run=dry_run)
        )
        return self._same(obj, (await self._objects("Update", request, timeout)).object)

    @staticmethod
    def _same(obj: KubeObject | Document, message: pb.Object) -> Any:
        return type(obj).decode(message.json) if isinstance(obj, KubeObject) else msgspec.json.decode(message.json)

    async def apply(
        self,
        manifest: str | bytes | Document | Iterable[Any],
        *,
        namespace: str = "",
        dry_run: bool = False,
        validation: str = "",
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> builtins.list[WriteResult]:
        """Make objects as a manifest says, creating or changing what is needed, in the manifest's order.

        Answers one result per document, errors among them; raises only when the manifest itself cannot be read.

        Raises:
            ValueError: the manifest is not YAML or JSON of objects.
        """
        results = []
        for document in manifests(manifest):
            request = pb.ApplyRequest(
                object=pb.Object(json=encode(document)),
                namespace=namespace or self.namespace,
                options=self.options(dry_run=dry_run, validation=validation),
            )
            try:
                results.append(_result(await self._objects("Apply", request, timeout)))
            except ApiError as error:
                results.append(WriteResult("", None, (), error))
        return results

    def patch_request(
        self,
        kind: type[KubeObject] | str,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        format: PatchFormat = "merge",  # noqa: A002 - the wire's name
        subresource: str = "",
        cause: int = 0,
        dry_run: bool = False,
    ) -> pb.PatchRequest:
        """The message of a patch, for `patch` and `batch`. A `metadata.resourceVersion` in the patch must be current."""
        return pb.PatchRequest(
            type=type_of(kind),
            namespace=self._namespace(kind, namespace),
            name=name,
            format=_FORMAT[format],
            patch=patch if isinstance(patch, bytes) else msgspec.json.encode(patch),
            subresource=subresource,
            options=self.options(cause, dry_run=dry_run),
        )

    async def patch(
        self,
        kind: type[K] | str,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        format: PatchFormat = "merge",  # noqa: A002 - the wire's name
        subresource: str = "",
        cause: int = 0,
        dry_run: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Any:
        """Change parts of an object; answers it as stored."""
        request = self.patch_request(
            kind, name, patch, namespace, format=format, subresource=subresource, cause=cause, dry_run=dry_run
        )
        return _decode(kind, (await self._objects("Patch", request, timeout)).object)

    def delete_request(
        self,
        kind: type[KubeObject] | str,
        name: str,
        namespace: str | None = None,
        *,
        propagation: Propagation = "",
        grace: int | None = None,
        uid: str = "",
        revision: int = 0,
        cause: int = 0,
        dry_run: bool = False,
    ) -> pb.DeleteRequest:
        """The message of a deletion, for `delete` and `batch`; `uid` and `revision` are preconditions, `grace` seconds."""
        request = pb.DeleteRequest(
            type=type_of(kind),
            namespace=self._namespace(kind, namespace),
            name=name,
            propagation=_PROPAGATION[propagation],
            preconditions=pb.Preconditions(uid=uid, revision=revision),
            options=self.options(cause, dry_run=dry_run),
        )
        if grace is not None:
            request.grace_period_seconds = grace
        return request

    async def delete(
        self,
        kind: type[KubeObject] | str,
        name: str,
        namespace: str | None = None,
        *,
        propagation: Propagation = "",
        grace: int | None = None,
        uid: str = "",
        revision: int = 0,
        cause: int = 0,
        dry_run: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> WriteResult:
        """Delete an object; DELETING when finalizers or the grace period hold it for now."""
        request = self.delete_request(
            kind,
            name,
            namespace,
            propagation=propagation,
            grace=grace,
            uid=uid,
            revision=revision,
            cause=cause,
            dry_run=dry_run,
        )
        return _result(await self._objects("Delete", request, timeout))

    async def batch(
        self,
        writes: Sequence[pb.CreateRequest | pb.UpdateRequest | pb.PatchRequest | pb.DeleteRequest | pb.ApplyRequest],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> builtins.list[WriteResult]:
        """Many independent writes in one trip through the log; one result each, in order, errors among them."""
        request = pb.BatchRequest()
        for write in writes:
            request.writes.add(**{_BATCH_FIELD[type(write)]: write})
        answer = await self._objects("Batch", request, timeout, idempotent=False)
        return [
            WriteResult("", None, (), ApiError.from_proto(result.error))
            if result.HasField("error")
            else _result(result.response)
            for result in answer.results
        ]

    def create_request(
        self, obj: KubeObject | Document, namespace: str = "", *, subresource: str = "", name: str = "", cause: int = 0
    ) -> pb.CreateRequest:
        """The message of a creation, for `batch`."""
        return pb.CreateRequest(
            object=pb.Object(json=encode(obj)),
            namespace=namespace or self.namespace,
            subresource=subresource,
            name=name,
            options=self.options(cause),
        )

    # --- streams and the cluster ---

    def logs(self, request: streams_pb2.LogsRequest) -> AsyncIterator[streams_pb2.LogsResponse]:
        """A container's log as byte chunks."""
        return self.transport.stream("Streams", "Logs", request)

    async def exec(self, start: streams_pb2.ExecStart) -> Duplex:
        """Run a command in a container; send stdin, resize and close_stdin frames, receive stdout, stderr and exit."""
        duplex = self.transport.duplex("Streams", "Exec")
        await duplex.send(streams_pb2.StreamFrame(exec=start))
        return duplex

    async def cluster_status(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> cluster_pb2.ClusterStatus:
        """Members, leader, term, revision."""
        answer = await self.transport.unary("Cluster", "Status", cluster_pb2.ClusterStatusRequest(), timeout=timeout)
        return answer  # type: ignore[no-any-return]

    async def members(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> cluster_pb2.MembersResponse:
        """The members as the leader knows them: how far each is, and how many are well."""
        return await self.transport.unary("Cluster", "Members", cluster_pb2.MembersRequest(), timeout=timeout)  # type: ignore[no-any-return]

    async def add_member(
        self, name: str, raft_address: str, *, timeout: float = DEFAULT_TIMEOUT_S
    ) -> cluster_pb2.MembersResponse:
        """Let a new member, at host:port, receive the log; it votes once it is promoted. Adding it twice is adding it once."""
        request = cluster_pb2.AddMemberRequest(name=name, raft_address=raft_address)
        return await self.transport.unary("Cluster", "AddMember", request, timeout=timeout)  # type: ignore[no-any-return]

    async def promote_member(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> cluster_pb2.MembersResponse:
        """Let a member vote. Raises ApiError BadRequest, with the numbers, when it is not ready or a majority would be lost."""
        request = cluster_pb2.PromoteMemberRequest(name=name)
        return await self.transport.unary("Cluster", "PromoteMember", request, timeout=timeout)  # type: ignore[no-any-return]

    async def remove_member(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> cluster_pb2.MembersResponse:
        """Take a member out; a leader hands over first. Raises ApiError BadRequest when a majority would be lost."""
        request = cluster_pb2.RemoveMemberRequest(name=name)
        return await self.transport.unary("Cluster", "RemoveMember", request, timeout=timeout, idempotent=False)  # type: ignore[no-any-return]

    async def transfer_leader(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> cluster_pb2.ClusterStatus:
        """Make another member the leader; returns when it leads."""
        request = cluster_pb2.TransferLeaderRequest(member=name)
        return await self.transport.unary("Cluster", "TransferLeader", request, timeout=timeout)  # type: ignore[no-any-return]

    def snapshot_parts(self) -> AsyncIterator[cluster_pb2.SnapshotPart]:
        """The whole state as a stream, for `steersman.snapshots.save`. Raises ApiError; never resumes."""
        return self.transport.stream("Cluster", "SaveSnapshot", cluster_pb2.SaveSnapshotRequest())

    async def create_join_token(
        self, *, ttl_seconds: int = 0, uses: int = 0, description: str = "", timeout: float = DEFAULT_TIMEOUT_S
    ) -> cluster_pb2.JoinToken:
        """A token with which nodes may join."""
        request = cluster_pb2.CreateJoinTokenRequest(ttl_seconds=ttl_seconds, uses=uses, description=description)
        return await self.transport.unary("Cluster", "CreateJoinToken", request, timeout=timeout, idempotent=False)  # type: ignore[no-any-return]


_BATCH_FIELD: dict[type, str] = {
    pb.CreateRequest: "create",
    pb.UpdateRequest: "update",
    pb.PatchRequest: "patch",
    pb.DeleteRequest: "delete",
    pb.ApplyRequest: "apply",
}


def _result(response: pb.WriteResponse) -> WriteResult:
    return WriteResult(pb.WriteResponse.Outcome.Name(response.outcome), response.object, tuple(response.warnings))
