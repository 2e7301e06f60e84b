"""A round of expiry: everything that is too old goes, while writers hardly notice.

One expirer works at a time, by a lease. That only saves work: with several at once, each event is still
deleted once, and with its traits.
"""

import datetime
import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from panko_ingest import timestamps
from panko_ingest.storage import request_values
from panko_ingest.storage.database import clocks, leases
from panko_ingest.storage.database.leases import Held
from panko_ingest.storage.database.retry import read
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.expiry.batches import DeletedBatch, delete_in_batches
from panko_ingest.storage.expiry.deletion import delete_events, delete_lost_traits
from panko_ingest.storage.expiry.pacing import Pace
from panko_ingest.storage.expiry_results import BACKLOG_LIMIT, ExpiryReport
from panko_ingest.storage.schema import partition_ddl, partitions
from panko_ingest.storage.schema.partitions import Partition
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import EVENT_TABLES, Event

LOG = logging.getLogger(__name__)

T = TypeVar("T")

_left_off: weakref.WeakKeyDictionary[sa.Engine, Any] = weakref.WeakKeyDictionary()
"""Behind which event the next round begins: more of the oldest may be kept than one can look at."""

_sizes: weakref.WeakKeyDictionary[sa.Engine, int] = weakref.WeakKeyDictionary()
"""Events in a batch of the next round, where larger ones were found to take longer than they may."""

_PATIENCE = 300.0
"""Seconds to try for tables that are in use, at most."""


def expire(
    engine: sa.Engine,
    settings: StorageSettings,
    ttl: float,
    *,
    batch_size: int = 0,
    budget: float | None = None,
    stopping: threading.Event | None = None,
    clock: clocks.Clock | None = None,
) -> ExpiryReport:
    """Delete all events older than ``ttl`` seconds; see ``Connection.expire``."""
    ttl = request_values.seconds(ttl, "ttl")
    partitioned = read(engine, settings, partitions.exist)
    if ttl <= 0 and not partitioned:
        return ExpiryReport()
    if clock:
        moment = clock()
        clock = lambda: moment  # noqa: E731 - the same for all that follows
    limit = clocks.limit(engine, settings, ttl, Event.generated, clock) if ttl > 0 else timestamps.EARLIEST
    kind = _PartitionedRound if partitioned else _Round
    with leases.held(engine, settings, leases.EXPIRY) as lease:
        if lease is None:
            return ExpiryReport(stood_by=True)
        stopping = stopping or threading.Event()
        pace = Pace(batch_size, _sizes.get(engine, 0))
        this = kind(engine, settings, lease, limit, pace, budget, stopping)
        if partitioned:
            this.make_partitions((clock() if clock else clocks.borne_out(engine, settings)).date())
        return this.run() if ttl > 0 else ExpiryReport()


@dataclass
class _Round:
    """Batch after batch, until nothing is left, the time is up, or somebody wants us to stop.

    ``budget`` is in seconds from ``started`` on, 0 or None for any; ``ids`` what :meth:`_ids_used` told last.
    """

    most_passes = None  # events are written all the time

    engine: sa.Engine
    settings: StorageSettings
    lease: Held
    limit: datetime.datetime
    pace: Pace
    budget: float | None
    stopping: threading.Event
    among: sa.ColumnElement[bool] | None = None
    started: float = 0.0
    ids: int = 0
    has_lost_lease: bool = False

    def make_partitions(self, today: datetime.date) -> None:
        """Make those that will be needed."""

    def run(self) -> ExpiryReport:
        """Delete, and report."""
        self.started = time.monotonic()
        dropped = self._drop()
        self.ids = self._ids_used()
        done = delete_in_batches(
            self.engine, self.settings, self._delete, self, start=_left_off.get(self.engine)
        )
        _left_off[self.engine] = done.start
        lost = delete_lost_traits(self.engine, self.settings, self)
        finished = done.finished and not self.has_lost_lease
        return ExpiryReport(
            dropped.events + done.rows,
            dropped.traits + done.traits + lost,
            done.batches,
            time.monotonic() - self.started,
            0 if finished else count_expired(self.engine, self.settings, self.limit, BACKLOG_LIMIT),
            oldest_event(self.engine, self.settings),
            partitions=dropped.names,
        )

    def _drop(self) -> "_Dropped":
        """Drop what can be dropped as a whole."""
        return _Dropped()

    def size(self) -> int | None:
        """Return how many events to delete now; None when the round is over."""
        late = self.budget and time.monotonic() >= self.started + self.budget
        return None if late or self.has_lost_lease or self.stopping.is_set() else self.pace.size

    def shrink(self) -> bool:
        """Take fewer events; tell whether that can be."""
        shrunk = self.pace.shrink()
        if shrunk:
            _sizes[self.engine] = self.pace.size
        return shrunk

    def _delete(self, connection: sa.Connection, count: int, start: Any) -> DeletedBatch:
        if not self.lease.renew(connection):
            LOG.warning("This round of expiry ends here, because another expirer has taken over")
            self.has_lost_lease = True
            return DeletedBatch()
        return delete_events(connection, count, start, limit=self.limit, among=self.among)

    def rest(self, batch: DeletedBatch, seconds: float) -> None:
        """Pause for the writers' sake, and count what they write."""
        before, self.ids = self.ids, self._ids_used()
        self.pace.deleted(batch.found, seconds, self.ids - before)
        if self.engine in _sizes:
            _sizes[self.engine] = self.pace.size
        pause = self.pace.pause(seconds)
        if pause <= 0:
            return
        started = time.monotonic()
        self.stopping.wait(pause)
        paused = time.monotonic() - started
        before, self.ids = self.ids, self._ids_used()
        self.pace.paused(paused, self.ids - before)

    def _ids_used(self) -> int:
        """Return a number that grows with each event that anybody writes."""
        newest = sa.select(sa.func.max(Event.id))
        return read(self.engine, self.settings, lambda connection: int(connection.scalar(newest) or 0))


class _Dropped(NamedTuple):
    """What went with whole partitions; the traits as ``about_rows`` tells them."""

    events: int = 0
    traits: int = 0
    names: tuple[str, ...] = ()


class _PartitionedRound(_Round):
    """First the partitions that are expired as a whole, then what the limit cuts."""

    def make_partitions(self, today: datetime.date) -> None:
        """Split new ones off the last one, ahead of need."""

        def split() -> int:
            self.lease.prove()
            return partition_ddl.split(self.engine, self.settings.partition_by, today)

        try:
            if self._patiently(split) is None:
                LOG.warning(
                    "No new partitions were made, because the tables were in use: the next round tries again"
                )
        except StorageUnavailable as error:
            if not error.operator:
                raise
            # Old events can go all the same.
            LOG.error("No new partitions were made: %s", error)

    def _patiently(self, work: Callable[[], T]) -> T | None:
        seconds = min(self.budget / 4, _PATIENCE) if self.budget else _PATIENCE
        return partition_ddl.patiently(work, seconds, self.stopping)

    def _drop(self) -> _Dropped:
        # Counted beforehand: it may take longer than anybody should wait for the tables.
        old, dropped = read(self.engine, self.settings, self._droppable)
        today = partitions.id_after(self.limit.date()) if self.limit > timestamps.EARLIEST else 0
        self.among = Event.id < today
        if not old:
            return _Dropped()
        names = ", ".join(dropped.names)

        def drop() -> bool:
            self.lease.prove()
            return partition_ddl.drop(self.engine, old)

        try:
            done = self._patiently(drop)
        except StorageUnavailable as error:
            if not error.operator:
                raise
            LOG.error(
                "The partitions %s can't be dropped; their events are deleted in batches: %s", names, error
            )
            return _Dropped()
        # Also where they can't be dropped now: what is in them is not worth deleting row by row.
        self.among = sa.and_(self.among, Event.id >= partitions.end_of(old))
        if done:
            LOG.info("Dropped the partitions %s", names)
        elif done is None:
            LOG.warning("The partitions %s were in use and stay: the next round tries again", names)
        return dropped if done else _Dropped()

    def _droppable(self, connection: sa.Connection) -> tuple[list[Partition], _Dropped]:
        old = partitions.expired(partitions.found(connection), self.limit)
        return old, _Dropped(*_content(connection, old), tuple(one.suffix for one in old))

    def _ids_used(self) -> int:
        return read(
            self.engine,
            self.settings,
            lambda connection: int(connection.exec_driver_sql(partitions.SEQUENCE_VALUE).scalar_one()),
        )


def _content(connection: sa.Connection, old: Sequence[Partition]) -> tuple[int, int]:
    """Return how many events partitions hold, and about how many traits."""
    if not old:
        return 0, 0
    some = sa.select(Event.id).where(Event.id < partitions.end_of(old)).limit(BACKLOG_LIMIT).subquery()
    events = int(connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0)
    if events == BACKLOG_LIMIT:  # to count more may take minutes
        events = max(events, about_rows(connection, EVENT_TABLES[:1], old, BACKLOG_LIMIT))
    return events, about_rows(connection, EVENT_TABLES[1:], old, BACKLOG_LIMIT)


def about_rows(
    connection: sa.Connection, tables: Sequence[str], of: Sequence[Partition], most: int | None = None
) -> int:
    """Return how many rows the planner takes partitions to have.

    :param most: what rows of one are counted up to where the planner has no statistics, as after a restore.
    """
    names = partitions.attached(connection, tables, of)
    known = "SELECT oid::regclass::text, reltuples::bigint FROM pg_class WHERE oid = ANY(%s::regclass[])"
    estimates: dict[str, int] = dict(connection.exec_driver_sql(known, (names,)).all())
    for name in [name for name, rows in estimates.items() if rows <= 0]:
        some = f"SELECT count(*) FROM (SELECT FROM {name} LIMIT %s) AS rows"  # noqa: S608 - ours
        estimates[name] = connection.exec_driver_sql(some, (most,)).scalar_one()
    return sum(estimates.values())


def count_expired(engine: sa.Engine, settings: StorageSettings, limit: datetime.datetime, most: int) -> int:
    """Return how many events are older than ``limit``, counted up to ``most``."""
    some = sa.select(Event.generated).where(Event.generated < limit).limit(most).subquery()
    count = sa.select(sa.func.count()).select_from(some)
    return read(engine, settings, lambda connection: int(connection.scalar(count) or 0))


def oldest_event(engine: sa.Engine, settings: StorageSettings) -> datetime.datetime | None:
    """Return the ``generated`` of the oldest event, naive UTC; None where there is none."""
    oldest = sa.select(Event.generated).order_by(Event.generated).limit(1)
    return read(engine, settings, lambda connection: connection.scalar(oldest))
