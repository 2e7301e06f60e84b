r"""SQL and COPY text that we build ourselves, because to let the driver do it costs more than all the rest.

What may stand in such a text as it is, and why nothing else can:

- **Integers and times** are made by Python's own ``str`` of ``int`` and ``datetime``, or by :func:`seconds`:
  digits, ``-``, ``:``, ``.`` and blanks, of which none means anything to COPY, within the quotes of an
  element of an array, or within those of SQL. Floats are finite (``validation`` sees to it): ``repr`` gives
  digits, ``.``, ``-``, ``+`` and ``e``, and reads back as the same number.
- **Text in COPY** is a field that a tab or a newline ends. Special are only backslash, tab, newline and
  carriage return (``\N`` alone is NULL). Each of the four is written as its escape, so that none is left.
  That costs, so a whole text is looked at once first: with no more tabs and newlines than separate its
  fields, and without a backslash or a carriage return, it has none within a field.
- **Text in an array** of PostgreSQL always stands in double quotes, in which only ``"`` and ``\`` are
  special: each gets a backslash. An element without quotes is ours: ``NULL``.
- **Text in SQL** of MariaDB stands in single quotes, in which only ``'`` and ``\`` are special, whatever
  sql_mode says. A text with either goes through the driver, which knows the session's mode. The connection's
  character set is utf8mb4, in which no byte of a character of several bytes is a quote.
- NUL can't be in a text of PostgreSQL, and halves of surrogate pairs can't be sent at all: ``validation`` has
  replaced both.

``tests/integration/storage/test_sql_text.py`` sends whatever text there is through the real servers and back.
"""

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from panko_ingest.storage.models import Trait
from panko_ingest.storage.recording.validation import Row
from panko_ingest.storage.tables import EPOCH

Traits = list[tuple[int, list[Trait]]]
"""The traits of one table: an event's id, and those that it has there."""

FillIn = Callable[[str, Any], str]
"""The driver's way to put values into SQL: takes SQL with ``%s``, and the values."""

_COPY_SPECIAL = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def array_text(values: Sequence[str | None]) -> str:
    """Return values as text of a PostgreSQL array."""
    return "{" + ",".join([_array_element(value) for value in values]) + "}"


def _array_element(value: str | None) -> str:
    if value is None:
        return "NULL"
    if '"' in value or "\\" in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def copy_of_events(rows: Sequence[tuple[int, Row]], type_ids: Mapping[str, int]) -> str:
    """Return events in the text format of COPY: id, message_id, generated, raw, event_type_id."""
    text = "".join(
        [
            f"{number}\t{row.message_id}\t{row.generated}\t{row.raw}\t{type_ids[row.event_type]}\n"
            for number, row in rows
        ]
    )
    if _nothing_special(text, rows=len(rows), tabs=4 * len(rows)):
        return text
    return "".join(
        [
            f"{number}\t{_copy_field(row.message_id)}\t{row.generated}\t{_copy_field(row.raw)}\t"
            f"{type_ids[row.event_type]}\n"
            for number, row in rows
        ]
    )


def copy_of_traits(traits: Traits) -> str:
    """Return trait rows in the text format of COPY: event_id, key, value."""
    parts = []
    count = 0
    for number, found in traits:
        start = f"{number}\t"
        # Named tuples are quicker by index.
        parts.append(start + start.join([f"{trait[0]}\t{trait[2]}\n" for trait in found]))
        count += len(found)
    text = "".join(parts)
    if _nothing_special(text, rows=count, tabs=2 * count) and "\tNone\n" not in text:
        return text
    return "".join(
        [
            f"{number}\t{_copy_field(trait.name)}\t{_copy_field(trait.value)}\n"
            for number, found in traits
            for trait in found
        ]
    )


def _nothing_special(text: str, rows: int, tabs: int) -> bool:
    """Tell whether no field of a text for COPY holds a character that has to be escaped."""
    return text.count("\t") == tabs and text.count("\n") == rows and "\\" not in text and "\r" not in text


def _copy_field(value: Any) -> str:
    return "\\N" if value is None else str(value).translate(_COPY_SPECIAL)


def values_of_traits(traits: Traits, fill_in: FillIn) -> list[str]:
    """Return trait rows as value lists of SQL: ``(1,'state','active')``; times are seconds already."""
    values = [f"({number},'{trait[0]}','{trait[2]}')" for number, found in traits for trait in found]
    text = "".join(values)
    if text.count("'") == 4 * len(values) and "\\" not in text and "'None')" not in text:
        return values
    return [
        fill_in("(%s,%s,%s)", (number, trait.name, trait.value))
        for number, found in traits
        for trait in found
    ]


def seconds(moment: datetime.datetime) -> str:
    """Return naive UTC as the decimal seconds that Panko keeps on MySQL."""
    elapsed = moment - EPOCH
    return f"{elapsed.days * 86400 + elapsed.seconds}.{elapsed.microseconds:06d}"


def optional_seconds(moment: Any) -> str | None:
    """Return the same of a value that may be NULL."""
    return None if moment is None else seconds(moment)
