"""`apply`, `create`, `delete`, `patch`, `label`, `annotate`, `edit`."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from steersman.cli.output import print_documents, said, warned, yaml_text
from steersman.cli.session import Session, Target, label_of, namespace_for, one, qualified, targets
from steersman.client import AsyncClient, WriteResult, encode, manifests
from steersman.errors import ApiError
from steersman.v1 import objects_pb2 as pb

MANIFEST_SUFFIXES = (".yaml", ".yml", ".json")
files_option = click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    metavar="PATH",
    help="Manifest file, directory, or - for standard input.",
)
recursive_option = click.option("-R", "--recursive", is_flag=True, help="Directories with all below them.")
dry_run_option = click.option(
    "--dry-run", type=click.Choice(["none", "server"]), default="none", help="server: all but the write."
)
output_option = click.option(
    "-o", "--output", type=click.Choice(["json", "yaml", "name"]), help="Show the objects as stored."
)


def read_manifests(files: Sequence[str], *, recursive: bool = False) -> list[dict[str, Any]]:
    """The documents of files, directories (their manifests in name order) and standard input ("-").

    Raises:
        click.ClickException: a path is missing, has no manifests, or is not YAML; the message names it.
    """
    documents: list[dict[str, Any]] = []
    if not files:
        raise click.UsageError("name a manifest with -f FILE, -f DIRECTORY or -f - (standard input)")
    for name in files:
        if name == "-":
            documents += _parsed("standard input", sys.stdin.read())
            continue
        path = Path(name)
        if not path.exists():
            raise click.ClickException(f'the path "{name}" does not exist')
        if path.is_dir():
            found = path.rglob("*") if recursive else path.iterdir()
            paths = sorted(p for p in found if p.suffix in MANIFEST_SUFFIXES and p.is_file())
            if not paths:
                raise click.ClickException(f"{name} has no manifests: files that end in {', '.join(MANIFEST_SUFFIXES)}")
        else:
            paths = [path]
        for each in paths:
            try:
                text = each.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise click.ClickException(f"{each}: not a manifest: no UTF-8 text") from error
            documents += _parsed(str(each), text)
    if not documents:
        raise click.ClickException("no objects passed: the manifests are empty")
    return documents


def _parsed(where: str, text: str) -> list[dict[str, Any]]:
    try:
        found = manifests(text)
    except ValueError as error:
        raise click.ClickException(f"{where}: {error}") from error
    for document in found:
        for field in ("apiVersion", "kind"):
            if not isinstance(document.get(field), str):
                raise click.ClickException(f"{where}: every object needs {field}; found one without")
    return found


def _namespace_checked(session: Session, document: dict[str, Any]) -> None:
    stated = (document.get("metadata") or {}).get("namespace")
    if stated and session.namespace and session.namespace != stated and "-n" in sys.argv:
        raise click.ClickException(
            f'the namespace from the provided object "{stated}" does not match the namespace "{session.namespace}". '
            f"You must pass '--namespace={stated}' to perform this operation."
        )


_DONE = {"CREATED": "created", "CHANGED": "configured", "UNCHANGED": "unchanged"}


def _report(
    document: dict[str, Any], result: WriteResult, verbs: dict[str, str], *, dry_run: bool, output: str | None
) -> bool:
    """Tell how one write ended; answers whether it went well."""
    warned(result.warnings)
    if result.error is not None:
        name = (document.get("metadata") or {}).get("name") or "?"
        click.echo(
            f"Error from server ({result.error.reason}): {label_of(document['apiVersion'], document['kind'], name)}: {result.error.message}",
            err=True,
        )
        return False
    stored = result.document
    if output:
        print_documents([stored], output, single=True)
    else:
        note = " (server dry run)" if dry_run else ""
        label = label_of(stored["apiVersion"], stored["kind"], stored["metadata"]["name"])
        said(f"{label} {verbs[result.outcome]}{note}")
    return True


@click.command()
@files_option
@recursive_option
@dry_run_option
@output_option
@click.option(
    "--validate", type=click.Choice(["strict", "warn", "ignore"]), default="strict", help="Of unknown fields."
)
@click.pass_obj
def apply(
    session: Session, files: tuple[str, ...], recursive: bool, dry_run: str, output: str | None, validate: str
) -> int:
    """Make objects as manifests say, creating or changing what is needed."""

    async def work(client: AsyncClient) -> int:
        documents = read_manifests(files, recursive=recursive)
        good = True
        for document in documents:
            _namespace_checked(session, document)
            (result,) = await client.apply(
                [document],
                namespace=session.namespace,
                dry_run=dry_run == "server",
                validation=validate.upper(),
                timeout=session.timeout,
            )
            good &= _report(document, result, _DONE, dry_run=dry_run == "server", output=output)
        return 0 if good else 1

    return session.run(work)


@click.command()
@files_option
@recursive_option
@dry_run_option
@output_option
@click.argument("words", nargs=-1, metavar="[namespace NAME | configmap NAME … | secret NAME …]")
@click.option("--from-literal", multiple=True, metavar="KEY=VALUE", help="For configmap and secret.")
@click.option("--from-file", multiple=True, metavar="[KEY=]PATH", help="For configmap and secret.")
@click.pass_obj
def create(
    session: Session,
    files: tuple[str, ...],
    recursive: bool,
    dry_run: str,
    output: str | None,
    words: tuple[str, ...],
    from_literal: tuple[str, ...],
    from_file: tuple[str, ...],
) -> int:
    """Create objects from manifests, or a namespace, ConfigMap or Secret from the command line."""

    async def work(client: AsyncClient) -> int:
        documents = (
            [_generated(words, from_literal, from_file)] if words else read_manifests(files, recursive=recursive)
        )
        good = True
        for document in documents:
            _namespace_checked(session, document)
            request = pb.CreateRequest(
                object=pb.Object(json=encode(document)),
                namespace=session.namespace,
                options=client.options(dry_run=dry_run == "server"),
            )
            try:
                answer = await client.transport.unary(
                    "Objects", "Create", request, timeout=session.timeout, idempotent=False
                )
                result = WriteResult("CREATED", answer.object, tuple(answer.warnings))
            except ApiError as error:
                result = WriteResult("", None, (), error)
            good &= _report(document, result, _DONE, dry_run=dry_run == "server", output=output)
        return 0 if good else 1

    return session.run(work)


def _generated(words: tuple[str, ...], literals: tuple[str, ...], paths: tuple[str, ...]) -> dict[str, Any]:
    import base64  # noqa: PLC0415

    kinds = {
        "namespace": "Namespace",
        "ns": "Namespace",
        "configmap": "ConfigMap",
        "cm": "ConfigMap",
        "secret": "Secret",
    }
    kind = kinds.get(words[0])
    names = [word for word in words[1:] if word != "generic"]
    if kind is None or len(names) != 1:
        raise click.UsageError(
            "write: create namespace NAME, create configmap NAME …, create secret generic NAME …, or create -f FILE"
        )
    document: dict[str, Any] = {"apiVersion": "v1", "kind": kind, "metadata": {"name": names[0]}}
    if kind == "Namespace":
        return document
    data: dict[str, bytes] = {}
    for literal in literals:
        key, found, value = literal.partition("=")
        if not found:
            raise click.UsageError(f"--from-literal={literal}: write KEY=VALUE")
        data[key] = value.encode()
    for entry in paths:
        key, found, path = entry.partition("=")
        source = Path(path if found else entry)
        data[key if found else source.name] = source.read_bytes()
    if kind == "Secret":
        document["data"] = {key: base64.b64encode(content).decode() for key, content in data.items()}
        return document
    for key, content in data.items():
        try:
            document.setdefault("data", {})[key] = content.decode()
        except UnicodeDecodeError:
            document.setdefault("binaryData", {})[key] = base64.b64encode(content).decode()
    return document


@click.command()
@click.argument("what", nargs=-1, metavar="[TYPE NAME… | TYPE/NAME…]")
@files_option
@recursive_option
@click.option("-l", "--selector", default="", help="Label selector.")
@click.option("--all", "everything", is_flag=True, help="All objects of the type in the namespace.")
@click.option("--grace-period", type=int, help="Seconds that pods get to end; 0 with --force: at once.")
@click.option("--force", is_flag=True, help="Do not wait for the pod to end.")
@click.option("--now", is_flag=True, help="A grace period of one second.")
@click.option(
    "--cascade",
    type=click.Choice(["background", "foreground", "orphan"]),
    default="background",
    show_default=True,
    help="What becomes of owned objects.",
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the objects are gone.")
@click.option("--timeout", default=0.0, help="Seconds to wait; 0: as long as it takes.")
@click.option("--ignore-not-found", is_flag=True, help="A missing object is no error.")
@click.pass_obj
def delete(session: Session, /, what: tuple[str, ...], files: tuple[str, ...], **options: Any) -> int:
    """Delete objects and wait until they are gone."""

    async def work(client: AsyncClient) -> int:
        found: list[tuple[Target, str, str]] = []
        for document in read_manifests(files, recursive=options["recursive"]) if files else ():
            info = await session.kind(client, qualified(document["kind"], document["apiVersion"]))
            namespace = document["metadata"].get("namespace") or namespace_for(info, session)
            found.append((Target(info), document["metadata"]["name"], namespace if info.namespaced else ""))
        if what:
            found += await _chosen(session, client, what, options)
        elif not files:
            raise click.UsageError("name what to delete: TYPE NAME, TYPE/NAME, TYPE -l SELECTOR, TYPE --all or -f FILE")
        return await _delete_all(session, client, found, options)

    return session.run(work)


async def _chosen(
    session: Session, client: AsyncClient, what: tuple[str, ...], options: dict[str, Any]
) -> list[tuple[Target, str, str]]:
    found = []
    for target in await targets(session, client, what):
        namespace = namespace_for(target.info, session)
        names = list(target.names)
        if not names:
            if not options["selector"] and not options["everything"]:
                raise click.UsageError(
                    "resource(s) were provided, but no name was specified: give names, -l SELECTOR or --all"
                )
            listed = await client.list(target.key, namespace, labels=options["selector"])
            names = [document["metadata"]["name"] for document in listed.items]
        found += [(target, name, namespace) for name in names]
    return found


async def _delete_all(
    session: Session, client: AsyncClient, found: list[tuple[Target, str, str]], options: dict[str, Any]
) -> int:
    grace = 1 if options["now"] else options["grace_period"]
    if options["force"]:
        grace = 0
        click.echo(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated.",
            err=True,
        )
    elif grace == 0:
        raise click.UsageError("--grace-period=0 needs --force: nobody then waits for the pod to end")
    failed = False
    waiting = []
    for target, name, namespace in found:
        try:
            result = await client.delete(
                target.key,
                name,
                namespace,
                grace=grace,
                propagation=options["cascade"].capitalize(),
                timeout=session.timeout,
            )
        except ApiError as error:
            if error.reason == "NotFound" and options["ignore_not_found"]:
                continue
            click.echo(f"Error from server ({error.reason}): {error.message}", err=True)
            failed = True
            continue
        how = "force deleted" if options["force"] else "deleted"
        said(f'{qualified(target.info.singular, target.info.api_version)} "{name}" {how}')
        if result.outcome == "DELETING" and result.object is not None:
            waiting.append((target, name, namespace, result.object))
    if options["wait"]:
        async with asyncio.timeout(options["timeout"] or None):
            for target, name, namespace, last in waiting:
                await _gone(client, target, name, namespace, last.uid)
    return 1 if failed else 0


async def _gone(client: AsyncClient, target: Target, name: str, namespace: str, uid: str) -> None:
    """Wait until the object of this uid is not there any more."""
    fields = f"metadata.name={name}"
    listed = await client.list(target.key, namespace, fields=fields)
    if not any(document["metadata"]["uid"] == uid for document in listed.items):
        return
    async for event in client.watch(target.key, namespace, fields=fields, revision=listed.revision):
        if event.type == "DELETED" and event.object["metadata"]["uid"] == uid:
            return


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="TYPE NAME | TYPE/NAME")
@click.option("-p", "--patch", "text", default="", help="The patch, JSON or YAML.")
@click.option("--patch-file", type=click.File(), help="File with the patch.")
@click.option(
    "--type", "form", type=click.Choice(["strategic", "merge", "json"]), default="strategic", show_default=True
)
@click.option("--subresource", default="", help="status or scale.")
@output_option
@click.pass_obj
def patch(
    session: Session, what: tuple[str, ...], text: str, patch_file: Any, form: Any, subresource: str, output: str | None
) -> None:
    """Change parts of an object: `steer patch deploy/web -p '{"spec":{"paused":true}}'`."""
    try:
        document = yaml.safe_load(patch_file.read() if patch_file else text)
    except yaml.YAMLError as error:
        raise click.UsageError(f"the patch is not JSON or YAML: {error}") from error
    if not document:
        raise click.UsageError("give the patch with -p or --patch-file")

    async def work(client: AsyncClient) -> None:
        target, name = await one(session, client, what)
        request = client.patch_request(
            target.key, name, document, namespace_for(target.info, session), format=form, subresource=subresource
        )
        answer = await client.transport.unary("Objects", "Patch", request, timeout=session.timeout)
        warned(answer.warnings)
        result = WriteResult(pb.WriteResponse.Outcome.Name(answer.outcome), answer.object)
        verbs = {"CHANGED": "patched", "UNCHANGED": "patched (no change)"}
        _report(result.document, result, verbs, dry_run=False, output=output)

    session.run(work)


def _marks(words: tuple[str, ...]) -> tuple[list[str], dict[str, str | None]]:
    """Split `pod/a key=value other-` into what and the changes (None: remove)."""
    what: list[str] = []
    changes: dict[str, str | None] = {}
    for word in words:
        key, found, value = word.partition("=")
        if found:
            changes[key] = value
        elif word.endswith("-") and what:
            changes[word[:-1]] = None
        else:
            what.append(word)
    return what, changes


def _mark_command(field: str, verb: str) -> Any:
    @click.argument("words", nargs=-1, required=True, metavar="TYPE NAME… KEY=VALUE… [KEY-…]")
    @click.option("--overwrite", is_flag=True, help="Change values that are there already.")
    @click.option("-l", "--selector", default="", help="All objects that this label selector finds.")
    @click.option("--all", "everything", is_flag=True, help="All objects of the type.")
    @click.pass_obj
    def command(session: Session, words: tuple[str, ...], overwrite: bool, selector: str, everything: bool) -> int:
        what, changes = _marks(words)
        if not changes:
            raise click.UsageError(f"give at least one KEY=VALUE or KEY- (which removes the {field[:-1]})")

        async def work(client: AsyncClient) -> int:
            failed = False
            for target, name, namespace in await _chosen(
                session, client, tuple(what), {"selector": selector, "everything": everything}
            ):
                document = await client.get(target.key, name, namespace)
                present = document["metadata"].get(field) or {}
                clash = [k for k, v in changes.items() if v is not None and k in present and present[k] != v]
                label = label_of(document["apiVersion"], document["kind"], name)
                if clash and not overwrite:
                    click.echo(
                        f"error: {label}: '{clash[0]}' already has a value ({present[clash[0]]}), and --overwrite is false",
                        err=True,
                    )
                    failed = True
                    continue
                await client.patch(target.key, name, {"metadata": {field: changes}}, namespace)
                removed = all(value is None for value in changes.values())
                said(f"{label} {'un' if removed and verb == 'labeled' else ''}{verb}")
            return 1 if failed else 0

        return session.run(work)

    command.__doc__ = f"Set or remove {field} of objects: `pod/web-1 tier=front old-`."
    return command


label = click.command("label")(_mark_command("labels", "labeled"))
annotate = click.command("annotate")(_mark_command("annotations", "annotated"))


def _edited(text: str) -> tuple[int, str, str]:
    """Let the user's editor change `text`; answers its exit code, its name, and the text without comment lines."""
    editor = os.environ.get("KUBE_EDITOR") or os.environ.get("EDITOR") or "vi"
    with tempfile.NamedTemporaryFile("w+", suffix=".yaml", delete=False) as file:
        file.write(text)
    path = Path(file.name)
    try:
        code = subprocess.run([*shlex.split(editor), file.name], check=False).returncode
        kept = [line for line in path.read_text().splitlines(keepends=True) if not line.startswith("#")]
    except FileNotFoundError as error:
        raise click.ClickException(
            f"the editor {editor!r} cannot be started: set EDITOR to one that is there"
        ) from error
    finally:
        path.unlink(missing_ok=True)
    return code, editor, "".join(kept)


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="TYPE NAME | TYPE/NAME")
@click.pass_obj
def edit(session: Session, what: tuple[str, ...]) -> int:
    """Open an object in $EDITOR and store what was changed."""

    async def work(client: AsyncClient) -> int:
        target, name = await one(session, client, what)
        document = await client.get(target.key, name, namespace_for(target.info, session))
        text = yaml_text(document)
        note = "# Save to store the change; an unchanged or empty file changes nothing.\n"
        while True:
            code, editor, changed = await asyncio.to_thread(_edited, note + text)
            if code != 0:
                raise click.ClickException(f"{editor} ended with exit code {code}; nothing was stored")
            if not changed.strip() or changed == text:
                said("Edit cancelled, no changes made.")
                return 0
            try:
                (edited,) = manifests(changed)
                stored = await client.update(edited)
            except (ValueError, ApiError) as error:
                note = "".join(f"# {line}\n" for line in str(error).splitlines())
                if not sys.stdin.isatty():
                    raise
                text = changed
                continue
            said(f"{label_of(stored['apiVersion'], stored['kind'], name)} edited")
            return 0

    return session.run(work)
