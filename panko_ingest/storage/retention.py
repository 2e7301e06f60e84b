"""A round of expiry: everything that is too old goes, while writers hardly notice.

One expirer works at a time, by a lock in the database. That only saves work: with several at once,
each event is still deleted once, and with its traits.
"""

import contextlib
import dataclasses
import datetime
import threading
import time
from collections.abc import Iterator

import sqlalchemy as sa

from panko_ingest.storage.engine import make_engine, read_transaction, write_transaction
from panko_ingest.storage.expiry import Batch, Clock, delete_events, limit_of, utc_now
from panko_ingest.storage.pacing import Pace
from panko_ingest.storage.reports import BACKLOG_LIMIT, ExpiryReport
from panko_ingest.storage.retry import run_transaction
from panko_ingest.storage.settings import Settings
from panko_ingest.storage.tables import Event

_LOCK = 0x70616E6B6F72  # any number will do that nobody else takes in this database
_LOCKS = {
    "postgresql": (f"SELECT pg_try_advisory_lock({_LOCK})", f"SELECT pg_advisory_unlock({_LOCK})"),
    # Its locks are the server's, not the database's.
    "mysql": (
        "SELECT GET_LOCK(CONCAT('panko_expirer.', MD5(DATABASE())), 0)",
        "SELECT RELEASE_LOCK(CONCAT('panko_expirer.', MD5(DATABASE())))",
    ),
}


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
    if ttl <= 0:
        return ExpiryReport()
    with _only_expirer(engine, settings) as alone:
        if not alone:
            return ExpiryReport(stood_by=True)
        limit = limit_of(ttl, (clock or utc_now)())
        return _Round(engine, settings, limit, Pace(batch_size), budget, stopping).run()


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
        self._deadline = self._started + budget if budget else None
        self._stopping = stopping or threading.Event()

    def run(self) -> ExpiryReport:
        """Delete, and report."""
        events = traits = batches = 0
        finished = False
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
            finished = batch.found < size
            if not finished:
                ids = self._rest(batch, spent, ids)
        return ExpiryReport(
            events,
            traits,
            batches,
            time.monotonic() - self._started,
            0 if finished else count_expired(self._engine, self._limit, BACKLOG_LIMIT),
            oldest_event(self._engine),
        )

    def _is_over(self) -> bool:
        return self._stopping.is_set() or (self._deadline is not None and time.monotonic() >= self._deadline)

    def _delete(self, size: int) -> Batch:
        with write_transaction(self._engine) as connection:
            return delete_events(connection, self._limit, size)

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
def _only_expirer(engine: sa.Engine, settings: Settings) -> Iterator[bool]:
    """Tell whether no other expirer is at work, and keep others from it; SQLite's writers wait anyhow."""
    if engine.dialect.name not in _LOCKS:
        yield True
        return
    take, release = _LOCKS[engine.dialect.name]
    # An engine of its own, because in a pool's eyes a connection that is out for so long hangs.
    keeper = make_engine(
        engine.url.render_as_string(hide_password=False), dataclasses.replace(settings, statement_timeout=0)
    )
    try:
        with read_transaction(keeper) as connection:
            holder = connection.execution_options(isolation_level="AUTOCOMMIT")
            alone = bool(holder.exec_driver_sql(take).scalar())
            yield alone
            if alone:
                with contextlib.suppress(sa.exc.SQLAlchemyError):  # it is lost, and the lock with it
                    holder.exec_driver_sql(release)
    finally:
        keeper.dispose()
