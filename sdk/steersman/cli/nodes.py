"""`cordon`, `uncordon`, `drain`, `taint`."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from steersman.cli.output import said
from steersman.cli.session import Session
from steersman.client import AsyncClient
from steersman.errors import ApiError
from steersman.types import Node, Pod

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
RETRY_S = 1.0  # between tries to evict a pod that a disruption budget protects


async def _set_unschedulable(client: AsyncClient, name: str, *, wanted: bool) -> None:
    node = await client.get(Node, name)
    word = "cordoned" if wanted else "uncordoned"
    if node.spec.unschedulable == wanted:
        said(f"node/{name} already {word}")
        return
    await client.patch(Node, name, {"spec": {"unschedulable": wanted or None}})
    said(f"node/{name} {word}")


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NODE…")
@click.pass_obj
def cordon(session: Session, names: tuple[str, ...]) -> None:
    """Let no new pods onto nodes."""

    async def work(client: AsyncClient) -> None:
        for name in names:
            await _set_unschedulable(client, name, wanted=True)

    session.run(work)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NODE…")
@click.pass_obj
def uncordon(session: Session, names: tuple[str, ...]) -> None:
    """Let pods onto nodes again."""

    async def work(client: AsyncClient) -> None:
        for name in names:
            await _set_unschedulable(client, name, wanted=False)

    session.run(work)


@click.command()
@click.argument("name", metavar="NODE")
@click.option("--ignore-daemonsets", is_flag=True, help="Leave pods of DaemonSets where they are.")
@click.option("--force", is_flag=True, help="Also pods that nothing will replace.")
@click.option("--delete-emptydir-data", is_flag=True, help="Also pods whose emptyDir data will be lost.")
@click.option("--grace-period", default=-1, help="Seconds that pods get to end; -1: their own.")
@click.option("--timeout", default=0.0, help="Seconds for all of it; 0: as long as it takes.")
@click.pass_obj
def drain(session: Session, /, name: str, **options: Any) -> None:
    """Cordon a node and evict its pods, so that it can be taken away."""

    async def work(client: AsyncClient) -> None:
        await _set_unschedulable(client, name, wanted=True)
        pods = (await client.list(Pod, fields=f"spec.nodeName={name}")).items
        leaving, problems = _sorted_out(list(pods), options)
        if problems:
            raise click.ClickException(f"cannot drain node {name}: " + "; ".join(problems))
        try:
            async with asyncio.timeout(options["timeout"] or None):
                await asyncio.gather(*(_evict(client, pod, options["grace_period"]) for pod in leaving))
        except TimeoutError:
            raise click.ClickException(f"node {name} was not drained within {options['timeout']:g} s") from None
        said(f"node/{name} drained")

    session.run(work)


def _sorted_out(pods: list[Pod], options: dict[str, Any]) -> tuple[list[Pod], list[str]]:
    """The pods to evict, and why it cannot be done."""
    leaving, daemons, alone, local = [], [], [], []
    for pod in pods:
        owner = pod.metadata.controller
        if pod.finished:
            leaving.append(pod)
            continue
        if owner is not None and owner.kind == "DaemonSet":
            daemons.append(pod.name)
            continue
        if owner is None:
            alone.append(pod.name)
        if any(volume.empty_dir is not None for volume in pod.spec.volumes):
            local.append(pod.name)
        leaving.append(pod)
    problems = []
    if daemons and not options["ignore_daemonsets"]:
        problems.append(f"DaemonSet-managed pods (use --ignore-daemonsets to ignore): {', '.join(daemons)}")
    if alone and not options["force"]:
        problems.append(f"pods that declare no controller (use --force to override): {', '.join(alone)}")
    if local and not options["delete_emptydir_data"]:
        problems.append(f"pods with local storage (use --delete-emptydir-data to override): {', '.join(local)}")
    return leaving, problems


async def _evict(client: AsyncClient, pod: Pod, grace: int) -> None:
    eviction: dict[str, Any] = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace},
    }
    if grace >= 0:
        eviction["deleteOptions"] = {"gracePeriodSeconds": grace}
    said(f"evicting pod {pod.namespace}/{pod.name}")
    while True:
        request = client.create_request(eviction, pod.namespace, subresource="eviction", name=pod.name)
        try:
            await client.transport.unary("Objects", "Create", request)
            break
        except ApiError as error:
            if error.reason == "NotFound":
                return
            if error.reason != "TooManyRequests":
                raise
            await asyncio.sleep(RETRY_S)
    listed = await client.list(Pod, pod.namespace, fields=f"metadata.name={pod.name}")
    if any(found.uid == pod.uid for found in listed.items):
        async for event in client.watch(
            Pod, pod.namespace, fields=f"metadata.name={pod.name}", revision=listed.revision
        ):
            if event.type == "DELETED" and event.object.uid == pod.uid:
                break
    said(f"pod/{pod.name} evicted")


def parse_taint(text: str) -> tuple[dict[str, str], bool]:
    """`key[=value]:Effect` to add, `key[:Effect]-` to remove; answers the taint and whether it goes.

    Raises:
        click.UsageError: it is neither.
    """
    removing = text.endswith("-")
    body, _, effect = text.removesuffix("-").partition(":")
    key, _, value = body.partition("=")
    if not key or (effect and effect not in EFFECTS) or (not removing and not effect):
        raise click.UsageError(
            f"{text!r}: write KEY[=VALUE]:EFFECT to add, KEY[:EFFECT]- to remove; effects: {', '.join(EFFECTS)}"
        )
    return {"key": key, "value": value, "effect": effect}, removing


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="nodes NAME… KEY[=VALUE]:EFFECT… [KEY-…]")
@click.option("--overwrite", is_flag=True, help="Change taints that are there already.")
@click.pass_obj
def taint(session: Session, words: tuple[str, ...], overwrite: bool) -> None:
    """Add or remove taints of nodes: `steer taint nodes node-1 dedicated=db:NoSchedule`."""
    if words[0] not in ("node", "nodes", "no"):
        raise click.UsageError("write: taint nodes NAME… KEY[=VALUE]:EFFECT…")
    names = [word for word in words[1:] if ":" not in word and not word.endswith("-") and "=" not in word]
    changes = [parse_taint(word) for word in words[1:] if word not in names]
    if not names or not changes:
        raise click.UsageError("name at least one node and one taint")

    async def work(client: AsyncClient) -> None:
        for name in names:
            document = await client.get("v1/Node", name, "")
            taints = list(document.get("spec", {}).get("taints") or [])
            for wanted, removing in changes:
                same = [
                    t
                    for t in taints
                    if t["key"] == wanted["key"] and (not wanted["effect"] or t["effect"] == wanted["effect"])
                ]
                if removing and not same:
                    raise click.ClickException(f'taint "{wanted["key"]}" not found on node {name}')
                if not removing and same and not overwrite and same[0].get("value", "") != wanted["value"]:
                    raise click.ClickException(
                        f"node {name} already has {wanted['key']} taint(s) with the same effect and --overwrite is false"
                    )
                taints = [t for t in taints if t not in same]
                if not removing:
                    taints.append({key: value for key, value in wanted.items() if value})
            patch = {
                "metadata": {"resourceVersion": document["metadata"]["resourceVersion"]},
                "spec": {"taints": taints or None},
            }
            await client.patch("v1/Node", name, patch, "")
            said(f"node/{name} {'untainted' if all(removing for _, removing in changes) else 'tainted'}")

    session.run(work)
