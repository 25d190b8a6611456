"""What a write is given from outside: the time and the identities it may use."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from steersman.clock import rfc3339

STRICT, WARN, IGNORE = "Strict", "Warn", "Ignore"  # fieldValidation: what an unknown or duplicate field leads to


@dataclass(frozen=True, slots=True)
class Context:
    """Attributes:
    now: the time that the write carries.
    uid: metadata.uid of the object, should it be created.
    suffix: the random end of its name, should metadata.generateName be used.
    """

    now: dt.datetime
    uid: str = ""
    suffix: str = ""

    @property
    def timestamp(self) -> str:
        """`now` as metav1.Time."""
        return rfc3339(self.now)
