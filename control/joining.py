"""Joining a running cluster: what a new member must know before it may listen to anybody.

`steer-control run --join HOST:7443,…` on an empty data folder asks the members there, over gRPC with this member's certificate,
who belongs to the cluster, and waits until an administrator has added it (`steer cluster add`). It takes the cluster's id from
them and nothing else: the log comes by Raft, as to any learner. With the id it refuses the members of any other cluster, as
those of a lost one that this one was recovered from, which might otherwise get its vote.

A member that votes already is not let in with an empty folder: what it had promised is gone with the old one. Once the data
folder holds a log, `--join` means nothing any more.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Final

from control.ca.files import PkiFolder
from control.config import ConfigError, MemberConfig
from steersman.client import AsyncClient
from steersman.clock import Clock
from steersman.errors import ApiError
from steersman.transport import GrpcTransport, credentials
from steersman.v1 import cluster_pb2 as pb

log = logging.getLogger("control.joining")

ASK_EVERY_S: Final = 0.5  # whether this member was added meanwhile: an administrator waits for it
ASK_TIMEOUT_S: Final = 5.0
REMIND_EVERY_S: Final = 30.0  # how often the log says what is waited for


def has_log(data_dir: Path) -> bool:
    """Whether the folder holds a member's log: then it knows its cluster."""
    return any((data_dir / "raft").glob("snapshot-*"))


async def join(config: MemberConfig, clock: Clock) -> MemberConfig:
    """Wait until this member may join; answers its settings with the cluster's id.

    Raises:
        ConfigError: it cannot join, and waiting would not help.
    """
    if not config.join or has_log(config.data_dir):
        return config
    pki = PkiFolder(config.pki_dir)
    found = credentials(pki.ca_certificate, pki.certificate, pki.key)
    told, told_at = "", 0.0
    async with AsyncClient(GrpcTransport(config.join, found, clock=clock)) as client:
        while True:
            try:
                members = await client.members(timeout=ASK_TIMEOUT_S)
                waiting = why_to_wait(config, members)
                if not waiting:
                    log.info("joining cluster %s, led by %s", members.cluster_id, members.leader)
                    return replace(config, cluster_id=members.cluster_id)
            except ApiError as error:
                if error.reason not in ("ServiceUnavailable", "Timeout"):
                    raise ConfigError(f"--join {','.join(config.join)}: {error}") from None
                waiting = f"no member answers at {', '.join(config.join)}: {error}"
            if waiting != told or clock.monotonic() - told_at > REMIND_EVERY_S:
                log.info("waiting to join: %s", waiting)
                told, told_at = waiting, clock.monotonic()
            await asyncio.sleep(ASK_EVERY_S)


def why_to_wait(config: MemberConfig, members: pb.MembersResponse) -> str:
    """What is missing before this member may join; empty: nothing.

    Raises:
        ConfigError: waiting would not help.
    """
    mine = next((member for member in members.members if member.name == config.name), None)
    if mine is None:
        return f"run `steer cluster add {config.name} {config.raft_listen}`"
    if mine.role != pb.Member.LEARNER:
        raise ConfigError(
            f"{config.name} votes in cluster {members.cluster_id} already, but {config.data_dir} is empty: what it has promised is "
            f"lost. Run `steer cluster remove {config.name}`, then add it again"
        )
    if mine.raft_address != config.raft_listen:
        raise ConfigError(
            f"{config.name} was added at {mine.raft_address}, but listens on {config.raft_listen}: make --raft-listen agree, or "
            "remove it and add it at the right address"
        )
    return ""
