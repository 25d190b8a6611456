"""Flags are checked before anything starts, in one sentence that says how to mend them."""

from pathlib import Path

import pytest

from control.config import ConfigError, MemberConfig, parse_bytes, parse_resources


def config(**more: object) -> MemberConfig:
    where = {"name": "control-1", "data_dir": Path("/d"), "pki_dir": Path("/p"), "raft_listen": "10.0.0.1:7444"}
    return MemberConfig(**where, **more)


def test_what_is_encrypted_and_how_much_past_is_kept_are_read_as_people_write_them() -> None:
    assert parse_resources("secrets, configmaps,widgets.example.com") == (
        "secrets",
        "configmaps",
        "widgets.example.com",
    )
    assert parse_resources("none") == ()
    assert parse_bytes("--history-size", "64Mi") == 64 << 20
    assert parse_bytes("--history-size", "1G") == 10**9
    config(encrypt=parse_resources("none"), history_age_s=60.0, history_bytes=1 << 20).check()
    assert config().encrypt == ("secrets", "jointokens")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"encrypt": ("Secrets/x",)}, "--encrypt 'Secrets/x': name resources as"),
        ({"history_age_s": 5.0}, "--history-age 5s is too short"),
        ({"history_bytes": 10}, "--history-size 10 is too small"),
    ],
)
def test_bad_values_are_refused(wrong: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config(**wrong).check()


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="--history-size: 'much' is not a quantity"):
        parse_bytes("--history-size", "much")
