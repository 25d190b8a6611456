from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from net import plan
from net.plan import BRIDGE, TUNNEL, Address, Link, Neighbour, Peer, Port, Route, Underlay, desired, difference
from net.view import HostNetwork
from steersman.types import Node

HOST = HostNetwork("node-1", "172.29.0.101")
UNDERLAY = Underlay("eth0", 1500)
PEERS = {"node-2": Peer("10.244.2.0/24", "172.29.0.102"), "node-3": Peer("10.244.3.0/24", "172.29.0.103")}


def wanted(peers=PEERS, pods=None):
    return desired(HOST, "10.244.1.0/24", UNDERLAY, peers, pods or {})


def after(actual, change):
    """What a kernel holds that did what it was told; removing a link removes what hangs on it."""
    held = dict(actual)
    for item in change.remove:
        held.pop(item.key, None)
        if isinstance(item, Link):
            held = {key: other for key, other in held.items() if other.link != item.name}
    for item in change.add:
        held[item.key] = item
    return held


def test_every_other_node_gets_a_route_a_neighbour_and_a_forwarding_entry():
    items = wanted().values()
    assert Route("10.244.2.0/24", TUNNEL, "10.244.2.1", "10.244.1.1") in items
    assert Neighbour(TUNNEL, "10.244.2.1", plan.mac_of("172.29.0.102", plan.TUNNEL_ROLE)) in items
    assert plan.Forwarding(TUNNEL, plan.mac_of("172.29.0.102", plan.TUNNEL_ROLE), "172.29.0.102") in items


def test_a_frame_fits_the_underlay():
    assert all(item.mtu == 1450 for item in wanted().values() if isinstance(item, Link))


def test_a_peer_learns_this_hosts_tunnel_address_without_being_told():
    mine = wanted()["link", TUNNEL]
    theirs = desired(
        HostNetwork("node-2", "172.29.0.102"),
        "10.244.2.0/24",
        UNDERLAY,
        {"node-1": Peer("10.244.1.0/24", "172.29.0.101")},
        {},
    )
    assert ("forwarding", TUNNEL, mine.mac) in theirs


def test_a_node_that_claims_a_range_in_use_is_left_out():
    thief = {"node-9": Peer("10.244.2.0/23", "172.29.0.109"), "node-0": Peer("10.244.1.128/25", "172.29.0.110")}
    assert wanted(PEERS | thief) == wanted(PEERS)


def test_a_pod_has_a_port_and_a_permanent_neighbour():
    items = wanted(pods={"uid-1": "10.244.1.7"}).values()
    assert Port(plan.pod_link("uid-1")) in items
    assert Neighbour(BRIDGE, "10.244.1.7", plan.mac_of("10.244.1.7", plan.POD_ROLE)) in items


def test_link_names_fit_the_kernel_and_are_known_again():
    name = plan.pod_link("3c1b7c5e-0f0f-4d7e-8a3e-1f7c9e0b2a44")
    assert len(name) <= 15
    assert plan.is_pod_link(name)
    assert not any(plan.is_pod_link(other) for other in (BRIDGE, TUNNEL, "st-nothexatall", "eth0"))


def test_a_node_without_range_or_address_is_no_peer():
    assert plan.peer_of(Node.from_dict({"metadata": {"name": "n"}})) is None
    half = {"spec": {"podCIDR": "10.244.9.0/24"}, "status": {"addresses": [{"type": "InternalIP", "address": "?"}]}}
    assert plan.peer_of(Node.from_dict(half)) is None


pods_of = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(2, 9).map(lambda n: f"10.244.1.{n}"))
peers_of = st.dictionaries(
    st.sampled_from(["n1", "n2", "n3"]),
    st.builds(Peer, st.integers(2, 5).map(lambda n: f"10.244.{n}.0/24"), st.integers(2, 5).map("172.29.0.{}".format)),
)


@given(pods_of, peers_of, pods_of, peers_of, st.data())
def test_doing_the_difference_to_anything_gives_what_is_wanted(pods, peers, other_pods, other_peers, data):
    want = wanted(peers, pods)
    actual = wanted(other_peers, other_pods)
    for key in data.draw(st.sets(st.sampled_from(sorted(actual)), max_size=4)):
        item = actual.pop(key, None)  # None: it went with its link
        if isinstance(item, Link):
            damage = data.draw(st.sampled_from(["gone", "down", "wrong kind", "mtu"]))
            if damage == "gone":
                actual = {k: other for k, other in actual.items() if other.link != item.name}
            elif damage == "down":
                actual[key] = replace(item, up=False)
            elif damage == "mtu":
                actual[key] = replace(item, mtu=9000)
            else:
                actual[key] = replace(item, kind="veth")
    assert after(actual, difference(want, actual)) == want
    assert not difference(want, want)


def test_a_link_of_the_wrong_kind_takes_what_hangs_on_it_along():
    want = wanted()
    actual = want | {("link", TUNNEL): replace(want["link", TUNNEL], vni=8)}
    change = difference(want, actual)
    assert change.remove == (actual["link", TUNNEL],)
    assert {item.key for item in change.add} == {key for key, item in want.items() if item.link == TUNNEL}


def test_links_come_first_and_go_last():
    change = difference(wanted(), {})
    kinds = [item.key[0] for item in change.add]
    assert kinds == sorted(kinds, key=lambda kind: plan.ORDER[kind])
    everything = difference({}, wanted())
    assert isinstance(everything.remove[-1], Link)
    assert Address(BRIDGE, "10.244.1.1") in everything.remove
