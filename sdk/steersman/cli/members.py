"""`cluster members|add|promote|remove|transfer-leader`: who keeps the cluster's memory."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import click

from steersman.cli.output import print_rows, said
from steersman.cli.session import Session
from steersman.client import AsyncClient
from steersman.errors import ApiError
from steersman.v1 import cluster_pb2 as pb

POLL_S: Final = 0.5  # how often a member that catches up is looked at


@click.command()
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the answer.")
@click.pass_obj
def members(session: Session, output: str) -> None:
    """List the members as the leader knows them."""
    answer = session.run(lambda client: client.members(timeout=session.timeout))
    if output == "json":
        click.echo(json.dumps(_document(answer), indent=2))
        return
    rows = [["NAME", "ROLE", "RAFT", "GRPC", "BEHIND", "REACHABLE", "PROBLEM"]]
    for member in answer.members:
        role = pb.Member.Role.Name(member.role).lower()
        reachable = str(member.reachable).lower()
        behind = str(lag(answer, member)) if member.match_index else "-"
        rows.append(
            [member.name, role, member.raft_address, member.grpc_address, behind, reachable, member.problem or "-"]
        )
    print_rows(rows)
    click.echo(f"\n{margin(answer)}")


def lag(answer: pb.MembersResponse, member: pb.Member) -> int:
    """How many entries of the log a member has still to get."""
    return int(max(0, answer.last_index - member.match_index))


def margin(answer: pb.MembersResponse) -> str:
    """What the cluster can lose, in one sentence."""
    spare = answer.well - answer.majority
    voters = f"{answer.well} of {answer.voters} voters are well, {answer.majority} are needed"
    if spare < 0:
        return f"{voters}: nothing can be written"
    return f"{voters}: {spare} more may be lost" if spare else f"{voters}: none may be lost"


def _document(answer: pb.MembersResponse) -> dict[str, Any]:
    return {
        "clusterID": answer.cluster_id,
        "leader": answer.leader,
        "term": answer.term,
        "lastIndex": answer.last_index,
        "commitIndex": answer.commit_index,
        "voters": answer.voters,
        "majority": answer.majority,
        "well": answer.well,
        "members": [
            {
                "name": member.name,
                "role": pb.Member.Role.Name(member.role).lower(),
                "raftAddress": member.raft_address,
                "grpcAddress": member.grpc_address,
                "matchIndex": member.match_index,
                "reachable": member.reachable,
                "problem": member.problem,
            }
            for member in answer.members
        ],
    }


@click.command()
@click.argument("name")
@click.argument("address", metavar="HOST:PORT")
@click.pass_obj
def add(session: Session, name: str, address: str) -> None:
    """Add a member that listens for the others on HOST:PORT; it gets the log and does not vote yet."""
    answer = session.run(lambda client: client.add_member(name, address, timeout=session.timeout))
    said(f"member/{name} added")
    servers = ",".join(member.grpc_address for member in answer.members if member.grpc_address)
    click.echo(
        f"Start it with `steer-control run --name {name} --raft-listen {address} --join {servers} …` on an empty data folder\n"
        f"(its certificate: `steer-control pki member --name {name} …`), then `steer cluster promote {name}`.",
        err=True,
    )


@click.command()
@click.argument("name")
@click.option("--wait/--no-wait", default=True, help="Wait until it has caught up.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds to wait.")
@click.pass_obj
def promote(session: Session, name: str, wait: bool, timeout: float) -> None:
    """Let a member vote that was added, once it has caught up."""

    async def work(client: AsyncClient) -> pb.MembersResponse:
        told = ""
        async with asyncio.timeout(timeout):
            while True:
                try:
                    return await client.promote_member(name, timeout=session.timeout)
                except ApiError as error:
                    if not wait or error.reason != "BadRequest":
                        raise
                    if error.message != told:
                        told = error.message
                        click.echo(told, err=True)
                await asyncio.sleep(POLL_S)

    answer = session.run(work)
    said(f"member/{name} votes")
    click.echo(margin(answer), err=True)


@click.command()
@click.argument("name")
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Take a member out for good; a leader hands over first."""
    answer = session.run(lambda client: client.remove_member(name, timeout=session.timeout))
    said(f"member/{name} removed")
    click.echo(f"{margin(answer)}; stop {name}, and empty its data folder before it is added again", err=True)


@click.command("transfer-leader")
@click.argument("name")
@click.pass_obj
def transfer_leader(session: Session, name: str) -> None:
    """Make another member the leader."""
    said(f"member/{session.run(lambda client: client.transfer_leader(name, timeout=session.timeout)).leader} leads")
