"""What every command needs: the cluster, the namespace, a client for one run, and names of things as users write them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from steersman import config as configuration
from steersman.client import AsyncClient
from steersman.transport import GrpcTransport
from steersman.v1 import objects_pb2 as pb

R = TypeVar("R")
PATIENCE_S = (
    5.0  # for a first connection: a leader that fails is replaced well within it, and nobody waits longer unasked
)


@dataclass(slots=True)
class Session:
    """One invocation: global options, and the kinds that the cluster serves once they were asked for."""

    cluster: str = ""
    namespace: str = ""
    config: Path | None = None
    timeout: float = 30.0
    _kinds: list[pb.KindInfo] = field(default_factory=list)

    def run(self, work: Callable[[AsyncClient], Awaitable[R]]) -> R:
        """Run `work` with a connected client. Raises ConfigError and ApiError, which `main` shows."""

        async def with_client() -> R:
            found = configuration.load(self.config, self.cluster)
            self.namespace = self.namespace or found.namespace
            client = AsyncClient(
                GrpcTransport.from_config(found, limit_s=self.timeout, patience_s=PATIENCE_S),
                namespace=self.namespace,
                field_manager="steer",
            )
            async with client:
                return await work(client)

        return asyncio.run(with_client())

    async def kinds(self, client: AsyncClient) -> list[pb.KindInfo]:
        """The served kinds, asked for once."""
        if not self._kinds:
            self._kinds = list(await client.kinds(timeout=self.timeout))
        return self._kinds

    async def kind(self, client: AsyncClient, name: str) -> pb.KindInfo:
        """The kind that a user means by plural, singular, short name or Kind, each also as NAME.GROUP.

        Raises:
            click.UsageError: there is none.
        """
        wanted, _, group = name.lower().partition(".")
        for info in await self.kinds(client):
            its_group = info.api_version.rpartition("/")[0]
            names = {info.plural, info.singular, info.kind.lower(), *info.short_names}
            if wanted in names and (not group or group == its_group or group.endswith(f".{its_group}")):
                return info
        raise click.ClickException(
            f'the server doesn\'t have a resource type "{name}"; `steer api-resources` lists what it has'
        )


@dataclass(frozen=True, slots=True)
class Target:
    """A kind and the names meant (none: all of it)."""

    info: pb.KindInfo
    names: tuple[str, ...] = ()

    @property
    def type(self) -> pb.Type:
        return pb.Type(api_version=self.info.api_version, kind=self.info.kind)

    @property
    def key(self) -> str:
        """`api_version/Kind`, as the client's string kinds are written."""
        return f"{self.info.api_version}/{self.info.kind}"

    @property
    def resource(self) -> str:
        """`deployments.apps`, `pods`."""
        return qualified(self.info.plural, self.info.api_version)


def qualified(name: str, api_version: str) -> str:
    """A resource or kind name with its group, as kubectl prints it."""
    group = api_version.rpartition("/")[0]
    return f"{name}.{group}" if group else name


def label_of(api_version: str, kind: str, name: str) -> str:
    """`deployment.apps/web`, `pod/web-1`."""
    return f"{qualified(kind.lower(), api_version)}/{name}"


async def targets(session: Session, client: AsyncClient, words: Sequence[str]) -> list[Target]:
    """Read `pods`, `pods a b`, `pod/a deploy/b`, `pods,services`, `all` as kubectl does.

    Raises:
        click.UsageError: no type is named, or the forms are mixed.
    """
    if not words:
        raise click.UsageError("name a type of resource, as `pods` or `deploy/web`; `steer api-resources` lists them")
    if any("/" in word for word in words):
        if not all(word.count("/") == 1 for word in words):
            raise click.UsageError("write either TYPE NAME… or TYPE/NAME…, not both")
        found = []
        for word in words:
            kind, name = word.split("/")
            if not kind or not name:
                raise click.UsageError(f"{word!r}: write TYPE/NAME")
            found.append(Target(await session.kind(client, kind), (name,)))
        return found
    names = tuple(words[1:])
    result = []
    for word in filter(None, words[0].split(",")):
        if word == "all":
            result += [Target(info, names) for info in await session.kinds(client) if "all" in info.categories]
        else:
            result.append(Target(await session.kind(client, word), names))
    return result


def namespace_for(info: pb.KindInfo, session: Session, *, everywhere: bool = False) -> str:
    return "" if everywhere or not info.namespaced else session.namespace


async def one(session: Session, client: AsyncClient, words: Sequence[str]) -> tuple[Target, str]:
    """Exactly one object: `deploy/web` or `deploy web`."""
    found = await targets(session, client, words)
    names = [(target, name) for target in found for name in target.names]
    if len(names) != 1:
        raise click.UsageError("name exactly one object, as `deploy/web` or `deploy web`")
    return names[0]


Document = dict[str, Any]
