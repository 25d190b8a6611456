import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.store.index import Index
from control.store.interface import Delete, KeyValue, Put, Txn
from control.store.local import LocalStore

PODS = "/core/pods/"


def pod(name: str, *, node: str = "", labels=None, owner: str = "", phase: str = "") -> Put:
    document = {
        "metadata": {"resourceVersion": "", "name": name, "uid": f"uid-{name}", "labels": labels or {}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": phase, "podIP": f"10.0.0.{len(name)}"},
    }
    if owner:
        document["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": owner}]
    return Put(f"{PODS}default/{name}", json.dumps(document).encode())


async def test_objects_are_found_by_what_they_carry_and_no_longer_once_they_do_not() -> None:
    store = LocalStore()
    index = store.index
    a, b = f"{PODS}default/a", f"{PODS}default/bb"
    ops = (
        pod("a", node="n1", labels={"app": "web"}, owner="rs"),
        pod("bb", node="n1", labels={"app": "db"}, owner="rs"),
    )
    await store.commit([Txn(ops)])
    assert index.lookup(PODS, "node", "n1") == [a, b]
    assert index.lookup(PODS, "owner", "rs") == [a, b]
    assert index.lookup(PODS, "label", "app") == [a, b]
    assert index.lookup(PODS, "label", "app=web") == [a]
    assert index.lookup(PODS, "uid", "uid-bb") == [b]
    assert index.lookup(PODS, "ip", "10.0.0.2") == [b]
    await store.commit([Txn((pod("a", node="n2", labels={"app": "web", "x": ""}, phase="Running"),))])
    assert index.lookup(PODS, "node", "n1") == [b]
    assert index.lookup(PODS, "node", "n2") == [a]
    assert index.lookup(PODS, "owner", "rs") == [b]
    assert index.lookup(PODS, "label", "x=") == [a]
    assert index.lookup(PODS, "phase", "Running") == [a]
    await store.commit([Txn((Delete(b),))])
    assert index.lookup(PODS, "owner", "rs") == []
    assert index.lookup("/core/none/", "owner", "rs") == []
    with pytest.raises(ValueError, match="choose one of"):
        index.lookup(PODS, "colour", "red")


async def test_what_is_no_document_is_in_no_index() -> None:
    store = LocalStore()
    await store.commit([Txn((Put("/allocations/clusterips/10.96.0.7", b"/core/services/default/web"),))])
    await store.commit([Txn((Put(f"{PODS}default/odd", b"\xff\x00"), Put(f"{PODS}default/odder", b'{"metadata":3}')))])
    assert store.index.lookup("/allocations/clusterips/", "uid", "") == []
    assert store.index.lookup(PODS, "uid", "") == []


def test_only_what_is_looked_up_is_decoded_and_only_once() -> None:
    values = {put.key: KeyValue(put.key, put.value, 1, 1) for put in (pod("a", node="n1"), pod("b", node="n1"))}
    reads: Counter[str] = Counter()

    def read(key: str) -> KeyValue | None:
        reads[key] += 1
        return values.get(key)

    index = Index(read)
    for _ in range(10):
        for key in values:
            index.mark(key)
        index.mark("/coordination.k8s.io/leases/kube-node-lease/n1")
    assert not reads
    assert index.refresh(1) == 1
    assert index.lookup(PODS, "node", "n1") == sorted(values)
    assert index.lookup(PODS, "node", "n1") == sorted(values)
    assert reads == dict.fromkeys(values, 1)


labels = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["", "1", "2"]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | labels, st.booleans()), max_size=40))
def test_lookups_agree_with_reading_everything(changes) -> None:
    values: dict[str, KeyValue] = {}
    truth: dict[str, dict[str, str]] = {}
    index = Index(values.get)
    for name, found, look in changes:
        put = pod(name, labels=found)
        if found is None:
            values.pop(put.key, None)
            truth.pop(put.key, None)
        else:
            values[put.key] = KeyValue(put.key, put.value, 1, 1)
            truth[put.key] = found
        index.mark(put.key)
        if look:
            for key in ("app", "tier"):
                assert index.lookup(PODS, "label", key) == sorted(k for k, v in truth.items() if key in v)
                for value in ("", "1", "2"):
                    keys = sorted(k for k, v in truth.items() if v.get(key) == value)
                    assert index.lookup(PODS, "label", f"{key}={value}") == keys
