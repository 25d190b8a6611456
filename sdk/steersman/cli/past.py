"""`diff`, `history`: what changed between two moments, and what became of one object."""

from __future__ import annotations

import datetime as dt
import difflib
import json
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from steersman.changes import IGNORED, LAST_APPLIED, changes
from steersman.cli.describe import human_duration
from steersman.cli.output import print_documents, print_rows, yaml_text
from steersman.cli.read import everywhere_option, selector_option
from steersman.cli.session import Session, Target, label_of, namespace_for, one, targets
from steersman.client import AsyncClient
from steersman.clock import SystemClock, parse_time
from steersman.errors import ApiError
from steersman.v1 import objects_pb2 as pb

Document = dict[str, Any]
Identity = tuple[str, str, str, str]  # api version, kind, namespace, name
PATHS_SHOWN = 3  # changed fields in a row of `history`; -o wide has all
LINKS_SHOWN = 3  # of the chain of causes there; -o wide has all
VALUE_SHOWN = 32  # characters of a value there
NOISE = ("events", "leases")  # kinds that `diff` leaves out unless they are named: they change all the time


@click.command()
@click.argument("what", nargs=-1, metavar="[TYPE [NAME…] | TYPE/NAME…]")
@click.option("--from", "start", required=True, metavar="REVISION|10m|TIME", help="The earlier moment.")
@click.option("--to", "end", default="0s", metavar="REVISION|10m|TIME", help="The later one.  [default: now]")
@selector_option
@everywhere_option
@click.option("-o", "--output", type=click.Choice(["diff", "json"]), default="diff", help="Form of the answer.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colour the diff.")
@click.pass_obj
def diff(
    session: Session,
    what: tuple[str, ...],
    start: str,
    end: str,
    selector: str,
    all_namespaces: bool,
    output: str,
    color: str,
) -> int:
    """Show what changed between two moments: `steer diff --from 10m deploy`, `steer diff --from 120 --to 150 -A`.

    Without a type, everything but events and leases is compared. Ends with 1 when something differs, like diff.
    """

    async def work(client: AsyncClient) -> list[tuple[Document | None, Document | None]]:
        found = await targets(session, client, what) if what else await _everything(session, client)
        if all_namespaces and any(target.names for target in found):
            raise click.UsageError("a name belongs to one namespace: leave out --all-namespaces")
        first = await client.moment(start, timeout=session.timeout)
        last = await client.moment(end, timeout=session.timeout)
        if first.revision > last.revision:
            raise click.UsageError(f"--from (revision {first.revision}) comes after --to (revision {last.revision})")
        pairs = []
        for target in found:
            old = await _state(session, client, target, first.revision, selector, everywhere=all_namespaces)
            new = await _state(session, client, target, last.revision, selector, everywhere=all_namespaces)
            present = sorted(old.keys() | new.keys())
            missing = set(target.names) - {name for *_, name in present}
            if missing:
                raise click.ClickException(
                    f"{target.resource} {', '.join(sorted(missing))}: not there at either moment"
                )
            pairs += [(old.get(key), new.get(key)) for key in present]
        return [pair for pair in pairs if differ(*pair)]

    found = session.run(work)
    if output == "json":
        click.echo(json.dumps([change_document(*pair) for pair in found], indent=2))
    else:
        for pair in found:
            for line in unified(*pair):
                click.echo(coloured(line) if color != "never" else line, color=True if color == "always" else None)
    return 1 if found else 0


async def _everything(session: Session, client: AsyncClient) -> list[Target]:
    kinds = await session.kinds(client)
    return [Target(info) for info in kinds if "list" in info.verbs and info.plural not in NOISE]


async def _state(
    session: Session, client: AsyncClient, target: Target, revision: int, selector: str, *, everywhere: bool
) -> dict[Identity, Document]:
    """The objects meant, as they were at a revision."""
    namespace = namespace_for(target.info, session, everywhere=everywhere)
    found: list[Document] = []
    for name in target.names:
        try:
            found.append(await client.get(target.key, name, namespace, revision=revision, timeout=session.timeout))
        except ApiError as error:
            if error.reason != "NotFound":
                raise
    if not target.names:
        listed = await client.list(target.key, namespace, labels=selector, revision=revision, timeout=session.timeout)
        found += listed.items
    return {identity(document): document for document in found}


def identity(document: Document) -> Identity:
    metadata = document["metadata"]
    return document["apiVersion"], document["kind"], metadata.get("namespace", ""), metadata["name"]


def differ(old: Document | None, new: Document | None) -> bool:
    """Whether two states of an object differ in more than what every write changes."""
    return old is None or new is None or bool(changes(old, new))


def change_document(old: Document | None, new: Document | None) -> Document:
    """A difference for programs: which object, what happened, which fields."""
    present = new or old
    assert present is not None
    api_version, kind, namespace, name = identity(present)
    found: Document = {"apiVersion": api_version, "kind": kind, "namespace": namespace, "name": name}
    found["change"] = "created" if old is None else "deleted" if new is None else "changed"
    if old is not None and new is not None:
        differences = changes(masked(old, new), masked(new, old, "after"))
        found["fields"] = [_field(change.path, change.before, change.after) for change in differences]
    return found


def _field(path: str, before: Any, after: Any) -> Document:
    field: Document = {"path": path}
    for name, value in (("from", before), ("to", after)):
        if isinstance(value, dict | list | str | int | float | None):
            field[name] = value
    return field


def unified(old: Document | None, new: Document | None) -> Iterator[str]:
    """The difference as lines of a unified diff of YAML."""
    present = new or old
    assert present is not None
    api_version, kind, namespace, name = identity(present)
    label = label_of(api_version, kind, name) + (f" (namespace {namespace})" if namespace else "")
    shown = (masked(old, new) if old else None, masked(new, old, "after") if new else None)
    sides = [yaml_text(_quiet(side)).splitlines() if side is not None else [] for side in shown]
    names = [label if side is not None else "/dev/null" for side in (old, new)]
    return difflib.unified_diff(sides[0], sides[1], names[0], names[1], lineterm="")


def _quiet(document: Document) -> Document:
    """Without the metadata that every write changes."""
    metadata = {key: value for key, value in document["metadata"].items() if f"metadata.{key}" not in IGNORED}
    annotations = {
        key: value for key, value in (metadata.pop("annotations", None) or {}).items() if key != LAST_APPLIED
    }
    if annotations:
        metadata["annotations"] = annotations
    return {**document, "metadata": metadata}


def masked(document: Document, other: Document | None, mark: str = "before") -> Document:
    """A Secret with its values hidden, but so that one still sees which differ from the other side's."""
    if document["kind"] != "Secret":
        return document
    theirs = (other or {}).get("data") or {}
    data = {
        key: "***" if other is None or theirs.get(key, value) == value else f"*** ({mark})"
        for key, value in (document.get("data") or {}).items()
    }
    return {**document, "data": data}


def coloured(line: str) -> str:
    """A diff's line as terminals show it."""
    if line.startswith(("---", "+++")):
        return click.style(line, bold=True)
    colours = {"+": "green", "-": "red", "@": "cyan"}
    return click.style(line, fg=colours[line[0]]) if line[:1] in colours else line


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="TYPE NAME | TYPE/NAME")
@click.option("--limit", default=0, help="At most so many writes, the newest.  [default: all that are kept]")
@click.option("--show", default=0, metavar="REVISION", help="The whole object as it was after that write.")
@click.option("-o", "--output", type=click.Choice(["wide", "json"]), help="Form of the answer.")
@click.option("--no-headers", is_flag=True, help="No line of column names.")
@click.pass_obj
def history(
    session: Session, what: tuple[str, ...], limit: int, show: int, output: str | None, no_headers: bool
) -> int:
    """Show what became of an object, newest first: who wrote what, when, and what led to it."""

    async def work(client: AsyncClient) -> tuple[Target, pb.HistoryResponse]:
        target, name = await one(session, client, what)
        namespace = namespace_for(target.info, session)
        return target, await client.history(
            target.key, name, namespace, limit=0 if show else limit, timeout=session.timeout
        )

    _, answer = session.run(work)
    if show:
        print_documents([_shown(answer, show)], "json" if output == "json" else "yaml", single=True)
    elif output == "json":
        click.echo(json.dumps(history_document(answer), indent=2))
    else:
        print_rows(history_rows(answer, SystemClock().now(), headers=not no_headers, wide=output == "wide"))
        if answer.more or any(entry.before_forgotten for entry in answer.entries):
            reason = "--limit" if answer.more else f"history begins at revision {answer.oldest_revision}"
            click.echo(f"older writes are not shown: {reason}", err=True)
    return 0


def _shown(answer: pb.HistoryResponse, revision: int) -> Document:
    for entry in answer.entries:
        if entry.revision == revision and entry.object.json:
            return msgspec.json.decode(entry.object.json)  # type: ignore[no-any-return]
    known = ", ".join(str(entry.revision) for entry in answer.entries)
    raise click.ClickException(f"revision {revision} did not write this object; it was written at {known}")


def history_rows(answer: pb.HistoryResponse, now: dt.datetime, *, headers: bool, wide: bool = False) -> list[list[str]]:
    """A row for each write."""
    rows = [["REVISION", "TIME", "AGE", "WHO", "CAUSED BY", "CHANGED"]] if headers else []
    for entry in answer.entries:
        time = parse_time(entry.time)
        rows.append(
            [
                str(entry.revision),
                time.strftime("%Y-%m-%d %H:%M:%S"),
                human_duration((now - time).total_seconds()),
                entry.cause.actor or "<unknown>",
                chain_text(entry, None if wide else LINKS_SHOWN) or _observed(entry.cause),
                changed_text(entry, None if wide else PATHS_SHOWN),
            ]
        )
    return rows


def chain_text(entry: pb.HistoryEntry, most: int | None) -> str:
    """What led to a write, nearest first; of a long chain the nearest and the first of all."""
    links = [f"{link.revision} {link.actor}" for link in entry.chain]
    if most is not None and len(links) > most:
        links = [*links[: most - 1], "…", links[-1]]
    return " < ".join(links)


def _observed(cause: pb.Cause) -> str:
    """What is known of a cause whose own history is forgotten."""
    return f"{cause.revision} <forgotten>" if cause.revision else "-"


def changed_text(entry: pb.HistoryEntry, most: int | None) -> str:
    """What a write did, in a line; at most so many fields."""
    if entry.kind == pb.WatchEvent.ADDED:
        return "created"
    if entry.kind == pb.WatchEvent.DELETED:
        return "deleted"
    if entry.before_forgotten:
        return "<the state before is forgotten>"
    secret = entry.object.kind == "Secret"
    told = [
        change.path
        if secret or _is_long(change)
        else f"{change.path}: {_short(change.before)} -> {_short(change.after)}"
        for change in entry.changes
    ]
    if not told:
        return "nothing"
    left = len(told) - most if most is not None else 0
    return ", ".join(told[:most]) + (f", … {left} more" if left > 0 else "")


def _is_long(change: pb.FieldChange) -> bool:
    return any(len(value) > VALUE_SHOWN or value[:1] in ("{", "[") for value in (change.before, change.after))


def _short(value: str) -> str:
    return value.strip('"') or "<none>"


def history_document(answer: pb.HistoryResponse) -> Document:
    """The history for programs; values are as in the object."""
    return {
        "oldestRevision": answer.oldest_revision,
        "oldestTime": answer.oldest_time,
        "more": answer.more,
        "entries": [
            {
                "revision": entry.revision,
                "time": entry.time,
                "change": pb.WatchEvent.Kind.Name(entry.kind),
                "actor": entry.cause.actor,
                "causedBy": [_link(link) for link in entry.chain],
                "fields": [
                    {"path": change.path}
                    | {
                        name: json.loads(value)
                        for name, value in (("from", change.before), ("to", change.after))
                        if value
                    }
                    for change in entry.changes
                ],
                "beforeForgotten": entry.before_forgotten,
            }
            for entry in answer.entries
        ],
    }


def _link(link: pb.HistoryLink) -> Document:
    return {"revision": link.revision, "actor": link.actor, "time": link.time}
