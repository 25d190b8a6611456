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
