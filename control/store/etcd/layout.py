"""How the store's keys and values lie in etcd.

    PREFIX/store/data + KEY     an object: header, then the value
    PREFIX/store/txn            the record of the newest transaction: written by every transaction, as its first operation
    PREFIX/control/leader       who leads, with the lease of that member (`election`)
    PREFIX/control/members/NAME a running member, with its lease

Revisions are etcd's own. A value cannot know its revision when it is sent, so the revision is spliced in when it is
read: the header says where. It also keeps who wrote the value, why and when, for `history` after a restart.

    header: format (1 byte), length of the rest (2 bytes, big endian), MessagePack [splice, time, cause.revision, actor]

The record makes three things of what etcd gives: its mod_revision is the newest revision of this store (other keys of etcd
raise the counter too), so one linearizable read of one key is a barrier; it carries the last states of removed objects,
which etcd's deletions cannot; and its nonce tells a member whose connection broke whether its transaction was applied.

Secrets (`encryption`) are sealed before they are sent: etcd, its disk and its backups hold ciphertext. The splice is within.
"""

from __future__ import annotations

import msgspec

from control.store.encryption import SealedError, Sealer, is_sealed
from control.store.interface import Cause, StoreError, Txn

FORMAT = 1  # raise it when the meaning of the bytes changes; keep reading the older ones
_PREAMBLE = 3


class LayoutError(StoreError):
    """A value in etcd cannot be understood: another version wrote it, or something else did."""


class Header(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept beside a value; time in milliseconds since the epoch."""

    splice: int
    time: int
    observed: int
    actor: str

    @property
    def cause(self) -> Cause:
        """Why the value was written."""
        return Cause(self.observed, self.actor)


class Removed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The last state of a removed object, as `Delete` gave it."""

    key: str
    value: bytes
    splice: int


class TxnRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One transaction: who proposed it, when and why, and what it removed."""

    nonce: str
    time: int
    observed: int
    actor: str
    removed: tuple[Removed, ...] = ()
    format: int = FORMAT

    @property
    def cause(self) -> Cause:
        """Why it was proposed."""
        return Cause(self.observed, self.actor)


_encoder = msgspec.msgpack.Encoder()
_header = msgspec.msgpack.Decoder(Header)
_record = msgspec.msgpack.Decoder(TxnRecord)


class Layout:
    """The keys under one prefix, and what of the values is encrypted.

    Attributes:
        unopened: whether any value was met whose key is not here.
    """

    def __init__(self, prefix: str, sealer: Sealer | None = None) -> None:
        self.sealer = sealer
        self.unopened = False
        self.store = f"{prefix}/store/".encode()  # what one watch follows
        self.record = self.store + b"txn"
        self.data = self.store + b"data"
        self.control = f"{prefix}/control/".encode()
        self.leader = self.control + b"leader"
        self.members = self.control + b"members/"

    def key(self, key: str) -> bytes:
        """Where an object lies."""
        return self.data + key.encode()

    def name(self, key: bytes) -> str | None:
        """The object at a key of etcd; None: it is not an object's."""
        return key[len(self.data) :].decode() if key.startswith(self.data) else None

    def member(self, name: str) -> bytes:
        """Where a member says that it runs."""
        return self.members + name.encode()

    def sealed(self, txn: Txn) -> Txn:
        """The transaction as it leaves this process."""
        return txn if self.sealer is None else self.sealer.seal_txn(txn)

    def opened(self, key: str, value: bytes, splice: int) -> tuple[bytes, int]:
        """A value and its splice as they came in; what cannot be opened stays sealed."""
        if self.sealer is not None and is_sealed(value):
            try:
                return self.sealer.open(key, value)
            except SealedError:
                self.unopened = True
        return value, splice


def end_of(prefix: bytes) -> bytes:
    """The first key after every key with the prefix, which ends in no 0xFF byte."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def encode_value(value: bytes, header: Header) -> bytes:
    """What is put for a value."""
    head = _encoder.encode(header)
    return b"%c%b%b%b" % (FORMAT, len(head).to_bytes(2, "big"), head, value)


def decode_value(data: bytes) -> tuple[Header, bytes]:
    """Read what `encode_value` wrote. Raises LayoutError."""
    if data[:1] != bytes((FORMAT,)):
        raise LayoutError(
            f"etcd holds a value of format {data[:1].hex() or 'none'}: upgrade this member, or choose another prefix"
        )
    end = _PREAMBLE + int.from_bytes(data[1:_PREAMBLE], "big")
    try:
        return _header.decode(data[_PREAMBLE:end]), data[end:]
    except msgspec.DecodeError as error:
        raise LayoutError(f"a value in etcd has a damaged header: {error}") from error


def encode_record(record: TxnRecord) -> bytes:
    """What is put for a transaction's record."""
    return _encoder.encode(record)


def decode_record(data: bytes) -> TxnRecord:
    """Read what `encode_record` wrote. Raises LayoutError."""
    try:
        record = _record.decode(data)
    except msgspec.DecodeError as error:
        raise LayoutError(f"a transaction's record in etcd cannot be decoded: {error}") from error
    if record.format != FORMAT:
        raise LayoutError(f"etcd holds a transaction of format {record.format}: upgrade this member")
    return record


def spliced(value: bytes, splice: int, revision: int) -> bytes:
    """The value with its revision inserted."""
    return value if splice < 0 else b"%b%d%b" % (value[:splice], revision, value[splice:])
