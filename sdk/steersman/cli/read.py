"""`get`, `describe`, `events`, `api-resources`."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import msgspec

from steersman.cli import describe as descriptions
from steersman.cli.output import FORMATS, print_documents, print_rows, rows_of
from steersman.cli.session import Session, Target, namespace_for, targets
from steersman.client import AsyncClient
from steersman.errors import ApiError
from steersman.v1 import objects_pb2 as pb

selector_option = click.option("-l", "--selector", default="", help="Label selector, as app=web,tier in (a,b).")
fields_option = click.option("--field-selector", default="", help="Field selector, as spec.nodeName=node-1.")
everywhere_option = click.option("-A", "--all-namespaces", is_flag=True, help="In every namespace.")
output_option = click.option("-o", "--output", type=click.Choice(FORMATS), help="Form of the answer.")


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="TYPE [NAME…] | TYPE/NAME…")
@selector_option
@fields_option
@everywhere_option
@output_option
@click.option("-w", "--watch", is_flag=True, help="Go on and show every change.")
@click.option("--no-headers", is_flag=True, help="No line of column names.")
@click.option("--show-labels", is_flag=True, help="One more column with all labels.")
@click.option("--sort-by", default="", metavar="PATH", help="Sort by a field, as .metadata.creationTimestamp.")
@click.option("--ignore-not-found", is_flag=True, help="A missing object is no error.")
@click.option("--at", default="", metavar="REVISION|10m|TIME", help="As it was then.")
@click.pass_obj
def get(session: Session, /, what: tuple[str, ...], **options: Any) -> int:
    """Show objects: `steer get pods -o wide`, `steer get deploy/web -o yaml`, `steer get pods --at 10m`."""
    return session.run(lambda client: _get(session, client, what, options))


async def _get(session: Session, client: AsyncClient, what: tuple[str, ...], options: dict[str, Any]) -> int:
    found = await targets(session, client, what)
    everywhere = options["all_namespaces"]
    if everywhere and any(target.names for target in found):
        raise click.UsageError("a name belongs to one namespace: leave out --all-namespaces")
    form = options["output"]
    if options.get("at"):
        if options["watch"]:
            raise click.UsageError("the past does not change: leave out --watch")
        # Resolved once, so that all kinds and pages show one state.
        options["at"] = (await client.moment(options["at"], timeout=session.timeout)).at
    if options["watch"]:
        if len(found) != 1 or len(found[0].names) > 1:
            raise click.UsageError("--watch follows one type, or one object of it")
        return await _follow(session, client, found[0], options)
    if form in ("json", "yaml", "name"):
        return await _documents(session, client, found, options)
    shown = 0
    failed = 0
    several = len(found) > 1
    for target in found:
        try:
            table = await _table(session, client, target, options)
        except ApiError as error:
            if error.reason == "NotFound" and options["ignore_not_found"]:
                continue
            if not several:
                raise
            click.echo(f"Error from server ({error.reason}): {error.message}", err=True)
            failed = 1
            continue
        if not table.get("rows"):
            continue
        if several:
            for row in table["rows"]:
                row["cells"][0] = (
                    f"{target.info.singular}{'.' + g if (g := target.info.api_version.rpartition('/')[0]) else ''}/{row['cells'][0]}"
                )
            if shown:
                click.echo()
        _print_table(
            table, options, namespaces=everywhere and target.info.namespaced, headers=not options["no_headers"]
        )
        shown += len(table["rows"])
    if not shown and not failed and not options["ignore_not_found"]:
        where = "" if everywhere or not any(t.info.namespaced for t in found) else f" in {session.namespace} namespace"
        click.echo(f"No resources found{where}.", err=True)
    return failed


def _print_table(
    table: dict[str, Any], options: dict[str, Any], *, namespaces: bool, headers: bool, widths: list[int] | None = None
) -> None:
    if options["show_labels"]:
        table["columnDefinitions"].append({"name": "Labels", "priority": 0})
        for row in table["rows"]:
            labels = row.get("object", {}).get("metadata", {}).get("labels") or {}
            row["cells"].append(",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "<none>")
    print_rows(rows_of(table, wide=options["output"] == "wide", headers=headers, namespaces=namespaces), widths)


def _list_request(session: Session, target: Target, options: dict[str, Any], name: str = "") -> pb.ListRequest:
    fields = ",".join(filter(None, (options["field_selector"], f"metadata.name={name}" if name else "")))
    return pb.ListRequest(
        type=target.type,
        namespace=namespace_for(target.info, session, everywhere=options["all_namespaces"]),
        label_selector=options["selector"],
        field_selector=fields,
        at=options.get("at", ""),
    )


async def _table(session: Session, client: AsyncClient, target: Target, options: dict[str, Any]) -> dict[str, Any]:
    if not target.names and not options["sort_by"]:
        return await client.table(_list_request(session, target, options), timeout=session.timeout)
    if target.names:
        tables = []
        for name in target.names:
            request = pb.GetRequest(
                type=target.type,
                namespace=namespace_for(target.info, session),
                name=name,
                as_table=True,
                at=options.get("at", ""),
            )
            answer = await client.transport.unary("Objects", "Get", request, timeout=session.timeout)
            tables.append(msgspec.json.decode(answer.object.json))
        table: dict[str, Any] = tables[0]
        for other in tables[1:]:
            table["rows"] += other["rows"]
        return table
    table = await client.table(_list_request(session, target, options), timeout=session.timeout)
    listed = await client.list(
        target.key,
        namespace_for(target.info, session, everywhere=options["all_namespaces"]),
        labels=options["selector"],
        fields=options["field_selector"],
        at=options.get("at", ""),
    )
    order = {_identity(document): i for i, document in enumerate(_sorted(list(listed.items), options["sort_by"]))}
    table["rows"].sort(key=lambda row: order.get(_identity(row["object"]), len(order)))
    return table


def _identity(document: dict[str, Any]) -> tuple[str, str]:
    return document["metadata"].get("namespace", ""), document["metadata"]["name"]


def _sorted(documents: list[dict[str, Any]], path: str) -> list[dict[str, Any]]:
    steps = path.strip("{}").lstrip(".").split(".")

    def value(document: Any) -> tuple[int, Any]:
        for step in steps:
            document = document.get(step) if isinstance(document, dict) else None
        return (0, document) if isinstance(document, int | float) else (1, str(document or ""))

    return sorted(documents, key=value)


async def _documents(session: Session, client: AsyncClient, found: list[Target], options: dict[str, Any]) -> int:
    documents: list[dict[str, Any]] = []
    for target in found:
        namespace = namespace_for(target.info, session, everywhere=options["all_namespaces"])
        if target.names:
            for name in target.names:
                try:
                    at = options.get("at", "")
                    documents.append(await client.get(target.key, name, namespace, at=at, timeout=session.timeout))
                except ApiError as error:
                    if error.reason != "NotFound" or not options["ignore_not_found"]:
                        raise
        else:
            listed = await client.list(
                target.key,
                namespace,
                labels=options["selector"],
                fields=options["field_selector"],
                at=options.get("at", ""),
                timeout=session.timeout,
            )
            documents += listed.items
    if options["sort_by"]:
        documents = _sorted(documents, options["sort_by"])
    single = len(found) == 1 and len(found[0].names) == 1
    if documents or not single:
        print_documents(documents, options["output"], single=single)
    return 0


async def _follow(session: Session, client: AsyncClient, target: Target, options: dict[str, Any]) -> int:
    """Show the present state, then a row per change, until interrupted."""
    name = target.names[0] if target.names else ""
    listed = _list_request(session, target, options, name)
    request = pb.WatchRequest(
        type=listed.type,
        namespace=listed.namespace,
        label_selector=listed.label_selector,
        field_selector=listed.field_selector,
        as_table=options["output"] not in ("json", "yaml", "name"),
    )
    first = True
    widths: list[int] = []
    while True:
        try:
            async for response in client.transport.stream("Objects", "Watch", request):
                for event in response.events:
                    if event.kind == pb.WatchEvent.BOOKMARK:
                        continue
                    document = msgspec.json.decode(event.object.json)
                    if request.as_table:
                        headers = first and not options["no_headers"]
                        _print_table(
                            document, options, namespaces=options["all_namespaces"], headers=headers, widths=widths
                        )
                        first = False
                    else:
                        print_documents([document], options["output"], single=True)
                if response.synced:
                    request.revision = response.revision
        except ApiError as error:
            if error.reason != "ServiceUnavailable" or not request.revision:
                raise
            await asyncio.sleep(0.5)


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="TYPE [NAME…] | TYPE/NAME…")
@selector_option
@everywhere_option
@click.pass_obj
def describe(session: Session, what: tuple[str, ...], selector: str, all_namespaces: bool) -> None:
    """Tell everything about objects in a form for people, events included."""
    session.run(lambda client: _describe(session, client, what, selector, everywhere=all_namespaces))


async def _describe(
    session: Session, client: AsyncClient, what: tuple[str, ...], selector: str, *, everywhere: bool
) -> None:
    told = 0
    for target in await targets(session, client, what):
        namespace = namespace_for(target.info, session, everywhere=everywhere)
        if target.names:
            documents = [await client.get(target.key, name, namespace) for name in target.names]
        else:
            documents = list((await client.list(target.key, namespace, labels=selector)).items)
        for document in documents:
            if told:
                click.echo("\n")
            click.echo(await descriptions.describe(client, document), nl=False)
            told += 1
    if not told:
        click.echo(f"No resources found in {session.namespace} namespace.", err=True)


@click.command()
@everywhere_option
@click.option("--for", "subject", default="", metavar="TYPE/NAME", help="Only events of this object.")
@click.option("--types", default="", help="Only these types, as Warning.")
@click.option("-w", "--watch", is_flag=True, help="Go on and show new ones.")
@click.pass_obj
def events(session: Session, all_namespaces: bool, subject: str, types: str, watch: bool) -> int:
    """Show what happened, oldest first."""

    async def work(client: AsyncClient) -> int:
        selectors = []
        if subject:
            (target,) = await targets(session, client, [subject])
            selectors = [f"involvedObject.kind={target.info.kind}", f"involvedObject.name={target.names[0]}"]
        if types:
            selectors.append(f"type={types}")
        options = {
            "field_selector": ",".join(selectors),
            "selector": "",
            "all_namespaces": all_namespaces,
            "output": None,
            "no_headers": False,
            "show_labels": False,
            "sort_by": "" if watch else ".lastTimestamp",
            "ignore_not_found": False,
            "watch": watch,
        }
        return await _get(session, client, ("events",), options)

    return session.run(work)


@click.command()
@click.option("--no-headers", is_flag=True, help="No line of column names.")
@output_option
@click.pass_obj
def api_resources(session: Session, no_headers: bool, output: str | None) -> None:
    """List the kinds that the cluster serves."""

    async def work(client: AsyncClient) -> None:
        kinds = await session.kinds(client)
        if output == "name":
            for info in kinds:
                click.echo(Target(info).resource)
            return
        rows = [] if no_headers else [["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]]
        for info in kinds:
            rows.append(
                [info.plural, ",".join(info.short_names), info.api_version, str(info.namespaced).lower(), info.kind]
            )
            if output == "wide":
                rows[-1].append(",".join(info.verbs))
        if output == "wide" and not no_headers:
            rows[0].append("VERBS")
        print_rows(rows)

    session.run(work)
