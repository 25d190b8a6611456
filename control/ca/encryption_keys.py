"""The file of keys that secrets are encrypted with: `encryption-keys.json`, beside the certificates and never in the data folder.

    {"keys": [{"id": "5f0c…", "key": "BASE64 of 32 bytes"}, …]}

The first key seals, all of them open. Every member needs the same file. A rotation puts a new key first and keeps the
old ones until `steer cluster rotate-encryption` says that nothing needs them. Members read the file again when it changes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Final

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from control.ca.certificates import CertificateError
from control.store.encryption import KEY_BYTES, EncryptionKey

FILE: Final = "encryption-keys.json"


class _Entry(msgspec.Struct, frozen=True):
    id: str
    key: str


class _File(msgspec.Struct, frozen=True):
    keys: list[_Entry]


def new_key() -> EncryptionKey:
    """A key of chance."""
    return EncryptionKey(AESGCM.generate_key(8 * KEY_BYTES))


def encode(keys: Sequence[EncryptionKey]) -> bytes:
    """The file's content."""
    entries = [_Entry(key.id, base64.b64encode(key.secret).decode()) for key in keys]
    return msgspec.json.format(msgspec.json.encode(_File(entries)), indent=2) + b"\n"


def decode(content: bytes, name: str) -> list[EncryptionKey]:
    """The keys in a file called `name`. Raises CertificateError, which says what is wrong with it."""
    try:
        entries = msgspec.json.decode(content, type=_File).keys
        keys = [EncryptionKey(base64.b64decode(entry.key, validate=True)) for entry in entries]
    except (msgspec.MsgspecError, binascii.Error) as error:
        raise CertificateError(f"{name} is not a file of encryption keys: {error}") from None
    for entry, key in zip(entries, keys, strict=True):
        if len(key.secret) != KEY_BYTES or key.id != entry.id:
            raise CertificateError(f"{name}: the key with id {entry.id} is damaged: copy the file from another member")
    if not keys:
        raise CertificateError(f"{name} holds no key: copy the file from another member")
    return keys


def rotated(keys: Sequence[EncryptionKey]) -> list[EncryptionKey]:
    """With a new key before them."""
    return [new_key(), *keys]


def without(keys: Sequence[EncryptionKey], identity: str) -> list[EncryptionKey]:
    """Without one. Raises CertificateError when it is not there, or is the one that seals."""
    if identity not in (key.id for key in keys):
        raise CertificateError(f"there is no key {identity}: there are {', '.join(key.id for key in keys)}")
    if keys[0].id == identity:
        raise CertificateError(f"{identity} is the key that encrypts: rotate first, then drop the old key")
    return [key for key in keys if key.id != identity]
