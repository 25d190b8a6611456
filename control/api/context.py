"""What every handler works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

from control import admission
from control.api.authorization import Access, Authorizer, GroupAuthorizer, require
from control.api.barrier import Barrier
from control.api.leadership import Leadership
from control.identity import Caller
from control.registry import REGISTRY, Context, Registry, Resource
from control.store.interface import Cause, Store
from steersman.clock import Clock, Entropy
from steersman.v1 import objects_pb2 as pb


class Index(Protocol):
    """What a store that keeps the state itself offers beside `Store`: which keys have a label, an owner, a node."""

    def lookup(self, resource: str, index: Literal["label", "node", "phase", "uid"], value: str) -> Sequence[str]:
        """Keys under a resource prefix as of the newest state, in key order."""
        ...


@dataclass(frozen=True)
class ClusterNetwork:
    """The address plan that allocations come from (flags of `steer-control run`)."""

    cluster_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    node_cidr_mask: int = 24


@dataclass(frozen=True)
class ApiContext:
    """The parts that handlers share; all of them injected."""

    store: Store
    leadership: Leadership
    clock: Clock
    entropy: Entropy
    registry: Registry = REGISTRY
    authorizer: Authorizer = field(default_factory=GroupAuthorizer)
    admission: admission.Config = field(default_factory=admission.Config)
    network: ClusterNetwork = field(default_factory=ClusterNetwork)

    @cached_property
    def barrier(self) -> Barrier:
        """Coalesced linearizable reads."""
        return Barrier(self.store.barrier)

    @cached_property
    def index(self) -> Index | None:
        """The store's indexes, if it has them."""
        return getattr(self.store, "index", None)

    def now(self, uid: str = "") -> Context:
        """The time and the identities of one write; `uid` when the request settled it."""
        return Context(self.clock.now(), uid or self.entropy.uid(), self.entropy.suffix())

    def resource(self, wanted: pb.Type) -> Resource:
        """The resource that a request names. Raises ApiError NotFound."""
        return self.registry.find(api_version=wanted.api_version, kind=wanted.kind, name=wanted.resource)

    def require(
        self, caller: Caller, verb: str, resource: Resource, namespace: str = "", name: str = "", subresource: str = ""
    ) -> None:
        """Raises ApiError Forbidden when the caller may not."""
        scope = namespace if resource.namespaced else ""
        require(self.authorizer, caller, Access(verb, resource.group, resource.plural, scope, name, subresource))


def cause_of(options: pb.WriteOptions, caller: Caller) -> Cause:
    """What is stored as the cause of a write. Only the control plane itself may act under any name: others' names are told."""
    actor = options.cause.actor
    if not caller.is_member:
        actor = f"user:{caller.user}/{actor}" if actor else f"user:{caller.user}"
    return Cause(options.cause.revision, actor or caller.user)


_MODES = {
    pb.WriteOptions.FIELD_VALIDATION_UNSPECIFIED: "Strict",
    pb.WriteOptions.IGNORE: "Ignore",
    pb.WriteOptions.WARN: "Warn",
    pb.WriteOptions.STRICT: "Strict",
}


def mode_of(options: pb.WriteOptions) -> str:
    """The registry's name of the field validation asked for."""
    return _MODES.get(options.field_validation, "Strict")
