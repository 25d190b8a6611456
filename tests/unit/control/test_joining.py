"""A new member waits for what an administrator has still to do, and gives up on what waiting cannot mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.config import ConfigError, MemberConfig
from control.joining import has_log, join, why_to_wait
from steersman.clock import ManualClock
from steersman.v1 import cluster_pb2 as pb

CONFIG = MemberConfig(name="b", data_dir=Path("/d"), pki_dir=Path("/p"), raft_listen="b:7444", join=("a:7443",))


def members(*found: tuple[str, str, pb.Member.Role.ValueType]) -> pb.MembersResponse:
    return pb.MembersResponse(
        cluster_id="c1", members=[pb.Member(name=name, raft_address=at, role=role) for name, at, role in found]
    )


def test_it_waits_until_it_was_added() -> None:
    assert why_to_wait(CONFIG, members(("a", "a:7444", pb.Member.LEADER))) == "run `steer cluster add b b:7444`"
    assert why_to_wait(CONFIG, members(("b", "b:7444", pb.Member.LEARNER))) == ""


def test_a_voter_without_its_log_is_turned_away() -> None:
    with pytest.raises(ConfigError, match="b votes in cluster c1 already, but /d is empty"):
        why_to_wait(CONFIG, members(("b", "b:7444", pb.Member.FOLLOWER)))


def test_an_address_that_the_others_cannot_find_is_refused() -> None:
    with pytest.raises(ConfigError, match="b was added at b:1, but listens on b:7444"):
        why_to_wait(CONFIG, members(("b", "b:1", pb.Member.LEARNER)))


async def test_a_member_that_has_its_log_asks_nobody(tmp_path) -> None:
    config = MemberConfig(name="b", data_dir=tmp_path, pki_dir=Path("/p"), raft_listen="b:7444", join=("a:7443",))
    assert not has_log(tmp_path)
    (tmp_path / "raft").mkdir()
    (tmp_path / "raft" / "snapshot-0-0").touch()
    assert await join(config, ManualClock()) is config
