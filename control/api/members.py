"""Where the members answer: each one's addresses, in the store, so that every member and every joining node learns them.

A member announces itself when it starts; the leader writes `/cluster/members/NAME`, and every member keeps the entries in
memory by a watch. Until a member's entry has arrived (the first moments of a new cluster), its gRPC address is guessed: the
host of its Raft address, at this member's own gRPC port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from control.store.interface import Cause, CompactedError, Delete, Put, Store, TooSlowError, Txn

PREFIX: Final = "/cluster/members/"


class MemberAddresses(msgspec.Struct, frozen=True):
    """host:port of a member's interfaces."""

    grpc: str
    rest: str


_decoder = msgspec.json.Decoder(MemberAddresses)


class Members:
    """The address book.

    Args:
        peers: asks for name -> Raft address of the members there are now.
        grpc_port: this member's, for the guess.
    """

    def __init__(self, store: Store, peers: Callable[[], Mapping[str, str]], grpc_port: int) -> None:
        self._store = store
        self._peers = peers
        self._grpc_port = grpc_port
        self.announced: dict[str, MemberAddresses] = {}
        self._changed = asyncio.Event()

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change of an entry: take it, look at the entries, then wait, and nothing is missed."""
        return self._changed

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self) -> None:
        """Keep the entries current until cancelled. Raises NoLeaderError when the store stops."""
        while True:
            revision = self._store.revision
            found = await self._store.range(PREFIX, revision=revision)
            self.announced = {kv.key.removeprefix(PREFIX): _decoder.decode(kv.value) for kv in found.kvs}
            self._tell()
            changes: Any = self._store.watch(PREFIX, revision)
            try:
                async for batch in changes:
                    for event in batch.events:
                        name = event.key.removeprefix(PREFIX)
                        if event.deleted or event.value is None:
                            self.announced.pop(name, None)
                        else:
                            self.announced[name] = _decoder.decode(event.value)
                    self._tell()
                return
            except (TooSlowError, CompactedError):
                continue  # missed some: read all again
            finally:
                await changes.aclose()

    def grpc_address(self, name: str) -> str:
        """The gRPC address of a member; empty: not known."""
        announced = self.announced.get(name)
        if announced is not None:
            return announced.grpc
        host = self._peers().get(name, "").rpartition(":")[0]
        return f"{host}:{self._grpc_port}" if host else ""

    def grpc_addresses(self) -> list[str]:
        """The gRPC addresses of all members, announced or guessed, in the order of their names."""
        names = sorted({*self._peers(), *self.announced})
        return [address for name in names if (address := self.grpc_address(name))]

    async def write(self, name: str, addresses: MemberAddresses, actor: str) -> None:
        """Note a member's addresses; the leader only."""
        value = msgspec.json.encode(addresses)
        kv = await self._store.get(PREFIX + name)
        if kv is None or kv.value != value:
            await self._store.commit([Txn((Put(PREFIX + name, value),), Cause(0, actor))])

    async def forget(self, name: str, actor: str) -> None:
        """Forget a member's addresses; the leader only."""
        await self._store.commit([Txn((Delete(PREFIX + name),), Cause(0, actor))])
