import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman import selectors
from steersman.types.meta import LabelSelector, LabelSelectorRequirement

LABELS = {"app": "web", "tier": "front", "cores": "8", "empty": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier in (front, back)", True),
        ("app!=web", False),
        ("missing!=x", True),
        ("!missing", True),
        ("!app", False),
        ("app", True),
        ("tier notin (front)", False),
        ("missing notin (front)", True),
        ("cores>7", True),
        ("cores<8", False),
        ("app>1", False),
        ("empty=", True),
        ("empty in ()", False),
    ],
)
def test_selectors_match_as_kubernetes_defines(text: str, expected: bool) -> None:
    assert selectors.parse(text).matches(LABELS) is expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("app in web", "'\\('"),
        ("=web", "a label key"),
        ("app web", "one of = =="),
        ("app in (a", "',' or '\\)'"),
        ("a,,b", "a label key"),
        ("-bad=x", "must be 1 to 63 characters"),
        ("a=" + "x" * 64, "at most 63 characters"),
    ],
)
def test_a_bad_selector_is_refused_with_what_was_expected(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        selectors.parse(text)


@given(st.text(alphabet="ab=!,() <>in", max_size=20))
def test_parsing_never_fails_with_anything_but_a_sentence(text: str) -> None:
    try:
        parsed = selectors.parse(text)
    except ValueError as error:
        assert "unable to parse selector" in str(error)
    else:
        assert selectors.parse(str(parsed)) == parsed


def test_an_objects_selector_selects_nothing_when_absent_and_everything_when_empty() -> None:
    assert not selectors.from_label_selector(None).matches(LABELS)
    assert selectors.from_label_selector(LabelSelector()).matches(LABELS)
    terms = (LabelSelectorRequirement(key="tier", operator="NotIn", values=("back",)),)
    assert selectors.from_label_selector(LabelSelector(match_labels={"app": "web"}, match_expressions=terms)).matches(
        LABELS
    )


def test_field_selectors_know_equality_only() -> None:
    selector = selectors.parse_fields("spec.nodeName=node-1,status.phase!=Running")
    assert selector.matches({"spec.nodeName": "node-1", "status.phase": "Pending"})
    assert not selector.matches({"spec.nodeName": "node-1", "status.phase": "Running"})
    with pytest.raises(ValueError, match="path=value"):
        selectors.parse_fields("spec.nodeName")
