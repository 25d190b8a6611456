"""The methods of the object service, one each: `(request, caller) -> response`.

gRPC, REST and the controllers inside a member all come here, so every rule holds for all of them. A refusal is an `ApiError`.
Writes need the leader: elsewhere they are refused with ServiceUnavailable, and the servers in front of this (`forwarding`)
carry them there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from control import registry
from control.api.allocation import Allocator
from control.api.context import ApiContext
from control.api.deletion import Deletion
from control.api.engine import Engine, Write
from control.api.reads import Reads, unknown_subresource
from control.api.watching import Watching
from control.api.writes import Apply, Bind, Create, Patch, Update
from control.identity import Caller
from control.registry import Resource
from steersman.errors import ApiError, bad_request
from steersman.v1 import objects_pb2 as pb

BATCH_LIMIT = 1_000  # writes in one batch: about 3 MiB of log at most, and a bounded stay in the event loop
CHUNK = 200  # deletions of a collection that share one trip through the log

_PROPAGATION = {
    "Background": pb.DeleteRequest.BACKGROUND,
    "Foreground": pb.DeleteRequest.FOREGROUND,
    "Orphan": pb.DeleteRequest.ORPHAN,
}


class Handlers:
    """The object service of one member."""

    def __init__(self, context: ApiContext) -> None:
        self.context = context
        self.reads = Reads(context)
        self._watching = Watching(context, self.reads)
        self._allocator = Allocator(context)
        self._engine = Engine(context)

    # --- reads ---

    async def get(self, request: pb.GetRequest, caller: Caller) -> pb.ObjectResponse:
        """Read one object."""
        return await self.reads.get(request, caller)

    async def list(self, request: pb.ListRequest, caller: Caller) -> pb.ListResponse:
        """Read many objects of one kind at one revision."""
        return await self.reads.list(request, caller)

    def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncGenerator[pb.WatchResponse, None]:
        """Follow one kind."""
        return self._watching.watch(request, caller)

    async def kinds(self, request: pb.KindsRequest, caller: Caller) -> pb.KindsResponse:
        """What is served."""
        return await self.reads.kinds(request, caller)

    async def history(self, request: pb.HistoryRequest, caller: Caller) -> pb.HistoryResponse:
        """What became of one object."""
        return await self.reads.pasts.history(request, caller)

    async def moment(self, request: pb.MomentRequest, caller: Caller) -> pb.MomentResponse:
        """Which revision was the newest at a moment."""
        return await self.reads.pasts.moment(request, caller)

    # --- writes ---

    async def create(self, request: pb.CreateRequest, caller: Caller) -> pb.WriteResponse:
        """Create an object, or act through a subresource: bind a pod, evict one."""
        return await self._engine.execute(self._create(request, caller))

    async def update(self, request: pb.UpdateRequest, caller: Caller) -> pb.WriteResponse:
        """Replace an object, its status or its scale."""
        return await self._engine.execute(Update(self.context, self._allocator, request, caller))

    async def apply(self, request: pb.ApplyRequest, caller: Caller) -> pb.WriteResponse:
        """Merge a manifest."""
        return await self._engine.execute(Apply(self.context, self._allocator, request, caller))

    async def patch(self, request: pb.PatchRequest, caller: Caller) -> pb.WriteResponse:
        """Change parts of an object."""
        return await self._engine.execute(Patch(self.context, self._allocator, request, caller))

    async def delete(self, request: pb.DeleteRequest, caller: Caller) -> pb.WriteResponse:
        """Delete an object, or mark it as being deleted."""
        return await self._engine.execute(Deletion(self.context, self._allocator, request, caller))

    async def delete_collection(self, request: pb.DeleteCollectionRequest, caller: Caller) -> pb.ListResponse:
        """Delete the objects that a list finds; answers them. Objects that vanish meanwhile are passed over."""
        listing = request.list
        resource = self.context.resource(listing.type)
        self.context.require(caller, "deletecollection", resource, listing.namespace)
        found = await self.reads.list(listing, caller)
        for start in range(0, len(found.items), CHUNK):
            deletions = []
            for item in found.items[start : start + CHUNK]:
                one = pb.DeleteRequest()
                one.CopyFrom(request.delete)
                one.type.CopyFrom(listing.type)
                one.namespace, one.name = item.namespace, item.name
                if not one.preconditions.uid:
                    one.preconditions.uid = item.uid  # never what was made anew under the name since
                deletions.append(Deletion(self.context, self._allocator, one, caller, verb="deletecollection"))
            for outcome in await self._engine.execute_all(deletions):
                if isinstance(outcome, ApiError) and outcome.reason not in ("NotFound", "Conflict"):
                    raise outcome
        return found

    async def batch(self, request: pb.BatchRequest, caller: Caller) -> pb.BatchResponse:
        """Carry out many independent writes; each has its own outcome."""
        if len(request.writes) > BATCH_LIMIT:
            raise bad_request(f"a batch has at most {BATCH_LIMIT} writes, not {len(request.writes)}")
        found: dict[int, pb.BatchResponse.Result] = {}
        writes: list[Write] = []
        numbers: list[int] = []
        for number, write in enumerate(request.writes):
            try:
                writes.append(self._write(write, caller))
                numbers.append(number)
            except ApiError as error:
                found[number] = pb.BatchResponse.Result(error=error.to_proto())
        for number, outcome in zip(numbers, await self._engine.execute_all(writes), strict=True):
            found[number] = (
                pb.BatchResponse.Result(error=outcome.to_proto())
                if isinstance(outcome, ApiError)
                else pb.BatchResponse.Result(response=outcome)
            )
        return pb.BatchResponse(results=[found[number] for number in range(len(request.writes))])

    # --- which write a request is ---

    def _write(self, write: pb.BatchRequest.Write, caller: Caller) -> Write:
        match write.WhichOneof("write"):
            case "create":
                return self._create(write.create, caller)
            case "update":
                return Update(self.context, self._allocator, write.update, caller)
            case "patch":
                return Patch(self.context, self._allocator, write.patch, caller)
            case "delete":
                return Deletion(self.context, self._allocator, write.delete, caller)
            case "apply":
                return Apply(self.context, self._allocator, write.apply, caller)
        raise bad_request("an empty write in a batch")

    def _create(self, request: pb.CreateRequest, caller: Caller) -> Write:
        match request.subresource:
            case "":
                return Create(self.context, self._allocator, request, caller)
            case "binding":
                return Bind(self.context, self._allocator, request, caller)
            case "eviction":
                return self._eviction(request, caller)
        pods: Resource = self.context.registry.find(kind="Pod")
        raise unknown_subresource(pods, request.name, request.subresource)

    def _eviction(self, request: pb.CreateRequest, caller: Caller) -> Write:
        """An Eviction is a deletion of the pod it names, with the options it holds."""
        document, _ = registry.parse(request.object.json)
        metadata, options = _mapping(document, "metadata"), _mapping(document, "deleteOptions")
        wanted = _mapping(options, "preconditions")
        name = request.name or str(metadata.get("name") or "")
        namespace = str(metadata.get("namespace") or request.namespace or "default")
        pods = self.context.registry.find(kind="Pod")
        self.context.require(caller, "create", pods, namespace, name, "eviction")
        deletion = pb.DeleteRequest(
            type=pb.Type(kind="Pod", api_version="v1"),
            namespace=namespace,
            name=name,
            propagation=_PROPAGATION.get(str(options.get("propagationPolicy")), pb.DeleteRequest.BACKGROUND),
            options=request.options,
        )
        grace = options.get("gracePeriodSeconds")
        if isinstance(grace, int):
            deletion.grace_period_seconds = grace
        deletion.preconditions.uid = str(wanted.get("uid") or "")
        revision = str(wanted.get("resourceVersion") or "0")
        if not revision.isdecimal():
            raise bad_request(f"deleteOptions.preconditions.resourceVersion must be a number, not {revision!r}")
        deletion.preconditions.revision = int(revision)
        return Deletion(self.context, self._allocator, deletion, caller, authorized=True)


def _mapping(document: dict[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}
