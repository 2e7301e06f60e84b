"""Short lists of events: a transaction of their own in few round trips.

What a lone event costs is not its rows but the way there: BEGIN, a statement for each table, COMMIT,
and what SQLAlchemy does around each. Here the driver is used directly, on a connection of the same
pool. Nothing is decided here: whatever goes wrong, the caller begins anew the common way.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import sqlalchemy as sa

from panko_ingest.storage import faults
from panko_ingest.storage.bulk import (
    MariadbWriter,
    PostgresqlWriter,
    SqliteWriter,
    TypeIds,
    Writer,
)
from panko_ingest.storage.engine import begin_writing
from panko_ingest.storage.pooling import BEGINNING
from panko_ingest.storage.validation import Row


class ShortWriter(Protocol):
    """Writes short lists, each in a transaction of its own."""

    most: int
    """Rows in a list at most."""

    def write(self, engine: sa.Engine, rows: Sequence[Row], type_ids: TypeIds) -> set[str]:
        """Write the events that are not stored yet, with their traits, and commit.

        :param rows: sorted by message_id, each message_id once.
        :returns: the message_ids of those that were written.
        """
        ...


def short_writer_for(writer: Writer) -> ShortWriter | None:
    """Return what goes with a writer of batches; None where there is no shorter way."""
    if isinstance(writer, PostgresqlWriter):
        return _PostgresqlShort(writer)
    if isinstance(writer, MariadbWriter):
        return _MariadbShort(writer)
    return _SqliteShort(writer) if isinstance(writer, SqliteWriter) else None


class _PostgresqlShort:
    """One statement for all tables, and COMMIT.

    COMMIT does not come with it, which would save a round trip: a server that hangs when it is asked,
    and comes back after we have given up, would store what we say is not stored.
    """

    def __init__(self, writer: PostgresqlWriter) -> None:
        self.most = writer.SHORT
        self._writer = writer

    def write(self, engine: sa.Engine, rows: Sequence[Row], type_ids: TypeIds) -> set[str]:
        statement, parameters = self._writer.at_once(rows, type_ids)
        with _driver_connection(engine) as driver:
            written = {message_id for (message_id,) in driver.execute(statement, parameters).fetchall()}
            driver.commit()
        return written


class _MariadbShort:
    """One compound statement for all tables, and COMMIT.

    It does without IGNORE, and is refused when the event is stored already.
    """

    most = 1

    def __init__(self, writer: MariadbWriter) -> None:
        self._writer = writer

    def write(self, engine: sa.Engine, rows: Sequence[Row], type_ids: TypeIds) -> set[str]:
        with _driver_connection(engine) as driver, driver.cursor() as cursor:
            statements = self._writer.of_one(rows[0], type_ids, cursor.mogrify)
            cursor.execute(f"BEGIN NOT ATOMIC {'; '.join(statements)}; END")
            driver.commit()
        return {rows[0].message_id}


class _SqliteShort:
    """No round trips to save here, but what SQLAlchemy does around each statement."""

    most = 20

    def __init__(self, writer: SqliteWriter) -> None:
        self._writer = writer

    def write(self, engine: sa.Engine, rows: Sequence[Row], type_ids: TypeIds) -> set[str]:
        with _driver_connection(engine) as driver:
            cursor = driver.cursor()
            if not begin_writing(driver):
                cursor.execute("BEGIN IMMEDIATE")
            written = self._writer.write_by(cursor, rows, type_ids)
            cursor.execute("COMMIT")
        return written


@contextmanager
def _driver_connection(engine: sa.Engine) -> Iterator[Any]:
    """Give a pooled connection as the driver's own; one that broke leaves the pool, with its like."""
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        try:
            if beginning := connection.info.get(BEGINNING):
                driver.execute(beginning)
            yield driver
        except Exception as error:
            dialect: Any = engine.dialect
            if isinstance(error, dialect.loaded_dbapi.Error) and (
                faults.needs_new_connection(error) or dialect.is_disconnect(error, driver, None)
            ):
                connection.invalidate(error)
                engine.dispose()
            else:
                # The driver may not know that a transaction is open.
                driver.rollback()
            raise
