"""`wait`: until a condition holds."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import click

from steersman.cli.output import said
from steersman.cli.session import Session, Target, label_of, namespace_for, targets
from steersman.cli.streams import seconds_of
from steersman.client import AsyncClient

Document = dict[str, Any]
_STEP = re.compile(r"\.?([A-Za-z0-9_-]+)|\[(\d+)\]")


def value_at(document: Any, path: str) -> Any:
    """The value at a simple JSONPath, `{.status.phase}` or `.items[0].name`; None when it is not there.

    Raises:
        click.UsageError: the path has more than names and numbers.
    """
    text = path.strip().removeprefix("{").removesuffix("}")
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise click.UsageError(f"jsonpath {path!r}: only .name and [number] steps are understood")
        name, number = match.groups()
        if name is not None:
            document = document.get(name) if isinstance(document, dict) else None
        else:
            index = int(number)
            document = document[index] if isinstance(document, list) and index < len(document) else None
        at = match.end()
    return document


def condition_of(text: str) -> Callable[[Document], bool]:
    """The test that `--for` names: `condition=Ready[=false]`, `jsonpath=PATH[=VALUE]`, `create`.

    Raises:
        click.UsageError: it is none of these.
    """
    form, _, rest = text.partition("=")
    if form == "create" and not rest:
        return lambda _: True
    if form == "condition" and rest:
        kind, _, wanted = rest.partition("=")
        wanted = (wanted or "true").lower()

        def has_condition(document: Document) -> bool:
            conditions = document.get("status", {}).get("conditions") or ()
            return any(c["type"].lower() == kind.lower() and c["status"].lower() == wanted for c in conditions)

        return has_condition
    if form == "jsonpath" and rest:
        path, found, value = rest.partition("}=")
        path = path + "}" if found else path
        if not found and not rest.startswith("{"):
            path, found, value = rest.partition("=")

        def has_value(document: Document) -> bool:
            at = value_at(document, path)
            text = str(at).lower() if isinstance(at, bool) else str(at)
            return at is not None and (not found or text == value.strip("'\""))

        return has_value
    raise click.UsageError(f"--for={text}: write condition=NAME[=STATUS], jsonpath=PATH[=VALUE], create or delete")


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="TYPE NAME… | TYPE/NAME…")
@click.option("--for", "goal", required=True, help="condition=NAME[=STATUS], jsonpath=PATH[=VALUE], create or delete.")
@click.option("-l", "--selector", default="", help="All objects that this label selector finds now.")
@click.option("--all", "everything", is_flag=True, help="All objects of the type.")
@click.option("--timeout", default="30s", show_default=True, help="How long, as 90s or 5m.")
@click.pass_obj
def wait(session: Session, what: tuple[str, ...], goal: str, selector: str, everything: bool, timeout: str) -> int:
    """Wait until objects meet a condition: `steer wait pod/web-1 --for=condition=Ready`."""
    limit = seconds_of(timeout)
    gone = goal == "delete"
    test = (lambda _: False) if gone else condition_of(goal)

    async def work(client: AsyncClient) -> int:
        failed = False
        for target in await targets(session, client, what):
            namespace = namespace_for(target.info, session)
            names = list(target.names)
            if not names:
                if not selector and not everything:
                    raise click.UsageError("give names, -l SELECTOR or --all")
                listed = await client.list(target.key, namespace, labels=selector)
                names = [document["metadata"]["name"] for document in listed.items]
                if not names and not gone:
                    raise click.ClickException("no matching resources found")
            for name in names:
                label = label_of(target.info.api_version, target.info.kind, name)
                try:
                    async with asyncio.timeout(limit):
                        await _met(client, target, name, namespace, test, gone=gone, must_exist=goal != "create")
                except TimeoutError:
                    click.echo(f"error: timed out waiting for the condition on {label}", err=True)
                    failed = True
                    continue
                said(f"{label} {'deleted' if gone else 'condition met'}")
        return 1 if failed else 0

    return session.run(work)


async def _met(
    client: AsyncClient,
    target: Target,
    name: str,
    namespace: str,
    test: Callable[[Document], bool],
    *,
    gone: bool,
    must_exist: bool,
) -> None:
    fields = f"metadata.name={name}"
    listed = await client.list(target.key, namespace, fields=fields)
    if not listed.items:
        if gone:
            return
        if must_exist:
            await client.get(target.key, name, namespace)  # tells that there is none
    if any(test(document) for document in listed.items):
        return
    async for event in client.watch(target.key, namespace, fields=fields, revision=listed.revision):
        if event.type == "DELETED":
            if gone:
                return
        elif test(event.object):
            return
