"""What the store writes into the log: transactions and the time they were proposed at, as bytes.

One byte of format version, then MessagePack: an array of the time (milliseconds since the epoch) and the transactions,
each an array of operations (tagged by kind) and its cause. Encoding costs about 1 µs and 30 bytes beside key and value.

A member that meets a version it does not know must not guess: it raises, which stops the member (another version
already applied the command, and skipping it would make the states differ). Upgrading the member mends that.
"""

from __future__ import annotations

import msgspec

from control.store.interface import StoreError, Txn

VERSION = b"\x01"  # raise it when the meaning changes; keep reading the older ones, which are in the logs of the world


class CommandError(StoreError):
    """An entry of the log cannot be understood by this version."""


class Command(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of the log."""

    time: int  # milliseconds since the epoch, by the proposer's clock
    txns: tuple[Txn, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Command)


def encode(command: Command) -> bytes:
    """Bytes for the log."""
    return VERSION + _encoder.encode(command)


def decode(data: bytes) -> Command:
    """Read what `encode` wrote.

    Raises:
        CommandError: another version wrote it, or it is damaged.
    """
    if data[:1] != VERSION:
        raise CommandError(f"the log holds a command of version {data[:1].hex() or 'none'}: upgrade this member")
    try:
        return _decoder.decode(memoryview(data)[1:])
    except msgspec.DecodeError as error:
        raise CommandError(f"a command in the log cannot be decoded: {error}") from error


def weight(txn: Txn) -> int:
    """About how many bytes a transaction takes in the log; never less than it does."""
    total = 64 + 4 * len(txn.cause.actor)
    for op in txn.ops:
        value = getattr(op, "value", None)
        total += 4 * len(op.key) + 48 + (len(value) if value else 0)
    return total
