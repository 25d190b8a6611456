"""Kubernetes quantities ("100m", "64Mi", "1.5", "2e3"), exact.

Source: k8s.io/apimachinery/pkg/api/resource. CPU is counted in millicores, everything else in whole units (bytes,
pods), both rounded up as Kubernetes does, so that arithmetic is on integers.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_FORM = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:([KMGTPE]i)|([numkMGTPE]?)|[eE]([+-]?\d{1,4}))")


@lru_cache(maxsize=4096)
def parse(text: str | int) -> Decimal:
    """The exact value.

    Raises:
        ValueError: it is not a quantity.
    """
    if isinstance(text, int):
        return Decimal(text)
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a quantity: write a number with an optional suffix, as 100m, 1.5, 64Mi or 2G"
        )
    number, binary, decimal, exponent = match.groups()
    if binary:
        return Decimal(number) * _BINARY[binary]
    return Decimal(number).scaleb(int(exponent) if exponent else _DECIMAL[decimal or ""])


_SUFFIX_OF_EXPONENT = {-9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}


@lru_cache(maxsize=4096)
def canonical(text: str | int) -> str:
    """The one spelling in which Kubernetes keeps a quantity: no fraction, the largest suffix that allows it.

    >>> canonical("0.5"), canonical("1024Mi"), canonical("1000m"), canonical("1.5Gi")
    ('500m', '1Gi', '1', '1536Mi')

    Raises:
        ValueError: it is not a quantity.
    """
    value = parse(text)
    match = _FORM.fullmatch(str(text))
    assert match is not None  # parse would have raised
    if value == 0:
        return "0"
    if match[2] and abs(value) >= 1024 and value == value.to_integral_value():
        whole = int(value)
        power = 0
        while whole % 1024 == 0 and power < 6:
            whole //= 1024
            power += 1
        return f"{whole}{('', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei')[power]}"
    nanos = int((value * 10**9).to_integral_value(rounding=ROUND_CEILING))
    exponent = -9
    while nanos % 1000 == 0 and exponent < 18:
        nanos //= 1000
        exponent += 3
    if match[4] is not None:
        return f"{nanos}e{exponent}" if exponent else str(nanos)
    return f"{nanos}{_SUFFIX_OF_EXPONENT[exponent]}"


def millis(text: str | int) -> int:
    """Thousandths, rounded up: what CPU is counted in."""
    return int((parse(text) * 1000).to_integral_value(rounding=ROUND_CEILING))


def units(text: str | int) -> int:
    """Whole units, rounded up: bytes, pods."""
    return int(parse(text).to_integral_value(rounding=ROUND_CEILING))


def amount(resource: str, text: str | int) -> int:
    """The integer amount of a named resource: millicores for cpu, whole units for the rest."""
    return millis(text) if resource == "cpu" else units(text)


def render(resource: str, value: int) -> str:
    """An integer amount in the shortest form that Kubernetes would print."""
    if resource == "cpu":
        return str(value // 1000) if value % 1000 == 0 else f"{value}m"
    for suffix in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
        if value and value % _BINARY[suffix] == 0:
            return f"{value // _BINARY[suffix]}{suffix}"
    return str(value)
