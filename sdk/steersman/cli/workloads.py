"""`scale`, `set image`, `rollout`."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from steersman.cli.describe import REVISION
from steersman.cli.output import print_rows, said, yaml_text
from steersman.cli.session import Session, Target, label_of, namespace_for, one, targets
from steersman.client import AsyncClient
from steersman.clock import SystemClock, rfc3339
from steersman.errors import ApiError
from steersman.types import Deployment, ReplicaSet

HASH_LABEL = "pod-template-hash"
CHANGE_CAUSE = "kubernetes.io/change-cause"


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="TYPE NAME… | TYPE/NAME…")
@click.option("--replicas", type=click.IntRange(min=0), required=True, help="How many there shall be.")
@click.option("--current-replicas", type=int, help="Only if there are this many now.")
@click.pass_obj
def scale(session: Session, what: tuple[str, ...], replicas: int, current_replicas: int | None) -> None:
    """Set the number of replicas: `steer scale deploy/web --replicas 10`."""

    async def work(client: AsyncClient) -> None:
        for target in await targets(session, client, what):
            if not target.names:
                raise click.UsageError("name what to scale, as `deploy/web`")
            namespace = namespace_for(target.info, session)
            if "scale" not in target.info.subresources:
                raise click.ClickException(f"the server does not allow scaling of {target.resource}")
            for name in target.names:
                patch: dict[str, Any] = {"spec": {"replicas": replicas}}
                if current_replicas is not None:
                    document = await client.get(target.key, name, namespace)
                    now = document["spec"].get("replicas", 1)
                    if now != current_replicas:
                        raise click.ClickException(f"Expected replicas to be {current_replicas}, was {now}")
                    patch["metadata"] = {"resourceVersion": document["metadata"]["resourceVersion"]}
                await client.patch(target.key, name, patch, namespace, subresource="scale")
                said(f"{label_of(target.info.api_version, target.info.kind, name)} scaled")

    session.run(work)


@click.group(name="set")
def set_() -> None:
    """Change one thing of a workload."""


@set_.command()
@click.argument("words", nargs=-1, required=True, metavar="TYPE NAME CONTAINER=IMAGE…")
@click.pass_obj
def image(session: Session, words: tuple[str, ...]) -> None:
    """Set containers' images: `steer set image deploy/web web=registry.lab/web:v2` (`*=` means all)."""
    what = [word for word in words if "=" not in word]
    wanted = dict(word.split("=", 1) for word in words if "=" in word)
    if not wanted:
        raise click.UsageError("give at least one CONTAINER=IMAGE")

    async def work(client: AsyncClient) -> None:
        target, name = await one(session, client, what)
        namespace = namespace_for(target.info, session)
        document = await client.get(target.key, name, namespace)
        spec = document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
        containers = spec["containers"] + spec.get("initContainers", [])
        names = [container["name"] for container in containers]
        for container in wanted:
            if container not in names and container != "*":
                raise click.ClickException(f'unable to find container named "{container}"; it has: {", ".join(names)}')
        changes: dict[str, Any] = {}
        for field in ("containers", "initContainers"):
            found = [
                {"name": c["name"], "image": wanted.get(c["name"], wanted.get("*", ""))}
                for c in spec.get(field, ())
                if c["name"] in wanted or "*" in wanted
            ]
            if found:
                changes[field] = found
        patch = {"spec": changes} if document["kind"] == "Pod" else {"spec": {"template": {"spec": changes}}}
        await client.patch(target.key, name, patch, namespace, format="strategic")
        said(f"{label_of(document['apiVersion'], document['kind'], name)} image updated")

    session.run(work)


@click.group()
def rollout() -> None:
    """Follow and steer the rollout of a Deployment."""


def _rollout_command(function: Any) -> Any:
    return click.argument("what", nargs=-1, required=True, metavar="TYPE NAME | TYPE/NAME")(click.pass_obj(function))


async def _deployment(session: Session, client: AsyncClient, what: tuple[str, ...]) -> tuple[Target, Deployment, str]:
    target, name = await one(session, client, what)
    if target.info.kind != "Deployment":
        raise click.ClickException(f"{target.resource} has no rollouts: use a deployment")
    namespace = namespace_for(target.info, session)
    return target, await client.get(Deployment, name, namespace), namespace


async def _revisions(client: AsyncClient, deployment: Deployment) -> dict[int, dict[str, Any]]:
    """Revision -> the ReplicaSet document that holds it."""
    found = await client.list("apps/v1/ReplicaSet", deployment.namespace)
    revisions = {}
    for document in found.items:
        meta = document["metadata"]
        owned = any(owner["uid"] == deployment.uid for owner in meta.get("ownerReferences", ()))
        number = (meta.get("annotations") or {}).get(REVISION, "")
        if owned and number.isdigit():
            revisions[int(number)] = document
    return revisions


def rollout_state(deployment: Deployment) -> tuple[str, bool]:
    """What `rollout status` says of a Deployment, and whether it is done.

    Raises:
        click.ClickException: the progress deadline passed.
    """
    name, spec, status = deployment.name, deployment.spec, deployment.status
    if status.observed_generation < deployment.metadata.generation:
        return "Waiting for deployment spec update to be observed...", False
    progressing = next((c for c in status.conditions if c.type == "Progressing"), None)
    if progressing is not None and progressing.reason == "ProgressDeadlineExceeded":
        raise click.ClickException(f'deployment "{name}" exceeded its progress deadline')
    waiting = f'Waiting for deployment "{name}" rollout to finish: '
    if status.updated_replicas < spec.replicas:
        return f"{waiting}{status.updated_replicas} out of {spec.replicas} new replicas have been updated...", False
    if status.replicas > status.updated_replicas:
        return f"{waiting}{status.replicas - status.updated_replicas} old replicas are pending termination...", False
    if status.available_replicas < status.updated_replicas:
        return (
            f"{waiting}{status.available_replicas} of {status.updated_replicas} updated replicas are available...",
            False,
        )
    return f'deployment "{name}" successfully rolled out', True


@rollout.command()
@click.option("--watch/--no-watch", "-w", default=True, show_default=True, help="Wait until it is done.")
@click.option("--timeout", default=0.0, help="Seconds to wait; 0: as long as it takes.")
@_rollout_command
def status(session: Session, what: tuple[str, ...], watch: bool, timeout: float) -> None:
    """Show how far a rollout is, until it is done."""

    async def work(client: AsyncClient) -> None:
        _, deployment, namespace = await _deployment(session, client, what)
        said_last, done = rollout_state(deployment)
        click.echo(said_last)
        if done or not watch:
            return
        try:
            async with asyncio.timeout(timeout or None):
                async for event in client.watch(Deployment, namespace, fields=f"metadata.name={deployment.name}"):
                    if event.type == "DELETED":
                        raise click.ClickException(f'deployment "{deployment.name}" was deleted')
                    text, done = rollout_state(event.object)
                    if text != said_last:
                        click.echo(text)
                        said_last = text
                    if done:
                        return
        except TimeoutError:
            raise click.ClickException(f"timed out after {timeout:g} s waiting for the rollout") from None

    session.run(work)


@rollout.command()
@click.option("--revision", default=0, help="Show this revision's pod template.")
@_rollout_command
def history(session: Session, what: tuple[str, ...], revision: int) -> None:
    """List the revisions that a rollout can go back to."""

    async def work(client: AsyncClient) -> None:
        target, deployment, _ = await _deployment(session, client, what)
        revisions = await _revisions(client, deployment)
        label = label_of(target.info.api_version, target.info.kind, deployment.name)
        if revision:
            if revision not in revisions:
                raise click.ClickException(
                    f"unable to find the specified revision {revision}; there are: {_listed(revisions)}"
                )
            click.echo(f"{label} with revision #{revision}")
            click.echo(yaml_text(revisions[revision]["spec"]["template"]), nl=False)
            return
        click.echo(label)
        rows = [["REVISION", "CHANGE-CAUSE"]]
        for number, document in sorted(revisions.items()):
            rows.append([str(number), (document["metadata"].get("annotations") or {}).get(CHANGE_CAUSE, "<none>")])
        print_rows(rows)

    session.run(work)


def _listed(revisions: dict[int, Any]) -> str:
    return ", ".join(map(str, sorted(revisions))) or "none"


@rollout.command()
@click.option("--to-revision", default=0, help="Which one; 0: the one before.")
@_rollout_command
def undo(session: Session, what: tuple[str, ...], to_revision: int) -> None:
    """Go back to an earlier pod template."""

    async def work(client: AsyncClient) -> None:
        target, deployment, namespace = await _deployment(session, client, what)
        label = label_of(target.info.api_version, target.info.kind, deployment.name)
        if deployment.spec.paused:
            raise click.ClickException(
                f"you cannot rollback a paused deployment; resume it first with `steer rollout resume deployment/{deployment.name}` and try again"
            )
        revisions = await _revisions(client, deployment)
        current = int(deployment.metadata.annotations.get(REVISION, "0") or 0)
        number = to_revision or max((r for r in revisions if r != current), default=0)
        if number not in revisions:
            if to_revision:
                raise click.ClickException(
                    f"unable to find specified revision {to_revision} in history; there are: {_listed(revisions)}"
                )
            raise click.ClickException(f'no rollout history found for deployment "{deployment.name}"')
        if number == current:
            said(f"{label} skipped rollback (current template already matches revision {number})")
            return
        template = revisions[number]["spec"]["template"]
        (template.get("metadata", {}).get("labels") or {}).pop(HASH_LABEL, None)
        patch = [{"op": "replace", "path": "/spec/template", "value": template}]
        await client.patch(Deployment, deployment.name, patch, namespace, format="json")
        said(f"{label} rolled back")

    session.run(work)


def _set_paused(session: Session, what: tuple[str, ...], *, paused: bool) -> None:
    async def work(client: AsyncClient) -> None:
        target, deployment, namespace = await _deployment(session, client, what)
        word = "paused" if paused else "resumed"
        if deployment.spec.paused == paused:
            raise click.ClickException(
                f'deployments.apps "{deployment.name}" is {"already" if paused else "not"} paused'
            )
        await client.patch(Deployment, deployment.name, {"spec": {"paused": paused or None}}, namespace)
        said(f"{label_of(target.info.api_version, target.info.kind, deployment.name)} {word}")

    session.run(work)


@rollout.command()
@_rollout_command
def pause(session: Session, what: tuple[str, ...]) -> None:
    """Let template changes gather without rolling them out."""
    _set_paused(session, what, paused=True)


@rollout.command()
@_rollout_command
def resume(session: Session, what: tuple[str, ...]) -> None:
    """Roll out what gathered while paused."""
    _set_paused(session, what, paused=False)


@rollout.command()
@_rollout_command
def restart(session: Session, what: tuple[str, ...]) -> None:
    """Replace every pod, by the Deployment's own strategy."""

    async def work(client: AsyncClient) -> None:
        target, deployment, namespace = await _deployment(session, client, what)
        if deployment.spec.paused:
            raise click.ClickException(
                f"deployments.apps {deployment.name!r} can't restart paused deployment (run rollout resume first)"
            )
        mark = {"kubectl.kubernetes.io/restartedAt": rfc3339(SystemClock().now())}
        patch = {"spec": {"template": {"metadata": {"annotations": mark}}}}
        await client.patch(Deployment, deployment.name, patch, namespace)
        said(f"{label_of(target.info.api_version, target.info.kind, deployment.name)} restarted")

    session.run(work)


async def pod_template_owner(client: AsyncClient, kind: str, name: str, namespace: str) -> str:
    """The label selector of a workload's pods. Raises ApiError, click.ClickException for kinds without pods."""
    from steersman import selectors  # noqa: PLC0415

    views: dict[str, Any] = {"Deployment": Deployment, "ReplicaSet": ReplicaSet}
    if kind in views:
        workload = await client.get(views[kind], name, namespace)
        return str(selectors.from_label_selector(workload.spec.selector))
    document = await client.get(kind, name, namespace)
    selector = document.get("spec", {}).get("selector")
    if not selector:
        raise ApiError("BadRequest", f"{kind} {name!r} selects no pods: name a pod instead")
    return ",".join(f"{key}={value}" for key, value in selector.items())
