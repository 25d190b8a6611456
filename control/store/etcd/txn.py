"""A transaction of the store as one transaction of etcd, and etcd's answer as the store's. Pure.

Every transaction compares the leader's key first, so that whoever lost leadership writes nothing, however late its
request arrives; then each expectation, as the mod_revision of the key (0: it does not exist). Its first operation writes
the record (`layout`). When a comparison fails, etcd reads the keys in the same step, so the conflict that is told is the
one that happened.

A removal without an expectation changes nothing when there is nothing to remove, and then there must be no record and
no revision either. etcd cannot say that in one step, so the state that the mirror shows is expected (an *assumption*),
and when that fails the caller plans again with what etcd answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from control.store.etcd import mvcc_pb2
from control.store.etcd import rpc_pb2 as rpc
from control.store.etcd.layout import (
    Header,
    Layout,
    Removed,
    TxnRecord,
    decode_value,
    encode_record,
    encode_value,
    spliced,
)
from control.store.interface import Check, Committed, Conflicted, Delete, KeyValue, Put, Txn

LEADER, RECORD = 0, 1  # places of the reads that every failed transaction makes


@dataclass(frozen=True, slots=True)
class Fenced:
    """Another leads, or this member led with a newer fence meanwhile: nothing was written."""

    leader: bytes  # the value of the leader's key; empty: nobody leads


@dataclass(frozen=True, slots=True)
class Stale:
    """Assumptions did not hold: nothing was written; plan again with these revisions."""

    found: Mapping[str, int]


Outcome = Committed | Conflicted | Fenced | Stale


@dataclass(frozen=True, slots=True)
class _Expected:
    key: str
    revision: int
    assumed: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, and how to read the answer."""

    request: rpc.TxnRequest
    layout: Layout
    fence: int
    writes: bool
    puts: tuple[Put, ...]
    expected: tuple[_Expected, ...]

    def committed(self, revision: int) -> Committed:
        """The result, once it is known that the transaction was applied at `revision`."""
        return Committed(revision, tuple(spliced(op.value, op.splice, revision) for op in self.puts))

    def outcome(self, response: rpc.TxnResponse) -> Outcome:
        """What etcd's answer means. Raises LayoutError."""
        if response.succeeded:
            if self.writes:
                return self.committed(response.header.revision)
            return Committed(_revision(response.responses[0]), ())
        reads = response.responses
        leader = reads[LEADER].response_range.kvs
        if not leader or leader[0].mod_revision != self.fence:
            return Fenced(leader[0].value if leader else b"")
        answered = list(zip(self.expected, reads[RECORD + 1 :], strict=True))
        for expected, read in answered:
            if not expected.assumed and _revision(read) != expected.revision:
                kvs = read.response_range.kvs
                current = key_value(self.layout, expected.key, kvs[0])[0] if kvs else None
                return Conflicted(expected.key, current, _revision(reads[RECORD]))
        return Stale({expected.key: _revision(read) for expected, read in answered if expected.assumed})


def plan(txn: Txn, layout: Layout, fence: int, nonce: str, time: int, present: Mapping[str, int]) -> Plan:
    """Translate a transaction.

    Args:
        txn: what to do; `validate` accepts it.
        layout: where.
        fence: the mod_revision of the leader's key while this member leads.
        nonce: unique to this transaction.
        time: milliseconds since the epoch.
        present: revisions of the keys that are removed without an expectation; 0: there is nothing to remove.
    """
    cause = txn.cause
    header = Header(-1, time, cause.revision, cause.actor)
    compares = [_mod_is(layout.leader, fence)]
    reads = [_read(layout.leader), _read(layout.record)]
    writes: list[rpc.RequestOp] = []
    expected: list[_Expected] = []
    removed: list[Removed] = []
    puts: list[Put] = []
    for op, plain in zip(layout.sealed(txn).ops, txn.ops, strict=True):
        at = layout.key(op.key)
        expectation = op.expect
        assumed = isinstance(op, Delete) and expectation is None
        if assumed:
            expectation = present[op.key]
        if expectation is not None:
            expected.append(_Expected(op.key, expectation, assumed))
            compares.append(_mod_is(at, expectation))
            reads.append(_read(at))
        if isinstance(op, Put):
            head = header if op.splice < 0 else Header(op.splice, time, cause.revision, cause.actor)
            put = rpc.PutRequest(key=at, value=encode_value(op.value, head))
            writes.append(rpc.RequestOp(request_put=put))
            assert isinstance(plain, Put)
            puts.append(plain)
        elif isinstance(op, Delete) and expectation:
            writes.append(rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=at)))
            if op.value is not None:
                removed.append(Removed(op.key, op.value, op.splice))
        else:
            assert isinstance(op, Check | Delete)
    if writes:
        record = encode_record(TxnRecord(nonce, time, cause.revision, cause.actor, tuple(removed)))
        success = [rpc.RequestOp(request_put=rpc.PutRequest(key=layout.record, value=record)), *writes]
    else:
        success = [_read(layout.record)]
    request = rpc.TxnRequest(compare=compares, success=success, failure=reads)
    return Plan(request, layout, fence, bool(writes), tuple(puts), tuple(expected))


def key_value(layout: Layout, key: str, kv: mvcc_pb2.KeyValue) -> tuple[KeyValue, Header]:
    """A key's state from what etcd holds. Raises LayoutError."""
    header, value = decode_value(kv.value)
    value, splice = layout.opened(key, value, header.splice)
    return KeyValue(key, spliced(value, splice, kv.mod_revision), kv.create_revision, kv.mod_revision), header


def _mod_is(key: bytes, revision: int) -> rpc.Compare:
    return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=key, mod_revision=revision)


def _read(key: bytes) -> rpc.RequestOp:
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key))


def _revision(read: rpc.ResponseOp) -> int:
    kvs = read.response_range.kvs
    return kvs[0].mod_revision if kvs else 0


__all__: Final = ["Fenced", "Outcome", "Plan", "Stale", "key_value", "plan"]
