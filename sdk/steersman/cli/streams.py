"""`logs` and `exec`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import sys
import termios
import tty
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import click

from steersman.cli.session import Session, Target, label_of, namespace_for, targets
from steersman.cli.workloads import pod_template_owner
from steersman.client import AsyncClient
from steersman.errors import ApiError
from steersman.transport import Duplex
from steersman.types import Pod
from steersman.v1 import streams_pb2 as pb

CHUNK = 32 << 10
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")


def seconds_of(text: str) -> int:
    """A duration as Go writes it: 10s, 5m, 1h30m.

    Raises:
        click.UsageError: it is not one.
    """
    match = _DURATION.fullmatch(text)
    if not text or match is None or not any(match.groups()):
        raise click.UsageError(f"{text!r} is not a duration: write 10s, 5m or 1h30m")
    hours, minutes, seconds = match.groups()
    return int(int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds or 0))


async def _pods_of(session: Session, client: AsyncClient, target: Target, name: str) -> list[Pod]:
    """The pod named, or a workload's pods, the most useful first (running and ready, oldest)."""
    namespace = namespace_for(target.info, session)
    if target.info.kind == "Pod":
        return [await client.get(Pod, name, namespace)]
    labels = await pod_template_owner(client, target.info.kind, name, namespace)
    found = list((await client.list(Pod, namespace, labels=labels)).items)
    if not found:
        raise click.ClickException(f"{label_of(target.info.api_version, target.info.kind, name)} has no pods")
    return sorted(
        found, key=lambda p: (p.status.phase != "Running", not p.ready, p.metadata.creation_timestamp, p.name)
    )


async def _pod_target(session: Session, client: AsyncClient, words: Sequence[str]) -> tuple[Target, str]:
    if len(words) == 1 and "/" not in words[0]:
        return Target(await session.kind(client, "pods")), words[0]
    (target,) = await targets(session, client, words)
    if len(target.names) != 1:
        raise click.UsageError("name one pod or workload, as `web-1` or `deploy/web`")
    return target, target.names[0]


def _container_of(pod: Pod, wanted: str) -> str:
    names = [c.name for c in (*pod.spec.init_containers, *pod.spec.containers)]
    if wanted:
        if wanted not in names:
            raise click.ClickException(
                f"container {wanted} is not valid for pod {pod.name}; it has: {', '.join(names)}"
            )
        return wanted
    default = pod.metadata.annotations.get("kubectl.kubernetes.io/default-container", "")
    if default in names:
        return default
    if len(pod.spec.containers) > 1:
        others = ", ".join(names)
        click.echo(f'Defaulted container "{pod.spec.containers[0].name}" out of: {others}', err=True)
    return pod.spec.containers[0].name


@click.command()
@click.argument("what", nargs=-1, metavar="POD [CONTAINER] | TYPE/NAME")
@click.option("-c", "--container", default="", help="Which container.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written.")
@click.option("-p", "--previous", is_flag=True, help="Of the instance before the last restart.")
@click.option("--timestamps", is_flag=True, help="Begin each line with its time.")
@click.option("--tail", type=int, default=-1, help="Only the last lines.")
@click.option("--since", default="", help="Only what is newer than 10s, 5m, 1h.")
@click.option("--since-time", default="", help="Only what is newer than an RFC 3339 time.")
@click.option("--limit-bytes", default=0, help="At most so many bytes.")
@click.option("-l", "--selector", default="", help="Of all pods with these labels.")
@click.option("--all-containers", is_flag=True, help="Of all containers of the pod.")
@click.option("--prefix", is_flag=True, help="Begin each line with pod and container.")
@click.pass_obj
def logs(session: Session, /, what: tuple[str, ...], **options: Any) -> None:
    """Show a container's log: `steer logs web-1`, `steer logs deploy/web -f`."""
    session.run(lambda client: _logs(session, client, what, options))


async def _logs(session: Session, client: AsyncClient, what: tuple[str, ...], options: dict[str, Any]) -> None:
    container = options["container"]
    if options["selector"]:
        pods = list((await client.list(Pod, session.namespace, labels=options["selector"])).items)
    elif not what:
        raise click.UsageError("name a pod, TYPE/NAME, or give -l SELECTOR")
    else:
        if len(what) == 2 and "/" not in what[0]:
            container, what = container or what[1], what[:1]
        target, name = await _pod_target(session, client, what)
        pods = await _pods_of(session, client, target, name)
        if len(pods) > 1:
            click.echo(f"Found {len(pods)} pods, using pod/{pods[0].name}", err=True)
            pods = pods[:1]
    sources = []
    for pod in pods:
        if options["all_containers"]:
            sources += [(pod, c.name) for c in (*pod.spec.init_containers, *pod.spec.containers)]
        else:
            sources.append((pod, _container_of(pod, container)))
    reads = [
        _copy_log(client, _logs_request(pod, name, options), f"[pod/{pod.name}/{name}] " if options["prefix"] else "")
        for pod, name in sources
    ]
    if options["follow"]:
        await asyncio.gather(*reads)
    else:
        for read in reads:
            await read


def _logs_request(pod: Pod, container: str, options: dict[str, Any]) -> pb.LogsRequest:
    request = pb.LogsRequest(
        namespace=pod.namespace,
        pod=pod.name,
        container=container,
        follow=options["follow"],
        previous=options["previous"],
        timestamps=options["timestamps"],
        since_time=options["since_time"],
        limit_bytes=options["limit_bytes"],
    )
    if options["tail"] >= 0:
        request.tail_lines = options["tail"]
    if options["since"]:
        request.since_seconds = seconds_of(options["since"])
    return request


async def _copy_log(client: AsyncClient, request: pb.LogsRequest, prefix: str) -> None:
    out = sys.stdout.buffer
    start_of_line = True
    async for response in client.logs(request):
        data = response.data
        if prefix:
            lines = data.split(b"\n")
            head = prefix.encode()
            data = (head if start_of_line else b"") + (b"\n" + head).join(
                lines[:-1] + ([lines[-1]] if lines[-1] else [])
            )
            start_of_line = not lines[-1]
            if start_of_line:
                data += b"\n"
        out.write(data)
        out.flush()


@click.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-i", "--stdin", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", "terminal", is_flag=True, help="Give the command a terminal.")
@click.option("-c", "--container", default="", help="Which container.")
@click.option("-it", "-ti", "both", is_flag=True, hidden=True)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="POD | TYPE/NAME -- COMMAND [ARG…]")
@click.pass_obj
def exec_(session: Session, stdin: bool, terminal: bool, container: str, both: bool, words: tuple[str, ...]) -> int:
    """Run a command in a container: `steer exec deploy/web -- hostname`, `steer exec -it web-1 -- sh`."""
    what, options, command = _exec_words(words)
    stdin |= both or options["stdin"]
    terminal |= both or options["tty"]
    if not command:
        raise click.UsageError("you must specify at least one command for the container, after --")

    async def work(client: AsyncClient) -> int:
        target, name = await _pod_target(session, client, what)
        pod = (await _pods_of(session, client, target, name))[0]
        start = pb.ExecStart(
            namespace=pod.namespace,
            pod=pod.name,
            container=_container_of(pod, container or options["container"]),
            command=command,
            stdin=stdin,
            stdout=True,
            stderr=not terminal,
            tty=terminal,
        )
        return await _run(await client.exec(start), stdin=stdin, terminal=terminal)

    return session.run(work)


def _exec_words(words: tuple[str, ...]) -> tuple[list[str], dict[str, Any], list[str]]:
    """Split `deploy/web -it -- sh -c …`: what, the options that stand behind it, and the command."""
    options: dict[str, Any] = {"stdin": False, "tty": False, "container": ""}
    what: list[str] = []
    rest = list(words)
    while rest and rest[0] != "--":
        word = rest.pop(0)
        if word in ("-i", "--stdin", "-it", "-ti"):
            options["stdin"] = True
            options["tty"] |= word in ("-it", "-ti")
        elif word in ("-t", "--tty"):
            options["tty"] = True
        elif word in ("-c", "--container") and rest:
            options["container"] = rest.pop(0)
        elif word.startswith("-"):
            raise click.UsageError(f"unknown option {word}; the command begins after --")
        else:
            what.append(word)
    command = rest[1:]
    if not command and len(what) > 1:  # without --: the first word is the pod
        what, command = what[:1], what[1:]
    return what, options, command


@asynccontextmanager
async def _raw_terminal(enabled: bool) -> AsyncIterator[None]:
    if not enabled or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


async def _send_input(duplex: Duplex) -> None:
    """Pass standard input on until it ends; plain files and /dev/null cannot be waited for, and are read in a thread."""
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(sys.stdin.fileno()):
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(sys.stdin.fileno()), "rb", 0)
        )
        while data := await reader.read(CHUNK):
            await duplex.send(pb.StreamFrame(stdin=data))
    else:
        while data := await asyncio.to_thread(sys.stdin.buffer.read, CHUNK):
            await duplex.send(pb.StreamFrame(stdin=data))
    await duplex.send(pb.StreamFrame(close_stdin=True))


async def _run(duplex: Duplex, *, stdin: bool, terminal: bool) -> int:
    """Carry the streams; answers the command's exit code."""
    loop = asyncio.get_running_loop()
    sender: asyncio.Task[None] | None = None
    pending: set[asyncio.Task[None]] = set()

    def resized() -> None:
        size = os.get_terminal_size(sys.stdin.fileno())
        task = loop.create_task(
            duplex.send(pb.StreamFrame(resize=pb.TerminalSize(width=size.columns, height=size.lines)))
        )
        pending.add(task)
        task.add_done_callback(pending.discard)

    try:
        async with _raw_terminal(terminal and stdin):
            if terminal and sys.stdin.isatty():
                resized()
                loop.add_signal_handler(signal.SIGWINCH, resized)
            if stdin:
                sender = loop.create_task(_send_input(duplex))
            while (frame := await duplex.receive()) is not None:
                match frame.WhichOneof("frame"):
                    case "stdout":
                        sys.stdout.buffer.write(frame.stdout)
                        sys.stdout.buffer.flush()
                    case "stderr":
                        sys.stderr.buffer.write(frame.stderr)
                        sys.stderr.buffer.flush()
                    case "exit":
                        if frame.exit.error:
                            raise ApiError("InternalError", frame.exit.error)
                        return int(frame.exit.code)
                    case "refused":
                        raise ApiError(frame.refused.reason, frame.refused.message, code=frame.refused.code)
            raise ApiError("InternalError", "the stream ended without an exit code: the node or its agent went away")
    finally:
        if sender is not None:
            sender.cancel()
        for task in pending:
            task.cancel()
        duplex.cancel()
