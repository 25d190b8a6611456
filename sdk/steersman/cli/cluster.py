"""`cluster`, `token`, `version`: the control plane itself."""

from __future__ import annotations

import json
from importlib.metadata import version as installed_version
from typing import Any

import click

from steersman.cli import members, snapshots
from steersman.cli.encryption import encryption, rotate_encryption
from steersman.cli.output import print_rows, said
from steersman.cli.session import Session
from steersman.cli.streams import seconds_of
from steersman.client import AsyncClient
from steersman.errors import ApiError
from steersman.v1 import cluster_pb2 as pb

output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the answer."
)


@click.group()
def cluster() -> None:
    """Look after the control plane: its members, its leadership, its snapshots."""


@cluster.command()
@output_option
@click.pass_obj
def status(session: Session, output: str) -> None:
    """Show members, leader, term and revision."""
    answer = session.run(lambda client: client.cluster_status(timeout=session.timeout))
    if output == "json":
        click.echo(json.dumps(_document(answer), indent=2))
        return
    rows = [["MEMBER", "ROLE", "GRPC", "RAFT", "MATCH", "REACHABLE", "PROBLEM"]]
    for member in answer.members:
        role = pb.Member.Role.Name(member.role).lower()
        match = str(member.match_index) if member.match_index else "-"
        rows.append(
            [
                member.name,
                role,
                member.grpc_address,
                member.raft_address,
                match,
                str(member.reachable).lower(),
                member.problem or "-",
            ]
        )
    print_rows(rows)
    click.echo(
        f"\nleader {answer.leader or 'none'}, term {answer.term}, revision {answer.revision}; answered by {answer.answering_member}"
    )


def _document(answer: pb.ClusterStatus) -> dict[str, Any]:
    return {
        "clusterID": answer.cluster_id,
        "answeringMember": answer.answering_member,
        "leader": answer.leader,
        "term": answer.term,
        "revision": answer.revision,
        "version": answer.version,
        "kubernetesVersion": answer.kubernetes_version,
        "members": [
            {
                "name": member.name,
                "role": pb.Member.Role.Name(member.role).lower(),
                "grpcAddress": member.grpc_address,
                "raftAddress": member.raft_address,
                "matchIndex": member.match_index,
                "reachable": member.reachable,
                "problem": member.problem,
            }
            for member in answer.members
        ],
    }


for _command in (
    members.members,
    members.add,
    members.promote,
    members.remove,
    members.transfer_leader,
    snapshots.snapshot,
    snapshots.recover,
):
    cluster.add_command(_command)


cluster.add_command(encryption)
cluster.add_command(rotate_encryption)


@click.group()
def token() -> None:
    """Tokens with which nodes join."""


@token.command("create")
@click.option("--ttl", default="24h", show_default=True, help="How long it is good for, as 30m or 24h.")
@click.option("--uses", default=0, help="How many nodes may use it; 0: any number.")
@click.option("--description", default="", help="What it is for.")
@output_option
@click.pass_obj
def create(session: Session, ttl: str, uses: int, description: str, output: str) -> None:
    """Make a token, on standard output, and show the command line that joins a node with a file that holds it."""
    ttl_seconds = seconds_of(ttl)

    async def work(client: AsyncClient) -> tuple[pb.JoinToken, pb.ClusterStatus]:
        made = await client.create_join_token(ttl_seconds=ttl_seconds, uses=uses, description=description)
        return made, await client.cluster_status()

    made, answer = session.run(work)
    servers = [member.grpc_address for member in answer.members if member.grpc_address]
    if output == "json":
        click.echo(
            json.dumps({"token": made.token, "caHash": made.ca_hash, "expires": made.expires, "members": servers})
        )
        return
    click.echo(made.token)
    where = " ".join(f"--server {address}" for address in servers)
    click.echo(f"steer-node run --name NAME {where} --token-file FILE --ca-hash {made.ca_hash}", err=True)


@token.command("list")
@click.pass_obj
def list_tokens(session: Session) -> None:
    """List the tokens that are still good."""

    async def work(client: AsyncClient) -> Any:
        return await client.transport.unary(
            "Cluster", "ListJoinTokens", pb.ListJoinTokensRequest(), timeout=session.timeout
        )

    rows = [["ID", "EXPIRES", "USES LEFT", "DESCRIPTION"]]
    for entry in session.run(work).tokens:
        rows.append(
            [
                entry.token.partition(".")[0],
                entry.expires,
                "unlimited" if entry.uses_left < 0 else str(entry.uses_left),
                entry.description or "<none>",
            ]
        )
    print_rows(rows)


@token.command("revoke")
@click.argument("id_", metavar="ID")
@click.pass_obj
def revoke(session: Session, id_: str) -> None:
    """Make a token useless."""

    async def work(client: AsyncClient) -> Any:
        request = pb.RevokeJoinTokenRequest(id=id_.partition(".")[0])
        return await client.transport.unary("Cluster", "RevokeJoinToken", request, timeout=session.timeout)

    session.run(work)
    said(f"token/{id_.partition('.')[0]} revoked")


@click.command()
@output_option
@click.option("--client", "client_only", is_flag=True, help="Do not ask the cluster.")
@click.pass_obj
def version(session: Session, output: str, client_only: bool) -> int:
    """Show the version of this program and of the cluster."""
    document = {"clientVersion": installed_version("steersman")}
    problem: ApiError | None = None
    if not client_only:
        try:
            answer = session.run(lambda client: client.cluster_status(timeout=5.0))
            document |= {"serverVersion": answer.version, "kubernetesVersion": answer.kubernetes_version}
        except ApiError as error:
            problem = error
    if output == "json":
        click.echo(json.dumps(document))
    else:
        for key, value in document.items():
            click.echo(f"{key}: {value}")
    if problem is not None:
        raise problem
    return 0
