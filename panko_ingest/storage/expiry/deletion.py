"""Deleting what is too old: batch after batch, each in one short transaction, the oldest first.

A round of them at a pace that writers do not feel is in ``expiry_round``.
"""

import datetime
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from panko_ingest import timestamps
from panko_ingest.storage.database import base as databases, clocks
from panko_ingest.storage.database.engine import read_transaction, write_transaction
from panko_ingest.storage.database.retry import run_transaction
from panko_ingest.storage.reading import request_values
from panko_ingest.storage.schema import partitions
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import TRAITS, DeadLetter, Event, EventType

LOG = logging.getLogger(__name__)

BATCH_SIZE = 1000
"""Rows deleted in one transaction, where nothing measures how long it takes."""

_NO_EVENT = 2**63 - 1


class DeletedBatch(NamedTuple):
    """What one transaction found, in rows, and what it deleted; ``last`` is when the youngest event was."""

    found: int = 0
    rows: int = 0
    traits: int = 0
    last: datetime.datetime | None = None


class Deleted(NamedTuple):
    """What batches deleted; ``finished`` tells that nothing was left."""

    rows: int = 0
    traits: int = 0
    batches: int = 0
    finished: bool = False


Clock = Callable[[], datetime.datetime]

DeleteBatch = Callable[[sa.Connection, int, datetime.datetime | None], DeletedBatch]
"""Deletes the oldest, at most so many, no older than a time."""


class AtOnce:
    """Batches of one size, without a pause."""

    def size(self) -> int | None:
        """Return how many rows to delete now; None to stop."""
        return BATCH_SIZE

    def rest(self, batch: DeletedBatch, seconds: float) -> None:
        """Do as is to be done between two batches."""


def delete_in_batches(
    engine: sa.Engine,
    settings: StorageSettings,
    delete: DeleteBatch,
    pace: AtOnce,
    most: int | None = None,
) -> Deleted:
    """Delete until nothing is left, or ``pace`` says that it is enough, or ``most`` rows were found."""

    def delete_one() -> DeletedBatch:
        with write_transaction(engine) as connection:
            return delete(connection, size, start)

    start: datetime.datetime | None = None
    done, left = Deleted(), most or None
    while left != 0 and not done.finished and (wanted := pace.size()) is not None:
        size = wanted if left is None else min(wanted, left)
        began = time.monotonic()
        batch = run_transaction(settings, delete_one)
        spent = time.monotonic() - began
        left = None if left is None else left - batch.found
        done = Deleted(
            done.rows + batch.rows,
            done.traits + batch.traits,
            done.batches + (batch.found > 0),
            # Another expirer may have deleted what we found: what was found says whether there is more.
            # And older ones may have come since we began: look for them at the end.
            finished=batch.found < size and start is None,
        )
        start = batch.last if batch.found == size else None
        if not done.finished and left != 0:
            pace.rest(batch, spent)
    return done


def clear_expired_events(
    engine: sa.Engine, settings: StorageSettings, ttl: float, max_count: int | None = None
) -> int:
    """Delete events older than ``ttl`` seconds; see ``Connection.clear_expired_data``."""
    if max_count is not None:
        max_count = request_values.count(max_count, "max_count")
    ttl = request_values.seconds(ttl, "ttl")
    delete = partial(delete_events, limit=timestamps.ago(ttl, clocks.now(engine)))
    return delete_in_batches(engine, settings, delete, AtOnce(), max_count).rows


def clear_expired_dead_letters(engine: sa.Engine, settings: StorageSettings, ttl: float) -> int:
    """Delete dead letters that were last seen more than ``ttl`` seconds ago; return how many."""
    ttl = request_values.seconds(ttl, "ttl")
    delete = partial(_delete_dead_letters, limit=timestamps.ago(ttl, clocks.now(engine)))
    return delete_in_batches(engine, settings, delete, AtOnce()).rows


def clear(engine: sa.Engine, settings: StorageSettings) -> None:
    """Delete all events that are there with their traits, then the event types that nobody uses.

    What writers store meanwhile stays, with its event types.
    """
    with read_transaction(engine) as connection:
        # Where ids lead to days, what grows from event to event is below the day.
        partitioned = partitions.exist(connection)
        number = Event.id.bitwise_and((1 << partitions.SEQUENCE_BITS) - 1) if partitioned else Event.id
        newest = connection.scalar(sa.select(sa.func.max(number)))
    last: int | None = None

    def delete_some() -> int | None:
        wanted = [number <= newest] if last is None else [number <= newest, Event.id > last]
        with write_transaction(engine) as connection:
            first = sa.select(Event.id).where(*wanted).order_by(Event.id).limit(BATCH_SIZE)
            if ids := connection.scalars(first).all():
                _delete_by_ids(connection, ids)
            return ids[-1] if ids else None

    while newest is not None and (last := run_transaction(settings, delete_some)) is not None:
        pass
    if not partitioned:  # those were never without their events; adopted tables may have been
        delete_lost_traits(engine, settings, AtOnce())
    _delete_unused_event_types(engine, settings)


def delete_lost_traits(engine: sa.Engine, settings: StorageSettings, pace: AtOnce) -> int:
    """Delete traits below the oldest event and above the newest; return how many.

    They belong to none: tables that were adopted may have no references. One statement looks at both, so that
    an event that is committed meanwhile is there with its traits, or neither is.
    """
    oldest = sa.select(sa.func.coalesce(sa.func.min(Event.id), _NO_EVENT)).scalar_subquery()
    newest = sa.select(sa.func.coalesce(sa.func.max(Event.id), -1)).scalar_subquery()
    return sum(
        delete_in_batches(engine, settings, partial(_delete_traits, table=table, which=lost), pace).rows
        for table in TRAITS
        for lost in (table.event_id < oldest, table.event_id > newest)
    )


def _delete_traits(
    connection: sa.Connection,
    count: int,
    _start: datetime.datetime | None,
    *,
    table: Any,
    which: sa.ColumnElement[bool],
) -> DeletedBatch:
    look = sa.select(table.event_id).where(which).order_by(table.event_id)
    found = connection.scalars(look.limit(count)).all()
    ids = sorted(set(found))
    delete = databases.of(connection).delete_by_id
    return DeletedBatch(len(found), delete(connection, table.__tablename__, "event_id", ids) if ids else 0)


def _delete_unused_event_types(engine: sa.Engine, settings: StorageSettings) -> None:
    used = sa.exists().where(Event.event_type_id == EventType.id)
    with read_transaction(engine) as connection:
        unused = connection.scalars(sa.select(EventType.id).where(~used).order_by(EventType.id)).all()
    for type_id in unused:

        def delete(type_id: int = type_id) -> None:
            with write_transaction(engine) as connection:
                connection.execute(sa.delete(EventType).where(EventType.id == type_id, ~used))

        try:
            run_transaction(settings, delete)
        except sa.exc.IntegrityError:
            LOG.info("Event type %d stays, because an event of it was stored meanwhile", type_id)


def delete_events(
    connection: sa.Connection,
    count: int,
    start: datetime.datetime | None = None,
    *,
    limit: datetime.datetime,
    among: sa.ColumnElement[bool] | None = None,
) -> DeletedBatch:
    """Delete the oldest events before ``limit`` with their traits, at most ``count`` of them.

    :param start: only events since then: an index keeps its deleted entries as long as anybody may
        still see them, and who begins at the oldest passes over all of them.
    :param among: only of these events.

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
        return DeletedBatch()
    # In order of id, as the writers hold them.
    ids = sorted(number for number, _ in found)
    return DeletedBatch(len(found), *_delete_by_ids(connection, ids), found[-1][1])


def _delete_by_ids(connection: sa.Connection, ids: Sequence[int]) -> tuple[int, int]:
    """Delete events and their traits; return how many of each."""
    delete = databases.of(connection).delete_by_id
    traits = sum(delete(connection, table.__tablename__, "event_id", ids) for table in TRAITS)
    return delete(connection, Event.__tablename__, "id", ids), traits


def _delete_dead_letters(
    connection: sa.Connection, count: int, _start: datetime.datetime | None, *, limit: datetime.datetime
) -> DeletedBatch:
    oldest = sa.select(DeadLetter.id).where(DeadLetter.last_at < limit)
    # In order of id, as the writers hold them.
    ids = sorted(connection.scalars(oldest.order_by(DeadLetter.last_at, DeadLetter.id).limit(count)))
    if not ids:
        return DeletedBatch()
    # One that has come again meanwhile is not old any more.
    old = sa.delete(DeadLetter).where(DeadLetter.id.in_(ids), DeadLetter.last_at < limit)
    return DeletedBatch(len(ids), connection.execute(old).rowcount)
