"""The kinds that the cluster serves, each with its one shared cache: what the controllers of all kinds look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from steersman import Cache
from steersman.types import KubeObject, PartialObject
from steersman.v1 import objects_pb2 as pb


@dataclass(frozen=True, slots=True)
class Served:
    """Attributes:
    kind: as intents name it, "apps/v1/Deployment".
    resource: the plural that people and error messages use.
    view: what its cache decodes.
    """

    kind: str
    api_version: str
    name: str
    resource: str
    namespaced: bool
    view: type[KubeObject]
    cache: Cache[Any]

    @property
    def group(self) -> str:
        """ "apps" of apps/v1, "" of v1."""
        return self.api_version.rpartition("/")[0]


def metadata_view(info: pb.KindInfo) -> type[PartialObject]:
    """A view of a kind's metadata: enough to find owners and to empty a namespace."""

    class Metadata(PartialObject, frozen=True):
        API_VERSION: ClassVar[str] = info.api_version
        KIND: ClassVar[str] = info.kind
        PLURAL: ClassVar[str] = info.plural
        NAMESPACED: ClassVar[bool] = info.namespaced

    Metadata.__name__ = Metadata.__qualname__ = f"{info.kind}Metadata"
    return Metadata
