"""The one error of the API, the same on both sides of the wire.

An `ApiError` is Kubernetes' meta/v1 Status: an HTTP code, a reason that programs test, a sentence that people read, and
for invalid objects one cause per field. In gRPC it travels as a `steersman.v1.Status` in the standard
`grpc-status-details-bin` trailer; the status code follows from the HTTP code by `GRPC_CODES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.rpc import status_pb2

from steersman.v1 import objects_pb2 as pb

DETAILS_KEY = "grpc-status-details-bin"  # gRPC's standard trailer for a google.rpc.Status

# reason -> (HTTP code, gRPC code). A reason that is not listed goes by its HTTP code.
REASONS: dict[str, tuple[int, grpc.StatusCode]] = {
    "BadRequest": (400, grpc.StatusCode.INVALID_ARGUMENT),
    "Unauthorized": (401, grpc.StatusCode.UNAUTHENTICATED),
    "Forbidden": (403, grpc.StatusCode.PERMISSION_DENIED),
    "NotFound": (404, grpc.StatusCode.NOT_FOUND),
    "MethodNotAllowed": (405, grpc.StatusCode.UNIMPLEMENTED),
    "NotAcceptable": (406, grpc.StatusCode.INVALID_ARGUMENT),
    "AlreadyExists": (409, grpc.StatusCode.ALREADY_EXISTS),
    "Conflict": (409, grpc.StatusCode.ABORTED),
    "Expired": (410, grpc.StatusCode.OUT_OF_RANGE),
    "RequestEntityTooLarge": (413, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "UnsupportedMediaType": (415, grpc.StatusCode.INVALID_ARGUMENT),
    "Invalid": (422, grpc.StatusCode.INVALID_ARGUMENT),
    "TooManyRequests": (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "InternalError": (500, grpc.StatusCode.INTERNAL),
    "ServiceUnavailable": (503, grpc.StatusCode.UNAVAILABLE),
    "Timeout": (504, grpc.StatusCode.DEADLINE_EXCEEDED),
}
_REASON_OF_GRPC = {
    grpc.StatusCode.INVALID_ARGUMENT: "BadRequest",
    grpc.StatusCode.UNAUTHENTICATED: "Unauthorized",
    grpc.StatusCode.PERMISSION_DENIED: "Forbidden",
    grpc.StatusCode.NOT_FOUND: "NotFound",
    grpc.StatusCode.UNIMPLEMENTED: "MethodNotAllowed",
    grpc.StatusCode.ALREADY_EXISTS: "AlreadyExists",
    grpc.StatusCode.ABORTED: "Conflict",
    grpc.StatusCode.OUT_OF_RANGE: "Expired",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "TooManyRequests",
    grpc.StatusCode.UNAVAILABLE: "ServiceUnavailable",
    grpc.StatusCode.CANCELLED: "ServiceUnavailable",  # not by the caller, who gets CancelledError: the member stopped
    grpc.StatusCode.DEADLINE_EXCEEDED: "Timeout",
}


@dataclass(frozen=True, slots=True)
class Cause:
    """What is wrong with one field; `reason` is FieldValueRequired, FieldValueInvalid, FieldValueNotSupported, …"""

    reason: str
    message: str
    field: str = ""


class ApiError(Exception):
    """A request was refused or failed.

    Attributes:
        code: HTTP status code.
        reason: Kubernetes' machine-readable reason, "NotFound", "Invalid", ….
        message: what was wrong, where, and how to mend it.
        group, kind, name: the object concerned; `kind` may be the resource ("pods") as Kubernetes writes it.
        causes: one per invalid field.
        retry_after: seconds after which the same request may succeed; 0: it won't by itself.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        code: int = 0,
        group: str = "",
        kind: str = "",
        name: str = "",
        causes: Sequence[Cause] = (),
        retry_after: int = 0,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code or REASONS.get(reason, (500, None))[0]
        self.message = message
        self.group = group
        self.kind = kind
        self.name = name
        self.causes = tuple(causes)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message

    @property
    def grpc_code(self) -> grpc.StatusCode:
        """The gRPC status code that stands for this error."""
        return REASONS.get(self.reason, (0, grpc.StatusCode.UNKNOWN))[1]

    def to_proto(self) -> pb.Status:
        """The error as it travels."""
        return pb.Status(
            code=self.code,
            reason=self.reason,
            message=self.message,
            group=self.group,
            kind=self.kind,
            name=self.name,
            causes=[pb.Status.StatusCause(reason=c.reason, message=c.message, field=c.field) for c in self.causes],
            retry_after_seconds=self.retry_after,
        )

    @classmethod
    def from_proto(cls, status: pb.Status) -> ApiError:
        """The error that a Status message tells of."""
        return cls(
            status.reason or "InternalError",
            status.message,
            code=status.code,
            group=status.group,
            kind=status.kind,
            name=status.name,
            causes=[Cause(c.reason, c.message, c.field) for c in status.causes],
            retry_after=status.retry_after_seconds,
        )

    def to_document(self) -> dict[str, Any]:
        """Kubernetes' Status document."""
        details: dict[str, Any] = {}
        if self.name:
            details["name"] = self.name
        if self.group:
            details["group"] = self.group
        if self.kind:
            details["kind"] = self.kind
        if self.causes:
            details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in self.causes]
        if self.retry_after:
            details["retryAfterSeconds"] = self.retry_after
        document: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if details:
            document["details"] = details
        return document

    def trailer(self) -> bytes:
        """The value of the `grpc-status-details-bin` trailer."""
        packed = any_pb2.Any()
        packed.Pack(self.to_proto())
        rich = status_pb2.Status(code=self.grpc_code.value[0], message=self.message, details=[packed])
        return bytes(rich.SerializeToString())

    @classmethod
    def from_rpc(cls, error: grpc.aio.AioRpcError | grpc.RpcError) -> ApiError:
        """The error that a failed call tells of, also when the server's answer has no Status (it never got there)."""
        for key, value in error.trailing_metadata() or ():
            if key == DETAILS_KEY:
                rich = status_pb2.Status.FromString(value)
                for detail in rich.details:
                    status = pb.Status()
                    if detail.Unpack(status):
                        return cls.from_proto(status)
        code = error.code()
        reason = _REASON_OF_GRPC.get(code, "InternalError")
        return cls(reason, error.details() or code.name, retry_after=1 if reason == "ServiceUnavailable" else 0)


def _quoted(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


def not_found(resource: str, name: str, *, group: str = "") -> ApiError:
    return ApiError("NotFound", f'{_quoted(resource, group)} "{name}" not found', group=group, kind=resource, name=name)


def already_exists(resource: str, name: str, *, group: str = "") -> ApiError:
    return ApiError(
        "AlreadyExists", f'{_quoted(resource, group)} "{name}" already exists', group=group, kind=resource, name=name
    )


def conflict(resource: str, name: str, why: str, *, group: str = "") -> ApiError:
    """`why` says what differs and what to do: usually read the object again and repeat the change on it."""
    return ApiError(
        "Conflict",
        f'Operation cannot be fulfilled on {_quoted(resource, group)} "{name}": {why}',
        group=group,
        kind=resource,
        name=name,
    )


def invalid(kind: str, name: str, causes: Iterable[Cause], *, group: str = "") -> ApiError:
    """One sentence that names every wrong field, as Kubernetes does: `Pod "x" is invalid: spec.a: Required value: …`."""
    found = tuple(causes)
    told = [f"{c.field}: {c.message}" if c.field else c.message for c in found]
    text = told[0] if len(told) == 1 else f"[{', '.join(told)}]"
    label = f"{kind}.{group}" if group else kind
    return ApiError("Invalid", f'{label} "{name}" is invalid: {text}', group=group, kind=kind, name=name, causes=found)


def bad_request(message: str) -> ApiError:
    return ApiError("BadRequest", message)


def forbidden(resource: str, name: str, why: str, *, group: str = "") -> ApiError:
    label = f'{_quoted(resource, group)} "{name}"' if name else _quoted(resource, group)
    return ApiError("Forbidden", f"{label} is forbidden: {why}", group=group, kind=resource, name=name)


def expired(message: str) -> ApiError:
    return ApiError("Expired", message)


def unavailable(message: str, *, retry_after: int = 1) -> ApiError:
    return ApiError("ServiceUnavailable", message, retry_after=retry_after)


def too_large(message: str) -> ApiError:
    return ApiError("RequestEntityTooLarge", message)
