"""Intents: the writes that a decision asks for, as data.

A decision returns them in a `Result`; the runtime carries them out, all of a round in one batch. They are independent
of each other: any may fail by itself, so a decision must be right whichever of its intents came true.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from steersman import ApiError
from steersman.types import KubeObject
from steersman.types.core import ObjectReference

Kind = type[KubeObject] | str  # a view class, or "group/version/Kind" as the client reads it
NORMAL, WARNING = "Normal", "Warning"


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """Tell people something about an object. `{name}` in the message becomes the name of the object just written."""

    about: ObjectReference
    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Create:
    """Create an object. `done` is recorded when it was created, `failed` (with the error added) when it was refused."""

    document: dict[str, Any]
    namespace: str = ""
    done: RecordEvent | None = None
    failed: RecordEvent | None = None

    @property
    def kind_name(self) -> str:
        return str(self.document["kind"])


@dataclass(frozen=True, slots=True)
class Patch:
    """Change parts of an object. With `uid`, only that very object is changed; with `revision`, only as it was seen."""

    kind: Kind
    name: str
    patch: Any
    namespace: str = ""
    format: str = "merge"
    subresource: str = ""
    uid: str = ""
    revision: str = ""
    done: RecordEvent | None = None
    failed: RecordEvent | None = None

    @property
    def kind_name(self) -> str:
        return kind_name(self.kind)


@dataclass(frozen=True, slots=True)
class UpdateStatus:
    """Write fields of an object's status; fields that are not named stay, lists are replaced."""

    kind: Kind
    name: str
    status: dict[str, Any]
    namespace: str = ""
    uid: str = ""

    @property
    def kind_name(self) -> str:
        return kind_name(self.kind)


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an object: only the one with that uid, and with `revision` only as it was seen. `grace` is in seconds."""

    kind: Kind
    name: str
    namespace: str = ""
    uid: str = ""
    revision: int = 0
    grace: int | None = None
    propagation: str = ""
    done: RecordEvent | None = None
    failed: RecordEvent | None = None

    @property
    def kind_name(self) -> str:
        return kind_name(self.kind)


Write = Create | Patch | UpdateStatus | Delete
Intent = Write | RecordEvent


def kind_name(kind: Kind) -> str:
    """ "Pod" of the Pod view, "ConfigMap" of "v1/ConfigMap"."""
    return kind.rpartition("/")[2] if isinstance(kind, str) else kind.KIND


@dataclass(frozen=True, slots=True)
class Result:
    """What a decision came to.

    Attributes:
        intents: what to write, in no promised order.
        requeue_after: seconds after which time alone changes the decision; None: only changes do.
        reasons: why, one sentence each, for logs and `steer why`.
    """

    intents: tuple[Intent, ...] = ()
    requeue_after: float | None = None
    reasons: tuple[str, ...] = ()


NOTHING = Result()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the last round's intents for a key did not all come true; handed to the next decision about it."""

    reason: str
    message: str
    kind: str = ""
    verb: str = ""

    @classmethod
    def of(cls, error: ApiError, intent: Write) -> Failure:
        return cls(error.reason, error.message, intent.kind_name, type(intent).__name__.lower())


@dataclass(slots=True)
class Plan:
    """Gathers a decision's intents and reasons while it is being made."""

    intents: list[Intent] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    requeue_after: float | None = None

    def add(self, intent: Intent, reason: str = "") -> None:
        self.intents.append(intent)
        if reason:
            self.reasons.append(reason)

    def again(self, seconds: float) -> None:
        """Look again after so many seconds, or earlier if asked for before."""
        self.requeue_after = seconds if self.requeue_after is None else min(self.requeue_after, seconds)

    def result(self) -> Result:
        return Result(tuple(self.intents), self.requeue_after, tuple(self.reasons))
