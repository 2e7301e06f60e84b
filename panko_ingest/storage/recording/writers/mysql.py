"""Rows into MariaDB from 10.5 on by PyMySQL: INSERT of many rows, a block of statements for one event."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from panko_ingest.storage.recording.sql_text import (
    FillIn,
    Traits,
    optional_seconds,
    seconds,
    values_of_traits,
)
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

_EVENT = "event (message_id, `generated`, raw, event_type_id)"
_LARGEST_STATEMENT = 1024 * 1024

# An id that an operator's sequence or trigger gave is not told, and the one that was told last is another's.
_NO_ID = "DO LAST_INSERT_ID(0)"
_ID_IS_KNOWN = (
    "IF LAST_INSERT_ID() = 0 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not by AUTO_INCREMENT'; END IF"
)


def writer_for(connection: sa.Connection, _settings: StorageSettings) -> PortableWriter:
    """Return the writer for MariaDB from 10.5 on by PyMySQL; the portable one for all else."""
    dialect: Any = connection.dialect
    returns_what_it_inserts = dialect.is_mariadb and dialect.server_version_info >= (10, 5)
    if dialect.driver != "pymysql" or not returns_what_it_inserts:
        return PortableWriter()
    return MariadbWriter(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())


class MariadbWriter(PortableWriter):
    """Events by INSERT IGNORE … RETURNING, which passes over those that are stored; traits by plain INSERT.

    IGNORE would also change what does not fit instead of refusing it: rows were validated before, and
    warnings are counted. A row that it leaves out for another reason shows in that it is not stored.
    """

    most_directly = 1

    def __init__(self, max_packet: int) -> None:
        # In characters, of which each takes up to four bytes.
        self._size = min(max_packet // 4, _LARGEST_STATEMENT)

    def write(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> set[Key]:
        """Write the events that are not stored yet; see :class:`PortableWriter`."""
        return set(self._write(connection, rows, type_ids, "IGNORE "))

    def insert(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> None:
        """Write events of which none is stored; see :class:`PortableWriter`."""
        written = self._write(connection, rows, type_ids, "")
        expect_all(rows, sum(row.message_id in written for row in rows))

    def _write(
        self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds, ignore: str
    ) -> dict[str, int]:
        cursor: Any = connection.connection.cursor()
        ids: dict[str, int] = {}
        for values in self._parts(_values_of_events(rows, type_ids, cursor.mogrify)):
            ids |= _insert_events(connection, values, ignore)
        numbered = [(ids[row.message_id], row) for row in rows if row.message_id in ids]
        for table, traits in traits_by_table(numbered):
            for values in self._parts(_values_of_traits(table, traits, cursor.mogrify)):
                _execute(connection, _insert_traits(table), values)
        return ids

    def write_directly(self, driver: Any, rows: Sequence[Row], type_ids: TypeIds) -> set[Key]:
        """Write one event by a block of statements, and COMMIT; see :class:`PortableWriter`.

        It does without IGNORE, and is refused when the event is stored already, or gets an id in another way
        than by AUTO_INCREMENT.
        """
        (row,) = rows
        with driver.cursor() as cursor:
            (event,) = _values_of_events(rows, type_ids, cursor.mogrify)
            statements = [_NO_ID, f"INSERT INTO {_EVENT} VALUES {event}", _ID_IS_KNOWN]  # noqa: S608 - ours
            for table, traits in traits_by_table([(0, row)]):
                # Each begins with the number that stands for the id; nothing else is numbered in between.
                values = [
                    f"(LAST_INSERT_ID(){value[2:]}"
                    for value in _values_of_traits(table, traits, cursor.mogrify)
                ]
                statements.append(_insert_traits(table) + ",".join(values))
            cursor.execute(f"BEGIN NOT ATOMIC {'; '.join(statements)}; END")
            driver.commit()
        return {row.message_id}

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


def _insert_events(connection: sa.Connection, values: list[str], ignore: str) -> dict[str, int]:
    start = f"INSERT {ignore}INTO {_EVENT} VALUES "  # noqa: S608 - ours
    result = _execute(connection, start, values, " RETURNING message_id, id")
    cursor: Any = result.cursor
    warnings = cursor.warning_count
    ids: dict[str, int] = dict(result.all())
    # A row that is left out is one warning; any other tells of a value that was changed.
    if warnings > len(values) - len(ids):
        raise ValueError("a value does not fit its column, and INSERT IGNORE would change it")
    return ids


def _insert_traits(table: type[Any]) -> str:
    return f"INSERT INTO {table.__tablename__} (event_id, `key`, value) VALUES "  # noqa: S608 - ours


def _values_of_events(rows: Iterable[Row], type_ids: TypeIds, fill_in: FillIn) -> list[str]:
    return [
        fill_in("(%s,%s,%s,%s)", (row.message_id, seconds(row.generated), row.raw, type_ids[row.event_type]))
        for row in rows
    ]


def _values_of_traits(table: type[Any], traits: Traits, fill_in: FillIn) -> list[str]:
    if table is TraitDatetime:
        traits = [
            (number, [trait._replace(value=optional_seconds(trait.value)) for trait in found])
            for number, found in traits
        ]
    return values_of_traits(traits, fill_in)


def _execute(
    connection: sa.Connection, start: str, values: list[str], end: str = ""
) -> sa.CursorResult[*tuple[Any, ...]]:
    # Values are in the text already: a % in them is no placeholder.
    statement = f"{start}{','.join(values)}{end}"
    return connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
