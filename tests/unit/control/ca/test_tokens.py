"""Join tokens expire, are counted, and are never told twice."""

from __future__ import annotations

import asyncio

import pytest

from control.ca.tokens import PREFIX, JoinTokens, TokenError
from control.store.local import LocalStore
from steersman.clock import ManualClock, SeededEntropy


class Tokens:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = LocalStore(self.clock)
        self.tokens = JoinTokens(self.store, self.clock, SeededEntropy(3))


@pytest.fixture
def held() -> Tokens:
    return Tokens()


async def test_a_token_lets_in_until_it_ends(held):
    token = (await held.tokens.create(ttl_s=60)).token
    await held.tokens.use(token, "n1")
    await held.tokens.use(token, "n2")
    held.clock.advance(61)
    with pytest.raises(TokenError, match="ended at"):
        await held.tokens.use(token, "n3")
    assert await held.tokens.list() == []
    assert await held.tokens.forget_ended() == 1
    assert (await held.store.range(PREFIX)).kvs == ()


async def test_a_used_up_token_is_refused(held):
    token = (await held.tokens.create(uses=2)).token
    await held.tokens.use(token, "n1")
    await held.tokens.use(token, "n2")
    with pytest.raises(TokenError, match="is used up: `steer token create`"):
        await held.tokens.use(token, "n3")


async def test_nodes_that_race_for_the_last_use_do_not_all_get_it(held):
    token = (await held.tokens.create(uses=3)).token
    results = await asyncio.gather(*(held.tokens.use(token, f"n{n}") for n in range(8)), return_exceptions=True)
    assert sum(result is None for result in results) == 3


async def test_the_secret_is_not_kept(held):
    made = await held.tokens.create()
    secret = made.token.partition(".")[2].encode()
    assert all(secret not in kv.value for kv in (await held.store.range("")).kvs)
    (listed,) = await held.tokens.list()
    assert listed.token == made.id


@pytest.mark.parametrize("wrong", ["", "abc", "abcdef.0123456789abcdeg.x", "ABCDEF.0123456789ABCDEF"])
async def test_what_is_no_token_is_told_the_form(held, wrong):
    with pytest.raises(TokenError, match="has not the form"):
        await held.tokens.use(wrong, "n1")


async def test_wrong_secrets_and_unknown_ids_look_alike(held):
    made = await held.tokens.create()
    told = set()
    for wrong in (f"{made.id}.{'0' * 16}", f"zzzzzz.{'0' * 16}"):
        with pytest.raises(TokenError) as refused:
            await held.tokens.use(wrong, "n1")
        told.add(str(refused.value))
    assert len(told) == 1


async def test_a_revoked_token_is_unknown(held):
    made = await held.tokens.create()
    assert await held.tokens.revoke(made.id)
    assert not await held.tokens.revoke(made.id)
    with pytest.raises(TokenError, match="not known"):
        await held.tokens.use(made.token, "n1")


async def test_an_installers_token_is_adopted_once(held):
    assert await held.tokens.adopt("abcdef.0123456789abcdef", 60, "lab")
    assert not await held.tokens.adopt("abcdef.0123456789abcdef", 60, "lab")
    await held.tokens.use("abcdef.0123456789abcdef", "n1")


@pytest.mark.parametrize("wrong", [{"ttl_s": -1}, {"ttl_s": 10**12}, {"uses": -1}])
async def test_impossible_tokens_are_refused(held, wrong):
    with pytest.raises(TokenError):
        await held.tokens.create(**wrong)
