"""The store's refusals in the API's words."""

from __future__ import annotations

import datetime as dt

from control.store.encryption import SealedError
from control.store.interface import (
    CompactedError,
    FutureRevisionError,
    NoLeaderError,
    OverloadedError,
    StoreError,
    StoreFullError,
    TooSlowError,
)
from steersman.clock import rfc3339
from steersman.errors import ApiError, expired, unavailable


def from_store(error: StoreError) -> ApiError:
    """What a client is told when the store refuses.

    A write that may still be applied is a Timeout, never ServiceUnavailable: clients repeat the latter without asking.
    """
    match error:
        case NoLeaderError(uncertain=True):
            return ApiError(
                "Timeout",
                f"the leader was lost while the write was under way ({error}): it may or may not be applied; "
                "read the object again before repeating it",
            )
        case NoLeaderError():
            return no_leader(error.leader, str(error))
        case CompactedError():
            return expired(
                f"too old resource version: {error.revision} (revisions {error.oldest}{since(error)} and newer are available): list again"
            )
        case FutureRevisionError():
            return ApiError("Timeout", f"Too large resource version: {error}", retry_after=1)
        case StoreFullError():
            return ApiError("ServiceUnavailable", f"the store is full: {error}", code=503, retry_after=10)
        case OverloadedError():
            return ApiError("TooManyRequests", f"the store is overloaded: {error}", retry_after=1)
        case SealedError():
            return ApiError("InternalError", str(error))
        case TooSlowError():
            return expired(f"the watch was too slow: {error}: list again")
    return ApiError("InternalError", f"the store failed: {error}")


def since(error: CompactedError) -> str:
    """Write the oldest revision's time as ` of TIME`; nothing when it is not known."""
    return f" of {rfc3339(error.since)}" if error.since is not None else ""


def expired_before(moment: str, oldest: int, when: dt.datetime | None) -> ApiError:
    """The state at a moment is not kept."""
    told = f" of {rfc3339(when)}" if when is not None else ""
    return expired(f"the state at {moment} is not kept any more: revisions {oldest}{told} and newer are available")


def no_leader(leader: str = "", why: str = "") -> ApiError:
    """Nothing was done, and trying again soon helps."""
    if leader:
        return unavailable(f"this member does not lead: {leader} does; try again")
    return unavailable(f"the control plane has no leader at the moment{f' ({why})' if why else ''}; try again")
