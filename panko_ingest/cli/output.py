"""Tables that a person reads on a terminal and grep reads in a pipe; JSON and CSV for programs."""

import csv
import datetime
import itertools
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from panko_ingest import exact_json
from panko_ingest.foreign_text import escaped, escaped_json

_MEASURED = 500
_GAP = 2
_LEAST_WIDTH = 4
"""Of a column that may be cut, with the gap beside it."""
# A ; is what separates cells in many countries, and the wide signs count as the others.
_FORMULA = re.compile("(\\A|[;\t])([=+@\\-\uff1d\uff0b\uff20\uff0d])")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], whole: Collection[str] = ()) -> None:
    """Write rows under their columns' names: drawn on a terminal, else a line each, nothing cut off.

    :param whole: columns that are kept whole on a narrow terminal, so that their values can be copied; then
        each row is one line, for which the other columns are cut, or left out where they have no room, which
        is told.
    """
    if sys.stdout.isatty():
        # As Text, so that brackets in a value are no markup.
        texts = [[Text(escaped(_short(value)), no_wrap=bool(whole) or None) for value in row] for row in rows]
        if whole:
            _draw_lines(columns, texts, whole)
        else:
            drawn = Table(*(Column(name, overflow="fold") for name in columns), header_style="bold")
            _draw(Console(), drawn, texts)
        return
    source = iter(rows)
    first = [[escaped(cell(value)) for value in row] for row in itertools.islice(source, _MEASURED)]
    widths = [max(map(len, column)) for column in zip(columns, *first, strict=True)]
    rest = ([escaped(cell(value)) for value in row] for row in source)
    for values in itertools.chain([list(columns)], first, rest):
        padded = (value.ljust(width) for value, width in zip(values, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


def _draw_lines(columns: Sequence[str], texts: Sequence[Sequence[Text]], whole: Collection[str]) -> None:
    console = Console()
    places = [place for place, name in enumerate(columns) if name in whole]
    widths = [
        max(cell_len(columns[place]), *(row[place].cell_len for row in texts), 0) + _GAP for place in places
    ]
    room = console.width - sum(widths)
    if room < _LEAST_WIDTH * (len(columns) - len(places)):
        console = Console(width=max(console.width, sum(widths)))
    else:
        places = list(range(len(columns)))
    kept = [Column(columns[place], overflow="ellipsis", no_wrap=columns[place] in whole) for place in places]
    drawn = Table(*kept, header_style="bold", box=None, pad_edge=False)
    _draw(console, drawn, ([row[place] for place in places] for row in texts))
    if left_out := [name for place, name in enumerate(columns) if place not in places]:
        sys.stdout.flush()
        tell(f"the terminal is too narrow for {', '.join(left_out)}: a pipe and --format have everything")


def _draw(console: Console, drawn: Table, texts: Iterable[Sequence[Text]]) -> None:
    for row in texts:
        drawn.add_row(*row)
    console.print(drawn)


class Lines:
    """Rows that are written as they come, as wide as what came before them needs."""

    def __init__(self, columns: Mapping[str, int]) -> None:
        """Write the names of the columns.

        :param columns: how wide each is at least, in characters.
        """
        self._widths = list(columns.values())
        self.write(list(columns))

    def write(self, row: Sequence[Any]) -> None:
        """Write one row."""
        values = [escaped(_short(value)) for value in row]
        self._widths = [max(width, len(value)) for width, value in zip(self._widths, values, strict=True)]
        padded = (value.ljust(width) for value, width in zip(values, self._widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


def csv_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV under their columns' names, for spreadsheets: no cell is a formula."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_no_formula(value) for value in row] for row in rows)


def json_list(items: Iterable[Any]) -> None:
    """Write a JSON list with one item a line, as they come."""
    opening = "["
    for item in items:
        sys.stdout.write(f"{opening}\n{_json_line(item)}")
        opening = ","
    sys.stdout.write("[]\n" if opening == "[" else "\n]\n")


def json_lines(items: Iterable[Any]) -> None:
    """Write JSON with one item a line, and nothing around them."""
    sys.stdout.writelines(f"{_json_line(item)}\n" for item in items)


def _json_line(item: Any) -> str:
    return escaped_json(exact_json.dumps(item))


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
    sys.stdout.write(f"{escaped_json(exact_json.dumps(value, indent=2))}\n")


def cell(value: Any) -> str:
    """Return a value as text; nothing for None."""
    return "" if value is None else str(value)


def _short(value: Any) -> str:
    """Return a value as a person wants to see it: times to the second."""
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ", "seconds")
    return cell(value)


def write(text: str) -> None:
    """Write text of which parts are others', as one line."""
    sys.stdout.write(escaped(text) + "\n")


def content(body: bytes) -> None:
    """Write bytes that are others': as they are into a file or a pipe, escaped on a terminal."""
    if sys.stdout.isatty():
        sys.stdout.write(escaped(body.decode("utf-8", "backslashreplace"), keep="\n"))
    else:
        sys.stdout.buffer.write(body)


def tell(text: str) -> None:
    """Write text of which parts are others' on standard error, as one line."""
    sys.stderr.write(escaped(text) + "\n")


def _no_formula(value: Any) -> str:
    text = escaped(cell(value), keep="\n")
    return _FORMULA.sub(r"\1'\2", text) if isinstance(value, str) else text
