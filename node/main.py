"""`steer-node`: the node agent's process."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import click
import grpc.aio

from net import HostNetwork, PodNetwork
from node import credentials
from node.agent import Agent, AgentConfig
from node.checkpoint import NetworkRecord
from node.credentials import Identity, IdentityFile, JoinError
from node.metrics import MetricsServer
from node.podfiles import parse_resolv_conf
from node.runtime.containers import ContainerdRuntime
from steersman import logs
from steersman.clock import Clock, Entropy, SystemClock, SystemEntropy
from steersman.transport import CHANNEL_OPTIONS

log = logging.getLogger("node")

JOIN_RETRY_S = 0.3  # between rounds over the servers: a cluster that just starts is there within a second
MAX_JOIN_RETRY_S = 5.0
JOIN_PATIENCE_S = (
    5.0  # a refusal counts only after this: a cluster that just begins learns its first token a moment late
)
RENEWAL_RETRY_S = 600.0


class Enrolment:
    """The node's identity over time: joined once, renewed at half its life, used by every new channel."""

    def __init__(
        self, files: IdentityFile, clock: Clock, entropy: Entropy, patience_s: float = JOIN_PATIENCE_S
    ) -> None:
        self._files = files
        self._patience_s = patience_s
        self._clock = clock
        self._entropy = entropy
        self.identity: Identity | None = None

    async def enrol(self, name: str, servers: Sequence[str], token: str, ca_hash: str) -> Identity:
        """The identity on disk, or a new one for the token; waits for a control plane that is not there yet.

        Raises:
            JoinError: the token, the CA or the node's name was refused.
        """
        held = self._files.load()
        why = "it has no certificate yet" if held is None else credentials.usable(held, ca_hash, self._clock)
        if held is not None and not why:
            self.identity = held
            return held
        if not token or not ca_hash:
            raise JoinError(
                f"the node cannot join: {why}, and --token-file (or --token) and --ca-hash are not both given;"
                " `steer token create` prints both",
                final=True,
            )
        pause, began = JOIN_RETRY_S, self._clock.monotonic()
        while True:
            for server in servers:
                try:
                    self.identity = await credentials.join(server, node_name=name, token=token, ca_hash=ca_hash)
                except JoinError as error:
                    if error.final and self._clock.monotonic() - began >= self._patience_s:
                        raise
                    log.warning("joining through %s failed, trying on: %s", server, error)
                else:
                    self._files.save(self.identity)
                    log.info("joined as %s through %s", name, server)
                    return self.identity
            await asyncio.sleep(pause * (0.5 + self._entropy.jitter() / 2))
            pause = min(pause * 1.5, MAX_JOIN_RETRY_S)

    def connect(self, address: str) -> grpc.aio.Channel:
        """A channel to a member with the certificate of the moment."""
        assert self.identity is not None
        return grpc.aio.secure_channel(address, self.identity.channel_credentials(), options=CHANNEL_OPTIONS)

    async def keep(self, agent: Agent, name: str) -> None:
        """Renew the certificate in time, without end."""
        while True:
            assert self.identity is not None
            await asyncio.sleep(min(credentials.renewal_due(self.identity.certificate, self._clock.now()), 86_400.0))
            if credentials.renewal_due(self.identity.certificate, self._clock.now()) > 0:
                continue
            channel = agent.control.channel
            try:
                if channel is None:
                    raise JoinError("there is no session")
                self.identity = await credentials.renew(self.identity, channel, name)
            except JoinError as error:
                log.warning("the node's certificate could not be renewed yet: %s", error)
                await asyncio.sleep(RENEWAL_RETRY_S * (0.5 + self._entropy.jitter() / 2))
            else:
                self._files.save(self.identity)
                log.info("the node's certificate was renewed")


def _mirrors(pairs: Sequence[str]) -> dict[str, str]:
    """`HOST[:PORT]=URL` flags as registry -> endpoint."""
    found: dict[str, str] = {}
    for pair in pairs:
        registry, separator, url = pair.partition("=")
        if not separator or not url.startswith(("http://", "https://")):
            raise click.BadParameter(f"{pair!r} is not HOST[:PORT]=http(s)://…", param_hint="--registry-mirror")
        found[registry] = url
    return found


def _token(token: str, token_file: Path | None) -> str:
    """The join token; from the file if one is named. A file that is gone is no error: a node with a certificate needs none."""
    if token and token_file is not None:
        raise click.UsageError("give --token or --token-file, not both")
    if token_file is None:
        return token
    try:
        return token_file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(str(error), param_hint="--token-file") from error


def _addresses(servers: Sequence[str]) -> list[str]:
    for server in servers:
        try:
            credentials.split_address(server)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--server") from error
    return list(servers)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The node agent of Steersman."""


@main.command()
@click.option("--name", required=True, help="The node's name.")
@click.option(
    "--server", "servers", multiple=True, required=True, help="HOST:PORT of a member's gRPC port; repeat for several."
)
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="Join token; needed until the node has its certificate."
)
@click.option("--token", default="", help="The same on the command line, where every user of this host can read it.")
@click.option("--ca-hash", default="", help="sha256:… of the cluster's CA certificate; needed to join.")
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path("/var/lib/steersman"), show_default=True)
@click.option("--address", required=True, help="The address that other hosts reach this node at.")
@click.option("--containerd", default="/run/containerd/containerd.sock", show_default=True)
@click.option("--metrics-listen", default="127.0.0.1:9100", show_default=True)
@click.option(
    "--registry-mirror",
    "registry_mirrors",
    multiple=True,
    help="HOST[:PORT]=URL: pull that registry's images from URL.",
)
@click.option("--cgroup-parent", default="steersman", show_default=True, help="The cgroup below which pods run.")
@click.option("--log-level", default="INFO", show_default=True)
def run(
    *,
    name: str,
    servers: tuple[str, ...],
    token_file: Path | None,
    token: str,
    ca_hash: str,
    data_dir: Path,
    address: str,
    containerd: str,
    metrics_listen: str,
    registry_mirrors: tuple[str, ...],
    cgroup_parent: str,
    log_level: str,
) -> None:
    """Join the cluster and run the pods assigned to this node, until told to stop. Pods outlive the agent."""
    logs.setup(log_level.upper())
    members, mirrors, token = _addresses(servers), _mirrors(registry_mirrors), _token(token, token_file)
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        lock = _lock(data_dir)
        # uvloop: about half the cost of the standard loop per message.
        import uvloop  # noqa: PLC0415

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(
                _run(
                    name, members, token, ca_hash, data_dir, address, containerd, metrics_listen, mirrors, cgroup_parent
                )
            )
    except JoinError as error:
        log.error("%s", error)  # noqa: TRY400 - the message says it all
        sys.exit(1)
    except OSError as error:
        log.error("the agent cannot run: %s", error)  # noqa: TRY400
        sys.exit(1)
    lock.close()


def _lock(data_dir: Path) -> IO[str]:
    """Hold the data directory for this process alone: two agents would fight over the same pods."""
    lock = (data_dir / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise click.ClickException(f"another agent runs with --data-dir {data_dir}") from None
    return lock


async def _run(
    name: str,
    members: list[str],
    token: str,
    ca_hash: str,
    data_dir: Path,
    address: str,
    containerd: str,
    metrics_listen: str,
    mirrors: dict[str, str],
    cgroup_parent: str,
) -> None:
    clock, entropy = SystemClock(), SystemEntropy()
    runtime = ContainerdRuntime(
        containerd, data_dir / "runtime", cgroup_parent=cgroup_parent, mirrors=mirrors, clock=clock, entropy=entropy
    )
    resolver = parse_resolv_conf(_read("/etc/resolv.conf"))
    enrolment = Enrolment(IdentityFile(data_dir), clock, entropy)
    identity = await enrolment.enrol(name, members, token, ca_hash)

    def make_network(facts: NetworkRecord) -> PodNetwork:
        return PodNetwork(
            HostNetwork(
                node_name=name,
                host_ip=address,
                cluster_cidr=facts.cluster_cidr,
                service_cidr=facts.service_cidr,
                dns_ip=facts.dns_ip,
                cluster_domain=facts.cluster_domain,
                upstream_dns=resolver.nameservers,
            ),
            clock,
        )

    agent = Agent(
        AgentConfig(name, address, data_dir, resolver),
        runtime,
        make_network,
        list(dict.fromkeys([*members, *identity.members])),
        enrolment.connect,
        clock,
        entropy,
    )
    server = MetricsServer(agent.metrics, lambda: agent.problem)
    await server.start(metrics_listen)
    gc.freeze()  # what is loaded by now stays: keep the collector from walking it again and again
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(agent.run())
    renewal = asyncio.ensure_future(enrolment.keep(agent, name))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    try:
        with suppress(asyncio.CancelledError):
            await work
    finally:
        renewal.cancel()
        await server.stop()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    main()
