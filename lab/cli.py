"""`steer lab`: a whole cluster on this machine."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import click

from lab.topology import GRPC_PORT, REST_PORT, STORES, LabError, Topology
from steersman.clock import SystemClock

_name = click.option("--name", default="lab", show_default=True, help="Which lab.")


class _Errors(click.Group):
    """Show a LabError as one sentence, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LabError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Errors)
def lab() -> None:
    """A whole cluster on this machine: every host a network namespace with its own processes, mounts and disk folder."""


def _timed() -> Any:
    clock = SystemClock()
    begin = clock.monotonic()

    def progress(text: str) -> None:
        click.echo(f"{clock.monotonic() - begin:6.2f} s  {text}", err=True)

    return progress


@lab.command()
@_name
@click.option("--control", default=3, show_default=True, help="Members of the control plane: 1, 3, 5, …")
@click.option("--nodes", default=3, show_default=True, help="Hosts that run pods.")
@click.option("--grpc-port", default=GRPC_PORT, show_default=True, help="Where the gRPC API is published on 127.0.0.1.")
@click.option("--rest-port", default=REST_PORT, show_default=True, help="Where the REST API is published on 127.0.0.1.")
@click.option(
    "--control-flag",
    multiple=True,
    metavar="FLAG",
    help="Passed on to steer-control, as --control-flag=--log-level=DEBUG.",
)
@click.option("--node-flag", multiple=True, metavar="FLAG", help="Passed on to steer-node.")
@click.option(
    "--store", type=click.Choice(STORES), default="embedded", show_default=True, help="Where the state is kept."
)
@click.option("--no-images", is_flag=True, help="Leave the lab's registry empty.")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds until it must be Ready.")
def up(
    name: str,
    control: int,
    nodes: int,
    grpc_port: int,
    rest_port: int,
    control_flag: tuple[str, ...],
    node_flag: tuple[str, ...],
    store: str,
    no_images: bool,
    timeout: float,
) -> None:
    """Raise a lab and wait until every node is Ready."""
    from lab import cluster  # noqa: PLC0415 - keeps `steer` quick for everything else

    topology = Topology(name, control, nodes, grpc_port, rest_port, control_flag, node_flag, store)
    progress = _timed()
    asyncio.run(cluster.up(topology, progress, timeout=timeout, images=not no_images))
    progress("the lab is up")
    click.echo(
        f"lab/{name} up: {control} control, {nodes} nodes, gRPC 127.0.0.1:{grpc_port}, REST 127.0.0.1:{rest_port}"
    )


@lab.command()
@_name
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the answer.")
def status(name: str, output: str) -> None:
    """Show the hosts, their state and what runs on them."""
    from lab import cluster  # noqa: PLC0415

    document = asyncio.run(cluster.status(cluster.load(name)))
    if output == "json":
        click.echo(json.dumps(document, indent=2))
        return
    rows = [("HOST", "ROLE", "ADDRESS", "STATE", "PROCESSES")]
    for host in document["hosts"]:
        role = "leader" if host["name"] == document.get("leader") else host["role"]
        running = " ".join(f"{service}={pid}" for service, pid in sorted(host["services"].items())) or "-"
        rows.append((host["name"], role, host["address"], host["state"], running))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        click.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]))
    if "problem" in document:
        raise click.ClickException(f"the API does not answer: {document['problem']}")
    click.echo(
        f"\nAPI: gRPC {document['grpc']}, REST {document['rest']}; term {document['term']}, revision {document['revision']}"
    )


@lab.command(name="list")
def list_labs() -> None:
    """List the labs that are up."""
    from lab import cluster  # noqa: PLC0415

    for name in cluster.names():
        click.echo(name)


@lab.command(name="exec", context_settings={"ignore_unknown_options": True})
@_name
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_on_host(name: str, host: str, command: tuple[str, ...]) -> None:
    """Run a command on a host: `steer lab exec node-1 -- ip route`."""
    from lab import cluster, hosts  # noqa: PLC0415

    topology = cluster.load(name)
    argv = hosts.enter_argv(topology, topology.host(host), list(command))
    os.execvp(argv[0], argv)  # noqa: S606 - the command takes this one's place, terminal and exit code


@lab.command()
@_name
@click.argument("host")
def kill(name: str, host: str) -> None:
    """Cut a host's power: its processes, memory and network are gone at once; its disk stays."""
    from lab import cluster, hosts  # noqa: PLC0415

    topology = cluster.load(name)
    hosts.kill(topology, topology.host(host))
    click.echo(f"host/{host} killed")


@lab.command()
@_name
@click.argument("host")
def start(name: str, host: str) -> None:
    """Switch a killed host on again."""
    from lab import cluster  # noqa: PLC0415

    topology = cluster.load(name)
    cluster.start(topology, topology.host(host))
    click.echo(f"host/{host} started")


@lab.command()
@_name
@click.argument("host")
def pause(name: str, host: str) -> None:
    """Freeze a host: nothing on it runs, its connections stay open."""
    from lab import cluster, hosts  # noqa: PLC0415

    topology = cluster.load(name)
    hosts.pause(topology, topology.host(host), paused=True)
    click.echo(f"host/{host} paused")


@lab.command()
@_name
@click.argument("host")
def resume(name: str, host: str) -> None:
    """Let a paused host go on."""
    from lab import cluster, hosts  # noqa: PLC0415

    topology = cluster.load(name)
    hosts.pause(topology, topology.host(host), paused=False)
    click.echo(f"host/{host} resumed")


@lab.command()
@_name
@click.option("--one-way", is_flag=True, help="Only what the second host sends to the first is lost.")
@click.argument("first")
@click.argument("second")
def cut(name: str, one_way: bool, first: str, second: str) -> None:
    """Lose everything between two hosts, silently; `api` stands for the clients outside the lab."""
    from lab import cluster, segment  # noqa: PLC0415

    topology = cluster.load(name)
    for end in (first, second):
        topology.peer_address(end)
    if first == second:
        raise LabError("a host cannot be cut off from itself: name two")
    segment.cut(topology, first, second)
    if not one_way:
        segment.cut(topology, second, first)
    click.echo(f"link/{first}-{second} cut")


@lab.command()
@_name
def heal(name: str) -> None:
    """Undo every cut."""
    from lab import cluster, segment  # noqa: PLC0415

    count = segment.heal(cluster.load(name))
    click.echo(f"lab/{name} healed" if count else f"lab/{name}: nothing was cut")


@lab.command()
@_name
def down(name: str) -> None:
    """Take a lab down; also clears up what a crash left."""
    from lab import cluster  # noqa: PLC0415

    Topology(name)  # refuses a name that could not be a lab's
    was_up = cluster.down(name, _timed())
    click.echo(f"lab/{name} down" if was_up else f"lab/{name} was not up")
