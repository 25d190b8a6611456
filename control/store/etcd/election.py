"""Who leads, when the store is etcd: a key with a lease, and the fence that makes a lost leadership harmless.

Mechanism. Every member holds one lease and keeps it alive; `control/members/NAME` hangs on it, so that the others see who
runs. Whoever creates `control/leader`, on the same lease, leads; when the lease ends, so does the key, and the others,
who watch it, try to create it. A leader hands over by writing the other's name and lease into the key.

The fence is the mod_revision of the leader's key. Every transaction of the leader compares it in etcd itself, so a write
of a member that was deposed, paused or cut off fails, whatever that member believes and however late the write arrives.
`refence` writes the key again: what was sent before can then no longer be applied, and its outcome is settled.

Clocks decide nothing about writes. They only end a leader's other work (controllers, gateway) before its successor's
begins: the lease counts from before the renewal was sent, and etcd counts from after it.

The term is the revision at which the leadership began; it only grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import grpc
import msgspec

from control.raft.interface import LeaderState, MembershipError, NotLeaderError
from control.store.etcd import rpc_pb2 as rpc
from control.store.etcd.client import EtcdClient, EtcdError, EtcdRefusedError, EtcdUnsureError
from control.store.etcd.layout import Layout, end_of
from control.store.interface import NoLeaderError, StoreError
from steersman.clock import Clock

log = logging.getLogger("control.store.etcd")

LEASE_S: Final = 5  # a dead leader is replaced after so long; etcd's own elections, one to three seconds, must fit in
RENEW_S: Final = LEASE_S / 5  # several may be lost
RETRY_S: Final = 0.2
TRANSFER_S: Final = 5.0  # how long a hand-over may take to be seen


class Presence(msgspec.Struct, frozen=True):
    """A running member, as it says."""

    name: str
    address: str
    lease: int


class Leader(msgspec.Struct, frozen=True):
    """The value of the leader's key. `since`: the revision at which the leadership began; 0: with this very write."""

    name: str
    lease: int
    since: int = 0


_presence = msgspec.json.Decoder(Presence)
_leader = msgspec.json.Decoder(Leader)


class Election:
    """One member's part.

    Args:
        caught_up: waits until this member has every write acknowledged before; leadership begins after it.
    """

    def __init__(
        self,
        client: EtcdClient,
        layout: Layout,
        name: str,
        address: str,
        clock: Clock,
        caught_up: Callable[[], Awaitable[object]],
    ) -> None:
        self._client = client
        self._layout = layout
        self._name = name
        self._address = address
        self._clock = clock
        self._caught_up = caught_up
        self._lease = 0
        self._alive_until = 0.0  # by the monotonic clock
        self._key: tuple[int, Leader] | None = None  # the leader's key: mod_revision and value
        self._returning = True  # until the first look: a leader's key of this name is of an earlier life
        self._state = LeaderState("", 0, is_self=False)
        self._changed = asyncio.Event()
        self.members: dict[str, Presence] = {}
        self.fence = 0  # while leading: what transactions compare
        self.problem = "etcd has not answered yet"

    # What is known

    @property
    def state(self) -> LeaderState:
        """Who leads."""
        return self._state

    @property
    def is_leader(self) -> bool:
        """Whether this member leads, and its lease, as it counts, goes on."""
        return self._state.is_self and self._clock.monotonic() < self._alive_until

    async def follow(self) -> AsyncIterator[LeaderState]:
        """The present state at once, then every change."""
        last: LeaderState | None = None
        while True:
            while self._state == last:
                await self._changed.wait()
            last = self._state
            yield last

    def _tell(self, state: LeaderState) -> None:
        if state != self._state:
            self._state = state
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    # Taking part

    async def run(self) -> None:
        """Take part until cancelled."""
        while True:
            try:
                await self._session()
            except StoreError as error:
                self.problem = str(error)
                log.info("%s: trying again", error)
            except Exception:
                log.exception("the election failed: it is begun again")
            finally:
                self._step_down()
            await asyncio.sleep(RETRY_S)

    async def resign(self) -> None:
        """Give up the lease, and leadership with it, at once."""
        lease, self._lease = self._lease, 0
        self._step_down()
        if lease:
            with contextlib.suppress(StoreError):
                await self._client.revoke(lease)

    def _step_down(self) -> None:
        self.fence = 0
        self._tell(LeaderState("", self._state.term, is_self=False))

    async def _session(self) -> None:
        """One lease's life. Raises StoreError when it ends."""
        asked = self._clock.monotonic()
        grant = await self._client.grant(LEASE_S)
        self._lease = grant.ID
        self._alive_until = asked + grant.TTL
        parts = [asyncio.ensure_future(self._keep(grant.ID)), asyncio.ensure_future(self._take_part())]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part.done():
                    part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _keep(self, lease: int) -> None:
        """Renew the lease until it ends. Raises EtcdError then."""
        pause = RENEW_S
        while True:
            await asyncio.sleep(pause)
            asked = self._clock.monotonic()
            left = self._alive_until - asked
            if left <= 0:
                raise EtcdUnsureError("the lease ended: no member of etcd renewed it in time")
            try:
                async with asyncio.timeout(left):
                    ttl = await self._client.keep_alive(lease)
            except (EtcdUnsureError, TimeoutError) as error:
                self.problem = str(error) or "etcd is silent"
                pause = RETRY_S
                continue
            pause = RENEW_S
            if ttl <= 0:
                raise EtcdUnsureError("the lease ended in etcd: this member was silent for too long")
            self._alive_until = asked + ttl
            self.problem = ""

    async def _take_part(self) -> None:
        control = self._layout.control
        presence = msgspec.json.encode(Presence(self._name, self._address, self._lease))
        put = rpc.PutRequest(key=self._layout.member(self._name), value=presence, lease=self._lease)
        await self._client.read(rpc.TxnRequest(success=[rpc.RequestOp(request_put=put)]))
        while True:
            try:
                found = await self._client.range(rpc.RangeRequest(key=control, range_end=end_of(control)))
                self.members.clear()
                self._key = None
                for kv in found.kvs:
                    self._note(kv.key, kv.value, kv.mod_revision)
                await self._act()
                async with self._client.watch(control, end_of(control), found.header.revision + 1) as following:
                    while True:
                        response = await following()
                        if response.canceled:
                            break
                        for event in response.events:
                            value = event.kv.value if event.type == event.PUT else None
                            self._note(event.kv.key, value, event.kv.mod_revision)
                        if response.events:
                            await self._act()
            except (EtcdUnsureError, NoLeaderError) as error:  # what is known is asked anew, under the same lease
                self.problem = str(error)
                await asyncio.sleep(RETRY_S)

    def _note(self, key: bytes, value: bytes | None, revision: int) -> None:
        if key == self._layout.leader:
            self._key = None if value is None else (revision, _leader.decode(value))
        elif key.startswith(self._layout.members):
            name = key[len(self._layout.members) :].decode()
            if value is None:
                self.members.pop(name, None)
            else:
                self.members[name] = _presence.decode(value)

    async def _act(self) -> None:
        """Do what the leader's key asks for: try to lead, begin to lead, or follow."""
        returning, self._returning = self._returning, False
        if self._key is None:
            self._step_down()
            await self._campaign(0)
            return
        revision, leader = self._key
        if leader.lease != self._lease:
            if returning and leader.name == self._name:
                await self._campaign(revision)
                return
            self.fence = 0
            self._tell(LeaderState(leader.name, leader.since or revision, is_self=False))
        elif self._state.is_self:
            self.fence = max(self.fence, revision)
        else:
            await self._caught_up()
            self.fence = max(self.fence, revision)
            self._tell(LeaderState(self._name, leader.since or revision, is_self=True))
        self.problem = ""

    async def _campaign(self, over: int) -> None:
        """Write the leader's key if it still has revision `over` (0: does not exist); the watch tells who won."""
        await self._write(over, Leader(self._name, self._lease))

    async def _write(self, over: int, leader: Leader) -> int:
        """Write the leader's key over revision `over`; answers the new revision, 0 when it was not the present one.

        Without a lease (this member is stopping) the key is removed instead: it would outlive its writer.
        """
        key = self._layout.leader
        compare = rpc.Compare(target=rpc.Compare.MOD, key=key, mod_revision=over)
        put = rpc.PutRequest(key=key, value=msgspec.json.encode(leader), lease=leader.lease)
        op = rpc.RequestOp(request_put=put)
        if not leader.lease:
            op = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
        answer = await self._client.txn(rpc.TxnRequest(compare=[compare], success=[op]))
        return answer.header.revision if answer.succeeded else 0

    # The fence

    async def refence(self, fence: int) -> None:
        """Make sure that nothing sent with `fence` can be applied from now on.

        This member goes on leading if it led. Tries until etcd answers, or until cancelled.
        """
        while self.fence in (0, fence):
            leader = Leader(self._name, self._lease, self._state.term)
            try:
                revision = await self._write(fence, leader)
                if not revision and self.fence == fence:
                    await self._recover_fence(fence)
            except EtcdUnsureError:
                await asyncio.sleep(RETRY_S)
                continue
            except EtcdRefusedError as error:
                if error.code != grpc.StatusCode.NOT_FOUND:
                    raise
                return  # the lease has ended, and the leader's key with it
            if revision and self.fence == fence:
                self.fence = revision
            return

    async def _recover_fence(self, fence: int) -> None:
        """The key was not of `fence`: an earlier try of `refence` may have gone through, or another leads."""
        found = await self._client.range(rpc.RangeRequest(key=self._layout.leader))
        leader = _leader.decode(found.kvs[0].value) if found.kvs else None
        if self.fence != fence:
            return
        if leader is not None and leader.lease == self._lease:
            self.fence = found.kvs[0].mod_revision
        else:
            self._step_down()

    async def transfer(self, to: str) -> None:
        """Let another member lead; returns when it does.

        Raises:
            NotLeaderError: this member does not lead.
            MembershipError: the other does not run.
            TimeoutError: it was not seen to take over.
        """
        if not self.is_leader:
            raise NotLeaderError("this member does not lead", leader=self._state.leader)
        if to == self._name:
            return
        heir = self.members.get(to)
        if heir is None:
            raise MembershipError(f"{to} does not run: start it first; running: {', '.join(sorted(self.members))}")
        try:
            if not await self._write(self.fence, Leader(heir.name, heir.lease)):
                raise NotLeaderError("this member no longer leads", leader=self._state.leader)
        except EtcdRefusedError:
            raise MembershipError(f"{to} has just ended: choose another member") from None
        except EtcdError as error:
            raise TimeoutError(str(error)) from error
        async with asyncio.timeout(TRANSFER_S):
            async for state in self.follow():
                if state.leader == to:
                    return
