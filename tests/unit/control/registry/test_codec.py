"""Bodies are bounded and strict; stored bytes take the revision."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.registry import IGNORE, STRICT, WARN, codec
from steersman.errors import ApiError

documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(max_size=5), documents, max_size=4),
    st.dictionaries(st.text(max_size=5), documents, max_size=3),
)
def test_the_revision_spliced_into_stored_bytes_is_read_back(
    rest: dict[str, object], metadata: dict[str, object]
) -> None:
    value, splice = codec.encode({**rest, "metadata": metadata})
    read = codec.decode_stored(value[:splice] + b"42" + value[splice:])
    assert read.pop("metadata") == {**metadata, "resourceVersion": "42"}
    rest.pop("metadata", None)
    assert read == rest


def test_a_repeated_key_is_refused_warned_of_or_passed_over() -> None:
    body = b'{"spec": {"a": [{"b": 1, "b": 2}]}, "spec2": 1}'
    with pytest.raises(ApiError, match=r'duplicate field "spec.a\[0\].b"') as refused:
        codec.parse(body, STRICT)
    assert refused.value.code == 400
    assert codec.parse(body, WARN) == ({"spec": {"a": [{"b": 2}]}, "spec2": 1}, ['duplicate field "spec.a[0].b"'])
    assert codec.parse(body, IGNORE)[1] == []
    assert codec.parse(b'{"a":"\\u003c","b":[ ]}', STRICT)[1] == []


@pytest.mark.parametrize("body", [b"[" * 200 + b"]" * 200, b'{"a":' * 101 + b"1" + b"}" * 101, b"[" * 100_000])
def test_deep_nesting_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match=r"too deep|not JSON"):
        codec.parse_value(body)


def test_wide_documents_are_not_deep() -> None:
    assert codec.parse_value(b"[" + b",".join([b"[{}]"] * 500) + b"]")[1] == []


def test_oversize_is_refused_on_the_way_in_and_out() -> None:
    with pytest.raises(ApiError) as refused:
        codec.parse(b'{"a":"' + b"x" * codec.REQUEST_LIMIT + b'"}')
    assert refused.value.code == 413
    with pytest.raises(ApiError, match="at most 1572864") as refused:
        codec.encode({"metadata": {}, "data": {"a": "x" * codec.DOCUMENT_LIMIT}})
    assert refused.value.code == 413


@pytest.mark.parametrize(
    ("body", "what"), [(b"[]", "an array"), (b"1", "a number"), (b'"a"', "a string"), (b"null", "null")]
)
def test_only_objects_are_bodies(body: bytes, what: str) -> None:
    with pytest.raises(ApiError, match=f"must be a JSON object, not {what}"):
        codec.parse(body)
