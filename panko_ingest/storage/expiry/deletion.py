"""Deleting what is too old: batch after batch, each in one short transaction, the oldest first.

A round of them at a pace that writers do not feel is in ``expiry_round``.
"""

import datetime
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

from panko_ingest import timestamps
from panko_ingest.storage import request_values
from panko_ingest.storage.base import PurgedDeadLetters
from panko_ingest.storage.database import base as databases, clocks, error_classes, fault_search
from panko_ingest.storage.database.engine import read_transaction, write_transaction
from panko_ingest.storage.database.retry import read, run_transaction
from panko_ingest.storage.expiry.batches import (
    LOCKED,
    SEARCHED,
    TRIGGER,
    AtOnce,
    DeletedBatch,
    Schedule,
    UntilStopped,
    delete_in_batches,
)
from panko_ingest.storage.filters import DeadLetterFilter
from panko_ingest.storage.reading import dead_letters
from panko_ingest.storage.schema import partitions
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import TRAITS, DeadLetter, Event, EventType

LOG = logging.getLogger(__name__)

_NO_EVENT = 2**63 - 1
_SIZE = sa.func.length(DeadLetter.body).label("size")

_LONGEST_WAIT = 5.0
"""Seconds for which a transaction looks for what others have locked: then it leaves all of a part."""

T = TypeVar("T")


class _Locked(Exception):
    """Others have some of the rows locked."""


def clear_expired_events(
    engine: sa.Engine, settings: StorageSettings, ttl: float, max_count: int | None = None
) -> int:
    """Delete events older than ``ttl`` seconds; see ``Connection.clear_expired_data``."""
    if max_count is not None:
        max_count = request_values.count(max_count, "max_count")
    ttl = request_values.age(ttl, "ttl")
    delete = partial(delete_events, limit=timestamps.ago(ttl, clocks.now(engine, settings)))
    return delete_in_batches(engine, settings, delete, AtOnce(), max_count).rows


def clear_expired_dead_letters(
    engine: sa.Engine,
    settings: StorageSettings,
    ttl: float,
    budget: float | None = None,
    stopping: threading.Event | None = None,
) -> int:
    """Delete dead letters older than ``ttl`` seconds; see ``Connection.clear_expired_dead_letters``."""
    ttl = request_values.age(ttl, "ttl")
    limit = clocks.limit(engine, settings, ttl, DeadLetter.last_at)
    delete = partial(_delete_dead_letters, limit=limit)
    return delete_in_batches(engine, settings, delete, UntilStopped(budget, stopping)).rows


def purge(engine: sa.Engine, settings: StorageSettings, which: DeadLetterFilter) -> PurgedDeadLetters:
    """Delete dead letters of whatever age; see ``Connection.delete_dead_letters``."""
    delete = partial(_purge, by_id=dead_letters.by_id(which), conditions=dead_letters.conditions(which))
    try:
        done = delete_in_batches(engine, settings, delete, _OneLook(), warn=False)
    except sa.exc.SQLAlchemyError as error:
        # What is the store's own has become StorageUnavailable in there.
        raise error_classes.refused(error) from error
    return PurgedDeadLetters(done.rows, done.kept, done.why)


class _OneLook(AtOnce):
    """Each row is looked at once: to find it by what no index has may take long."""

    most_passes = 1


def clear(engine: sa.Engine, settings: StorageSettings) -> None:
    """Delete all events that are there with their traits, then the event types that nobody uses.

    What writers store meanwhile stays, with its event types.
    """
    with read_transaction(engine) as connection:
        # Where ids lead to days, what grows from event to event is below the day.
        partitioned = partitions.exist(connection)
        number = Event.id.bitwise_and((1 << partitions.SEQUENCE_BITS) - 1) if partitioned else Event.id
        newest = connection.scalar(sa.select(sa.func.max(number)))

    def delete(connection: sa.Connection, count: int, last: int | None) -> DeletedBatch:
        wanted = [number <= newest] if last is None else [number <= newest, Event.id > last]
        ids = connection.scalars(sa.select(Event.id).where(*wanted).order_by(Event.id).limit(count)).all()
        return _delete_whole(connection, ids)._replace(last=ids[-1]) if ids else DeletedBatch()

    if newest is not None:
        delete_in_batches(engine, settings, delete, AtOnce())
    delete_lost_traits(engine, settings, AtOnce())
    _delete_unused_event_types(engine, settings)


def delete_lost_traits(engine: sa.Engine, settings: StorageSettings, schedule: Schedule) -> int:
    """Delete traits below the oldest event and above the newest; return how many.

    They belong to none: tables that were adopted may have no references. One statement looks at both, so that
    an event that is committed meanwhile is there with its traits, or neither is.
    """

    def would_pass_for_lost(connection: sa.Connection) -> bool:
        # Those of an event that we must not see, or that an administrator has just detached.
        return databases.of(connection).may_hide_events(connection) or partitions.exist(connection)

    if read(engine, settings, would_pass_for_lost):
        return 0
    oldest = sa.select(sa.func.coalesce(sa.func.min(Event.id), _NO_EVENT)).scalar_subquery()
    newest = sa.select(sa.func.coalesce(sa.func.max(Event.id), -1)).scalar_subquery()
    return sum(
        delete_in_batches(engine, settings, partial(_delete_traits, table=table, which=lost), schedule).rows
        for table in TRAITS
        for lost in (table.event_id < oldest, table.event_id > newest)
    )


def _delete_traits(
    connection: sa.Connection,
    count: int,
    start: int | None,
    *,
    table: Any,
    which: sa.ColumnElement[bool],
) -> DeletedBatch:
    wanted = [which] if start is None else [which, table.event_id > start]
    look = sa.select(table.event_id).where(*wanted).order_by(table.event_id)
    found = connection.scalars(look.limit(count)).all()
    if not found:
        return DeletedBatch()
    ids = sorted(set(found))
    delete = databases.of(connection).delete_by_id
    done, why = _delete_where_allowed(
        connection, ids, lambda some: delete(connection, table.__tablename__, "event_id", some)
    )
    kept = _still_there(connection, table.event_id, ids) if sum(done) < len(found) else []
    return DeletedBatch(len(found), sum(done), last=ids[-1], kept=min(len(kept), len(found)), why=why)


def _still_there(
    connection: sa.Connection, column: Any, ids: Sequence[int], *others: sa.ColumnElement[bool]
) -> list[int]:
    # As text: a statement has a bounded number of parameters.
    these = sa.bindparam("ids", ids, sa.BigInteger, expanding=True, literal_execute=True)
    return list(connection.scalars(sa.select(column).where(column.in_(these), *others)))


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
    start: tuple[datetime.datetime, str] | None = None,
    *,
    limit: datetime.datetime,
    among: sa.ColumnElement[bool] | None = None,
) -> DeletedBatch:
    """Delete the oldest events before ``limit`` with their traits, at most ``count`` of them.

    :param start: only events behind this time and message_id: an index keeps its deleted entries as long as
        anybody may still see them, and who begins at the oldest passes over all of them.
    :param among: only of these events.

    Ids are read first: a DELETE by a list of ids locks those rows and nothing else. Event types
    stay, also those without events: writers keep their ids in memory.
    """
    wanted = [Event.generated < limit]
    wanted += [] if among is None else [among]
    if start is not None:
        later = Event.generated > start[0]
        if start[1] is not None:  # as adopted tables may have it; those beside it are found another time
            later = sa.or_(later, Event.message_id > start[1])
        wanted += [Event.generated >= start[0], later]
    # In the order of the index.
    oldest = sa.select(Event.id, Event.generated, Event.message_id).where(*wanted)
    found = connection.execute(oldest.order_by(Event.generated, Event.message_id).limit(count)).all()
    if not found:
        return DeletedBatch()
    # In order of id, as the writers hold them.
    ids = sorted(row.id for row in found)
    return _delete_whole(connection, ids)._replace(last=(found[-1].generated, found[-1].message_id))


def _delete_where_allowed(
    connection: sa.Connection, ids: Sequence[int], delete: Callable[[list[int]], T]
) -> tuple[list[T], str]:
    """Delete by ids, except what the database refuses to delete, and what others have locked.

    What those of a transaction at rest have must not keep all others for ever.

    :returns: what ``delete`` returned of each part, and why rows are kept, if any are.
    """
    done: list[T] = []
    why = [TRIGGER]
    passed_over: set[int] = set()
    until = time.monotonic() + _LONGEST_WAIT
    database = databases.of(connection)

    def delete_unless_locked(some: list[int]) -> None:
        if passed_over.issuperset(some):
            raise _Locked
        try:
            done.append(delete(some))
        except sa.exc.DBAPIError as error:
            if not (waits_briefly and error_classes.is_lock_wait(error)):
                raise
            if time.monotonic() > until:
                passed_over.update(some)
            raise _Locked from error

    def on_refusal(_id: int, error: Exception) -> None:
        why[0] = LOCKED if isinstance(error, _Locked) else error_classes.describe(error)

    if database.one_writer_at_a_time and len(ids) > SEARCHED:
        # To look for those here would keep all others from writing: that is done in smaller transactions.
        return [delete(list(ids))], TRIGGER
    database.check_references_now(connection)
    with database.waiting_briefly(connection) as waits_briefly:
        fault_search.find(
            connection,
            list(ids),
            delete_unless_locked,
            on_refusal,
            raise_if_of_the_store=lambda _error: None,
        )
    return done, why[0]


def _delete_whole(connection: sa.Connection, ids: Sequence[int]) -> DeletedBatch:
    """Delete events and their traits, except events that the database keeps: those keep their traits."""
    done, why = _delete_where_allowed(connection, ids, partial(_delete_unless_kept, connection))
    rows, traits = (sum(numbers) for numbers in zip(*done, strict=True)) if done else (0, 0)
    kept = _still_there(connection, Event.id, ids) if rows < len(ids) else []
    return DeletedBatch(len(ids), rows, traits, kept=len(kept), why=why)


def _delete_unless_kept(connection: sa.Connection, ids: Sequence[int]) -> tuple[int, int]:
    """Delete events and their traits, which have to go first where they refer to their event.

    :returns: how many of each; events that a trigger keeps have all of theirs.
    """
    # Not SQLAlchemy's savepoint: after a deadlock MariaDB has none any more, and its end would be the error.
    connection.exec_driver_sql("SAVEPOINT whole_events")
    rows, traits = _delete_by_ids(connection, ids)
    kept = _still_there(connection, Event.id, ids) if rows < len(ids) else []
    if not kept:
        return rows, traits
    connection.exec_driver_sql("ROLLBACK TO SAVEPOINT whole_events")
    return _delete_by_ids(connection, sorted(set(ids).difference(kept)))


def _delete_by_ids(connection: sa.Connection, ids: Sequence[int]) -> tuple[int, int]:
    if not ids:
        return 0, 0
    delete = databases.of(connection).delete_by_id
    traits = sum(delete(connection, table.__tablename__, "event_id", ids) for table in TRAITS)
    return delete(connection, Event.__tablename__, "id", ids), traits


def _purge(
    connection: sa.Connection,
    count: int,
    start: Any,
    *,
    by_id: list[sa.ColumnElement[bool]],
    conditions: list[sa.ColumnElement[bool]],
) -> DeletedBatch:
    look = sa.select(DeadLetter.id, _SIZE).where(*by_id).order_by(DeadLetter.id).limit(count)
    look = look if start is None else look.where(DeadLetter.id > start.id)
    return _delete_letters(connection, connection.execute(look).all(), conditions)


def _delete_dead_letters(
    connection: sa.Connection, count: int, start: Any, *, limit: datetime.datetime
) -> DeletedBatch:
    old = DeadLetter.last_at < limit
    oldest = sa.select(DeadLetter.id, DeadLetter.last_at, _SIZE).where(old)
    if start is not None:
        later = sa.or_(DeadLetter.last_at > start.last_at, DeadLetter.id > start.id)
        oldest = oldest.where(DeadLetter.last_at >= start.last_at, later)
    found = connection.execute(oldest.order_by(DeadLetter.last_at, DeadLetter.id).limit(count)).all()
    # One that has come again meanwhile is not old any more.
    return _delete_letters(connection, found, [old])


def _delete_letters(
    connection: sa.Connection, found: Sequence[Any], conditions: list[sa.ColumnElement[bool]]
) -> DeletedBatch:
    """Delete so many of those that were found as are deleted at once, and that meet the conditions."""
    if not found:
        return DeletedBatch()
    some = found[: dead_letters.fitting([row.size for row in found])]
    # In order of id, as the writers hold them.
    ids = sorted(row.id for row in some)
    delete = sa.delete(DeadLetter).where(*conditions)
    done, why = _delete_where_allowed(
        connection, ids, lambda part: connection.execute(delete.where(DeadLetter.id.in_(part))).rowcount
    )
    rows = sum(done)
    kept = _still_there(connection, DeadLetter.id, ids, *conditions) if rows < len(ids) else []
    cut = len(some) < len(found)
    return DeletedBatch(len(ids), rows, last=some[-1], kept=len(kept), why=why, cut=cut)
