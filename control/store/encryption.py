"""Values that leave memory only encrypted: secrets in the log, in snapshots, and on their way to other members.

Mechanism. A `Sealer` turns a value into an *envelope* before its transaction is proposed, and back when the committed
entry is applied; a snapshot's records pass it likewise. The state machine in memory holds plaintext, so that reads,
watches, indexes and history pay nothing; what Raft writes and sends never does. An envelope is

    MAGIC  key id (8)  salt (24)  counter (8)  ciphertext of (splice, value), with a tag of 16 bytes

AES-256-GCM, bound by its additional data to the key it is stored at and to all that stands before the ciphertext: an envelope moved to
another key, or with its head changed, does not open. Documents begin with `{`, so no plaintext looks like one.

Nonces. Each process draws a salt of 124 bits of chance and derives its own key from it (HKDF-SHA256, RFC 5869), under which it counts
nonces from 0: none is used twice however often snapshots seal everything anew, where random nonces would end at 2^32.

Failure. A key that is missing here harms only the values that need it: the transaction is applied, the envelope is kept in the
value's place, and whoever reads it gets `SealedError`, which names the key and the remedy. When the key comes (`rekey`), what
waited is opened. A damaged envelope, or one at the wrong place, is not opened either, and says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from control.store.interface import Check, Event, KeyValue, StoreError, Txn
from steersman.clock import Entropy

MAGIC: Final = b"\x00st1"
KEY_BYTES: Final = 32
ID_LENGTH: Final = 8  # hexadecimal digits of a key's id: for telling a handful of keys apart, not for security
SALT_LENGTH: Final = 24  # of 36 characters each: 124 bits
COUNTER_BYTES: Final = 8
HEAD: Final = len(MAGIC) + ID_LENGTH + SALT_LENGTH + COUNTER_BYTES
SPLICE_BYTES: Final = 4
DERIVED_LIMIT: Final = 1_000  # derived keys remembered, one per process that ever sealed; forgotten all at once beyond
SCAN_BYTES: Final = 1 << 20
DEFAULT_RESOURCES: Final = ("secrets", "jointokens")
JOIN_TOKENS: Final = "jointokens"


class SealedError(StoreError):
    """A value cannot be opened here; the message says which key it needs and what to do."""


class EncryptionKey(msgspec.Struct, frozen=True):
    """A key; its id follows from it, so that a key file cannot mix them up."""

    secret: bytes

    @property
    def id(self) -> str:
        """The first digits of a hash of the key, which tells nothing about it."""
        return sha256(b"steersman encryption key id\0" + self.secret).hexdigest()[:ID_LENGTH]


def prefixes_of(resources: Iterable[str]) -> tuple[str, ...]:
    """The store's folders of `secrets`, `configmaps`, `widgets.example.com`, `jointokens`."""
    found = []
    for resource in resources:
        plural, _, group = resource.partition(".")
        found.append("/bootstrap/tokens/" if resource == JOIN_TOKENS else f"/{group or 'core'}/{plural}/")
    return tuple(found)


class Sealer:
    """Seals the values under `prefixes` with the first of `keys`, opens those sealed with any.

    Args:
        keys: the first seals; without any, nothing is sealed and nothing opens.
        resources: what is sealed, as `prefixes_of` reads it; empty: nothing, but what is sealed still opens.
    """

    def __init__(
        self, keys: Sequence[EncryptionKey], entropy: Entropy, resources: Iterable[str] = DEFAULT_RESOURCES
    ) -> None:
        self._prefixes = prefixes_of(resources)
        self._salt = entropy.token(SALT_LENGTH).encode("ascii")
        self._counter = itertools.count()  # `next` of it is atomic: snapshots are sealed in another thread
        self._keys: dict[str, EncryptionKey] = {}
        self._derived: dict[tuple[str, bytes], AESGCM] = {}
        self._head = b""
        self.primary = ""
        self.rekey(keys)

    @property
    def ids(self) -> tuple[str, ...]:
        """The keys held; the first seals."""
        return tuple(self._keys)

    def rekey(self, keys: Sequence[EncryptionKey]) -> bool:
        """Hold these keys from now on; answers whether that changes anything."""
        fresh = {key.id: key for key in keys}
        if list(fresh) == list(self._keys):
            return False
        self._keys = fresh
        self._derived = {known: box for known, box in self._derived.items() if known[0] in fresh}
        self.primary = next(iter(fresh), "")
        self._head = MAGIC + self.primary.encode("ascii") + self._salt
        return True

    def covers(self, key: str) -> bool:
        """Whether values at `key` are sealed."""
        return bool(self.primary) and key.startswith(self._prefixes)

    def seal(self, key: str, value: bytes, splice: int = -1) -> bytes:
        """The envelope of a value, which may still wait for its revision at `splice`."""
        counter = next(self._counter).to_bytes(COUNTER_BYTES, "big")
        head = self._head + counter
        plain = splice.to_bytes(SPLICE_BYTES, "big", signed=True) + value
        box = self._box(head[len(MAGIC) : len(MAGIC) + ID_LENGTH].decode("ascii"), self._salt)
        return head + box.encrypt(bytes(4) + counter, plain, head + key.encode())

    def open(self, key: str, envelope: bytes) -> tuple[bytes, int]:
        """The value and its splice. Raises SealedError."""
        head, sealed = envelope[:HEAD], envelope[HEAD:]
        identity = key_id(envelope)
        if identity not in self._keys:
            raise SealedError(
                f"{key} is encrypted with key {identity}, which this member does not have (it has "
                f"{', '.join(self._keys) or 'none'}): copy encryption-keys.json from a member that has it into this member's --pki-dir"
            )
        salt, counter = head[len(MAGIC) + ID_LENGTH : -COUNTER_BYTES], head[-COUNTER_BYTES:]
        try:
            plain = self._box(identity, salt).decrypt(bytes(4) + counter, sealed, head + key.encode())
        except InvalidTag:
            raise SealedError(
                f"{key} cannot be decrypted with key {identity}: the stored value is damaged, or was moved here from another "
                "key; write the object anew"
            ) from None
        return plain[SPLICE_BYTES:], int.from_bytes(plain[:SPLICE_BYTES], "big", signed=True)

    def seal_txn(self, txn: Txn) -> Txn:
        """The transaction as it enters the log."""
        prefixes = self._prefixes
        for op in txn.ops:  # plain loops: nearly every transaction passes here untouched, and it costs 0.3 µs
            if op.key.startswith(prefixes):
                break
        else:
            return txn
        ops = []
        for op in txn.ops:
            if not isinstance(op, Check) and op.value is not None and self.covers(op.key):
                op = msgspec.structs.replace(op, value=self.seal(op.key, op.value, op.splice), splice=-1)
            ops.append(op)
        return Txn(tuple(ops), txn.cause)

    def open_txn(self, txn: Txn) -> Txn:
        """The transaction as it is applied; values that cannot be opened stay sealed."""
        for op in txn.ops:
            if not isinstance(op, Check) and op.value is not None and op.value.startswith(MAGIC):
                break
        else:
            return txn
        ops = []
        for op in txn.ops:
            if not isinstance(op, Check) and op.value is not None and is_sealed(op.value):
                try:
                    value, splice = self.open(op.key, op.value)
                except SealedError:
                    pass
                else:
                    op = msgspec.structs.replace(op, value=value, splice=splice)
            ops.append(op)
        return Txn(tuple(ops), txn.cause)

    def seal_stored(self, key: str, value: bytes) -> bytes:
        """A value of the state as a snapshot holds it."""
        return self.seal(key, value) if value and self.covers(key) and not is_sealed(value) else value

    def open_stored(self, key: str, value: bytes, revision: int) -> bytes:
        """A value of a snapshot as the state holds it, `revision` being that of its write; unchanged when it cannot be opened."""
        try:
            return self.read(key, value, revision)
        except SealedError:
            return value

    def read(self, key: str, value: bytes, revision: int) -> bytes:
        """The plaintext of a stored value. Raises SealedError."""
        if not is_sealed(value):
            return value
        plain, splice = self.open(key, value)
        return plain if splice < 0 else b"%b%d%b" % (plain[:splice], revision, plain[splice:])

    def _box(self, identity: str, salt: bytes) -> AESGCM:
        box = self._derived.get((identity, salt))
        if box is None:
            if len(self._derived) >= DERIVED_LIMIT:
                self._derived.clear()
            derive = HKDF(hashes.SHA256(), KEY_BYTES, salt, b"steersman values")
            box = self._derived[identity, salt] = AESGCM(derive.derive(self._keys[identity].secret))
        return box


def is_sealed(value: bytes | None) -> bool:
    """Whether a value is an envelope."""
    return value is not None and value.startswith(MAGIC)


def key_id(envelope: bytes) -> str:
    """The id of the key that an envelope needs."""
    return envelope[len(MAGIC) : len(MAGIC) + ID_LENGTH].decode("ascii", "replace")


def key_ids_on_disk(folder: Path, identities: Sequence[str]) -> set[str]:
    """Which of these keys anything in a data folder still needs. Reads all of it: for a thread of its own. Raises OSError."""
    wanted = {MAGIC + identity.encode("ascii"): identity for identity in identities}
    overlap = len(MAGIC) + ID_LENGTH - 1
    found: set[str] = set()
    for path in sorted(folder.rglob("*")):
        try:
            if not path.is_file():
                continue
            with path.open("rb") as file:
                tail = b""
                while block := file.read(SCAN_BYTES):
                    block = tail + block
                    found.update(identity for mark, identity in wanted.items() if mark in block)
                    tail = block[-overlap:]
        except FileNotFoundError:
            continue  # compacted meanwhile
    return found


def require_open(kvs: Iterable[KeyValue | None], opened: Callable[[str, bytes], object]) -> None:
    """Raise what `opened` (`Sealer.open`) says of the first value that is still sealed."""
    for kv in kvs:
        if kv is not None and is_sealed(kv.value):
            opened(kv.key, kv.value)


def require_open_events(events: Iterable[Event], opened: Callable[[str, bytes], object]) -> None:
    """As `require_open`, for what a watch tells."""
    for event in events:
        if event.value is not None and is_sealed(event.value):
            opened(event.key, event.value)
        require_open((event.previous,), opened)
