import grpc
from google.rpc import status_pb2

from steersman import errors
from steersman.errors import ApiError, Cause


class FailedCall(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, bytes], ...] = ()) -> None:
        self._code, self._details, self._trailers = code, details, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return self._trailers


def test_an_error_survives_the_wire_whole() -> None:
    sent = errors.invalid("Pod", "web", [Cause("FieldValueRequired", "Required value", "spec.containers")])
    call = FailedCall(sent.grpc_code, "", ((errors.DETAILS_KEY, sent.trailer()),))
    received = ApiError.from_rpc(call)
    assert received.to_document() == sent.to_document()
    assert received.message == 'Pod "web" is invalid: spec.containers: Required value'
    assert status_pb2.Status.FromString(sent.trailer()).code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_a_call_that_never_arrived_is_unavailable_and_may_be_retried() -> None:
    error = ApiError.from_rpc(FailedCall(grpc.StatusCode.UNAVAILABLE, "failed to connect"))
    assert (error.reason, error.code, error.retry_after) == ("ServiceUnavailable", 503, 1)


def test_a_call_that_a_stopping_member_dropped_is_unavailable() -> None:
    assert ApiError.from_rpc(FailedCall(grpc.StatusCode.CANCELLED, "CANCELLED")).reason == "ServiceUnavailable"


def test_messages_are_worded_as_kubernetes_words_them() -> None:
    assert str(errors.not_found("deployments", "web", group="apps")) == 'deployments.apps "web" not found'
    assert str(errors.already_exists("pods", "a")) == 'pods "a" already exists'
    two = errors.invalid("Service", "s", [Cause("FieldValueInvalid", "x", "a"), Cause("FieldValueInvalid", "y", "b")])
    assert str(two) == 'Service "s" is invalid: [a: x, b: y]'
