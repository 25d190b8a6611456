import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman import quantity


@pytest.mark.parametrize(
    ("text", "millis", "units"),
    [
        ("100m", 100, 1),
        ("0.1", 100, 1),
        ("1", 1000, 1),
        ("1.5", 1500, 2),
        ("64Mi", 64 << 20, None),
        ("2e3", 2_000_000, 2000),
        ("1G", None, 10**9),
        ("100u", 1, 1),
        (".5", 500, 1),
    ],
)
def test_quantities_are_exact_and_round_up(text: str, millis: int | None, units: int | None) -> None:
    if text.endswith("Mi"):
        assert quantity.units(text) == millis
        return
    if millis is not None:
        assert quantity.millis(text) == millis
    if units is not None:
        assert quantity.units(text) == units


@pytest.mark.parametrize("text", ["", "1mi", "x", "1 Mi", "--1", "1e", "0x10", "1Kii"])
def test_what_is_no_quantity_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity.parse(text)


@given(st.integers(0, 1 << 50))
def test_rendered_amounts_read_back_as_themselves(value: int) -> None:
    assert quantity.units(quantity.render("memory", value)) == value
    assert quantity.millis(quantity.render("cpu", value)) == value


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("1000", "1k"),
        ("1500", "1500"),
        ("12e4", "120e3"),
        ("0", "0"),
        ("0Gi", "0"),
        ("512Mi", "512Mi"),
        ("0.1Gi", "107374182400m"),
        ("1Ki", "1Ki"),
        ("1000Ki", "1000Ki"),
        ("100u", "100u"),
    ],
)
def test_a_quantity_has_one_spelling(text: str, spelling: str) -> None:
    assert quantity.canonical(text) == spelling


@given(st.integers(0, 1 << 40), st.sampled_from(["", "n", "u", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3"]))
def test_the_canonical_spelling_is_the_same_amount(number: int, suffix: str) -> None:
    text = f"{number}{suffix}"
    spelling = quantity.canonical(text)
    assert quantity.parse(spelling) == quantity.parse(text)
    assert quantity.canonical(spelling) == spelling
