"""`cluster snapshot save|verify|restore` and `cluster recover`: the cluster's memory, kept, checked and brought back.

Saving is done over the network. Restoring and recovering work on the folders of members that do not run, by `steer-control` on
their own hosts; the commands here check what can be checked from afar and print exactly what is to be run where.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from steersman import config as configuration
from steersman import snapshots
from steersman.cli.output import print_rows, said
from steersman.cli.session import Session
from steersman.client import AsyncClient
from steersman.clock import SystemEntropy
from steersman.errors import ApiError
from steersman.transport import GrpcTransport, credentials
from steersman.v1 import cluster_pb2 as pb

ASK_TIMEOUT_S = 3.0  # for one member's status: those that are lost do not answer at all


@click.group()
def snapshot() -> None:
    """Keep the whole state in a file, check such a file, begin a cluster with it."""


@snapshot.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def save(session: Session, file: Path) -> None:
    """Save the state, with everything acknowledged up to now, to a new FILE."""

    async def work(client: AsyncClient) -> pb.SnapshotHeader:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("saving", total=None)
            return await snapshots.save(
                client.snapshot_parts(), file, lambda done: progress.update(task, completed=done)
            )

    try:
        header = session.run(work)
    except snapshots.SnapshotFileError as error:
        raise click.ClickException(str(error)) from None
    said(f"snapshot/{file} saved")
    click.echo(
        f"revision {header.revision}, {header.keys} keys, {file.stat().st_size} bytes, of cluster {header.cluster_id}, "
        f"given by {header.member}; `steer cluster snapshot verify {file}` reads it back",
        err=True,
    )


@snapshot.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the answer.")
def verify(file: Path, output: str) -> None:
    """Read FILE from end to end and compare everything that it says of itself."""
    report = _verified(file)
    header = report.header
    document: dict[str, Any] = {
        "file": str(file),
        "format": header.format,
        "revision": header.revision,
        "historySince": header.compacted + 1,
        "keys": report.keys,
        "encrypted": report.sealed,
        "records": report.records,
        "chunks": report.chunks,
        "bytes": report.bytes,
        "sha256": report.sha256,
        "clusterID": header.cluster_id,
        "member": header.member,
        "raftIndex": header.raft_index,
        "raftTerm": header.raft_term,
        "taken": header.taken,
        "version": header.version,
    }
    if output == "json":
        click.echo(json.dumps(document, indent=2))
        return
    print_rows([[name, str(value)] for name, value in document.items()])
    click.echo(f"\n{file} is whole")


def _verified(file: Path) -> snapshots.Report:
    try:
        return snapshots.verify(file)
    except snapshots.SnapshotFileError as error:
        raise click.ClickException(str(error)) from None


@snapshot.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--initial-cluster", required=True, metavar="NAME=HOST:PORT,…", help="Raft addresses of the new cluster's members."
)
@click.option("--data-dir", required=True, help="Where each member keeps its log, on its own host; must be empty.")
def restore(file: Path, initial_cluster: str, data_dir: str) -> None:
    """Check FILE and print what to run on each member's host to begin a new cluster with it."""
    report = _verified(file)
    names = [part.partition("=")[0].strip() for part in initial_cluster.split(",") if part.strip()]
    if not names or any("=" not in part for part in initial_cluster.split(",")):
        raise click.UsageError("--initial-cluster: write NAME=HOST:PORT,…")
    token = SystemEntropy().token(12)
    click.echo(
        f"# {file} is whole: revision {report.header.revision}, {report.keys} keys. With every member stopped, copy it to each "
        "host and run there:"
    )
    for name in names:
        click.echo(
            f"steer-control snapshot restore {file.name} --data-dir {data_dir} --name {name} "
            f"--initial-cluster {initial_cluster} --cluster-token {token}"
        )
    click.echo(f"# then start them all, with --data-dir {data_dir} --initial-cluster {initial_cluster}")
    if report.sealed:
        click.echo(
            f"# {report.sealed} values are encrypted: each --pki-dir needs the encryption-keys.json of that time"
        )


@click.command()
@click.pass_obj
def recover(session: Session) -> None:
    """After the loss of a majority: ask every member, say what can be saved, and print what to run. Changes nothing."""
    found = configuration.load(session.config, session.cluster)
    answers = asyncio.run(_ask_each(found))
    rows = [["MEMBER", "ADDRESS", "TERM", "LAST ENTRY", "REVISION", "LEADER"]]
    rows += [
        [a.answering_member, address, str(a.term), str(_last(a)), str(a.revision), a.leader or "none"]
        for address, a in answers.items()
        if isinstance(a, pb.ClusterStatus)
    ]
    rows += [["?", address, "-", "-", "-", a.message] for address, a in answers.items() if isinstance(a, ApiError)]
    print_rows(rows)
    present = [a for a in answers.values() if isinstance(a, pb.ClusterStatus)]
    click.echo("")
    if leader := next((a.leader for a in present if a.leader), ""):
        click.echo(f"{leader} leads: nothing needs to be recovered")
        return
    if not present:
        click.echo(
            "No member answers. If their disks are there, start them; if a majority is gone for good, go on as follows."
        )
        name, address = "NAME", "HOST:PORT"
    else:
        best = max(present, key=lambda a: (a.term, _last(a)))
        name = best.answering_member
        address = next((m.raft_address for m in best.members if m.name == name), "HOST:PORT")
        voters = [m for m in best.members if m.role != pb.Member.LEARNER]
        click.echo(
            f"No leader: {len(present)} of {len(voters)} voters answer, {len(voters) // 2 + 1} are needed. Mend and start the others if "
            f"you can: that loses nothing. If they are gone for good, {name} seems the most advanced of those that answer."
        )
    click.echo(
        "\n1. Stop every member that is left, and make sure that the lost ones stay off.\n"
        "2. Bring the data folders of those that are left to one host (or look at each where it is) and compare them:\n"
        "     steer-control recover --data-dir DIR [--data-dir DIR2 …]\n"
        "   It changes nothing. It picks the most advanced log, and says what may be lost.\n"
        "3. On the host of that member, make it a cluster of one, under a new id:\n"
        f"     steer-control recover --data-dir DIR --name {name} --raft-address {address} --apply\n"
        f"4. Start {name} with the flags that it had; then add the others again, each with an empty data folder:\n"
        "     steer cluster add OTHER HOST:PORT, start it with --join, steer cluster promote OTHER"
    )


async def _ask_each(found: configuration.ClusterConfig) -> dict[str, pb.ClusterStatus | ApiError]:
    trust = credentials(found.ca, found.certificate, found.key)

    async def ask(address: str) -> pb.ClusterStatus | ApiError:
        async with AsyncClient(GrpcTransport([address], trust)) as client:
            try:
                return await client.cluster_status(timeout=ASK_TIMEOUT_S)
            except ApiError as error:
                return error

    return dict(zip(found.members, await asyncio.gather(*map(ask, found.members)), strict=True))


def _last(answer: pb.ClusterStatus) -> int:
    """The last entry on the answering member's disk."""
    return next((int(m.match_index) for m in answer.members if m.name == answer.answering_member), 0)
