"""How objects are shown: tables for people, JSON and YAML for programs, names for pipes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec
import yaml

from steersman.cli.session import label_of

FORMATS = ("wide", "json", "yaml", "name")


def rows_of(table: dict[str, Any], *, wide: bool, headers: bool, namespaces: bool) -> list[list[str]]:
    """The cells of a meta.k8s.io/v1 Table; columns of priority above 0 only when `wide`."""
    columns = [i for i, column in enumerate(table["columnDefinitions"]) if wide or not column.get("priority")]
    found: list[list[str]] = []
    if headers:
        head = [str(table["columnDefinitions"][i]["name"]).upper() for i in columns]
        found.append(["NAMESPACE", *head] if namespaces else head)
    for row in table.get("rows", ()):
        cells = ["<none>" if row["cells"][i] is None else str(row["cells"][i]) for i in columns]
        if namespaces:
            cells.insert(0, row.get("object", {}).get("metadata", {}).get("namespace", ""))
        found.append(cells)
    return found


def aligned(rows: Sequence[Sequence[str]], gap: int = 3, widths: list[int] | None = None) -> list[str]:
    """Lines with columns padded to their widest cell, `gap` spaces apart.

    `widths`, when given, are the least widths, and grow with these rows: for tables that are printed row by row.
    """
    if not rows:
        return []
    widths = [] if widths is None else widths
    widths += [0] * (len(rows[0]) - len(widths))
    widths[:] = [max(width, *(len(row[i]) for row in rows)) for i, width in enumerate(widths)]
    return [
        (" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def print_rows(rows: Sequence[Sequence[str]], widths: list[int] | None = None) -> None:
    for line in aligned(rows, widths=widths):
        click.echo(line)


def print_documents(documents: Iterable[dict[str, Any]], form: str, *, single: bool) -> None:
    """Print documents as json, yaml or name; several are wrapped in a List, as kubectl does."""
    found = list(documents)
    if form == "name":
        for document in found:
            click.echo(label_of(document["apiVersion"], document["kind"], document["metadata"]["name"]))
        return
    whole: Any = (
        found[0]
        if single and len(found) == 1
        else {
            "apiVersion": "v1",
            "items": found,
            "kind": "List",
            "metadata": {"resourceVersion": ""},
        }
    )
    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(whole), indent=4))
    else:
        click.echo(yaml_text(whole), nl=False)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """YAML with long strings as blocks."""


def _text(dumper: Any, value: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def yaml_text(document: Any) -> str:
    """The document as YAML, keys sorted as kubectl sorts them."""
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=True, width=4096, allow_unicode=True))


def said(text: str) -> None:
    """One line of what was done."""
    click.echo(text)


def warned(warnings: Iterable[str]) -> None:
    for warning in warnings:
        click.secho(f"Warning: {warning}", err=True, fg="yellow")
