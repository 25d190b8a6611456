"""`cluster encryption`, `cluster rotate-encryption`: the keys that secrets are encrypted with on the members' disks."""

from __future__ import annotations

import asyncio

import click

from steersman.cli.output import print_rows
from steersman.cli.session import Session
from steersman.cli.streams import seconds_of
from steersman.client import AsyncClient
from steersman.v1 import encryption_pb2 as pb

POLL_S = 0.5


@click.command()
@click.pass_obj
def encryption(session: Session) -> None:
    """Show which member holds which encryption keys, and which its disk needs."""

    async def work(client: AsyncClient) -> pb.EncryptionStatusResponse:
        request = pb.EncryptionStatusRequest()
        return await client.transport.unary("Encryption", "EncryptionStatus", request, timeout=session.timeout)  # type: ignore[no-any-return]

    _show(session.run(work))


@click.command("rotate-encryption")
@click.option("--timeout", default="5m", show_default=True, help="How long to wait for every member.")
@click.pass_obj
def rotate_encryption(session: Session, timeout: str) -> None:
    """Have every member write its disk anew with the first key of its file, and say which keys can be dropped then.

    First put a new key on every member: `steer-control pki encryption-key --rotate --dir P`, and copy encryption-keys.json.
    """
    patience = seconds_of(timeout)

    async def work(client: AsyncClient) -> pb.EncryptionStatusResponse:
        request = pb.RotateEncryptionRequest()
        answer: pb.EncryptionStatusResponse = await client.transport.unary(
            "Encryption", "RotateEncryption", request, timeout=session.timeout
        )
        asked = answer.requested
        try:
            async with asyncio.timeout(patience):
                while not (answer.done and answer.requested >= asked):
                    await asyncio.sleep(POLL_S)
                    answer = await client.transport.unary(
                        "Encryption", "EncryptionStatus", pb.EncryptionStatusRequest(), timeout=session.timeout
                    )
        except TimeoutError:
            late = ", ".join(member.name for member in answer.members if member.rewritten < asked)
            raise click.ClickException(
                f"{late}: not done within {timeout}; they go on, `steer cluster encryption` shows how far they are"
            ) from None
        return answer

    answer = session.run(work)
    _show(answer)
    for key in answer.droppable:
        click.echo(
            f"nothing needs key {key} any more: `steer-control pki encryption-key --drop {key} --dir P` removes it"
        )


def _show(answer: pb.EncryptionStatusResponse) -> None:
    rows = [["MEMBER", "KEYS", "ENCRYPTS WITH", "DISK NEEDS", "REWRITTEN", "PROBLEM"]]
    for member in answer.members:
        done = "-" if not answer.requested else "yes" if member.rewritten >= answer.requested else "no"
        keys, needs = ",".join(member.keys), ",".join(member.on_disk)
        rows.append([member.name, keys or "-", member.seals_with or "-", needs or "-", done, member.problem or "-"])
    print_rows(rows)
