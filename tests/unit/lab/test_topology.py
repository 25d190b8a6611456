import pytest

from lab.topology import LabError, Topology


def test_every_host_has_its_own_name_address_and_namespace() -> None:
    topology = Topology(control=9, nodes=100)
    hosts = topology.hosts
    assert len({host.address for host in hosts}) == len({topology.namespace(host) for host in hosts}) == 110


def test_a_topology_survives_its_file() -> None:
    topology = Topology("other", 1, 2, 7000, 7001, ("--log-level", "DEBUG"), ())
    assert Topology.from_dict(topology.to_dict()) == topology


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"control": 2}, "odd number"),
        ({"control": 11}, "odd number from 1 to 9"),
        ({"nodes": 101}, "0 to 100"),
        ({"store": "files"}, "use embedded or etcd"),
        ({"name": "Lab"}, "lower-case"),
        ({"name": "a/../b"}, "lower-case"),
        ({"grpc_port": 70000}, "from 1 to 65535"),
        ({"grpc_port": 7443, "rest_port": 7443}, "two ports"),
    ],
)
def test_an_impossible_lab_is_refused_with_what_is_possible(arguments: dict, told: str) -> None:
    with pytest.raises(LabError, match=told):
        Topology(**arguments)


def test_an_unknown_host_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LabError, match="registry, control-1, node-1"):
        Topology(control=1, nodes=1).host("node-9")
