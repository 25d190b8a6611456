"""The pure parts of the etcd backend: addresses, layout, transactions, the mirror. The rest meets a real etcd in tests/integration/store."""

import datetime as dt

import pytest

from control.store.encryption import EncryptionKey, Sealer
from control.store.etcd import rpc_pb2 as rpc
from control.store.etcd.address import EtcdAddress, parse
from control.store.etcd.layout import Header, Layout, LayoutError, TxnRecord, decode_record, decode_value, encode_value
from control.store.etcd.mirror import Mirror, Revision, Written, revisions
from control.store.etcd.txn import Fenced, Stale, plan
from control.store.history import History
from control.store.interface import Cause, Check, Committed, CompactedError, Conflicted, Delete, Put, Txn
from control.store.mvcc import Budget
from steersman.clock import SeededEntropy

LAYOUT = Layout("/steersman")
KEY = "/core/pods/default/web"


def test_an_address_names_members_and_options() -> None:
    assert parse("etcd://a:1,b:2?prefix=/x/&compaction=off") == EtcdAddress(("a:1", "b:2"), "/x", compact=False)
    assert parse("etcd://a:1") == EtcdAddress(("a:1",), "/steersman", compact=True)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://a:1", "is not etcd://"),
        ("etcd://", "names no etcd member"),
        ("etcd://a", "'a' is not HOST:PORT"),
        ("etcd://a:99999", "is not HOST:PORT"),
        ("etcd://a:1/b", "is not etcd://"),
        ("etcd://a:1?prefix=b", "must begin with '/'"),
        ("etcd://a:1?prefix=/", "must begin with '/'"),
        ("etcd://a:1?compaction=no", "use on or off"),
        ("etcd://a:1?user=x", "unknown option user"),
    ],
)
def test_a_wrong_address_is_told_what_is_wrong(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(url)


def test_values_keep_their_header_and_foreign_ones_are_refused() -> None:
    header = Header(3, 1_700_000_000_000, 7, "user:ann")
    assert decode_value(encode_value(b'{"":1}', header)) == (header, b'{"":1}')
    for data in (b"", b'{"a":1}', b"\x02\x00\x00", b"\x01\x00\x05\xff"):
        with pytest.raises(LayoutError):
            decode_value(data)
    with pytest.raises(LayoutError):
        decode_record(b"\xff")


def answered(planned, revision: int = 9) -> rpc.TxnResponse:
    return rpc.TxnResponse(header=rpc.ResponseHeader(revision=revision), succeeded=True)


def refused(planned, **found: int) -> rpc.TxnResponse:
    """What etcd says when its keys have these revisions."""
    reads = []
    for op in planned.request.failure:
        key = op.request_range.key
        name = LAYOUT.name(key)
        at = {LAYOUT.leader: found["leader"], LAYOUT.record: found["record"]}.get(key, found.get("key", 0))
        value = encode_value(b"v", Header(-1, 0, 0, "")) if name else b"x"
        kvs = [{"key": key, "mod_revision": at, "create_revision": 1, "value": value}] if at else []
        reads.append(rpc.ResponseOp(response_range=rpc.RangeResponse(kvs=kvs)))
    return rpc.TxnResponse(header=rpc.ResponseHeader(revision=99), responses=reads)


def test_every_transaction_compares_the_fence_and_begins_with_its_record() -> None:
    txn = Txn((Put(KEY, b'{"":1}', 2, 4), Check("/a", 0)), Cause(3, "me"))
    planned = plan(txn, LAYOUT, 42, "n-1", 1000, {})
    compares = [(c.key, c.target, c.mod_revision) for c in planned.request.compare]
    mod = rpc.Compare.MOD
    assert compares == [(LAYOUT.leader, mod, 42), (LAYOUT.key(KEY), mod, 4), (LAYOUT.key("/a"), mod, 0)]
    first, second = (op.request_put for op in planned.request.success)
    assert decode_record(first.value) == TxnRecord("n-1", 1000, 3, "me")
    assert (first.key, second.key) == (LAYOUT.record, LAYOUT.key(KEY))
    assert planned.outcome(answered(planned)) == Committed(9, (b'{"9":1}',))


def test_refusals_are_told_apart() -> None:
    planned = plan(Txn((Put(KEY, b"1", -1, 4),)), LAYOUT, 42, "n", 0, {})
    assert planned.outcome(refused(planned, leader=43, record=8, key=4)) == Fenced(b"x")
    assert planned.outcome(refused(planned, leader=0, record=8, key=4)) == Fenced(b"")
    conflict = planned.outcome(refused(planned, leader=42, record=8, key=5))
    assert isinstance(conflict, Conflicted)
    assert (conflict.key, conflict.current.mod_revision, conflict.revision) == (KEY, 5, 8)
    assert planned.outcome(refused(planned, leader=42, record=8)) == Conflicted(KEY, None, 8)


def test_a_removal_that_expects_nothing_assumes_and_changes_nothing_when_there_is_nothing() -> None:
    gone = plan(Txn((Delete(KEY),)), LAYOUT, 42, "n", 0, {KEY: 0})
    assert [op.WhichOneof("request") for op in gone.request.success] == ["request_range"], "no record, so no revision"
    assert gone.outcome(refused(gone, leader=42, record=8, key=5)) == Stale({KEY: 5})
    there = plan(Txn((Delete(KEY, None, b"last", 4),)), LAYOUT, 42, "n", 0, {KEY: 5})
    assert [op.WhichOneof("request") for op in there.request.success] == ["request_put", "request_delete_range"]
    (removed,) = decode_record(there.request.success[0].request_put.value).removed
    assert (removed.key, removed.value, removed.splice) == (KEY, b"last", 4)


def test_secrets_are_sealed_on_their_way_and_answered_in_the_clear() -> None:
    layout = Layout("/s", Sealer([EncryptionKey(b"k" * 32)], SeededEntropy(1)))
    planned = plan(Txn((Put("/core/secrets/a/b", b'{"":"hush"}', 2),)), layout, 1, "n", 0, {})
    assert b"hush" not in planned.request.SerializeToString()
    assert planned.outcome(answered(planned)) == Committed(9, (b'{"9":"hush"}',))
    put = planned.request.success[1].request_put
    event = {"kv": {"key": put.key, "mod_revision": 9, "value": put.value}}
    (found,) = revisions(rpc.WatchResponse(events=[event]).events, layout)
    assert found.changes[0].value == b'{"":"hush"}'


def wrote(number: int, key: str = KEY, time: int = 0, value: bytes = b"v") -> Revision:
    record = TxnRecord("n", time, 0, "me")
    return Revision(number, record, [Written(key, Header(-1, time, 0, "me"), value, -1)])


def test_revisions_of_other_keys_are_empty_places_in_the_history() -> None:
    mirror = Mirror()
    mirror.begin(10)
    for number, time in ((12, 1000), (15, 2000), (40, 3000)):
        mirror.advance(wrote(number, time=time, value=b"%d" % number))
    assert (mirror.revision, mirror.compacted) == (40, 0)
    assert [mirror.get(KEY, at).value for at in (12, 14, 15, 39, 40)] == [b"12", b"12", b"15", b"15", b"40"]
    assert [slot[0].kv.mod_revision for slot in mirror.changes(11) if slot] == [12, 15, 40]
    history = History(mirror)
    assert history.at(dt.datetime.fromtimestamp(2.5, dt.UTC)) == 15
    with pytest.raises(KeyError):
        history.cause_of(13)
    assert history.cause_of(15)[0].actor == "me"


def test_a_budget_counts_what_happened_here_not_how_long_the_gaps_are() -> None:
    mirror = Mirror(Budget(age_s=10))
    mirror.begin(0)
    mirror.advance(wrote(100, time=1_000))
    mirror.advance(wrote(200, time=5_000))
    assert mirror.compacted == 0, "what came before the first write is not forgotten sooner than the write"
    mirror.advance(wrote(300, time=12_000))
    assert mirror.compacted == 100, "the gap is as old as the write at 200, which is kept"


def test_a_gap_longer_than_the_budget_costs_no_memory() -> None:
    mirror = Mirror(Budget(changes=1000))
    mirror.begin(0)
    mirror.advance(wrote(5))
    mirror.advance(wrote(10**12, value=b"late"))
    assert len(mirror.changes(mirror.compacted)) == 1
    with pytest.raises(CompactedError):
        mirror.get(KEY, 5)
    assert mirror.get(KEY, 10**12).value == b"late"
    mirror.advance(wrote(10**12 + 1))
    assert mirror.get(KEY, 10**12).value == b"late"


def test_the_newest_revision_can_be_read_even_when_etcd_has_compacted_it() -> None:
    mirror = Mirror()
    mirror.load((), 7)
    assert mirror.range("", revision=7).kvs == ()
    with pytest.raises(CompactedError):
        mirror.get(KEY, 6)
