"""A connection to another event database, for ``db merge``: opened, looked at, and read within bounds.

Where reading fails because of what a row holds, it is read again by halves until the row at fault is alone,
and that row is given as one that can't be read. What is wrong with the other database is told of that one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from panko_ingest.errors import ConfigError, DatabaseUrlError
from panko_ingest.storage.database import base as databases, error_classes, fault_search
from panko_ingest.storage.database.engine import make_engine
from panko_ingest.storage.errors import ErrorClass, StorageUnavailable
from panko_ingest.storage.far_times import FarTime
from panko_ingest.storage.schema.unfit_tables import unreadable_columns
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import Base

_PAGE = 1000
# What JSON becomes in memory is ten times its text, for a moment.
_BYTES = 2_000_000
# SQLite's driver gives no code for it.
_NO_UTF8 = "Could not decode to UTF-8"

Row = sa.Row[*tuple[Any, ...]]


class _HasSize(Protocol):
    @property
    def size(self) -> int: ...


_H = TypeVar("_H", bound=_HasSize)
_Key = TypeVar("_Key")
_Found = TypeVar("_Found")


class TooMany(Exception):
    """There is more to these rows than is to be in memory at once."""


@contextmanager
def opened(url: str, ours: sa.Engine) -> Iterator["SourceConnection"]:
    """Give the database behind a URL, to be read.

    :param ours: of the database that must be another one.
    :raises ConfigError: it is the same database, or the URL can't be used.
    :raises StorageUnavailable: it can't be read.
    """
    # An old program may have had another driver.
    scheme, separator, rest = url.partition("://")
    try:
        engine = make_engine(
            scheme.partition("+")[0] + separator + rest, StorageSettings(statement_timeout=0)
        )
    except ConfigError as error:
        raise _unusable(error) from None
    databases.of(engine).read_from_any_host(engine)
    try:
        if engine.url == ours.url:
            raise ConfigError("db merge: --from is the database of [database] connection itself")
        if path := databases.of(engine).missing_file(engine):
            raise ConfigError(f"db merge: --from: there is no file {path}")
        with _connection(engine) as connection:
            yield SourceConnection(connection)
    finally:
        engine.dispose()


@contextmanager
def _connection(engine: sa.Engine) -> Iterator[sa.Connection]:
    try:
        # Each statement sees what is committed by then, and holds nothing back there.
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    except ConfigError as error:
        raise _unusable(error) from None
    except sa.exc.SQLAlchemyError as error:
        raise _unavailable(error) from error
    with connection:
        yield connection


class SourceConnection:
    """A connection that only reads; what it can't read for the database's sake is ``StorageUnavailable``."""

    def __init__(self, connection: sa.Connection) -> None:
        """Look which of the tables are there."""
        self._connection = connection
        self._columns = self._look()

    def has(self, table: str) -> bool:
        """Tell whether there is a table of that name."""
        return table in self._columns

    def _look(self) -> dict[str, set[str]]:
        """Return the columns of the tables that have our names."""
        try:
            found = sa.inspect(self._connection).get_multi_columns(filter_names=list(Base.metadata.tables))
        except sa.exc.SQLAlchemyError as error:
            raise _unavailable(error) from error
        return {table: {column["name"] for column in columns} for (_, table), columns in found.items()}

    def refuse_unless_whole(self, table: str) -> None:
        """Raise if a table is not there, or is not as ours of that name.

        :raises StorageUnavailable: saying what it has not, or what of it can't be read.
        """
        if table not in self._columns:
            raise StorageUnavailable(f"db merge: --from: it has no table {table}", operator=True)
        if missing := set(Base.metadata.tables[table].columns.keys()) - self._columns[table]:
            raise StorageUnavailable(
                f"db merge: --from: the table {table} is another service's or too old, for it has no "
                + ", ".join(sorted(missing)),
                operator=True,
            )
        try:
            unreadable = next(unreadable_columns(self._connection, table), None)
        except sa.exc.SQLAlchemyError as error:
            raise _unavailable(error) from error
        if unreadable:
            raise StorageUnavailable(f"db merge: --from: {unreadable}", operator=True)

    def page(self, table: Any, size: Any, last: int | None) -> Sequence[Row]:
        """Return ids and sizes of the rows behind an id, a page of them."""
        statement = sa.select(table.id, size.label("size")).order_by(table.id).limit(_PAGE)
        return self.rows(statement if last is None else statement.where(table.id > last))

    def size(self, column: Any) -> Any:
        """Return the bytes of a column in SQL."""
        return databases.of(self._connection).bytes_of(column)

    def by_halves(
        self,
        keys: Sequence[_Key],
        read: Callable[[Sequence[_Key]], list[_Found]],
        unreadable: Callable[[_Key, str], _Found],
    ) -> Iterator[list[_Found]]:
        """Yield what is read, at once if it can be, else by halves.

        :param unreadable: makes what stands for a row that can't be read, of it and of the reason.
        """
        try:
            found = read(keys)
        except TooMany:
            pass
        except StorageUnavailable:
            raise
        except Exception as error:
            if not _is_a_values(error):
                raise
            if len(keys) == 1:
                yield [unreadable(keys[0], error_classes.describe(error))]
                return
        else:
            yield found
            return
        middle = len(keys) // 2
        yield from self.by_halves(keys[:middle], read, unreadable)
        yield from self.by_halves(keys[middle:], read, unreadable)

    def rows(self, statement: sa.Executable) -> Sequence[Row]:
        """Return rows; what one of them holds may make it fail with an error of any kind."""
        try:
            found = self._connection.execute(statement).all()
        except sa.exc.SQLAlchemyError as error:
            if _is_a_values(error):
                raise
            raise _unavailable(error) from error
        for time in (value for row in found for value in row if isinstance(value, FarTime)):
            raise ValueError(f"{time.stored} is no time, or beyond the calendar")
        return found


def parts(heads: Sequence[_H]) -> Iterator[list[_H]]:
    """Yield rows in parts of a few MB, or of a single row that has more."""
    part: list[_H] = []
    size = 0
    for head in heads:
        if part and size + head.size > _BYTES:
            yield part
            part, size = [], 0
        part.append(head)
        size += head.size
    if part:
        yield part


def _is_a_values(error: Exception) -> bool:
    """Tell whether reading failed for what a row holds."""
    return fault_search.may_be_a_rows(error) or _NO_UTF8 in str(error)


def _unusable(error: ConfigError) -> ConfigError:
    return DatabaseUrlError(error.fault, "db merge: --from") if isinstance(error, DatabaseUrlError) else error


def _unavailable(error: Exception) -> StorageUnavailable:
    """Return what the caller gets to see; what mends our own database is no advice for one that is read."""
    operator = error_classes.classify(error) is ErrorClass.OPERATOR
    return StorageUnavailable(f"db merge: --from: {error_classes.describe(error)}", operator=operator)
