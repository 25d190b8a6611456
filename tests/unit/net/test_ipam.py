from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from net.ipam import Ipam, gateway

prefixes = st.integers(22, 29)
uids = st.lists(st.text("abcdef0123456789-", min_size=1, max_size=36), unique=True, max_size=40)


@given(prefixes, uids)
def test_every_pod_gets_its_own_address_of_the_range_until_the_range_is_full(prefix, pods):
    ipam = Ipam(f"10.244.0.0/{prefix}")
    used: dict[str, str] = {}
    for uid in pods:
        allocation = ipam.allocate(uid, used)
        if len(used) == ipam.capacity:
            assert allocation.address == ""
            assert f"all {ipam.capacity} addresses" in allocation.reason
        else:
            address = ipaddress.IPv4Address(allocation.address)
            assert address in ipam.network
            assert allocation.address not in used.values()
            assert str(address) != gateway(str(ipam.network))
            assert address not in (ipam.network.network_address, ipam.network.broadcast_address)
            used[uid] = allocation.address


@given(uids)
def test_a_pod_keeps_its_address_and_the_choice_depends_on_nothing_but_the_arguments(pods):
    used: dict[str, str] = {}
    for uid in pods:
        used[uid] = Ipam("10.244.3.0/24").allocate(uid, used).address
    for uid, address in used.items():
        assert Ipam("10.244.3.0/24").allocate(uid, used).address == address
        others = {other: held for other, held in used.items() if other != uid}
        assert Ipam("10.244.3.0/24").allocate(uid, others) == Ipam("10.244.3.0/24").allocate(uid, dict(others))


def test_an_address_just_freed_is_not_the_next_one_given():
    ipam = Ipam("10.244.3.0/24")
    freed = ipam.allocate("pod-a", {}).address
    assert ipam.allocate("pod-b", {}).address != freed


def test_an_address_of_another_range_is_not_kept():
    allocation = Ipam("10.244.3.0/24").allocate("pod-a", {"pod-a": "10.244.9.9"})
    assert allocation.address.startswith("10.244.3.")


@pytest.mark.parametrize("cidr", ["10.244.3.0/30", "10.244.3.1/24", "fd00::/64", "pods"])
def test_a_useless_range_is_refused(cidr):
    with pytest.raises(ValueError, match=r".+"):
        Ipam(cidr)
