"""Tables that a person reads on a terminal and grep reads in a pipe; JSON and CSV for programs."""

import csv
import datetime
import itertools
import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

_MEASURED = 500


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], whole: Collection[str] = ()) -> None:
    """Write rows under their columns' names: drawn on a terminal, else a line each, nothing cut off.

    :param whole: columns that are not broken on a narrow terminal, so that their values can be copied.
    """
    if sys.stdout.isatty():
        drawn = Table(header_style="bold")
        for name in columns:
            drawn.add_column(name, overflow="fold", no_wrap=name in whole)
        for row in rows:
            # As Text, so that brackets in a value are no markup.
            drawn.add_row(*(Text(_short(value)) for value in row))
        Console().print(drawn)
        return
    source = iter(rows)
    first = [[line(cell(value)) for value in row] for row in itertools.islice(source, _MEASURED)]
    widths = [max(map(len, column)) for column in zip(columns, *first, strict=True)]
    rest = ([line(cell(value)) for value in row] for row in source)
    for values in itertools.chain([list(columns)], first, rest):
        padded = (value.ljust(width) for value, width in zip(values, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


def csv_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV under their columns' names."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(value) for value in row] for row in rows)


def json_list(items: Iterable[Any]) -> None:
    """Write a JSON list with one item a line, as they come."""
    opening = "["
    for item in items:
        sys.stdout.write(f"{opening}\n{json_line(item)}")
        opening = ","
    sys.stdout.write("[]\n" if opening == "[" else "\n]\n")


def json_line(item: Any) -> str:
    """Return an item as JSON on one line; what JSON does not know as its text."""
    try:
        return orjson.dumps(item, default=str).decode()
    except TypeError:  # integers beyond 64 bits and lone surrogates, which JSON itself allows
        return json.dumps(item, default=str)


def rows_in(
    form: str,
    columns: Sequence[str],
    items: Iterable[Any],
    *,
    as_row: Callable[[Any], Sequence[Any]],
    as_document: Callable[[Any], Mapping[str, Any]],
    whole: Collection[str] = (),
) -> None:
    """Write items as ``table``, ``csv`` or ``json``: as rows of the columns, or as whole documents."""
    if form == "json":
        json_list(map(as_document, items))
    elif form == "csv":
        csv_rows(columns, map(as_row, items))
    else:
        table(columns, map(as_row, items), whole)


def document(value: Any) -> None:
    """Write one JSON document over several lines."""
    try:
        text = orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2).decode()
    except TypeError:
        text = json.dumps(value, default=str, indent=2)
    sys.stdout.write(f"{text}\n")


def cell(value: Any) -> str:
    """Return a value as text; nothing for None."""
    return "" if value is None else str(value)


def _short(value: Any) -> str:
    """Return a value as a person wants to see it: times to the second."""
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ", "seconds")
    return cell(value)


def line(text: str) -> str:
    """Return text without line breaks and other control characters: one row stays one line."""
    return "".join(character if character.isprintable() else " " for character in text)
