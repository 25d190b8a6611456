"""Continue tokens: where a list goes on, and the revision that all of its pages show.

A token is opaque to clients, but needs no secret: it grants nothing that a fresh list would not, so it is only checked for
form. It holds the key after which the next page begins, relative to the listed prefix.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from steersman.errors import bad_request


class Token(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`revision` of the whole list, and the last key that was delivered, without the prefix."""

    version: int
    revision: int
    after: str


_VERSION = 1
_decoder = msgspec.json.Decoder(Token)


def encode(revision: int, after: str) -> str:
    """Write a token."""
    return base64.urlsafe_b64encode(msgspec.json.encode(Token(_VERSION, revision, after))).decode().rstrip("=")


def decode(text: str) -> Token:
    """Read a token.

    Raises:
        ApiError: 400, it is not one of ours.
    """
    try:
        token = _decoder.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise bad_request("the continue token is not one that this server gave: start the list again") from None
    if token.version != _VERSION or token.revision <= 0:
        raise bad_request("the continue token is not of this server's version: start the list again")
    return token
