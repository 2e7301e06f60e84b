"""Expiry: events and dead letters that are too old, away in short transactions, the oldest first."""

import datetime
from collections.abc import Callable, Sequence

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
"""Rows deleted in one transaction."""

_TRAITS = (TraitText, TraitInt, TraitFloat, TraitDatetime)

_DeleteSome = Callable[[sa.Connection, datetime.datetime, int], tuple[int, int]]


def clear_expired_events(
    engine: sa.Engine, settings: Settings, ttl: float, max_count: int | None = None
) -> int:
    """Delete events older than ``ttl`` seconds; see ``Connection.clear_expired_data``."""
    return _clear_expired(engine, settings, ttl, max_count, _delete_events)


def clear_expired_dead_letters(engine: sa.Engine, settings: Settings, ttl: float) -> int:
    """Delete dead letters that were last seen more than ``ttl`` seconds ago; return how many."""
    return _clear_expired(engine, settings, ttl, None, _delete_dead_letters)


def clear(engine: sa.Engine, settings: Settings) -> None:
    """Delete all events, traits and event types."""

    def delete_all() -> None:
        with write_transaction(engine) as connection:
            for table in (*_TRAITS, Event, EventType):
                connection.execute(sa.delete(table))

    run_transaction(settings, delete_all)


def _clear_expired(
    engine: sa.Engine, settings: Settings, ttl: float, max_count: int | None, delete_some: _DeleteSome
) -> int:
    try:
        cutoff = _now() - datetime.timedelta(seconds=ttl)
    except OverflowError:
        return 0  # nothing is that old

    def delete_batch() -> tuple[int, int]:
        with write_transaction(engine) as connection:
            return delete_some(connection, cutoff, limit)

    deleted, left = 0, max_count or None
    while True:
        limit = min(BATCH_SIZE, left) if left is not None else BATCH_SIZE
        found, gone = run_transaction(settings, delete_batch)
        deleted += gone
        if left is not None:
            left -= found
        # Another expirer may have deleted what we found: what was found decides whether there is more.
        if found < limit or left == 0:
            return deleted


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def _delete_events(connection: sa.Connection, cutoff: datetime.datetime, limit: int) -> tuple[int, int]:
    """Delete the oldest events before ``cutoff`` with their traits; return how many were found and deleted.

    Ids are read first: a DELETE by a list of ids locks those rows and nothing else.
    """
    ids = _ids(
        connection,
        sa.select(Event.id)
        .where(Event.generated < cutoff)
        .order_by(Event.generated, Event.message_id)
        .limit(limit),
    )
    if not ids:
        return 0, 0
    for table in _TRAITS:
        connection.execute(sa.delete(table).where(table.event_id.in_(ids)))
    gone = connection.execute(sa.delete(Event).where(Event.id.in_(ids))).rowcount
    return len(ids), gone


def _delete_dead_letters(connection: sa.Connection, cutoff: datetime.datetime, limit: int) -> tuple[int, int]:
    ids = _ids(
        connection,
        sa.select(DeadLetter.id)
        .where(DeadLetter.last_at < cutoff)
        .order_by(DeadLetter.last_at, DeadLetter.id)
        .limit(limit),
    )
    if not ids:
        return 0, 0
    # One that has come again meanwhile is not old any more.
    old = sa.delete(DeadLetter).where(DeadLetter.id.in_(ids), DeadLetter.last_at < cutoff)
    return len(ids), connection.execute(old).rowcount


def _ids(connection: sa.Connection, statement: sa.Select[int]) -> Sequence[int]:
    # In order of id, as the writers hold them.
    return sorted(connection.scalars(statement))
