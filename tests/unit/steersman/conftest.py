"""A transport that plays back scripted watch streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from steersman.errors import ApiError
from steersman.types import Pod
from steersman.types.meta import ObjectMeta
from steersman.v1 import objects_pb2 as pb

KINDS = pb.WatchEvent.Kind


def pod(name: str, revision: int, **labels: str) -> Pod:
    meta = ObjectMeta(name=name, namespace="default", uid=f"uid-{name}", resource_version=str(revision), labels=labels)
    return Pod(metadata=meta)


def change(kind: str, obj: Pod) -> pb.WatchEvent:
    return pb.WatchEvent(
        kind=KINDS.Value(kind), object=pb.Object(name=obj.name, revision=obj.metadata.revision, json=obj.encode())
    )


def response(revision: int, *events: pb.WatchEvent, synced: bool = True) -> pb.WatchResponse:
    return pb.WatchResponse(events=events, revision=revision, synced=synced)


class ScriptedTransport:
    """Each watch gets the next script: responses, or an ApiError to fail with; the last one then stays open."""

    def __init__(self, *scripts: list[pb.WatchResponse | ApiError]) -> None:
        self.scripts = list(scripts)
        self.watched_from: list[int] = []

    async def stream(self, service: str, method: str, request: Any) -> AsyncIterator[Any]:
        assert (service, method) == ("Objects", "Watch")
        self.watched_from.append(request.revision)
        for item in self.scripts.pop(0) if self.scripts else []:
            if isinstance(item, ApiError):
                raise item
            yield item
        if not self.scripts:
            await asyncio.Event().wait()

    async def unary(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("no unary calls are scripted")

    async def close(self) -> None:
        pass


@pytest.fixture
def scripted() -> type[ScriptedTransport]:
    return ScriptedTransport


@pytest.fixture
def make() -> Any:
    class Make:
        pod = staticmethod(pod)
        change = staticmethod(change)
        response = staticmethod(response)

    return Make
