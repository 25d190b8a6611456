import asyncio

import pytest

from control.store.interface import NoLeaderError, Put, StoreFullError, Txn
from control.store.local import LocalStore
from tests.unit.control.store.conformance import CompactionConformance, StoreConformance


@pytest.fixture
def store() -> LocalStore:
    return LocalStore()


class TestLocalStore(StoreConformance, CompactionConformance):
    pass


async def test_who_does_not_lead_refuses_and_names_the_leader(store: LocalStore) -> None:
    states = store.leadership()
    assert (await anext(states)).is_self
    store.lead("other")
    state = await anext(states)
    assert (state.leader, state.is_self, store.is_leader) == ("other", False, False)
    with pytest.raises(NoLeaderError) as refused:
        await store.commit([Txn((Put("/a", b""),))])
    assert refused.value.leader == "other"
    waiting = asyncio.ensure_future(anext(states))
    store.lead("")
    assert (await waiting).leader == ""
    with pytest.raises(NoLeaderError):
        await store.barrier()


async def test_a_planned_failure_happens_once_and_writes_nothing(store: LocalStore) -> None:
    store.fail_next(StoreFullError("no room"))
    with pytest.raises(StoreFullError):
        await store.commit([Txn((Put("/a", b""),))])
    assert store.revision == 0
    await store.commit([Txn((Put("/a", b""),))])
    assert store.revision == 1
