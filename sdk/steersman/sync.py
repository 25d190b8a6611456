"""The synchronous client: the asynchronous one on an event loop of its own, in a thread of its own.

    with Client.connect() as client:
        client.apply(open("web.yaml").read())
        client.wait(Deployment, "web", lambda d: d.status.ready_replicas == 3)

Methods, arguments and errors are those of `AsyncClient`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, Self, TypeVar, overload

from steersman.client import AsyncClient, Document, ObjectList, WatchEvent, WriteResult
from steersman.errors import ApiError
from steersman.types import KubeObject
from steersman.v1 import cluster_pb2, streams_pb2
from steersman.v1 import objects_pb2 as pb

K = TypeVar("K", bound=KubeObject)
R = TypeVar("R")


class Client:
    """A client of one cluster for code without an event loop. Safe to use from several threads."""

    def __init__(self, make: Callable[[], AsyncClient]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="steersman-client", daemon=True)
        self._thread.start()
        try:
            self._client = self._run(_made(make))
        except BaseException:
            self._stop_loop()
            raise

    @classmethod
    def connect(cls, cluster: str = "", *, path: Path | None = None) -> Client:
        """A client of a cluster in the configuration file. Raises ConfigError."""
        return cls(lambda: AsyncClient.connect(cluster, path=path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._loop.is_running():
            self._run(self._client.close())
            self._stop_loop()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _iterate(self, source: AsyncIterator[R]) -> Iterator[R]:
        try:
            while True:
                try:
                    yield self._run(_next(source))
                except StopAsyncIteration:
                    return
        finally:
            if hasattr(source, "aclose"):
                self._run(source.aclose())

    # --- reads ---

    @overload
    def get(self, kind: type[K], name: str, namespace: str | None = ..., **options: Any) -> K: ...
    @overload
    def get(self, kind: str, name: str, namespace: str | None = ..., **options: Any) -> Document: ...
    def get(self, kind: Any, name: str, namespace: str | None = None, **options: Any) -> Any:
        return self._run(self._client.get(kind, name, namespace, **options))

    @overload
    def list(self, kind: type[K], namespace: str | None = ..., **options: Any) -> ObjectList[K]: ...
    @overload
    def list(self, kind: str, namespace: str | None = ..., **options: Any) -> ObjectList[Document]: ...
    def list(self, kind: Any, namespace: str | None = "", **options: Any) -> ObjectList[Any]:
        return self._run(self._client.list(kind, namespace, **options))

    def watch(self, kind: type[KubeObject] | str, namespace: str = "", **options: Any) -> Iterator[WatchEvent[Any]]:
        return self._iterate(self._client.watch(kind, namespace, **options))

    def wait(
        self,
        kind: type[K],
        name: str,
        condition: Callable[[K], bool],
        namespace: str | None = None,
        *,
        timeout: float = 60.0,
    ) -> K:
        """Wait until an object exists and meets `condition`; answers it. TimeoutError after `timeout` seconds."""
        if namespace is None:
            namespace = self._client.namespace if kind.NAMESPACED else ""

        async def first() -> K:
            async for event in self._client.watch(kind, namespace, fields=f"metadata.name={name}"):
                if event.type != "DELETED" and condition(event.object):
                    return event.object  # type: ignore[no-any-return]
            raise ApiError("Expired", f"the watch of {kind.KIND} {name!r} ended")

        try:
            return self._run(asyncio.wait_for(first(), timeout))
        except (TimeoutError, FutureTimeoutError):
            raise TimeoutError(f"{kind.KIND} {name!r} did not meet the condition within {timeout:g} s") from None

    def kinds(self) -> Sequence[pb.KindInfo]:
        return self._run(self._client.kinds())

    def history(
        self, kind: type[KubeObject] | str, name: str, namespace: str | None = None, **options: Any
    ) -> pb.HistoryResponse:
        return self._run(self._client.history(kind, name, namespace, **options))

    def moment(self, at: str = "", **options: Any) -> pb.MomentResponse:
        return self._run(self._client.moment(at, **options))

    def table(self, request: pb.ListRequest) -> Document:
        return self._run(self._client.table(request))

    # --- writes ---

    def create(self, obj: KubeObject | Document, **options: Any) -> Any:
        return self._run(self._client.create(obj, **options))

    def update(self, obj: KubeObject | Document, **options: Any) -> Any:
        return self._run(self._client.update(obj, **options))

    def apply(self, manifest: str | bytes | Document | Iterable[Any], **options: Any) -> Sequence[WriteResult]:
        return self._run(self._client.apply(manifest, **options))

    def patch(
        self, kind: type[KubeObject] | str, name: str, patch: Any, namespace: str | None = None, **options: Any
    ) -> Any:
        return self._run(self._client.patch(kind, name, patch, namespace, **options))

    def delete(
        self, kind: type[KubeObject] | str, name: str, namespace: str | None = None, **options: Any
    ) -> WriteResult:
        return self._run(self._client.delete(kind, name, namespace, **options))

    def batch(self, writes: Sequence[Any], **options: Any) -> Sequence[WriteResult]:
        return self._run(self._client.batch(writes, **options))

    # --- streams and the cluster ---

    def logs(self, request: streams_pb2.LogsRequest) -> Iterator[bytes]:
        """A container's log as byte chunks."""
        for response in self._iterate(self._client.logs(request)):
            yield response.data

    def cluster_status(self) -> cluster_pb2.ClusterStatus:
        return self._run(self._client.cluster_status())

    def members(self) -> cluster_pb2.MembersResponse:
        return self._run(self._client.members())

    def add_member(self, name: str, raft_address: str) -> cluster_pb2.MembersResponse:
        return self._run(self._client.add_member(name, raft_address))

    def promote_member(self, name: str) -> cluster_pb2.MembersResponse:
        return self._run(self._client.promote_member(name))

    def remove_member(self, name: str) -> cluster_pb2.MembersResponse:
        return self._run(self._client.remove_member(name))

    def transfer_leader(self, name: str) -> cluster_pb2.ClusterStatus:
        return self._run(self._client.transfer_leader(name))

    def create_join_token(self, **options: Any) -> cluster_pb2.JoinToken:
        return self._run(self._client.create_join_token(**options))


async def _made(make: Callable[[], AsyncClient]) -> AsyncClient:
    return make()


async def _next(source: AsyncIterator[R]) -> R:
    return await source.__anext__()
