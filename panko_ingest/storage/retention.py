"""A round of expiry: everything that is too old goes, while writers hardly notice.

One expirer works at a time, by a lock in the database. That only saves work: with several at once,
each event is still deleted once, and with its traits.
"""

import contextlib
import dataclasses
import datetime
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from panko_ingest.storage import locks, partitioning, partitions
from panko_ingest.storage.engine import make_engine, read_transaction, write_transaction
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.expiry import EARLIEST, Batch, Clock, delete_events, limit_of, utc_now
from panko_ingest.storage.pacing import Pace
from panko_ingest.storage.partitions import Partition
from panko_ingest.storage.reports import BACKLOG_LIMIT, ExpiryReport
from panko_ingest.storage.retry import run_transaction
from panko_ingest.storage.settings import Settings
from panko_ingest.storage.tables import Event

LOG = logging.getLogger(__name__)

_PATIENCE = 300.0
"""Seconds to try for tables that are in use, at most."""


def expire(
    engine: sa.Engine,
    settings: Settings,
    ttl: float,
    *,
    batch_size: int = 0,
    budget: float | None = None,
    stopping: threading.Event | None = None,
    clock: Clock | None = None,
) -> ExpiryReport:
    """Delete all events older than ``ttl`` seconds; see ``Connection.expire``."""
    now = (clock or utc_now)()
    with read_transaction(engine) as connection:
        partitioned = partitions.exist(connection)
    if ttl <= 0 and not partitioned:
        return ExpiryReport()
    with only_expirer(engine, settings) as alone:
        if not alone:
            return ExpiryReport(stood_by=True)
        if partitioned:
            _make_partitions(engine, settings, now, budget, stopping)
        if ttl <= 0:
            return ExpiryReport()
        kind = _PartitionedRound if partitioned else _Round
        return kind(engine, settings, limit_of(ttl, now), Pace(batch_size), budget, stopping).run()


def _make_partitions(
    engine: sa.Engine,
    settings: Settings,
    now: datetime.datetime,
    budget: float | None,
    stopping: threading.Event | None,
) -> None:
    def split() -> int:
        return partitioning.split(engine, settings.partition_by, now.date())

    try:
        if partitioning.patiently(split, _patience(budget), stopping) is None:
            LOG.warning(
                "No new partitions were made, because the tables were in use: the next round tries again"
            )
    except StorageUnavailable as error:
        if not error.operator:
            raise
        # Old events can go all the same.
        LOG.error("No new partitions were made: %s", error)


def _patience(budget: float | None) -> float:
    return min(budget / 4, _PATIENCE) if budget else _PATIENCE


class _Round:
    """Batch after batch, until nothing is left, the time is up, or somebody wants us to stop."""

    def __init__(
        self,
        engine: sa.Engine,
        settings: Settings,
        limit: datetime.datetime,
        pace: Pace,
        budget: float | None,
        stopping: threading.Event | None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._limit = limit
        self._pace = pace
        self._started = time.monotonic()
        self._budget = budget
        self._among: sa.ColumnElement[bool] | None = None
        self._start: datetime.datetime | None = None
        self._deadline = self._started + budget if budget else None
        self._stopping = stopping or threading.Event()

    def run(self) -> ExpiryReport:
        """Delete, and report."""
        events = traits = batches = 0
        finished = False
        dropped = self._drop()
        ids = self._ids_used()
        while not finished and not self._is_over():
            size = self._pace.size
            started = time.monotonic()
            batch = run_transaction(self._settings, lambda: self._delete(size))  # noqa: B023 - run at once
            spent = time.monotonic() - started
            events += batch.events
            traits += batch.traits
            batches += batch.found > 0
            # Another expirer may have deleted what we found: what was found says whether there is more.
            # And older ones may have come since we began: look for them at the end.
            finished = batch.found < size and self._start is None
            self._start = batch.last if batch.found == size else None
            if not finished:
                ids = self._rest(batch, spent, ids)
        return ExpiryReport(
            dropped.events + events,
            dropped.traits + traits,
            batches,
            time.monotonic() - self._started,
            0 if finished else count_expired(self._engine, self._limit, BACKLOG_LIMIT),
            oldest_event(self._engine),
            partitions=dropped.names,
        )

    def _drop(self) -> "_Dropped":
        """Drop what can be dropped as a whole."""
        return _Dropped()

    def _is_over(self) -> bool:
        return self._stopping.is_set() or (self._deadline is not None and time.monotonic() >= self._deadline)

    def _delete(self, size: int) -> Batch:
        with write_transaction(self._engine) as connection:
            return delete_events(connection, self._limit, size, self._among, self._start)

    def _rest(self, batch: Batch, spent: float, ids_before: int) -> int:
        """Pause for the writers' sake; return the ids that are used up by then."""
        ids = self._ids_used()
        self._pace.deleted(batch.found, spent, ids - ids_before)
        pause = self._pace.pause(spent)
        if pause <= 0:
            return ids
        started = time.monotonic()
        self._stopping.wait(pause)
        paused = time.monotonic() - started
        ids_after = self._ids_used()
        self._pace.paused(paused, ids_after - ids)
        return ids_after

    def _ids_used(self) -> int:
        """Return a number that grows with each event that anybody writes."""
        with read_transaction(self._engine) as connection:
            return int(connection.scalar(sa.select(sa.func.max(Event.id))) or 0)


class _Dropped(NamedTuple):
    """What went with whole partitions; the traits by the planner's estimate."""

    events: int = 0
    traits: int = 0
    names: tuple[str, ...] = ()


class _PartitionedRound(_Round):
    """First the partitions that are expired as a whole, then what the limit cuts."""

    def _drop(self) -> _Dropped:
        # Counted beforehand: it may take longer than anybody shall wait for the tables.
        with read_transaction(self._engine) as connection:
            old = partitions.expired(partitions.found(connection), self._limit)
            dropped = _Dropped(*_content(connection, old), tuple(one.suffix for one in old))
        today = partitions.id_after(self._limit.date()) if self._limit > EARLIEST else 0
        self._among = Event.id < today
        if not old:
            return _Dropped()
        # Also where they can't be dropped now: what is in them is not worth deleting row by row.
        self._among = sa.and_(self._among, Event.id >= partitions.end_of(old))
        names = ", ".join(dropped.names)
        done = partitioning.patiently(
            lambda: partitioning.drop(self._engine, old), _patience(self._budget), self._stopping
        )
        if done:
            LOG.info("Dropped the partitions %s", names)
        elif done is None:
            LOG.warning("The partitions %s were in use and stay: the next round tries again", names)
        return dropped if done else _Dropped()

    def _ids_used(self) -> int:
        with read_transaction(self._engine) as connection:
            return int(connection.exec_driver_sql(partitions.SEQUENCE_VALUE).scalar_one())


def _content(connection: sa.Connection, old: Sequence[Partition]) -> tuple[int, int]:
    """Return how many events partitions hold, and how many traits by the planner's estimate."""
    if not old:
        return 0, 0
    some = sa.select(Event.id).where(Event.id < partitions.end_of(old)).limit(BACKLOG_LIMIT).subquery()
    events = int(connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0)
    if events == BACKLOG_LIMIT:  # to count more may take minutes
        events = max(events, _estimate(connection, partitions.TABLES[:1], old))
    return events, _estimate(connection, partitions.TABLES[1:], old)


def _estimate(connection: sa.Connection, tables: Sequence[str], old: Sequence[Partition]) -> int:
    names = [f"{table}_{one.suffix}" for table in tables for one in old]
    rows = "SELECT sum(greatest(reltuples, 0)) FROM pg_class WHERE oid = ANY(%s::regclass[])"
    return int(connection.exec_driver_sql(rows, (names,)).scalar() or 0)


def count_expired(engine: sa.Engine, limit: datetime.datetime, most: int) -> int:
    """Return how many events are older than ``limit``, counted up to ``most``."""
    some = sa.select(Event.generated).where(Event.generated < limit).limit(most).subquery()
    with read_transaction(engine) as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0)


def oldest_event(engine: sa.Engine) -> datetime.datetime | None:
    """Return the ``generated`` of the oldest event, naive UTC; None where there is none."""
    with read_transaction(engine) as connection:
        return connection.scalar(sa.select(Event.generated).order_by(Event.generated).limit(1))


@contextlib.contextmanager
def only_expirer(engine: sa.Engine, settings: Settings) -> Iterator[bool]:
    """Tell whether no other expirer is at work, and keep others from it; SQLite's writers wait anyhow."""
    if not locks.exist(engine):
        yield True
        return
    # An engine of its own, because in a pool's eyes a connection that is out for so long hangs.
    keeper = make_engine(
        engine.url.render_as_string(hide_password=False), dataclasses.replace(settings, statement_timeout=0)
    )
    try:
        with read_transaction(keeper) as connection, locks.holder(connection, locks.EXPIRY) as holder:
            yield holder.take()
    finally:
        keeper.dispose()
