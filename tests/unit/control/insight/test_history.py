"""An object's history tells each write's kind, changes, and the chain of causes behind it."""

from control.insight.history import chain, entries
from control.store.history import History
from control.store.interface import Cause, Delete, Put, Txn
from control.store.mvcc import Mvcc
from steersman.changes import Change


class Past:
    def __init__(self) -> None:
        self.state = Mvcc()
        self.history = History(self.state)

    def put(self, key: str, value: bytes, revision: int = 0, actor: str = "") -> None:
        self.state.apply(Txn((Put(key, value),), Cause(revision, actor)), self.state.revision * 1000)

    def delete(self, key: str, actor: str = "") -> None:
        self.state.apply(Txn((Delete(key),), Cause(0, actor)), self.state.revision * 1000)


def test_each_write_tells_who_what_and_the_chain_behind_it() -> None:
    past = Past()
    past.put("/d", b'{"r":1}', actor="user:alice")
    past.put("/rs", b'{"r":1}', 1, "deployment-controller")
    past.put("/p", b'{"node":null}', 2, "replicaset-controller")
    past.put("/p", b'{"node":"n1"}', 3, "scheduler")
    past.delete("/p", "user:bob")
    past.put("/p", b"{}", actor="user:bob")
    found, more = entries(past.history, "/p")
    assert not more
    assert [entry.kind for entry in found] == ["ADDED", "DELETED", "MODIFIED", "ADDED"]
    assert found[1].document == b'{"node":"n1"}'
    assert found[2].changes == (Change("node", None, "n1"),)
    assert [(link.revision, link.actor) for link in found[2].chain] == [
        (3, "replicaset-controller"),
        (2, "deployment-controller"),
        (1, "user:alice"),
    ]
    assert entries(past.history, "/p", 2) == (found[:2], True)
    assert entries(past.history, "/none") == ([], False)


def test_what_was_forgotten_is_said_to_be_and_chains_end_there() -> None:
    past = Past()
    past.put("/d", b'{"r":1}', actor="user:alice")
    past.put("/p", b'{"r":1}', 1, "controller")
    past.put("/p", b'{"r":2}', 2, "controller")
    past.put("/p", b'{"r":3}', 3, "controller")
    past.state.compact(2)
    newest, earlier, created = entries(past.history, "/p")[0]
    assert [entry.kind for entry in (newest, earlier, created)] == ["MODIFIED", "MODIFIED", "ADDED"]
    assert [link.revision for link in newest.chain] == [3]
    assert earlier.chain == ()
    past.state.compact(3)
    newest, earlier = entries(past.history, "/p")[0]
    assert newest.changes == (Change("r", 2, 3),)
    assert earlier.before_forgotten
    assert earlier.changes == ()


def test_a_cause_that_claims_to_come_later_is_not_followed() -> None:
    past = Past()
    past.put("/a", b"{}", 2, "liar")
    past.put("/a", b"{}", 1, "liar")
    assert [link.revision for link in chain(past.history, Cause(2, "x"))] == [2, 1]
