"""Deleting what is too old: one batch in one short transaction, the oldest first.

A round of many batches, at a pace that writers don't feel, is :mod:`panko_ingest.storage.retention`.
"""

import datetime
from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy as sa

from panko_ingest.storage.engine import write_transaction
from panko_ingest.storage.retry import run_transaction
from panko_ingest.storage.settings import Settings
from panko_ingest.storage.tables import (
    DeadLetter,
    Event,
    EventType,
    TraitDatetime,
    TraitFloat,
    TraitInt,
    TraitText,
)

BATCH_SIZE = 1000
"""Rows deleted in one transaction, where nothing measures how long it takes."""

EARLIEST = datetime.datetime(1, 1, 1)
"""The start of the calendar: nothing is older."""

TRAITS = (TraitText, TraitInt, TraitFloat, TraitDatetime)


class Batch(NamedTuple):
    """What one transaction found, in events, and what it deleted; ``last`` is when the youngest was."""

    found: int
    events: int
    traits: int
    last: datetime.datetime | None = None


Clock = Callable[[], datetime.datetime]

_DeleteSome = Callable[[sa.Connection, datetime.datetime, int], tuple[int, int]]


def utc_now() -> datetime.datetime:
    """Return the time as it is stored: naive UTC."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def limit_of(ttl: float, now: datetime.datetime) -> datetime.datetime:
    """Return the time before which everything is expired; the earliest of all where nothing can be."""
    try:
        return now - datetime.timedelta(seconds=ttl)
    except OverflowError:
        return EARLIEST


def clear_expired_events(
    engine: sa.Engine, settings: Settings, ttl: float, max_count: int | None = None
) -> int:
    """Delete events older than ``ttl`` seconds; see ``Connection.clear_expired_data``."""

    def delete_some(connection: sa.Connection, limit: datetime.datetime, count: int) -> tuple[int, int]:
        batch = delete_events(connection, limit, count)
        return batch.found, batch.events

    return _clear_expired(engine, settings, ttl, max_count, delete_some)


def clear_expired_dead_letters(engine: sa.Engine, settings: Settings, ttl: float) -> int:
    """Delete dead letters that were last seen more than ``ttl`` seconds ago; return how many."""
    return _clear_expired(engine, settings, ttl, None, _delete_dead_letters)


def clear(engine: sa.Engine, settings: Settings) -> None:
    """Delete all events, traits and event types."""

    def delete_all() -> None:
        with write_transaction(engine) as connection:
            for table in (*TRAITS, Event, EventType):
                connection.execute(sa.delete(table))

    run_transaction(settings, delete_all)


def delete_events(
    connection: sa.Connection,
    limit: datetime.datetime,
    count: int,
    among: sa.ColumnElement[bool] | None = None,
    start: datetime.datetime | None = None,
) -> Batch:
    """Delete the oldest events before ``limit`` with their traits, at most ``count`` of them.

    :param among: only of these events.
    :param start: only events since then: an index keeps its deleted entries as long as anybody may
        still see them, and who begins at the oldest passes over all of them.

    Ids are read first: a DELETE by a list of ids locks those rows and nothing else. Event types
    stay, also those without events: writers keep their ids in memory.
    """
    wanted = [Event.generated < limit]
    wanted += [] if among is None else [among]
    wanted += [] if start is None else [Event.generated >= start]
    # In the order of the index.
    oldest = sa.select(Event.id, Event.generated).where(*wanted)
    found = connection.execute(oldest.order_by(Event.generated, Event.message_id).limit(count)).all()
    if not found:
        return Batch(0, 0, 0)
    # In order of id, as the writers hold them.
    ids = ",".join(map(str, sorted(number for number, _ in found)))
    if connection.dialect.name == "postgresql":
        # Without fresh statistics it may read whole tables to find a few rows.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    traits = sum(_delete_by_id(connection, table.__tablename__, "event_id", ids) for table in TRAITS)
    events = _delete_by_id(connection, Event.__tablename__, "id", ids)
    return Batch(len(found), events, traits, found[-1][1])


def _delete_by_id(connection: sa.Connection, table: str, column: str, ids: str) -> int:
    # As one text: a parameter for each id costs more than the database needs to delete it.
    if connection.dialect.driver == "psycopg":
        statement = f"DELETE FROM {table} WHERE {column} = ANY(%s::bigint[])"  # noqa: S608 - ours
        return connection.exec_driver_sql(statement, (f"{{{ids}}}",)).rowcount
    return connection.exec_driver_sql(f"DELETE FROM {table} WHERE {column} IN ({ids})").rowcount  # noqa: S608


def _clear_expired(
    engine: sa.Engine, settings: Settings, ttl: float, max_count: int | None, delete_some: _DeleteSome
) -> int:
    limit = limit_of(ttl, utc_now())

    def delete_batch() -> tuple[int, int]:
        with write_transaction(engine) as connection:
            return delete_some(connection, limit, count)

    deleted, left = 0, max_count or None
    while True:
        count = min(BATCH_SIZE, left) if left is not None else BATCH_SIZE
        found, gone = run_transaction(settings, delete_batch)
        deleted += gone
        if left is not None:
            left -= found
        # Another expirer may have deleted what we found: what was found decides whether there is more.
        if found < count or left == 0:
            return deleted


def _delete_dead_letters(connection: sa.Connection, limit: datetime.datetime, count: int) -> tuple[int, int]:
    oldest = sa.select(DeadLetter.id).where(DeadLetter.last_at < limit)
    # In order of id, as the writers hold them.
    ids = sorted(connection.scalars(oldest.order_by(DeadLetter.last_at, DeadLetter.id).limit(count)))
    if not ids:
        return 0, 0
    # One that has come again meanwhile is not old any more.
    old = sa.delete(DeadLetter).where(DeadLetter.id.in_(ids), DeadLetter.last_at < limit)
    return len(ids), connection.execute(old).rowcount
