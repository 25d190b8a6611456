"""Join tokens: what lets a host become a node.

A token is `ID.SECRET`. The store keeps, at `/bootstrap/tokens/ID`, the secret's SHA-256, when it ends, and how many uses are left;
the secret is told once, to whoever made it, and is 80 bits of chance, so a plain hash is enough. A use is counted by a
compare-and-put: of two nodes that race for the last use, one is refused.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

import msgspec

from control.store.interface import Cause, Committed, Conflicted, Delete, KeyValue, Put, Store, Txn
from steersman.clock import Clock, Entropy, parse_time, rfc3339

PREFIX: Final = "/bootstrap/tokens/"
DEFAULT_TTL_S: Final = 24 * 3600
MAX_TTL_S: Final = 10 * 365 * 24 * 3600
UNLIMITED: Final = -1
ID_LENGTH, SECRET_LENGTH = 6, 16
RACES: Final = 16  # lost compare-and-puts before giving up: so many nodes at once with one token

_FORM = re.compile(rf"([a-z0-9]{{{ID_LENGTH}}})\.([a-z0-9]{{{SECRET_LENGTH}}})")


class TokenError(Exception):
    """A token is not accepted; the message says why and what to do."""


class _Stored(msgspec.Struct, frozen=True, rename="camel"):
    hash: str
    expires: str
    uses_left: int
    description: str = ""


_decoder = msgspec.json.Decoder(_Stored)


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """Attributes:
    id: the public half.
    token: the whole token; only known when it was just made, else the id.
    uses_left: UNLIMITED, or how often it may still be used.
    """

    id: str
    token: str
    expires: str
    uses_left: int
    description: str


class JoinTokens:
    """The tokens in a store."""

    def __init__(self, store: Store, clock: Clock, entropy: Entropy) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy

    async def create(self, *, ttl_s: int = 0, uses: int = 0, description: str = "", actor: str = "") -> TokenInfo:
        """Make a token. Raises TokenError for a life or a number of uses that cannot be."""
        if not 0 <= ttl_s <= MAX_TTL_S:
            raise TokenError(f"ttl_seconds must be between 0 (24 h) and {MAX_TTL_S}: {ttl_s}")
        if uses < 0:
            raise TokenError(f"uses must not be negative: {uses} (0: without limit)")
        token = f"{self._entropy.token(ID_LENGTH)}.{self._entropy.token(SECRET_LENGTH)}"
        identity, _, secret = token.partition(".")
        expires = rfc3339(self._clock.now() + dt.timedelta(seconds=ttl_s or DEFAULT_TTL_S))
        stored = _Stored(_hash(secret), expires, uses or UNLIMITED, description)
        put = Put(PREFIX + identity, msgspec.json.encode(stored), expect=0)
        (result,) = await self._store.commit([Txn((put,), Cause(0, actor))])
        if isinstance(result, Conflicted):  # two ids alike among 2 billion
            return await self.create(ttl_s=ttl_s, uses=uses, description=description, actor=actor)
        return TokenInfo(identity, token, expires, stored.uses_left, description)

    async def adopt(self, token: str, ttl_s: int, description: str) -> bool:
        """Accept a token that was made elsewhere (by whoever installs the cluster), unless it is known; answers whether it was new.

        Raises TokenError when it has not the form.
        """
        match = _FORM.fullmatch(token)
        if match is None:
            raise TokenError("the join token has not the form abcdef.0123456789abcdef (letters are lower case)")
        identity, secret = match.groups()
        expires = rfc3339(self._clock.now() + dt.timedelta(seconds=ttl_s))
        stored = _Stored(_hash(secret), expires, UNLIMITED, description)
        put = Put(PREFIX + identity, msgspec.json.encode(stored), expect=0)
        (result,) = await self._store.commit([Txn((put,), Cause(0, "join-tokens"))])
        return isinstance(result, Committed)

    async def list(self) -> list[TokenInfo]:
        """The tokens that have not ended, without their secrets."""
        found = []
        for kv in (await self._store.range(PREFIX)).kvs:
            stored, identity = _decoder.decode(kv.value), kv.key.removeprefix(PREFIX)
            if not self._has_ended(stored):
                found.append(TokenInfo(identity, identity, stored.expires, stored.uses_left, stored.description))
        return found

    async def revoke(self, identity: str, actor: str = "") -> bool:
        """Forget a token; answers whether there was one."""
        kv = await self._store.get(PREFIX + identity)
        if kv is None:
            return False
        await self._store.commit([Txn((Delete(kv.key),), Cause(0, actor))])
        return True

    async def forget_ended(self) -> int:
        """Remove the tokens that have ended; answers how many there were."""
        ended = [kv for kv in (await self._store.range(PREFIX)).kvs if self._has_ended(_decoder.decode(kv.value))]
        if ended:
            ops = tuple(Delete(kv.key, expect=kv.mod_revision) for kv in ended)
            await self._store.commit([Txn(ops, Cause(0, "join-tokens"))])
        return len(ended)

    async def check(self, token: str) -> None:
        """Raises TokenError when a use of the token would be refused now."""
        await self._present(token)

    async def use(self, token: str, user: str) -> None:
        """Count one use of a token for `user`. Raises TokenError: it is unknown, wrong, ended or used up."""
        for _ in range(RACES):
            kv, stored = await self._present(token)
            if stored.uses_left == UNLIMITED:
                return
            left = msgspec.structs.replace(stored, uses_left=stored.uses_left - 1)
            put = Put(kv.key, msgspec.json.encode(left), expect=kv.mod_revision)
            (result,) = await self._store.commit([Txn((put,), Cause(0, user))])
            if isinstance(result, Committed):
                return
        raise TokenError(f"too many nodes join with token {token.partition('.')[0]} at once: try again")

    async def _present(self, token: str) -> tuple[KeyValue, _Stored]:
        match = _FORM.fullmatch(token)
        if match is None:
            raise TokenError("the join token has not the form abcdef.0123456789abcdef: `steer token create` makes one")
        identity, secret = match.groups()
        kv = await self._store.get(PREFIX + identity)
        stored = self._accepted(kv, identity, secret)
        assert kv is not None
        return kv, stored

    def _accepted(self, kv: KeyValue | None, identity: str, secret: str) -> _Stored:
        # One answer for an unknown id and a wrong secret: neither can be probed for.
        unknown = TokenError(
            "the join token is not known: it was revoked, has ended, or belongs to another cluster; "
            "`steer token create` makes one"
        )
        if kv is None:
            raise unknown
        stored = _decoder.decode(kv.value)
        if not hmac.compare_digest(stored.hash, _hash(secret)):
            raise unknown
        if self._has_ended(stored):
            raise TokenError(
                f"the join token {identity} ended at {stored.expires}: `steer token create` makes a new one"
            )
        if stored.uses_left == 0:
            raise TokenError(f"the join token {identity} is used up: `steer token create` makes a new one")
        return stored

    def _has_ended(self, stored: _Stored) -> bool:
        return parse_time(stored.expires) <= self._clock.now()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
