"""Batches of rows into the tables: one writer for each database, behind one small interface.

A writer sends a batch in a few statements within the caller's transaction. Rows come sorted by
message_id and are written in that order, so two workers never wait for each other in a circle.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import orjson
import sqlalchemy as sa

from panko_ingest.storage import partitions
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.models import Trait
from panko_ingest.storage.tables import (
    EPOCH,
    Event,
    LongText,
    TraitDatetime,
    TraitFloat,
    TraitInt,
    TraitText,
)
from panko_ingest.storage.validation import Row

TypeIds = Mapping[str, int]
Traits = list[tuple[int, list[Trait]]]
"""The traits of one table: an event's id, and those that it has there."""

_IDS_PER_STATEMENT = 500
_COLUMNS = "(event_id, key, value)"

FillIn = Callable[[str, Any], str]


class Writer(Protocol):
    """Writes batches on a connection that is in a transaction."""

    def write(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> set[str]:
        """Write the events that are not stored yet, with their traits.

        :param rows: sorted by message_id, each message_id once.
        :returns: the message_ids of those that were written.
        """
        ...


def writer_for(connection: sa.Connection) -> Writer:
    """Return the fastest writer that serves the database behind a connection."""
    dialect: Any = connection.dialect
    if dialect.name == "postgresql" and dialect.driver == "psycopg":
        if partitions.exist(connection):
            return PartitionedWriter(partitions.SEQUENCE)
        own = "SELECT pg_get_serial_sequence('event', 'id')"
        return PostgresqlWriter(connection.exec_driver_sql(own).scalar())
    if dialect.name == "sqlite":
        return SqliteWriter()
    if dialect.name == "mysql" and dialect.driver == "pymysql" and _has_insert_returning(dialect):
        return MariadbWriter(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())
    return PortableWriter()


def _has_insert_returning(dialect: Any) -> bool:
    return bool(dialect.is_mariadb and dialect.server_version_info >= (10, 5))


def stored(connection: sa.Connection, message_ids: Sequence[str]) -> dict[str, int]:
    """Return the ids of those events that are stored, by message_id."""
    found: dict[str, int] = {}
    for start in range(0, len(message_ids), _IDS_PER_STATEMENT):
        part = message_ids[start : start + _IDS_PER_STATEMENT]
        rows = connection.execute(sa.select(Event.message_id, Event.id).where(Event.message_id.in_(part)))
        found.update((message_id, number) for message_id, number in rows)
    return found


def traits_by_table(rows: Sequence[Row], ids: Mapping[str, int]) -> Iterator[tuple[str, Traits]]:
    """Yield the trait tables that rows with an id have anything for."""
    numbered = [(ids[row.message_id], row) for row in rows if row.message_id in ids]
    tables: tuple[tuple[str, Traits], ...] = (
        ("trait_text", [(number, row.texts) for number, row in numbered if row.texts]),
        ("trait_int", [(number, row.ints) for number, row in numbered if row.ints]),
        ("trait_float", [(number, row.floats) for number, row in numbered if row.floats]),
        ("trait_datetime", [(number, row.datetimes) for number, row in numbered if row.datetimes]),
    )
    return ((table, traits) for table, traits in tables if traits)


class PostgresqlWriter:
    """Events and traits by COPY, with ids of the sequence that we take beforehand.

    COPY can't skip what is stored: it is refused then, the caller tries again, and this and the next
    lists go by an INSERT that can. A short list goes in one statement, all tables at once: COPY takes
    two round trips for each table.
    """

    SHORT = 20
    _CAREFUL = 20
    _KIND = "r"
    _INSERT = (
        "INSERT INTO event (message_id, generated, raw, event_type_id) "
        "SELECT * FROM unnest(%s::varchar[], %s::timestamp[], %s::text[], %s::bigint[]) "
        "ON CONFLICT DO NOTHING RETURNING message_id, id"
    )
    _TYPES: ClassVar = {
        "trait_text": "varchar",
        "trait_int": "bigint",
        "trait_float": "double precision",
        "trait_datetime": "timestamp",
    }
    # To name the table keeps it from being exchanged until we are done. `db convert` waits for whoever
    # may still commit a smaller id than it has seen: such a transaction shows by its number.
    _NUMBERS = (
        "SELECT txid_current(), (SELECT relkind FROM pg_class WHERE oid = to_regclass('event')), "
        "ARRAY(SELECT nextval(%s::regclass) FROM generate_series(1, %s)) "
        "WHERE NOT EXISTS (SELECT FROM event WHERE false)"
    )

    def __init__(self, sequence: str | None) -> None:
        """Remember the sequence of the events' ids; None where they have none of their own."""
        self._sequence = sequence
        self._careful = 0

    def write(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> set[str]:
        """Write the rows; see :class:`Writer`."""
        if len(rows) <= self.SHORT:
            return set(connection.exec_driver_sql(*self.at_once(rows, type_ids)).scalars())
        if self._sequence is not None and not self._careful:
            return self._copy(connection, rows, type_ids)
        self._careful = max(0, self._careful - 1)
        ids: dict[str, int] = dict(
            connection.exec_driver_sql(self._INSERT, _event_arrays(rows, type_ids)).all()
        )
        _copy_texts(connection, _trait_texts(rows, ids))
        return set(ids)

    def _copy(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> set[str]:
        ids = self._take_ids(connection, rows)
        try:
            _copy_texts(
                connection,
                itertools.chain([(_EVENT, event_text(rows, ids, type_ids))], _trait_texts(rows, ids)),
            )
        except Exception:
            self._careful = self._CAREFUL
            raise
        return set(ids)

    def _take_ids(self, connection: sa.Connection, rows: Sequence[Row]) -> dict[str, int]:
        """Return a new id for each row.

        :raises StorageUnavailable: the tables have another layout by now.
        """
        _, kind, numbers = connection.exec_driver_sql(self._NUMBERS, (self._sequence, len(rows))).one()
        if kind != self._KIND:
            raise StorageUnavailable("the tables of events have become partitioned, or plain, just now")
        return {row.message_id: self._id(number, row) for number, row in zip(numbers, rows, strict=True)}

    def _id(self, number: int, _row: Row) -> int:
        return number

    def at_once(self, rows: Sequence[Row], type_ids: TypeIds) -> tuple[str, tuple[str, ...]]:
        """Return one statement that writes events and traits and returns message_ids, and its parameters.

        Each trait names its event by message_id.
        """
        places = {row.message_id: place for place, row in enumerate(rows)}
        parts = [f"WITH new AS ({self._INSERT})"]
        parameters = [*_event_arrays(rows, type_ids)]
        for table, traits in traits_by_table(rows, places):
            found = [(rows[place].message_id, trait) for place, its in traits for trait in its]
            parts.append(
                f"of_{table} AS (INSERT INTO {table} {_COLUMNS} SELECT id, key, value "  # noqa: S608 - ours
                f"FROM unnest(%s::varchar[], %s::varchar[], %s::{self._TYPES[table]}[]) "
                "AS trait (message_id, key, value) JOIN new USING (message_id))"
            )
            parameters += (
                array_text([message_id for message_id, _ in found]),
                array_text([trait.name for _, trait in found]),
                array_text([None if trait.value is None else str(trait.value) for _, trait in found]),
            )
        return f"{', '.join(parts)} SELECT message_id FROM new", tuple(parameters)  # noqa: S608 - ours


class PartitionedWriter(PostgresqlWriter):
    """The same, with ids that lead into the partition of an event's day."""

    _KIND = "p"
    _INSERT = (
        "INSERT INTO event (id, message_id, generated, raw, event_type_id) "  # noqa: S608 - ours
        f"SELECT {partitions.NEW_ID}, message_id, generated, raw, event_type_id "
        "FROM unnest(%s::varchar[], %s::timestamp[], %s::text[], %s::bigint[]) "
        "AS given (message_id, generated, raw, event_type_id) "
        "ON CONFLICT DO NOTHING RETURNING message_id, id"
    )

    def _id(self, number: int, row: Row) -> int:
        return partitions.first_id(row.generated) | number


_EVENT = "event (id, message_id, generated, raw, event_type_id)"


def _event_arrays(rows: Sequence[Row], type_ids: TypeIds) -> tuple[str, str, str, str]:
    return (
        array_text([row.message_id for row in rows]),
        array_text([str(row.generated) for row in rows]),
        array_text([row.raw for row in rows]),
        array_text([str(type_ids[row.event_type]) for row in rows]),
    )


def _trait_texts(rows: Sequence[Row], ids: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    return ((f"{table} {_COLUMNS}", copy_text(traits)) for table, traits in traits_by_table(rows, ids))


def _copy_texts(connection: sa.Connection, texts: Iterator[tuple[str, str]]) -> None:
    """COPY texts into tables, each made while the server is at work on the one before."""
    cursor: Any = connection.connection.cursor()
    try:
        following = next(texts, None)
        while following is not None:
            columns, text = following
            with cursor.copy(f"COPY {columns} FROM STDIN") as copy:
                copy.write(text)
                following = next(texts, None)
    finally:
        cursor.close()


_COPY_SPECIAL = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def array_text(values: Sequence[str | None]) -> str:
    """Return values as text of a PostgreSQL array."""
    return "{" + ",".join([_array_field(value) for value in values]) + "}"


def _array_field(value: str | None) -> str:
    if value is None:
        return "NULL"
    if '"' in value or "\\" in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def copy_text(traits: Traits) -> str:
    """Return trait rows in the text format of COPY."""
    parts = []
    count = 0
    for number, found in traits:
        start = f"{number}\t"
        # Named tuples are quicker by index.
        parts.append(start + start.join([f"{trait[0]}\t{trait[2]}\n" for trait in found]))
        count += len(found)
    text = "".join(parts)
    # Hardly any value holds a character that means something to COPY: look at the whole text once.
    if (
        text.count("\t") == 2 * count
        and text.count("\n") == count
        and "\\" not in text
        and "\r" not in text
        and "\tNone\n" not in text
    ):
        return text
    return "".join(
        [
            f"{number}\t{trait.name.translate(_COPY_SPECIAL)}\t{_copy_field(trait.value)}\n"
            for number, found in traits
            for trait in found
        ]
    )


def event_text(rows: Sequence[Row], ids: Mapping[str, int], type_ids: TypeIds) -> str:
    """Return events in the text format of COPY: id, message_id, generated, raw, event_type_id."""
    text = "".join(
        [
            f"{ids[row.message_id]}\t{row.message_id}\t{row.generated}\t{row.raw}\t{type_ids[row.event_type]}\n"
            for row in rows
        ]
    )
    if (
        text.count("\t") == 4 * len(rows)
        and text.count("\n") == len(rows)
        and "\\" not in text
        and "\r" not in text
    ):
        return text
    return "".join(
        [
            f"{ids[row.message_id]}\t{row.message_id.translate(_COPY_SPECIAL)}\t{row.generated}\t"
            f"{row.raw.translate(_COPY_SPECIAL)}\t{type_ids[row.event_type]}\n"
            for row in rows
        ]
    )


def _copy_field(value: Any) -> str:
    return "\\N" if value is None else str(value).translate(_COPY_SPECIAL)


class MariadbWriter:
    """Events by INSERT IGNORE … RETURNING, which skips those that are stored; traits by plain INSERT.

    IGNORE would also change what does not fit instead of refusing it: rows were validated before, and
    warnings are counted. A row that it leaves out for another reason shows in that it is not stored.
    """

    _LARGEST_STATEMENT = 1024 * 1024
    _EVENT = "(message_id, `generated`, raw, event_type_id)"

    def __init__(self, max_packet: int) -> None:
        # In characters, of which each takes up to four bytes.
        self._size = min(max_packet // 4, self._LARGEST_STATEMENT)

    def write(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> set[str]:
        """Write the rows; see :class:`Writer`."""
        cursor: Any = connection.connection.cursor()
        ids: dict[str, int] = {}
        for values in self._parts(self._events(rows, type_ids, cursor.mogrify)):
            ids |= self._insert_events(connection, values)
        for table, traits in traits_by_table(rows, ids):
            for values in self._parts(trait_values(table, traits, cursor.mogrify)):
                start = f"INSERT INTO {table} (event_id, `key`, value) VALUES "  # noqa: S608 - ours
                self._execute(connection, start, values)
        return set(ids)

    def of_one(self, row: Row, type_ids: TypeIds, fill_in: FillIn) -> list[str]:
        """Return the statements that write one event, as long as nothing else is numbered between them."""
        (event,) = self._events([row], type_ids, fill_in)
        statements = [f"INSERT INTO event {self._EVENT} VALUES {event}"]  # noqa: S608 - ours
        for table, traits in traits_by_table([row], {row.message_id: 0}):
            values = trait_values(table, traits, fill_in)
            # Each begins with the number that stands for the id.
            values = [f"(LAST_INSERT_ID(){value[2:]}" for value in values]
            statements.append(
                f"INSERT INTO {table} (event_id, `key`, value) VALUES {','.join(values)}"  # noqa: S608 - ours
            )
        return statements

    def _insert_events(self, connection: sa.Connection, values: list[str]) -> dict[str, int]:
        start = f"INSERT IGNORE INTO event {self._EVENT} VALUES "  # noqa: S608 - ours
        result = self._execute(connection, start, values, " RETURNING message_id, id")
        cursor: Any = result.cursor
        warnings = cursor.warning_count
        ids: dict[str, int] = dict(result.all())
        # A row that is left out is one warning; any other tells of a value that was changed.
        if warnings > len(values) - len(ids):
            raise ValueError("a value does not fit its column, and INSERT IGNORE would change it")
        return ids

    def _events(self, rows: Iterable[Row], type_ids: TypeIds, fill_in: FillIn) -> list[str]:
        return [
            fill_in(
                "(%s,%s,%s,%s)",
                (row.message_id, seconds(row.generated), row.raw, type_ids[row.event_type]),
            )
            for row in rows
        ]

    def _parts(self, values: list[str]) -> Iterator[list[str]]:
        """Split value lists so that none makes a statement longer than it may be."""
        if sum(map(len, values)) + len(values) <= self._size:
            yield values
            return
        part: list[str] = []
        size = 0
        for value in values:
            if part and size + len(value) >= self._size:
                yield part
                part, size = [], 0
            part.append(value)
            size += len(value) + 1
        yield part

    def _execute(
        self, connection: sa.Connection, start: str, values: list[str], end: str = ""
    ) -> sa.CursorResult[*tuple[Any, ...]]:
        # Values are in the text already: a % in them is no placeholder.
        statement = f"{start}{','.join(values)}{end}"
        return connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def trait_values(table: str, traits: Traits, fill_in: FillIn) -> list[str]:
    """Return trait rows as value lists of SQL: ``(1,'state','active')``.

    :param fill_in: the driver's way to put values into SQL.
    """
    if table == "trait_datetime":
        traits = [
            (number, [trait._replace(value=seconds(trait.value)) for trait in found])
            for number, found in traits
        ]
    values = [f"({number},'{trait[0]}','{trait[2]}')" for number, found in traits for trait in found]
    text = "".join(values)
    # Hardly any value holds a character that means something between quotes: look at all at once.
    if text.count("'") == 4 * len(values) and "\\" not in text and "'None')" not in text:
        return values
    return [
        fill_in("(%s,%s,%s)", (number, trait.name, trait.value))
        for number, found in traits
        for trait in found
    ]


def seconds(moment: Any) -> str | None:
    """Return naive UTC as the decimal seconds that Panko keeps on MySQL."""
    if moment is None:
        return None
    elapsed = moment - EPOCH
    return f"{elapsed.days * 86400 + elapsed.seconds}.{elapsed.microseconds:06d}"


class SqliteWriter:
    """Rows by executemany, with ids of our own: BEGIN IMMEDIATE made us the only writer."""

    _STORED = "SELECT message_id FROM event WHERE message_id IN (SELECT value FROM json_each(?))"

    def write(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> set[str]:
        """Write the rows; see :class:`Writer`."""
        return self.write_by(connection.connection.cursor(), rows, type_ids)

    def write_by(self, cursor: Any, rows: Sequence[Row], type_ids: TypeIds) -> set[str]:
        """Write the rows by a cursor of the driver."""
        given = orjson.dumps([row.message_id for row in rows]).decode()
        there = {message_id for (message_id,) in cursor.execute(self._STORED, (given,))}
        new = [row for row in rows if row.message_id not in there]
        (first,) = cursor.execute("SELECT coalesce(max(id), 0) + 1 FROM event").fetchone()
        ids = {row.message_id: number for number, row in enumerate(new, first)}
        _insert(
            cursor,
            "event (id, message_id, generated, raw, event_type_id)",
            (
                (number, row.message_id, timestamp(row.generated), row.raw, type_ids[row.event_type])
                for number, row in enumerate(new, first)
            ),
        )
        for table, traits in traits_by_table(new, ids):
            values: Iterator[tuple[Any, ...]] = (
                (number, trait[0], trait[2]) for number, found in traits for trait in found
            )
            if table == "trait_datetime":
                values = ((number, key, timestamp(value)) for number, key, value in values)
            _insert(cursor, f"{table} {_COLUMNS}", values)
        return set(ids)


_ROWS = 1000
"""Rows of a statement on SQLite. For each statement the driver gives the interpreter's lock away and has to
get it back from a thread that is at work on the next batch."""


def _insert(cursor: Any, columns: str, values: Iterator[tuple[Any, ...]]) -> None:
    marks = f"({','.join('?' * (columns.count(',') + 1))})"
    start = f"INSERT INTO {columns} VALUES "  # noqa: S608 - a table of ours
    while len(part := list(itertools.islice(values, _ROWS))) == _ROWS:
        cursor.execute(start + ",".join([marks] * _ROWS), list(itertools.chain.from_iterable(part)))
    # An odd number of rows would be a statement to prepare of its own.
    cursor.executemany(start + marks, part)


def timestamp(moment: Any) -> str | None:
    """Return naive UTC as SQLAlchemy keeps it in SQLite."""
    return None if moment is None else moment.isoformat(" ", "microseconds")


class PortableWriter:
    """Plain SQLAlchemy, for any other database.

    When another worker stores one of the events between our look and our INSERT, the INSERT is
    refused, and the caller finds out by looking again.
    """

    _TABLES: ClassVar = {
        "trait_text": TraitText,
        "trait_int": TraitInt,
        "trait_float": TraitFloat,
        "trait_datetime": TraitDatetime,
    }

    def write(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> set[str]:
        """Write the rows; see :class:`Writer`."""
        there = stored(connection, [row.message_id for row in rows])
        new = [row for row in rows if row.message_id not in there]
        if not new:
            return set()
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
                for row in new
            ],
        )
        ids = stored(connection, [row.message_id for row in new])
        for table, traits in traits_by_table(new, ids):
            connection.execute(
                sa.insert(self._TABLES[table]),
                [
                    {"event_id": number, "key": trait.name, "value": trait.value}
                    for number, found in traits
                    for trait in found
                ],
            )
        return set(ids)
