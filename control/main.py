"""`steer-control`: run a member of the control plane, make its certificates."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from control import offline
from control.ca import files
from control.ca.certificates import CertificateError
from control.config import (
    EMBEDDED,
    KUBERNETES_VERSION,
    VERSION,
    ConfigError,
    MemberConfig,
    parse_bytes,
    parse_cluster,
    parse_resources,
    parse_seconds,
)
from control.store.encryption import DEFAULT_RESOURCES
from steersman import logs
from steersman.clock import SystemClock, SystemEntropy

log = logging.getLogger("control.main")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(f"{VERSION} (Kubernetes API {KUBERNETES_VERSION})", prog_name="steer-control")
def main() -> None:
    """A member of Steersman's control plane."""


@main.command()
@click.option("--name", required=True, help="This member's name, as in --initial-cluster.")
@click.option(
    "--data-dir", required=True, type=click.Path(path_type=Path), help="Where the log and snapshots are kept."
)
@click.option("--pki-dir", required=True, type=click.Path(path_type=Path), help="What `pki member` made.")
@click.option("--raft-listen", default="", metavar="HOST:PORT", help="For the other members.  [required, but for etcd]")
@click.option("--grpc-listen", default="0.0.0.0:7443", show_default=True, metavar="HOST:PORT")
@click.option("--rest-listen", default="0.0.0.0:6443", show_default=True, metavar="HOST:PORT")
@click.option("--bootstrap-listen", default="", metavar="HOST:PORT", help="Where hosts join. [default: gRPC port + 2]")
@click.option("--initial-cluster", default="", metavar="NAME=HOST:PORT,…", help="Raft addresses of the first members.")
@click.option(
    "--join",
    default="",
    metavar="HOST:PORT,…",
    help="gRPC addresses of members of a cluster to join, for a member that was added by `steer cluster add`.",
)
@click.option("--advertise-grpc", default="", metavar="HOST:PORT", help="Where this member's gRPC port is reached.")
@click.option("--cluster-cidr", default="10.244.0.0/16", show_default=True, help="Addresses of pods.")
@click.option("--service-cidr", default="10.96.0.0/16", show_default=True, help="Addresses of Services.")
@click.option("--dns-ip", default="10.96.0.10", show_default=True, help="The address of DNS, in --service-cidr.")
@click.option("--cluster-domain", default="cluster.local", show_default=True)
@click.option("--node-cidr-mask", default=24, show_default=True, help="Size of each node's pod range.")
@click.option("--node-lease", default="8s", show_default=True, help="A node silent for so long has stopped its pods.")
@click.option(
    "--default-unreachable-toleration",
    default=5,
    show_default=True,
    help="Seconds that pods stay bound to a lost node, unless they say otherwise.",
)
@click.option(
    "--initial-join-token-file",
    type=click.Path(path_type=Path),
    help="A join token that is accepted from the first moment.",
)
@click.option(
    "--encrypt",
    default=",".join(DEFAULT_RESOURCES),
    show_default=True,
    metavar="RESOURCE[.GROUP],…",
    help="What is encrypted on the disk and between members; none: nothing.",
)
@click.option(
    "--store",
    default=EMBEDDED,
    show_default=True,
    metavar="embedded|etcd://HOST:PORT,…",
    help="Where the state is kept; etcd://… may end in ?prefix=/NAME.",
)
@click.option("--store-ca", type=click.Path(path_type=Path), help="The CA of etcd's certificates.")
@click.option("--store-cert", type=click.Path(path_type=Path), help="The certificate that etcd knows this member by.")
@click.option("--store-key", type=click.Path(path_type=Path), help="Its key.")
@click.option("--history-age", default="1h", show_default=True, help="How far back the past can be read.")
@click.option("--history-size", default="64Mi", show_default=True, help="Memory that the past may take.")
@click.option(
    "--log-level",
    default="INFO",
    show_default=True,
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
)
def run(log_level: str, initial_cluster: str, join: str, node_lease: str, history_age: str, **flags: Any) -> None:
    """Run a member until it is told to stop (SIGTERM, SIGINT)."""
    logs.setup(log_level.upper())
    try:
        config = MemberConfig(
            initial_cluster=parse_cluster(initial_cluster),
            join=tuple(filter(None, (address.strip() for address in join.split(",")))),
            node_lease_s=parse_seconds("--node-lease", node_lease),
            history_age_s=parse_seconds("--history-age", history_age),
            history_bytes=parse_bytes("--history-size", flags.pop("history_size")),
            encrypt=parse_resources(flags.pop("encrypt")),
            unreachable_toleration_s=flags.pop("default_unreachable_toleration"),
            **flags,
        )
        config.check()
    except ConfigError as error:
        _fail(str(error), 2)
    sys.exit(_serve(config))


def _serve(config: MemberConfig) -> int:
    # Imported here, so that `pki` and `--help` answer at once.
    import uvloop  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(config))


async def _run(config: MemberConfig) -> int:
    from control.api.grpc_server import ListenError  # noqa: PLC0415
    from control.joining import join  # noqa: PLC0415
    from control.member import Member  # noqa: PLC0415
    from control.raft.interface import RaftError  # noqa: PLC0415

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    member: Member | None = None
    try:
        joining = asyncio.ensure_future(join(config, SystemClock()))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((joining, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not joining.done():
            joining.cancel()
            return 0
        member = Member(joining.result(), SystemClock(), SystemEntropy())
        starting = asyncio.ensure_future(member.start())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await member.stop()
            return 0
        starting.result()
    except (ConfigError, CertificateError, ListenError, RaftError, OSError) as error:
        click.echo(f"steer-control: {error}", err=True)
        if member is not None:
            with contextlib.suppress(Exception):
                await member.stop()
        return 1
    # What was loaded stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    await stop.wait()
    log.info("stopping")
    await member.stop()
    return 0


main.add_command(offline.snapshot)
main.add_command(offline.recover)


@main.group()
def pki() -> None:
    """Make the cluster's certificates."""


@pki.command("init")
@click.option("--dir", "folder", required=True, type=click.Path(path_type=Path))
def pki_init(folder: Path) -> None:
    """Make the cluster's CA, ca.crt and ca.key, and its first encryption key."""
    authority = _attempt(lambda: files.create_ca(folder, SystemClock()))
    click.echo(f"CA in {folder}: {authority.hash}")


@pki.command("member")
@click.option("--dir", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--ca-dir", required=True, type=click.Path(path_type=Path))
@click.option("--name", required=True)
@click.option(
    "--address", "addresses", multiple=True, help="A host name or IP that the member is reached by; repeatable."
)
def pki_member(folder: Path, ca_dir: Path, name: str, addresses: tuple[str, ...]) -> None:
    """Make a member's certificate: member.crt and member.key, with copies of the CA's and of the encryption keys."""
    _attempt(lambda: files.create_member(folder, ca_dir, name, addresses, SystemClock()))
    click.echo(f"certificate of member {name} in {folder}")


@pki.command("user")
@click.option("--dir", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--ca-dir", required=True, type=click.Path(path_type=Path))
@click.option("--name", required=True)
@click.option("--group", "groups", multiple=True, help="Repeatable; system:masters may do everything.")
def pki_user(folder: Path, ca_dir: Path, name: str, groups: tuple[str, ...]) -> None:
    """Make a user's certificate: NAME.crt and NAME.key."""
    _attempt(lambda: files.create_user(folder, ca_dir, name, groups, SystemClock()))
    click.echo(f"certificate of {name} in {folder}")


@pki.command("encryption-key")
@click.option("--dir", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--rotate", is_flag=True, help="Put a new key first; the old ones stay readable.")
@click.option("--drop", default="", metavar="ID", help="Remove an old key that nothing needs any more.")
@click.option(
    "--copy-to",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A member's --pki-dir that gets the same file; repeatable.",
)
def pki_encryption_key(folder: Path, rotate: bool, drop: str, copy_to: tuple[Path, ...]) -> None:
    """Make, rotate or drop the keys that secrets are encrypted with; say which there are.

    Every member needs the same encryption-keys.json in its --pki-dir, and reads it again within seconds when it changes. After
    a rotation, `steer cluster rotate-encryption` rewrites what is on the members' disks.
    """
    keys = _attempt(lambda: files.change_keys(folder, copy_to, rotate=rotate, drop=drop))
    for number, key in enumerate(keys):
        click.echo(f"{key.id} {'encrypts' if not number else 'decrypts'}")


@pki.command("hash")
@click.option("--dir", "folder", required=True, type=click.Path(path_type=Path))
def pki_hash(folder: Path) -> None:
    """Print the CA's hash, which joining nodes pin (--ca-hash)."""
    click.echo(_attempt(lambda: files.PkiFolder(folder).authority(SystemClock()).hash))


def _attempt(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except CertificateError as error:
        _fail(str(error), 1)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"steer-control: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
