"""The object and cluster services over gRPC, thin: who calls, which handler, what becomes of errors, what is counted.

Every method goes through `_Servicer._unary` or `_Servicer._stream`, so that each has the same promises: an `ApiError` becomes the
status code with its Status in the details; anything else that is raised is logged with its traceback here and told as an
internal error, never shown; the request is counted by verb and outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from google.protobuf.message import Message

from control import metrics, rpc
from control.api.cluster import ClusterHandlers
from control.api.encryption import EncryptionHandlers
from control.api.forwarding import LeaderLink
from control.api.handlers import Handlers
from control.api.membership import MembershipHandlers
from control.api.snapshots import SnapshotHandlers
from control.identity import Caller
from control.rpc import Gatekeeper, internal_error, refuse
from steersman.clock import Clock
from steersman.errors import ApiError
from steersman.v1 import cluster_pb2_grpc, encryption_pb2_grpc, objects_pb2_grpc


class _Servicer:
    """What every service does with a call."""

    def __init__(self, gatekeeper: Gatekeeper, clock: Clock) -> None:
        self._gatekeeper = gatekeeper
        self._clock = clock

    async def _unary(
        self, verb: str, context: Any, handler: Callable[[Any, Caller], Awaitable[Any]], request: Message
    ) -> Any:
        return await rpc.unary(verb, context, self._clock, lambda: handler(request, self._gatekeeper.caller(context)))

    async def _stream(
        self, verb: str, context: Any, handler: Callable[[Caller], AsyncGenerator[Any, None]]
    ) -> AsyncGenerator[Any, None]:
        code = "OK"
        metrics.STREAMS.labels(verb).inc()
        try:
            async with aclosing(handler(self._gatekeeper.caller(context))) as answers:
                async for answer in answers:
                    yield answer
            return
        except ApiError as error:
            code = error.reason
            problem = error
        except (asyncio.CancelledError, GeneratorExit):
            code = "Cancelled"
            raise
        except Exception as failure:
            code, problem = "InternalError", internal_error(verb, failure)
        finally:
            metrics.STREAMS.labels(verb).dec()
            metrics.REQUESTS.labels("grpc", verb, code).inc()
        await refuse(context, problem)


class ObjectsServicer(_Servicer, objects_pb2_grpc.ObjectsServicer):
    """Reads are answered here, writes by the leader."""

    def __init__(self, handlers: Handlers, link: LeaderLink, gatekeeper: Gatekeeper, clock: Clock) -> None:
        super().__init__(gatekeeper, clock)
        self._handlers = handlers
        self._link = link

    async def Get(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's names
        return await self._unary("Get", context, self._handlers.get, request)

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._unary("List", context, self._handlers.list, request)

    async def Kinds(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._unary("Kinds", context, self._handlers.kinds, request)

    async def History(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._unary("History", context, self._handlers.history, request)

    async def Moment(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._unary("Moment", context, self._handlers.moment, request)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        # gRPC tells streams by the function's kind: this must itself be an asynchronous generator.
        async with aclosing(
            self._stream("Watch", context, lambda caller: self._handlers.watch(request, caller))
        ) as answers:
            async for answer in answers:
                yield answer

    async def Create(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._write("Create", context, self._handlers.create, request)

    async def Update(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._write("Update", context, self._handlers.update, request)

    async def Apply(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._write("Apply", context, self._handlers.apply, request)

    async def Patch(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._write("Patch", context, self._handlers.patch, request)

    async def Delete(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._write("Delete", context, self._handlers.delete, request)

    async def DeleteCollection(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._write("DeleteCollection", context, self._handlers.delete_collection, request)

    async def Batch(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._write("Batch", context, self._handlers.batch, request)

    async def _write(
        self, method: str, context: Any, local: Callable[[Any, Caller], Awaitable[Any]], request: Message
    ) -> Any:
        async def by_leader(asked: Message, caller: Caller) -> Any:
            return await self._link.call("Objects", method, asked, caller, local, context.time_remaining())

        return await self._unary(method, context, by_leader, request)


class ClusterServicer(_Servicer, cluster_pb2_grpc.ClusterServicer):
    """The status is this member's own view and a snapshot its own state; all else is the leader's."""

    def __init__(
        self,
        cluster: ClusterHandlers,
        membership: MembershipHandlers,
        snapshots: SnapshotHandlers,
        link: LeaderLink,
        gatekeeper: Gatekeeper,
        clock: Clock,
    ) -> None:
        super().__init__(gatekeeper, clock)
        self._cluster = cluster
        self._membership = membership
        self._snapshots = snapshots
        self._link = link

    async def Status(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._unary("ClusterStatus", context, self._cluster.status, request)

    async def CreateJoinToken(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._by_leader("CreateJoinToken", context, self._cluster.create_join_token, request)

    async def ListJoinTokens(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._by_leader("ListJoinTokens", context, self._cluster.list_join_tokens, request)

    async def RevokeJoinToken(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._by_leader("RevokeJoinToken", context, self._cluster.revoke_join_token, request)

    async def TransferLeader(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._by_leader("TransferLeader", context, self._cluster.transfer_leader, request)

    async def Announce(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._by_leader("Announce", context, self._cluster.announce, request)

    async def Members(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._by_leader("Members", context, self._membership.members, request)

    async def AddMember(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._by_leader("AddMember", context, self._membership.add_member, request)

    async def PromoteMember(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._by_leader("PromoteMember", context, self._membership.promote_member, request)

    async def RemoveMember(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._by_leader("RemoveMember", context, self._membership.remove_member, request)

    async def SaveSnapshot(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async with aclosing(
            self._stream("SaveSnapshot", context, lambda caller: self._snapshots.save(request, caller))
        ) as parts:
            async for part in parts:
                yield part

    async def _by_leader(
        self, method: str, context: Any, local: Callable[[Any, Caller], Awaitable[Any]], request: Message
    ) -> Any:
        async def by_leader(asked: Message, caller: Caller) -> Any:
            return await self._link.call("Cluster", method, asked, caller, local, context.time_remaining())

        return await self._unary(method, context, by_leader, request)


class EncryptionServicer(_Servicer, encryption_pb2_grpc.EncryptionServicer):
    """The leader's to do."""

    def __init__(self, handlers: EncryptionHandlers, link: LeaderLink, gatekeeper: Gatekeeper, clock: Clock) -> None:
        super().__init__(gatekeeper, clock)
        self._handlers = handlers
        self._link = link

    async def EncryptionStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._by_leader("EncryptionStatus", context, self._handlers.status, request)

    async def RotateEncryption(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._by_leader("RotateEncryption", context, self._handlers.rotate, request)

    async def ReportEncryption(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._by_leader("ReportEncryption", context, self._handlers.report, request)

    async def _by_leader(
        self, method: str, context: Any, local: Callable[[Any, Caller], Awaitable[Any]], request: Message
    ) -> Any:
        async def by_leader(asked: Message, caller: Caller) -> Any:
            return await self._link.call("Encryption", method, asked, caller, local, context.time_remaining())

        return await self._unary(method, context, by_leader, request)
