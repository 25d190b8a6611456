"""`--store` and its companions: what fits together is taken, what does not is told."""

from pathlib import Path

import pytest

from control.config import ConfigError, MemberConfig
from control.store.etcd.address import EtcdAddress, EtcdTls

ETCD = {
    "store": "etcd://10.0.0.1:2379,10.0.0.2:2379?prefix=/one",
    "store_ca": Path("ca"),
    "store_cert": Path("cert"),
    "store_key": Path("key"),
}


def config(**more) -> MemberConfig:
    return MemberConfig(name="m0", data_dir=Path("d"), pki_dir=Path("p"), **more)


def test_on_etcd_a_member_needs_no_raft_address() -> None:
    made = config(advertise_grpc="10.0.0.5:7443", **ETCD)
    made.check()
    address, tls = made.etcd()
    assert address == EtcdAddress(("10.0.0.1:2379", "10.0.0.2:2379"), "/one")
    assert tls == EtcdTls(Path("ca"), Path("cert"), Path("key"))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "--raft-listen '' is not HOST:PORT"),
        ({**ETCD}, "--advertise-grpc"),
        ({**ETCD, "store": "etcd://x"}, "'x' is not HOST:PORT; or leave it embedded"),
        ({**ETCD, "store": "file:///x"}, "is not etcd://"),
        ({**ETCD, "store_key": None}, "needs --store-ca, --store-cert and --store-key"),
        ({**ETCD, "raft_listen": "a:1", "join": ("b:1",)}, "--join is for the embedded store"),
        ({"raft_listen": "a:1", "store_ca": Path("ca")}, "are for --store etcd://"),
    ],
)
def test_what_does_not_fit_is_told(more: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config(**more).check()
