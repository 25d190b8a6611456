from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from net.topology import Topology
from net.view import NetworkView
from steersman.types import EndpointSlice, Service

names = st.sampled_from(["a", "b", "c"])


def make_slice(name, owner, address):
    labels = {"kubernetes.io/service-name": owner} if owner else {}
    return EndpointSlice.from_dict(
        {
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "endpoints": [{"addresses": [address]}],
        }
    )


def make_service(name, address):
    return Service.from_dict({"metadata": {"name": name, "namespace": "default"}, "spec": {"clusterIP": address}})


views = st.builds(
    lambda services, slices: NetworkView(
        {},
        {f"default/{name}": make_service(name, address) for name, address in services.items()},
        {f"default/{name}": make_slice(name, owner, address) for name, (owner, address) in slices.items()},
    ),
    st.dictionaries(names, st.sampled_from(["10.96.0.1", "10.96.0.2"])),
    st.dictionaries(names, st.tuples(st.sampled_from(["a", "b", ""]), st.sampled_from(["10.244.1.1", "10.244.1.2"]))),
)


@given(st.lists(views, max_size=5))
def test_every_service_that_is_not_as_before_is_named(course):
    topology, before = Topology(), {}
    for view in course:
        changed = topology.update(view)
        fresh = Topology()
        fresh.update(view)
        keys = {f"default/{name}" for name in "abc"}
        now = {key: (fresh.services.get(key), fresh.slices(key)) for key in keys}
        assert {key: (topology.services.get(key), topology.slices(key)) for key in keys} == now
        assert {key for key in keys if before.get(key, (None, ())) != now[key]} <= changed
        before = now


def test_nothing_changed_nothing_named():
    view = NetworkView(
        {}, {"default/a": make_service("a", "10.96.0.1")}, {"default/x": make_slice("x", "a", "10.244.1.1")}
    )
    topology = Topology()
    assert topology.update(view) == {"default/a"}
    assert topology.update(view) == set()
