"""Giving out the whole state: a snapshot for the file of whoever administers the cluster.

The answering member catches up with the leader first, so that the snapshot holds everything acknowledged before it was asked
for. The state is taken in one turn of the event loop (references, not copies) and encoded by a thread while the member goes
on; the client's pace decides how fast. What the store encrypts stays encrypted in it: a snapshot is as safe as the keys, and
needs them to be of use.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Iterator
from hashlib import sha256
from typing import Protocol

from control.api.authorization import Access, require
from control.api.context import ApiContext
from control.api.errors import from_store, no_leader
from control.identity import Caller
from control.raft.interface import NotLeaderError
from control.raft.messages import SnapshotMeta
from control.store import snapshot
from control.store.interface import StoreError
from steersman.clock import Clock
from steersman.snapshots import FORMAT
from steersman.v1 import cluster_pb2 as pb


class Raft(Protocol):
    """What a snapshot needs of Raft."""

    def snapshot(self) -> tuple[SnapshotMeta, Iterator[bytes]]: ...


class SnapshotHandlers:
    """`SaveSnapshot`, as `(request, caller) -> parts`."""

    def __init__(self, context: ApiContext, raft: Raft, clock: Clock, *, version: str) -> None:
        self._context = context
        self._raft = raft
        self._clock = clock
        self._version = version

    async def save(self, _request: pb.SaveSnapshotRequest, caller: Caller) -> AsyncGenerator[pb.SnapshotPart, None]:
        """Give the state as of now, in parts. Raises ApiError."""
        require(self._context.authorizer, caller, Access("get", "cluster", "snapshots"))
        try:
            await self._context.barrier.wait()
            keys = (await self._context.store.range("", limit=1)).count
            meta, chunks = self._raft.snapshot()
        except StoreError as error:
            raise from_store(error) from None
        except NotLeaderError as error:
            raise no_leader(error.leader, str(error)) from None
        first = next(chunks)
        state, _ = snapshot.read((first,))
        yield pb.SnapshotPart(
            header=pb.SnapshotHeader(
                format=FORMAT,
                cluster_id=meta.membership.cluster_id,
                member=self._context.leadership.name,
                version=self._version,
                revision=state.revision,
                compacted=state.compacted,
                raft_index=meta.index,
                raft_term=meta.term,
                taken=self._clock.now().isoformat(timespec="seconds"),
                records=state.base + state.history,
                keys=keys,
            )
        )
        digest, count, total = sha256(), 0, 0
        data: bytes | None = first
        while data is not None:
            digest.update(data)
            yield pb.SnapshotPart(chunk=pb.SnapshotChunk(number=count, data=data, crc32=zlib.crc32(data)))
            count, total = count + 1, total + len(data)
            data = await asyncio.to_thread(next, chunks, None)
        yield pb.SnapshotPart(trailer=pb.SnapshotTrailer(chunks=count, bytes=total, sha256=digest.digest()))
