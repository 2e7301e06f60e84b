"""Rows into PostgreSQL by psycopg: COPY for batches, one statement for a few events."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from panko_ingest.storage.database.postgresql import tables_with_policies
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.recording.sql_text import array_text, copy_of_events, copy_of_traits
from panko_ingest.storage.recording.validation import Row
from panko_ingest.storage.recording.writers import references
from panko_ingest.storage.recording.writers.portable import (
    KeepsOut,
    Key,
    Numbered,
    PortableWriter,
    TypeIds,
    expect_all,
    traits_by_table,
)
from panko_ingest.storage.schema import partitions
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import TraitDatetime, TraitFloat, TraitInt, TraitText

_GIVEN = "unnest(%s::varchar[], %s::timestamp[], %s::text[], %s::bigint[])"
_COPY_EVENTS = "COPY event (id, message_id, generated, raw, event_type_id) FROM STDIN"
# No index is named, for partitioned tables have none as a whole: the caller looks what is stored.
_PASS_OVER = "ON CONFLICT DO NOTHING"  # noqa: S105 - no password
# Of no length: a cast to one would cut what is longer.
_VALUE_TYPES = {
    TraitText: "varchar",
    TraitInt: "bigint",
    TraitFloat: "double precision",
    TraitDatetime: "timestamp",
}


def writer_for(connection: sa.Connection, settings: StorageSettings) -> PortableWriter:
    """Return the writer for PostgreSQL."""
    may_copy = not tables_with_policies(connection)
    if partitions.exist(connection):
        return PartitionedWriter(partitions.SEQUENCE, may_copy=may_copy)
    own = "SELECT pg_get_serial_sequence('event', 'id')"
    return PostgresqlWriter(
        connection.exec_driver_sql(own).scalar(),
        may_copy=may_copy,
        skip_checks=references.are_skipped(connection, settings),
    )


class PostgresqlWriter(PortableWriter):
    """Batches go by COPY, with ids of the sequence that we take beforehand.

    COPY can't pass over what is stored: it is refused then, the caller tries again, and this and the next
    batches go by an INSERT that can.
    """

    most_directly = 20
    _CAREFUL = 20
    _KIND = "r"
    _OF_ITS_DAY = ""
    _INSERT = f"INSERT INTO event (message_id, generated, raw, event_type_id) SELECT * FROM {_GIVEN}"  # noqa: S608 - ours
    # To name the table keeps it from being exchanged until we are done. `db partition` waits for whoever
    # may still commit a smaller id than it has seen: such a transaction shows by its number.
    _NUMBERS = (
        "SELECT txid_current(), (SELECT relkind FROM pg_class WHERE oid = to_regclass('event')), "
        "ARRAY(SELECT nextval(%s::regclass) FROM generate_series(1, %s)) "
        "WHERE NOT EXISTS (SELECT FROM event WHERE false)"
    )

    def __init__(self, sequence: str | None, *, may_copy: bool = True, skip_checks: bool = False) -> None:
        """Remember the sequence of the events' ids, None where they have none of their own.

        :param may_copy: whether the server takes COPY from our role.
        :param skip_checks: whether our role may leave out the proof that the events of traits are there.
        """
        self._sequence = sequence
        self._may_copy = may_copy
        self._skip_checks = skip_checks
        self._careful = 0

    def write(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> set[Key]:
        """Write the events that are not stored yet; see :class:`PortableWriter`."""
        if self._sequence is not None and self._may_copy and not self._careful:
            return self._copy(connection, rows, type_ids)
        self._careful = max(0, self._careful - 1)
        return self._insert(connection, rows, type_ids, _PASS_OVER)

    def insert(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> None:
        """Write events of which none is stored; see :class:`PortableWriter`."""
        expect_all(rows, len(self._insert(connection, rows, type_ids, "")))

    def _insert(
        self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds, on_conflict: str
    ) -> set[Key]:
        if not self._may_copy:
            statement, parameters = self._at_once(rows, type_ids, on_conflict)
            return set(self._by_key(connection.exec_driver_sql(statement, parameters)))
        statement = f"{self._INSERT} {on_conflict} RETURNING message_id, id"
        ids = self._by_key(connection.exec_driver_sql(statement, _event_arrays(rows, type_ids)))
        keyed = [(self.key(row), row) for row in rows]
        _copy(connection, self._trait_copies([(ids[key], row) for key, row in keyed if key in ids]))
        return set(ids)

    def _by_key(self, written: Iterable[Any]) -> dict[Key, int]:
        """Return the ids of events by their keys, from their message_ids and ids."""
        return {self.key_of(message_id, number): number for message_id, number in written}

    def _copy(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> set[Key]:
        numbered = self._numbered(connection, rows)
        events: tuple[str, str | None] = (_COPY_EVENTS, copy_of_events(numbered, type_ids))
        try:
            expect_all(rows, _copy(connection, itertools.chain([events], self._trait_copies(numbered))))
        except Exception:
            self._careful = self._CAREFUL
            raise
        return set(map(self.key, rows))

    def _trait_copies(self, rows: Numbered) -> Iterator[tuple[str, str | None]]:
        if self._skip_checks:
            yield references.SKIP_CHECKS, None
        for table, traits in traits_by_table(rows):
            yield f"COPY {table.__tablename__} (event_id, key, value) FROM STDIN", copy_of_traits(traits)
        if self._skip_checks:
            yield references.CHECK_AGAIN, None

    def _numbered(self, connection: sa.Connection, rows: Sequence[Row]) -> list[tuple[int, Row]]:
        """Return rows with a new id each.

        :raises StorageUnavailable: the tables have another layout by now.
        """
        _, kind, numbers = connection.exec_driver_sql(self._NUMBERS, (self._sequence, len(rows))).one()
        if kind != self._KIND:
            raise StorageUnavailable("the tables of events have become partitioned, or plain, just now")
        return [(self._id(number, row), row) for number, row in zip(numbers, rows, strict=True)]

    def _id(self, number: int, _row: Row) -> int:
        return number

    def write_directly(self, driver: Any, rows: Sequence[Row], type_ids: TypeIds) -> set[Key]:
        """Write by one statement for all tables, and COMMIT; see :class:`PortableWriter`.

        COMMIT does not come with it, which would save a round trip: a server that hangs when it is asked,
        and comes back after we have given up, would store what we say is not stored.
        """
        statement, parameters = self._at_once(rows, type_ids, _PASS_OVER)
        written = self._by_key(driver.execute(statement, parameters).fetchall())
        driver.commit()
        return set(written)

    def _at_once(
        self, rows: Sequence[Row], type_ids: TypeIds, on_conflict: str
    ) -> tuple[str, tuple[str, ...]]:
        """Return one statement that writes events and traits, and its parameters.

        It returns message_ids and ids of the events. Each trait names its event by message_id and day.
        """
        parts = [f"WITH new AS ({self._INSERT} {on_conflict} RETURNING message_id, id)"]
        parameters = [*_event_arrays(rows, type_ids)]
        for of_type, traits in traits_by_table(enumerate(rows)):
            table = of_type.__tablename__
            found = [(rows[place], trait) for place, its in traits for trait in its]
            parts.append(
                f"of_{table} AS (INSERT INTO {table} (event_id, key, value) SELECT id, key, value "  # noqa: S608 - ours
                f"FROM unnest(%s::varchar[], %s::bigint[], %s::varchar[], %s::{_VALUE_TYPES[of_type]}[]) "
                f"AS trait (message_id, day, key, value) JOIN new USING (message_id) {self._OF_ITS_DAY})"
            )
            parameters += (
                array_text([row.message_id for row, _ in found]),
                array_text([str(row.generated.toordinal()) for row, _ in found]),
                array_text([trait.name for _, trait in found]),
                array_text([None if trait.value is None else str(trait.value) for _, trait in found]),
            )
        return f"{', '.join(parts)} SELECT message_id, id FROM new", tuple(parameters)  # noqa: S608 - ours


class PartitionedWriter(PostgresqlWriter):
    """The same, with ids that lead into the partition of an event's day, which may have each message_id once.

    A partition of several days has it once, too: then what is written of the others is refused.
    """

    _KIND = "p"
    _INSERT = (
        "INSERT INTO event (id, message_id, generated, raw, event_type_id) "  # noqa: S608 - ours
        f"SELECT {partitions.NEW_ID}, message_id, generated, raw, event_type_id "
        f"FROM {_GIVEN} AS given (message_id, generated, raw, event_type_id)"
    )
    _OF_ITS_DAY = f"WHERE new.id >> {partitions.SEQUENCE_BITS} = trait.day"

    def write(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> set[Key]:
        """Write the events that are not stored yet; see :class:`PortableWriter`."""
        if len({row.message_id for row in rows}) < len(rows):
            # Some may meet in one partition, which COPY can't pass over.
            return self._insert(connection, rows, type_ids, _PASS_OVER)
        return super().write(connection, rows, type_ids)

    def key(self, row: Row) -> Key:
        """Return the key of a row."""
        return row.message_id, row.generated.toordinal()

    def key_of(self, message_id: str, event_id: int) -> Key:
        """Return the key of a stored event."""
        return message_id, event_id >> partitions.SEQUENCE_BITS

    def keeps_out(self, connection: sa.Connection) -> KeepsOut:
        """Return what tells whether a stored event is in the partition into which a row goes."""
        there = partitions.found(connection)
        return lambda row, event_id: any(
            one.holds(event_id) and one.holds(partitions.first_id(row.generated)) for one in there
        )

    def _id(self, number: int, row: Row) -> int:
        return partitions.first_id(row.generated) | number


def _event_arrays(rows: Sequence[Row], type_ids: TypeIds) -> tuple[str, str, str, str]:
    return (
        array_text([row.message_id for row in rows]),
        array_text([str(row.generated) for row in rows]),
        array_text([row.raw for row in rows]),
        array_text([str(type_ids[row.event_type]) for row in rows]),
    )


def _copy(connection: sa.Connection, copies: Iterator[tuple[str, str | None]]) -> int:
    """Send statements, of COPY with their texts, each made while the server is at work on the one before.

    :returns: how many rows the first of them wrote.
    """
    cursor: Any = connection.connection.cursor()
    written = None
    try:
        following = next(copies, None)
        while following is not None:
            statement, text = following
            if text is None:
                cursor.execute(statement)
                following = next(copies, None)
            else:
                with cursor.copy(statement) as copy:
                    copy.write(text)
                    following = next(copies, None)
            written = cursor.rowcount if written is None else written
    finally:
        cursor.close()
    return written or 0
