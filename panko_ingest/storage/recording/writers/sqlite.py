"""Rows into SQLite by INSERT of many rows, with ids of ours: BEGIN IMMEDIATE made us the only writer."""

import datetime
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import sqlalchemy as sa

from panko_ingest.storage.recording.validation import Row
from panko_ingest.storage.recording.writers.portable import (
    Key,
    PortableWriter,
    TypeIds,
    expect_all,
    traits_by_table,
)
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import TraitDatetime

_ROWS = 1000
"""Rows of a statement. For each statement the driver gives the interpreter's lock away and has to get it back
from a thread that is at work on the next batch."""

_STORED = "SELECT message_id FROM event WHERE message_id IN (SELECT value FROM json_each(?))"


def writer_for(_connection: sa.Connection, _settings: StorageSettings) -> PortableWriter:
    """Return the writer for SQLite."""
    return SqliteWriter()


class SqliteWriter(PortableWriter):
    """Looks which events are stored, and writes the others: nobody else writes in between."""

    def write(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> set[Key]:
        """Write the events that are not stored yet; see :class:`PortableWriter`."""
        cursor: Any = connection.connection.cursor()
        given = orjson.dumps([row.message_id for row in rows]).decode()
        there = {message_id for (message_id,) in cursor.execute(_STORED, (given,))}
        new = [row for row in rows if row.message_id not in there]
        self.insert(connection, new, type_ids)
        return {row.message_id for row in new}

    def insert(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> None:
        """Write events of which none is stored; see :class:`PortableWriter`."""
        cursor: Any = connection.connection.cursor()
        (first,) = cursor.execute("SELECT coalesce(max(id), 0) + 1 FROM event").fetchone()
        stored = _insert(
            cursor,
            "event (id, message_id, generated, raw, event_type_id)",
            (
                (number, row.message_id, timestamp(row.generated), row.raw, type_ids[row.event_type])
                for number, row in enumerate(rows, first)
            ),
        )
        expect_all(rows, stored)
        for table, traits in traits_by_table(enumerate(rows, first)):
            values: Iterator[tuple[Any, ...]] = (
                (number, trait[0], trait[2]) for number, found in traits for trait in found
            )
            if table is TraitDatetime:
                values = ((number, key, value and timestamp(value)) for number, key, value in values)
            _insert(cursor, f"{table.__tablename__} (event_id, key, value)", values)


def _insert(cursor: Any, columns: str, values: Iterator[tuple[Any, ...]]) -> int:
    """Insert rows; return how many were stored."""
    stored = 0
    marks = f"({','.join('?' * (columns.count(',') + 1))})"
    start = f"INSERT INTO {columns} VALUES "  # noqa: S608 - ours
    while len(part := list(itertools.islice(values, _ROWS))) == _ROWS:
        cursor.execute(start + ",".join([marks] * _ROWS), list(itertools.chain.from_iterable(part)))
        stored += cursor.rowcount
    # An odd number of rows would be a statement to prepare of its own.
    cursor.executemany(start + marks, part)
    return stored + (cursor.rowcount if part else 0)


def timestamp(moment: datetime.datetime) -> str:
    """Return naive UTC as SQLAlchemy keeps it in SQLite."""
    return moment.isoformat(" ", "microseconds")
