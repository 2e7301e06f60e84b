"""Events and dead letters of another event database into ours: Panko's, Ceilometer's or one of ours.

All of them keep the same columns under the same names, so one reader serves them all, whatever their
layout and revision. What is stored here already is told by its message_id (a dead letter by its
digest) and passed over, so that a run which was interrupted is simply begun anew.
"""

import datetime
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from panko_ingest.errors import ConfigError
from panko_ingest.storage.base import Merged, RecordResult
from panko_ingest.storage.database import base as databases
from panko_ingest.storage.database.engine import make_engine, read_transaction, write_transaction
from panko_ingest.storage.database.retry import run_transaction
from panko_ingest.storage.errors import StorageError, StorageUnavailable
from panko_ingest.storage.models import DeadLetter as Letter, Event, Trait
from panko_ingest.storage.recording.dead_letters import write_dead_letters
from panko_ingest.storage.recording.validation import Validator
from panko_ingest.storage.schema.column_limits import read_limits
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import TRAIT_TABLES, DeadLetter, Event as EventRow, EventType

_PAGE = 1000
_LETTERS = 20
_TYPES = (Trait.TEXT_TYPE, Trait.INT_TYPE, Trait.FLOAT_TYPE, Trait.DATETIME_TYPE)
_NAMESPACE = uuid.UUID("5d0b6bd2-6b0c-5f6e-9d1e-2f4f0f6a7c11")
_LETTER_FIELDS = [name for name in Letter.__dataclass_fields__ if name in DeadLetter.__table__.columns]

_Row = sa.Row[*tuple[Any, ...]]
Record = Callable[[Sequence[Event]], RecordResult]
ToldProgress = Callable[[int, int], None]
"""Takes the number of events that were looked at, and of all."""


def merge(
    url: str, engine: sa.Engine, settings: StorageSettings, record: Record, tell: ToldProgress
) -> Merged:
    """Copy what another database has and ours has not.

    :param url: of the other database.
    :param record: stores events in ours.
    :raises ConfigError: it is the same database, or the URL can't be used.
    :raises StorageUnavailable: one of the two is away; what was copied stays.
    """
    # A program of old may have had another driver.
    scheme, separator, rest = url.partition("://")
    try:
        source = make_engine(
            scheme.partition("+")[0] + separator + rest, StorageSettings(statement_timeout=0)
        )
    except ConfigError as error:
        raise ConfigError(f"db merge: --from: {str(error).removeprefix('[database] connection: ')}") from None
    try:
        if source.url == engine.url:
            raise ConfigError("db merge: --from is the database of [database] connection itself")
        if path := databases.of(source).missing_file(source):
            raise ConfigError(f"db merge: --from: there is no file {path}")
        with read_transaction(source) as connection:
            return _Merge(connection, engine, settings, record, tell).run()
    finally:
        source.dispose()


class _Merge:
    def __init__(
        self,
        source: sa.Connection,
        engine: sa.Engine,
        settings: StorageSettings,
        record: Record,
        tell: ToldProgress,
    ) -> None:
        # Each statement sees what is committed by then, and holds nothing back in the other database.
        self._source = source.execution_options(isolation_level="AUTOCOMMIT")
        self._engine = engine
        self._settings = settings
        self._record = record
        self._tell = tell
        self._type_names: dict[int | None, str] = {}
        self._named = 0
        self._refused: list[tuple[str, str]] = []

    def run(self) -> Merged:
        """Copy page after page, in the order of ids."""
        tables = set(sa.inspect(self._source).get_table_names())
        if EventRow.__tablename__ not in tables:
            raise StorageUnavailable("db merge: --from has no tables of events", operator=True)
        total = self._source.scalar(sa.select(sa.func.count()).select_from(EventRow)) or 0
        looked_at = recorded = 0
        for page in self._pages():
            recorded += self._copy(page)
            looked_at += len(page)
            self._tell(looked_at, max(total, looked_at))
        letters, new = self._copy_letters() if DeadLetter.__tablename__ in tables else (0, 0)
        return Merged(looked_at, recorded, self._named, self._refused, letters, new)

    def _pages(self) -> Iterator[Sequence[_Row]]:
        columns = EventRow.__table__.columns
        page: Sequence[_Row] = ()
        while not page or len(page) == _PAGE:
            statement = sa.select(*columns).order_by(EventRow.id).limit(_PAGE)
            if page:
                statement = statement.where(EventRow.id > page[-1].id)
            page = self._source.execute(statement).all()
            if not page:
                return
            yield page

    def _copy(self, page: Sequence[_Row]) -> int:
        ids = [row.message_id for row in page if row.message_id]
        stored = sa.select(EventRow.message_id, EventRow.generated).where(EventRow.message_id.in_(ids))
        with read_transaction(self._engine) as connection:
            there = {tuple(row) for row in connection.execute(stored)}
        new = [row for row in page if (row.message_id, row.generated) not in there]
        events = self._events(new) if new else []
        try:
            return len(self._record(events).recorded) if events else 0
        except StorageUnavailable:
            raise
        except StorageError:
            return sum(self._record_one(event) for event in events)

    def _record_one(self, event: Event) -> int:
        try:
            result = self._record([event])
            # As none was there, a duplicate is what was stored when they were recorded together.
            return len(result.recorded) + len(result.duplicates)
        except StorageUnavailable:
            raise
        except StorageError as error:
            self._refused.append((event.message_id, str(error)))
            return 0

    def _events(self, rows: Sequence[_Row]) -> list[Event]:
        traits = self._traits(rows)
        events = []
        for row in rows:
            its = traits.get(row.id, [])
            name = self._type_name(row.event_type_id)
            message_id = row.message_id
            if not (message_id and message_id.strip()):
                # The same each time, or a second run would store it again.
                content = f"{row.id} {name} {row.generated} {sorted(map(str, its))}"
                message_id = str(uuid.uuid5(_NAMESPACE, content))
                self._named += 1
            if row.generated is None:
                self._refused.append((message_id, "it has no time"))
                continue
            events.append(Event(message_id, name, row.generated, its, row.raw))
        return events

    def _traits(self, rows: Sequence[_Row]) -> dict[int, list[Trait]]:
        traits: dict[int, list[Trait]] = {row.id: [] for row in rows}
        for dtype in _TYPES:
            table = TRAIT_TABLES[dtype]
            # Their ids lie side by side: a range of them is found at once, however many there are.
            found = sa.select(table.event_id, table.key, table.value).where(
                table.event_id.between(rows[0].id, rows[-1].id)
            )
            for event_id, key, value in self._source.execute(found):
                if event_id in traits:
                    traits[event_id].append(Trait(key, dtype, value))
        return traits

    def _type_name(self, number: int | None) -> str:
        if number not in self._type_names:
            rows = self._source.execute(sa.select(EventType.id, EventType.desc))
            self._type_names = {None: "", **{row.id: row.desc or "" for row in rows}}
        return self._type_names.get(number, "")

    def _copy_letters(self) -> tuple[int, int]:
        count = new = 0
        last = 0
        while True:
            page = self._source.execute(
                sa.select(DeadLetter.id, DeadLetter.digest)
                .where(DeadLetter.id > last)
                .order_by(DeadLetter.id)
                .limit(_LETTERS)
            ).all()
            if not page:
                return count, new
            last = page[-1].id
            count += len(page)
            new += run_transaction(self._settings, lambda: self._copy_page_of_letters(page))  # noqa: B023

    def _copy_page_of_letters(self, page: Sequence[_Row]) -> int:
        digests = [row.digest for row in page]
        with write_transaction(self._engine) as connection:
            stored = sa.select(DeadLetter.digest).where(DeadLetter.digest.in_(digests))
            there = {bytes(digest) for digest in connection.scalars(stored)}
            wanted = [row.id for row in page if bytes(row.digest) not in there]
            rows = self._source.execute(
                sa.select(*DeadLetter.__table__.columns).where(DeadLetter.id.in_(wanted))
            ).all()
            letters = [Letter(**{name: getattr(row, name) for name in _LETTER_FIELDS}) for row in rows]
            write_dead_letters(connection, letters, Validator(read_limits(connection)))
            for row in rows:
                _keep_times(connection, row.digest, row.first_at, row.last_at, row.attempts)
        return len(rows)


def _keep_times(
    connection: sa.Connection,
    digest: bytes,
    first_at: datetime.datetime,
    last_at: datetime.datetime,
    attempts: int,
) -> None:
    connection.execute(
        sa.update(DeadLetter)
        .where(DeadLetter.digest == digest)
        .values(first_at=first_at, last_at=last_at, attempts=attempts)
    )
