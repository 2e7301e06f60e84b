"""What is in another event database, read a few MB at a time: Panko's, Ceilometer's or one of ours.

All of them keep the same columns under the same names, so one reader serves them all, whatever their
layout and revision. A page is looked at first: ids, names, times and sizes. Only what is asked for then is
read as a whole. Where that fails because of what a row holds, it is read again by halves until the row at
fault is alone, and that row is given as one that can't be read.
"""

import datetime
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import sqlalchemy as sa

from panko_ingest.errors import ConfigError
from panko_ingest.storage.database import base as databases, error_classes
from panko_ingest.storage.database.engine import make_engine
from panko_ingest.storage.database.error_classes import ErrorClass
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.models import DeadLetter as Letter, Event, Trait
from panko_ingest.storage.recording import fault_search
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import (
    EVENT_TABLES,
    TRAIT_TABLES,
    Base,
    DeadLetter,
    Event as EventRow,
    EventType,
)

_PAGE = 1000
# What JSON becomes in memory is ten times its text, for a moment.
_BYTES = 2_000_000
_TRAITS = 20_000
_MOST_TYPES = 10_000
_TYPES = (Trait.TEXT_TYPE, Trait.INT_TYPE, Trait.FLOAT_TYPE, Trait.DATETIME_TYPE)
_NAMESPACE = uuid.UUID("5d0b6bd2-6b0c-5f6e-9d1e-2f4f0f6a7c11")
_LETTER_FIELDS = [name for name in Letter.__dataclass_fields__ if name in DeadLetter.__table__.columns]
_DIGEST_SIZE = 32
_UNREADABLE = "it can't be read: "
# SQLite's driver gives no code for it.
_NO_UTF8 = "Could not decode to UTF-8"

_Row = sa.Row[*tuple[Any, ...]]


class Head(NamedTuple):
    """What tells an event apart, and how much there is to read of it."""

    id: int
    size: int
    """Bytes of its raw."""
    message_id: str | None
    generated: datetime.datetime | None
    event_type_id: int | None = None
    fault: str = ""
    """Why its row can't be read, where that is so."""

    @property
    def nameless(self) -> bool:
        """Whether it has no message_id, or a blank one."""
        return not (self.message_id and self.message_id.strip())

    @property
    def name(self) -> str:
        """What a person finds it by."""
        return f"row {self.id} of event" if self.nameless else str(self.message_id)


class FoundEvent(NamedTuple):
    """An event as a whole, or why there is none."""

    head: Head
    event: Event | None
    fault: str = ""


class LetterHead(NamedTuple):
    """What tells a dead letter apart, and how much there is to read of it."""

    id: int
    size: int
    digest: bytes
    fault: str = ""
    """Why its row can't be read, where that is so."""

    @property
    def name(self) -> str:
        """What a person finds it by."""
        return f"row {self.id} of dead_letter"


class FoundLetter(NamedTuple):
    """A dead letter as a whole, or why there is none."""

    head: LetterHead
    letter: Letter | None = None
    times: dict[str, Any] | None = None
    """Columns that a letter gets when it is stored: ``first_at``, ``last_at``, ``attempts``."""
    fault: str = ""


class _HasSize(Protocol):
    @property
    def size(self) -> int: ...


_H = TypeVar("_H", bound=_HasSize)
_Key = TypeVar("_Key")
_Found = TypeVar("_Found")


class _TooMany(Exception):
    """There is more to these rows than is to be in memory at once."""


@contextmanager
def opened(url: str, ours: sa.Engine) -> Iterator["Source"]:
    """Give the database behind a URL, to be read.

    :param ours: of the database that must be another one.
    :raises ConfigError: it is the same database, or the URL can't be used.
    :raises StorageUnavailable: it can't be read, or has no events.
    """
    # A program of old may have had another driver.
    scheme, separator, rest = url.partition("://")
    try:
        engine = make_engine(
            scheme.partition("+")[0] + separator + rest, StorageSettings(statement_timeout=0)
        )
    except ConfigError as error:
        raise _unusable(error) from None
    try:
        if engine.url == ours.url:
            raise ConfigError("db merge: --from is the database of [database] connection itself")
        if path := databases.of(engine).missing_file(engine):
            raise ConfigError(f"db merge: --from: there is no file {path}")
        with _connection(engine) as connection:
            yield Source(connection)
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


class Source:
    """Another event database, by a connection that only reads.

    All of its methods raise ``StorageUnavailable`` where that database is away, or is not as it should be.
    """

    def __init__(self, connection: sa.Connection) -> None:
        """Look for the tables of events.

        :raises StorageUnavailable: one is not there, or is another service's.
        """
        self._connection = connection
        self._type_names: dict[int | None, str] = {}
        self._columns = self._look()
        if EventRow.__tablename__ not in self._columns:
            raise StorageUnavailable("db merge: --from: it has no tables of events", operator=True)
        for table in (EventType.__tablename__, *EVENT_TABLES):
            self._refuse_unless_whole(table)

    def count(self) -> int:
        """Return how many events there are."""
        ((number,),) = self._rows(sa.select(sa.func.count()).select_from(EventRow))
        return int(number)

    def pages(self) -> Iterator[list[Head]]:
        """Yield the events that there are, by pages in the order of their ids."""
        last: int | None = None
        while rows := self._page(EventRow, self._size(EventRow.raw), last):
            sizes = {row.id: row.size for row in rows}
            last = rows[-1].id
            parts = self._by_halves(list(sizes), self._heads, self._unreadable_head)
            yield [head._replace(size=sizes[head.id]) for part in parts for head in part if head.id in sizes]

    def events(self, heads: Sequence[Head]) -> Iterator[list[FoundEvent]]:
        """Yield events with all that is in them, a few MB at a time; those that are gone are left out."""
        for part in _parts(heads):
            yield from self._by_halves(
                part, self._events, lambda head, fault: FoundEvent(head, None, _UNREADABLE + fault)
            )

    def pages_of_letters(self) -> Iterator[list[LetterHead]]:
        """Yield the dead letters that there are, by pages in the order of their ids."""
        table = DeadLetter
        if table.__tablename__ not in self._columns:
            return
        self._refuse_unless_whole(table.__tablename__)
        size = self._size(table.body) + self._size(table.headers) + self._size(table.error)
        last: int | None = None
        while rows := self._page(table, size, last):
            sizes = {row.id: row.size for row in rows}
            last = rows[-1].id
            parts = self._by_halves(
                list(sizes),
                self._letter_heads,
                lambda number, fault: LetterHead(number, 0, b"", _UNREADABLE + fault),
            )
            yield [head._replace(size=sizes[head.id]) for part in parts for head in part if head.id in sizes]

    def letters(self, heads: Sequence[LetterHead]) -> Iterator[list[FoundLetter]]:
        """Yield dead letters with all that is in them, likewise."""
        for part in _parts(heads):
            yield from self._by_halves(
                part, self._letters, lambda head, fault: FoundLetter(head, fault=_UNREADABLE + fault)
            )

    def _look(self) -> dict[str, set[str]]:
        """Return the columns of the tables that have our names."""
        try:
            found = sa.inspect(self._connection).get_multi_columns(filter_names=list(Base.metadata.tables))
        except sa.exc.SQLAlchemyError as error:
            raise _unavailable(error) from error
        return {table: {column["name"] for column in columns} for (_, table), columns in found.items()}

    def _refuse_unless_whole(self, table: str) -> None:
        if table not in self._columns:
            raise StorageUnavailable(f"db merge: --from: it has no table {table}", operator=True)
        if missing := set(Base.metadata.tables[table].columns.keys()) - self._columns[table]:
            raise StorageUnavailable(
                f"db merge: --from: the table {table} is another service's or too old, for it has no "
                + ", ".join(sorted(missing)),
                operator=True,
            )

    def _page(self, table: Any, size: Any, last: int | None) -> Sequence[_Row]:
        statement = sa.select(table.id, size.label("size")).order_by(table.id).limit(_PAGE)
        return self._rows(statement if last is None else statement.where(table.id > last))

    def _size(self, column: Any) -> Any:
        """Return the bytes of a column in SQL."""
        if self._connection.dialect.name == "sqlite":
            # There, a text's length is that before its first NUL.
            length = sa.func.length(sa.cast(column, sa.LargeBinary))
        else:
            length = sa.func.octet_length(column)
        return sa.func.coalesce(sa.type_coerce(length, sa.BigInteger), 0)

    def _heads(self, ids: Sequence[int]) -> list[Head]:
        row = EventRow
        statement = sa.select(row.id, row.message_id, row.generated, row.event_type_id)
        rows = self._rows(statement.where(row.id.between(ids[0], ids[-1])).order_by(row.id))
        return [Head(one.id, 0, one.message_id, one.generated, one.event_type_id) for one in rows]

    def _unreadable_head(self, number: int, fault: str) -> Head:
        statement = sa.select(EventRow.message_id).where(EventRow.id == number)
        try:
            message_id = self._rows(statement)[0].message_id
        except StorageUnavailable:
            raise
        except Exception:  # noqa: BLE001 - it is told by its number then
            message_id = None
        return Head(number, 0, message_id, None, None, _UNREADABLE + fault)

    def _events(self, heads: Sequence[Head]) -> list[FoundEvent]:
        names = self._names({head.event_type_id for head in heads})
        traits = self._traits(heads)
        statement = sa.select(EventRow.id, EventRow.raw).where(EventRow.id.in_([one.id for one in heads]))
        raws = {row.id: row.raw for row in self._rows(statement)}
        found = []
        for head in heads:
            if head.id not in raws:
                continue
            if head.generated is None:
                found.append(FoundEvent(head, None, "it has no time"))
                continue
            its, name = traits[head.id], names[head.event_type_id]
            message_id = str(head.message_id)
            if head.nameless:
                # The same each time, or a second run would store it again.
                content = f"{head.id} {name} {head.generated} {sorted(map(str, its))}"
                message_id = str(uuid.uuid5(_NAMESPACE, content))
            found.append(FoundEvent(head, Event(message_id, name, head.generated, its, raws[head.id])))
        return found

    def _traits(self, heads: Sequence[Head]) -> dict[int, list[Trait]]:
        traits: dict[int, list[Trait]] = {head.id: [] for head in heads}
        for dtype in _TYPES:
            table = TRAIT_TABLES[dtype]
            # Their ids lie side by side: a range of them is found at once, however many there are.
            statement = sa.select(table.event_id, table.key, table.value).where(
                table.event_id.between(heads[0].id, heads[-1].id)
            )
            rows = self._rows(statement.limit(_TRAITS) if len(heads) > 1 else statement)
            if len(rows) == _TRAITS and len(heads) > 1:
                raise _TooMany
            for event_id, key, value in rows:
                if event_id in traits:
                    traits[event_id].append(Trait(key, dtype, value))
        return traits

    def _names(self, numbers: Collection[int | None]) -> dict[int | None, str]:
        """Return the names of event types; an empty one where there is none."""
        known = self._type_names
        names = {number: known.get(number, "") for number in numbers}
        if unknown := names.keys() - known.keys() - {None}:
            statement = sa.select(EventType.id, EventType.desc).where(EventType.id.in_(unknown))
            found = {row.id: row.desc or "" for row in self._rows(statement)}
            self._type_names = {**known, **found} if len(known) < _MOST_TYPES else found
            names |= found
        return names

    def _letter_heads(self, ids: Sequence[int]) -> list[LetterHead]:
        row = DeadLetter
        statement = sa.select(row.id, row.digest).where(row.id.between(ids[0], ids[-1])).order_by(row.id)
        # As MySQL gives them: other databases also keep shorter ones, which it would never find again.
        return [
            LetterHead(one.id, 0, bytes(one.digest).ljust(_DIGEST_SIZE, b"\0"))
            for one in self._rows(statement)
        ]

    def _letters(self, heads: Sequence[LetterHead]) -> list[FoundLetter]:
        statement = sa.select(*DeadLetter.__table__.columns).where(DeadLetter.id.in_([h.id for h in heads]))
        rows = {row.id: row._mapping for row in self._rows(statement)}
        found = []
        for head in heads:
            if row := rows.get(head.id):
                letter = Letter(**{name: row[name] for name in _LETTER_FIELDS} | {"digest": head.digest})
                times = {name: row[name] for name in ("first_at", "last_at", "attempts")}
                found.append(FoundLetter(head, letter, times))
        return found

    def _by_halves(
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
        except _TooMany:
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
        yield from self._by_halves(keys[:middle], read, unreadable)
        yield from self._by_halves(keys[middle:], read, unreadable)

    def _rows(self, statement: sa.Executable) -> Sequence[_Row]:
        """Return rows; what one of them holds may make it fail with an error of any kind."""
        try:
            return self._connection.execute(statement).all()
        except sa.exc.SQLAlchemyError as error:
            if _is_a_values(error):
                raise
            raise _unavailable(error) from error


def _parts(heads: Sequence[_H]) -> Iterator[list[_H]]:
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
    return ConfigError(f"db merge: --from: {str(error).removeprefix('[database] connection: ')}")


def _unavailable(error: Exception) -> StorageUnavailable:
    """Return what the caller gets to see; what mends our own database is no advice for one that is read."""
    operator = error_classes.classify(error) is ErrorClass.OPERATOR
    return StorageUnavailable(f"db merge: --from: {error_classes.describe(error)}", operator=operator)
