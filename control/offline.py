"""`steer-control snapshot restore` and `steer-control recover`: on the data folders of members that do not run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import click

from control.config import ConfigError, check_address, check_name, parse_cluster
from control.store import recovery
from control.store.interface import StoreError
from control.store.recovery import RecoveryError
from steersman import snapshots
from steersman.clock import SystemEntropy


def _fail(error: Exception | str) -> NoReturn:
    click.echo(f"steer-control: {error}", err=True)
    sys.exit(1)


@click.group()
def snapshot() -> None:
    """Begin a cluster with a snapshot's file."""


@snapshot.command("restore")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(path_type=Path),
    help="Where the member's log is to be; no log may be there.",
)
@click.option("--name", required=True, help="The member's name, as in --initial-cluster.")
@click.option(
    "--initial-cluster", required=True, metavar="NAME=HOST:PORT,…", help="Raft addresses of the new cluster's members."
)
@click.option(
    "--cluster-token",
    default="",
    help="The same for all of them, and new each time; `steer cluster snapshot restore` makes one.",
)
def restore(file: Path, data_dir: Path, name: str, initial_cluster: str, cluster_token: str) -> None:
    """Begin a new cluster with the state in FILE; to be run for each of its members, with the same file."""
    try:
        members = parse_cluster(initial_cluster)
        for member, address in members.items():
            check_name("--initial-cluster", member)
            check_address(f"--initial-cluster {member}", address)
        if name not in members:
            raise ConfigError(
                f"--initial-cluster has {', '.join(members) or 'nobody'}, but not this member: --name {name}"
            )
        if len(members) > 1 and not cluster_token:
            raise ConfigError(
                "--cluster-token: several members must begin with the same; `steer cluster snapshot restore` makes one"
            )
        report = snapshots.verify(file)
        token = cluster_token or SystemEntropy().token(12)
        cluster_id = recovery.new_cluster_id(token, members.items(), report.sha256)
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        recovery.restore(data_dir, members, cluster_id, report.header.cluster_id, snapshots.read(file)[1])
    except (ConfigError, snapshots.SnapshotFileError, RecoveryError, StoreError, OSError) as error:
        _fail(error)
    click.echo(
        f"member/{name} of cluster {cluster_id} begins with revision {report.header.revision} of cluster "
        f"{report.header.cluster_id}: {report.keys} keys"
    )


@click.command()
@click.option(
    "--data-dir",
    "data_dirs",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A member's folder; repeatable, to compare what several members left.",
)
@click.option("--name", default="", help="Of the new cluster's only member.")
@click.option(
    "--raft-address", default="", metavar="HOST:PORT", help="Where it is to listen for members that are added later."
)
@click.option("--apply", is_flag=True, help="Do it. Without, nothing is changed.")
def recover(data_dirs: tuple[Path, ...], name: str, raft_address: str, apply: bool) -> None:
    """After the loss of a majority: say what can be saved, and with --apply make a new cluster of one member of it.

    Only when the lost members are gone for good. The most advanced log of those given becomes the new cluster's; what was there is
    kept beside it.
    """
    try:
        found = [recovery.inspect(data_dir) for data_dir in data_dirs]
        chosen = recovery.most_advanced(found)
        for one in found:
            mark = "→" if one is chosen else " "
            click.echo(
                f"{mark} {one.data_dir}: cluster {one.membership.cluster_id}, term {one.term}, last entry {one.last_index} of term "
                f"{one.last_term}, known committed {one.commit}, revision {one.revision}, {one.keys} keys"
            )
        for line in recovery.assess(chosen, len(found)):
            click.echo(line)
        if not apply:
            click.echo(
                "Nothing was changed. To do it: the same with only the chosen --data-dir, --name, --raft-address and --apply."
            )
            return
        check_name("--name", name)
        check_address("--raft-address", raft_address)
        cluster_id = SystemEntropy().token(16)
        aside = recovery.recover(chosen, name, raft_address, cluster_id)
    except (ConfigError, RecoveryError, StoreError, OSError) as error:
        _fail(error)
    click.echo(
        f"member/{name} is cluster {cluster_id} of one, in {chosen.data_dir}; the old log is kept in {aside}. Start it, then add the "
        "others again, each with an empty data folder (`steer cluster add`)."
    )
