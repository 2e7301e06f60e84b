"""Deleting what is too old: one batch in one short transaction, the oldest first.

A round of many batches, at a pace that writers don't feel, is :mod:`panko_ingest.storage.retention`.
"""

import datetime
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
    """What one transaction found, in events, and what it deleted."""

    found: int
    events: int
    traits: int


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
) -> Batch:
    """Delete the oldest events before ``limit`` with their traits, at most ``count`` of them.

    :param among: only of these events.

    Ids are read first: a DELETE by a list of ids locks those rows and nothing else. Event types
    stay, also those without events: writers keep their ids in memory.
    """
    ids = _ids(
        connection,
        sa.select(Event.id)
        .where(Event.generated < limit, sa.true() if among is None else among)
        # As the index has it.
        .order_by(Event.generated, Event.message_id)
        .limit(count),
    )
    if not ids:
        return Batch(0, 0, 0)
    if connection.dialect.name == "postgresql":
        # Without fresh statistics it may read whole tables to find a few rows.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    traits = sum(_delete_by_id(connection, table.__tablename__, "event_id", ids) for table in TRAITS)
    return Batch(len(ids), _delete_by_id(connection, Event.__tablename__, "id", ids), traits)


def _delete_by_id(connection: sa.Connection, table: str, column: str, ids: Sequence[int]) -> int:
    # Not by SQLAlchemy's IN: a parameter for each id costs more than the database needs to delete it.
    if connection.dialect.driver == "psycopg":
        # Cast, because psycopg sends the smallest type that fits, with which nothing can be hashed.
        statement, parameters = f"DELETE FROM {table} WHERE {column} = ANY(%s::bigint[])", (ids,)  # noqa: S608 - ours
        return connection.exec_driver_sql(statement, parameters).rowcount
    numbers = ",".join(map(str, ids))
    return connection.exec_driver_sql(f"DELETE FROM {table} WHERE {column} IN ({numbers})").rowcount  # noqa: S608


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
    ids = _ids(
        connection,
        sa.select(DeadLetter.id)
        .where(DeadLetter.last_at < limit)
        .order_by(DeadLetter.last_at, DeadLetter.id)
        .limit(count),
    )
    if not ids:
        return 0, 0
    # One that has come again meanwhile is not old any more.
    old = sa.delete(DeadLetter).where(DeadLetter.id.in_(ids), DeadLetter.last_at < limit)
    return len(ids), connection.execute(old).rowcount


def _ids(connection: sa.Connection, statement: sa.Select[Any]) -> list[int]:
    # In order of id, as the writers hold them.
    return sorted(connection.scalars(statement))
