"""Writing by plain SQLAlchemy: for any database, and what the faster writers are measured against.

It serves MySQL, MariaDB before 10.5, and databases reached by another driver than the usual one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from panko_ingest.storage.recording.sql_text import Traits
from panko_ingest.storage.recording.validation import Row
from panko_ingest.storage.tables import (
    Event,
    LongText,
    TraitDatetime,
    TraitFloat,
    TraitInt,
    TraitText,
)

TypeIds = Mapping[str, int]
"""Ids of event types by name."""

Key = str | tuple[str, int]
"""What at most one stored event can have: its message_id, or that and its day."""

KeepsOut = Callable[[Row, int], bool]
"""Whether an event, by its id, keeps out a row that has its message_id."""

Numbered = Iterable[tuple[int, Row]]
"""Rows, each with the id of its event."""

_IDS_PER_STATEMENT = 500


class PortableWriter:
    """Writes batches on a connection that is in a transaction.

    Rows come sorted by key, each key once, and are written in that order: two workers never wait for each
    other in a circle. Every error is the driver's own, or SQLAlchemy's around it.
    """

    most_directly = 0
    """Rows that ``write_directly`` takes at most; 0 where there is no such way."""

    def key(self, row: Row) -> Key:
        """Return the key of a row."""
        return row.message_id

    def key_of(self, message_id: str, event_id: int) -> Key:  # noqa: ARG002 - where days have events of their own
        """Return the key of a stored event."""
        return message_id

    def keeps_out(self, connection: sa.Connection) -> KeepsOut:  # noqa: ARG002 - where there are partitions
        """Return what tells whether a stored event of a row's message_id keeps it from being stored."""
        return lambda row, event_id: True  # noqa: ARG005 - any does

    def write(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> set[Key]:
        """Write the events that are not stored yet, with their traits, in the quickest way.

        What is stored is passed over or makes it fail; whatever else the database refuses makes it
        fail, or is left out without a word.

        :returns: the keys of those that were written.
        """
        there = stored_ids(connection, [row.message_id for row in rows])
        new = [row for row in rows if row.message_id not in there]
        if new:
            self.insert(connection, new, type_ids)
        return {row.message_id for row in new}

    def insert(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> None:
        """Write events of which none is stored, with their traits: all of them, or it fails and says why.

        :raises ValueError: the database left some of them out without a word.
        """
        connection.execute(
            # The text of raw is made already.
            sa.insert(Event).values(raw=sa.bindparam("raw_text", type_=LongText)),
            [
                {
                    "message_id": row.message_id,
                    "generated": row.generated,
                    "raw_text": row.raw,
                    "event_type_id": type_ids[row.event_type],
                }
                for row in rows
            ],
        )
        ids = stored_ids(connection, [row.message_id for row in rows])
        expect_all(rows, len(ids))
        for table, traits in traits_by_table((ids[row.message_id], row) for row in rows):
            connection.execute(
                sa.insert(table),
                [
                    {"event_id": number, "key": trait.name, "value": trait.value}
                    for number, found in traits
                    for trait in found
                ],
            )

    def write_directly(self, driver: Any, rows: Sequence[Row], type_ids: TypeIds) -> set[Key]:  # noqa: ARG002 - as above
        """Do as ``write`` in a transaction of its own, on a connection of the driver's, and commit it.

        What a few events cost is not their rows but the way there: BEGIN, a statement for each table,
        COMMIT, and what SQLAlchemy does around each. Nothing is written where there is no such way.
        Each message_id comes once.
        """
        return set()


def expect_all(rows: Sequence[Row], written: int) -> None:
    """Raise if a database, or a trigger of an operator's in it, has left out rows without a word.

    :raises ValueError: it has.
    """
    if written != len(rows):
        raise ValueError("the database did not store it, and gave no reason")


def stored_ids(connection: sa.Connection, message_ids: Sequence[str]) -> dict[str, int]:
    """Return the ids of those events that are stored, by message_id."""
    found: dict[str, int] = {}
    for start in range(0, len(message_ids), _IDS_PER_STATEMENT):
        part = message_ids[start : start + _IDS_PER_STATEMENT]
        rows = connection.execute(sa.select(Event.message_id, Event.id).where(Event.message_id.in_(part)))
        found.update((message_id, number) for message_id, number in rows)
    return found


def traits_by_table(rows: Numbered) -> Iterator[tuple[type[Any], Traits]]:
    """Yield the trait tables that rows have anything for."""
    numbered = list(rows)
    tables: tuple[tuple[type[Any], Traits], ...] = (
        (TraitText, [(number, row.texts) for number, row in numbered if row.texts]),
        (TraitInt, [(number, row.ints) for number, row in numbered if row.ints]),
        (TraitFloat, [(number, row.floats) for number, row in numbered if row.floats]),
        (TraitDatetime, [(number, row.datetimes) for number, row in numbered if row.datetimes]),
    )
    return ((table, traits) for table, traits in tables if traits)
