"""Label and field selectors: parsed once, matched often.

Grammar of label selectors: k8s.io/apimachinery/pkg/labels, `app=web,tier in (a,b),env!=prod,!canary,gpu,cores>4`.
A comma is "and"; a missing key satisfies `!=`, `notin` and `!key`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from steersman.types.meta import LabelSelector

EQUALS, NOT_EQUALS, IN, NOT_IN, EXISTS, ABSENT, GREATER, LESS = "=", "!=", "in", "notin", "exists", "!", ">", "<"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term: `values` has one entry for = != > <, any number for in and notin, none for exists and !."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "=" | "in":
                return value in self.values
            case "!=" | "notin":
                return value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        if value is None:
            return False
        try:
            number, (limit,) = int(value), map(int, self.values)
        except ValueError:
            return False
        return number > limit if self.operator == GREATER else number < limit

    def __str__(self) -> str:
        if self.operator == EXISTS:
            return self.key
        if self.operator == ABSENT:
            return f"!{self.key}"
        if self.operator in (IN, NOT_IN):
            return f"{self.key} {self.operator} ({','.join(sorted(self.values))})"
        return f"{self.key}{self.operator}{next(iter(self.values))}"


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; none at all selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)

    def equalities(self) -> dict[str, str]:
        """Key and value of the plain equalities: what an index can answer."""
        return {
            r.key: next(iter(r.values)) for r in self.requirements if r.operator in (EQUALS, IN) and len(r.values) == 1
        }

    def __bool__(self) -> bool:
        return bool(self.requirements)

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


EVERYTHING = Selector()
NOTHING = Selector((Requirement("", IN),))

_TOKEN = re.compile(r"\s*(==|!=|=|!|,|\(|\)|>|<|[^\s,()=!<>]+)")
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")


def key_problem(key: str) -> str | None:
    """Why `key` is not a label key, or None when it is one (a qualified name, optionally with a DNS prefix)."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not _PREFIX.fullmatch(prefix)):
        return f"prefix part {prefix!r} must be a DNS subdomain of at most 253 characters, as example.com"
    if not _LABEL_NAME.fullmatch(name):
        return (
            f"name part {name!r} must be 1 to 63 characters: letters, digits, '-', '_' and '.', "
            "beginning and ending with a letter or digit"
        )
    return None


def value_problem(value: str) -> str | None:
    """Why `value` is not a label value, or None when it is one."""
    if not _LABEL_VALUE.fullmatch(value):
        return (
            f"{value!r} must be empty or at most 63 characters: letters, digits, '-', '_' and '.', "
            "beginning and ending with a letter or digit"
        )
    return None


def parse(text: str) -> Selector:
    """Parse a label selector.

    Raises:
        ValueError: with the place and what was expected there.
    """
    return _Parser(text).selector() if text.strip() else EVERYTHING


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def fail(self, expected: str) -> ValueError:
        found = f"found {self.peek()!r}" if self.peek() else "the selector ends"
        return ValueError(f"unable to parse selector {self.text!r}: {found} where {expected} is expected")

    def selector(self) -> Selector:
        requirements = [self.requirement()]
        while self.peek() == ",":
            self.next()
            requirements.append(self.requirement())
        if self.peek():
            raise self.fail("',' or the end")
        return Selector(tuple(requirements))

    def key(self) -> str:
        key = self.peek()
        if not key or key in _PUNCTUATION:
            raise self.fail("a label key")
        if problem := key_problem(key):
            raise ValueError(f"unable to parse selector {self.text!r}: key {key!r}: {problem}")
        return self.next()

    def requirement(self) -> Requirement:
        if self.peek() == "!":
            self.next()
            return Requirement(self.key(), ABSENT)
        key = self.key()
        operator = self.peek()
        if operator in ("", ","):
            return Requirement(key, EXISTS)
        if operator in ("=", "==", "!=", ">", "<"):
            self.next()
            value = "" if self.peek() in ("", ",") else self.value()
            return Requirement(key, EQUALS if operator == "==" else operator, frozenset((value,)))
        if operator in (IN, NOT_IN):
            self.next()
            return Requirement(key, operator, self.values())
        raise self.fail("one of = == != in notin > <")

    def value(self) -> str:
        value = self.peek()
        if not value or value in _PUNCTUATION:
            raise self.fail("a label value")
        if problem := value_problem(value):
            raise ValueError(f"unable to parse selector {self.text!r}: {problem}")
        return self.next()

    def values(self) -> frozenset[str]:
        if self.next() != "(":
            self.at -= 1
            raise self.fail("'('")
        found = []
        while self.peek() != ")":
            found.append("" if self.peek() == "," else self.value())
            if self.peek() == ",":
                self.next()
            elif self.peek() != ")":
                raise self.fail("',' or ')'")
        self.next()
        return frozenset(found)


_PUNCTUATION = frozenset(("=", "==", "!=", "!", ",", "(", ")", ">", "<"))


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    stripped = text.rstrip()
    while at < len(stripped):
        match = _TOKEN.match(stripped, at)
        assert match is not None  # the last alternative takes any character the others leave
        tokens.append(match[1])
        at = match.end()
    return tokens


def from_labels(labels: Mapping[str, str]) -> Selector:
    """The selector that requires exactly these labels (a Service's or a node selector)."""
    return Selector(tuple(Requirement(key, EQUALS, frozenset((value,))) for key, value in labels.items()))


_OPERATORS = {"In": IN, "NotIn": NOT_IN, "Exists": EXISTS, "DoesNotExist": ABSENT}


def from_label_selector(selector: LabelSelector | None) -> Selector:
    """The selector inside an object: None selects nothing, an empty one everything (meta/v1 LabelSelector).

    Raises:
        ValueError: an operator is unknown.
    """
    if selector is None:
        return NOTHING
    terms = [Requirement(key, EQUALS, frozenset((value,))) for key, value in selector.match_labels.items()]
    for expression in selector.match_expressions:
        operator = _OPERATORS.get(expression.operator)
        if operator is None:
            raise ValueError(f"{expression.operator!r} is not a selector operator: use one of {', '.join(_OPERATORS)}")
        terms.append(Requirement(expression.key, operator, frozenset(expression.values)))
    return Selector(tuple(terms))


def parse_fields(text: str) -> Selector:
    """Parse a field selector: `metadata.name=a,status.phase!=Running`; only = == and != exist.

    Raises:
        ValueError: with the term that is wrong.
    """
    terms = []
    for term in filter(None, (part.strip() for part in text.split(","))):
        for operator in ("!=", "==", "="):
            key, found, value = term.partition(operator)
            if found:
                terms.append(
                    Requirement(key.strip(), NOT_EQUALS if operator == "!=" else EQUALS, frozenset((value.strip(),)))
                )
                break
        else:
            raise ValueError(f"invalid field selector {text!r}: {term!r} is not path=value, path==value or path!=value")
    return Selector(tuple(terms))
