import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.store import commands
from control.store.commands import Command, CommandError
from control.store.interface import Cause, Check, Delete, Put, Txn

keys = st.text(max_size=10)
blobs = st.binary(max_size=20)
revisions = st.none() | st.integers(0, 2**60)
operations = st.one_of(
    st.builds(Put, keys, blobs, st.integers(-1, 20), revisions),
    st.builds(Delete, keys, revisions, st.none() | blobs, st.integers(-1, 20)),
    st.builds(Check, keys, st.integers(0, 2**60)),
)
causes = st.builds(Cause, st.integers(0, 2**60), st.text(max_size=10))
txns = st.builds(Txn, st.lists(operations, max_size=4).map(tuple), causes)


@settings(max_examples=100, deadline=None)
@given(st.builds(Command, st.integers(0, 2**60), st.lists(txns, max_size=4).map(tuple)))
def test_what_is_encoded_is_decoded_and_weighs_no_more_than_said(command: Command) -> None:
    data = commands.encode(command)
    assert commands.decode(data) == command
    assert len(data) <= 16 + sum(map(commands.weight, command.txns))


def test_the_bytes_in_the_logs_of_the_world_stay_readable() -> None:
    ops = (Put("/a", b"v", 1, 0), Delete("/b", None, b"w", 2), Check("/c", 3))
    command = Command(1_700_000_000_000, (Txn(ops, Cause(7, "me")),))
    data = bytes.fromhex(
        "0192cf0000018bcfe56800919293950 1a22f61c40176 0100 9502a22f62c0c401770 2 9303a22f6303 9207a26d65".replace(
            " ", ""
        )
    )
    assert commands.encode(command) == data
    assert commands.decode(data) == command


@pytest.mark.parametrize("data", [b"", b"\x02\x92\x00\x90", b"\x01", b"\x01garbage", b"\x01\x92\x00\x91\x91\x91\x09"])
def test_what_cannot_be_understood_is_never_guessed(data: bytes) -> None:
    with pytest.raises(CommandError):
        commands.decode(data)
