"""JSON patch (RFC 6902) and merge patch (RFC 7386)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.registry.patches import json_patch, merge_patch
from steersman.errors import ApiError

# RFC 7386, appendix A.
MERGES = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "result"), MERGES)
def test_merge_patch_as_the_rfc_shows(target: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy((target, patch))
    assert merge_patch(target, patch) == result
    assert (target, patch) == before


# RFC 6902, appendix A, and what is refused.
PATCHES = [
    ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
    ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
    ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
    ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
    ({"a": {"b": 1}, "c": {}}, [{"op": "move", "from": "/a/b", "path": "/c/d"}], {"a": {}, "c": {"d": 1}}),
    ({"a": [1, 2, 3]}, [{"op": "move", "from": "/a/0", "path": "/a/2"}], {"a": [2, 3, 1]}),
    (
        {"a": [1]},
        [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/b/-", "value": 2}],
        {"a": [1], "b": [1, 2]},
    ),
    (
        {"a": {"x/y": 1, "m~n": 2}},
        [{"op": "remove", "path": "/a/x~1y"}, {"op": "remove", "path": "/a/m~0n"}],
        {"a": {}},
    ),
    ({"a": 1}, [{"op": "test", "path": "/a", "value": 1}, {"op": "add", "path": "", "value": {"b": 2}}], {"b": 2}),
]


@pytest.mark.parametrize(("document", "operations", "result"), PATCHES)
def test_json_patch_as_the_rfc_shows(document: Any, operations: Any, result: Any) -> None:
    assert json_patch(copy.deepcopy(document), operations) == result


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ([{"op": "nope"}], "op 'nope' is unknown"),
        ([{"op": "add", "path": "a", "value": 1}], "JSON pointer"),
        ([{"op": "add", "path": "/a"}], "needs a value"),
        ([{"op": "replace", "path": "/x", "value": 1}], "there is no 'x'"),
        ([{"op": "remove", "path": "/list/7"}], "outside a list of 2"),
        ([{"op": "remove", "path": "/list/01"}], "not an index"),
        ([{"op": "remove", "path": "/list/-"}], "not an index"),
        ([{"op": "test", "path": "/a", "value": True}], "test failed"),
        ([{"op": "add", "path": "/a/b", "value": 1}], "plain value"),
        ([{"op": "move", "from": "/list", "path": "/list/0"}], "into itself"),
        ([{"op": "remove", "path": ""}], "whole document"),
        ([1], "must be an object"),
    ],
)
def test_an_operation_that_cannot_be_done_refuses_the_patch(operations: Any, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        json_patch({"a": 1, "list": [1, 2]}, operations)
    assert refused.value.code == 422
    assert message in str(refused.value)


def test_a_patch_may_not_blow_the_document_up() -> None:
    doubling = [{"op": "copy", "from": "/a", "path": f"/a/{'-'}"} for _ in range(40)]
    with pytest.raises(ApiError, match="copies more than"):
        json_patch({"a": ["x" * 100_000]}, doubling)
    with pytest.raises(ApiError, match="at most 10000"):
        json_patch({}, [{"op": "add", "path": "/a", "value": 1}] * 10_001)


values = st.recursive(
    st.booleans() | st.integers(0, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab-0", max_size=2), inner, max_size=3),
    max_leaves=6,
)
pointers = st.lists(st.sampled_from(["a", "b", "0", "1", "-", ""]), max_size=3).map(
    lambda parts: "".join(f"/{p}" for p in parts)
)
operations = st.lists(
    st.fixed_dictionaries(
        {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]), "path": pointers},
        optional={"from": pointers, "value": values},
    ),
    max_size=5,
)


@given(values, operations)
def test_any_patch_is_applied_or_refused(document: Any, patch: Any) -> None:
    try:
        json_patch(document, patch)
    except ApiError as error:
        assert error.code in (400, 422)


@given(
    st.dictionaries(st.text("ab", max_size=2), values, max_size=3),
    st.dictionaries(st.text("ab", max_size=2), values, max_size=3),
)
def test_merging_twice_is_merging_once(target: Any, patch: Any) -> None:
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
