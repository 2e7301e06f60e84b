"""Batch after batch, each in one short transaction: as long as any can be deleted, or there is time.

What the database refuses to delete, by an operator's trigger or reference, is found out and passed over.
"""

import logging
import math
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import sqlalchemy as sa

from panko_ingest.storage.database import error_classes, fault_search
from panko_ingest.storage.database.engine import write_transaction
from panko_ingest.storage.database.retry import run_transaction
from panko_ingest.storage.errors import ErrorClass, StorageUnavailable
from panko_ingest.storage.settings import StorageSettings

LOG = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_SIZE = 1000
"""Rows deleted in one transaction, where nothing measures how long it takes."""

SEARCHED = 25
"""Rows of which SQLite may look in one transaction for those that it keeps: nobody writes meanwhile."""

_LONGEST_SEARCH = 0.5
"""Seconds in which small transactions look for rows that the database keeps, until it is time to pause."""

_TURN = 0.002
"""Seconds between them: who waits for SQLite's lock looks every millisecond, and takes it."""

LONG = 1.0
"""Seconds after which a transaction that the store ends may have met a time limit: a batch takes less.

Which limit may not show: of the server, of a role, of a pooler's queries, of a proxy's connections.
"""

TRIGGER = "a trigger keeps them without a word"

LOCKED = "another session has them locked"


class TookTooLong(StorageUnavailable):
    """A transaction was ended after so long that a time limit may be why: a shorter one may succeed."""


class DeletedBatch(NamedTuple):
    """What one transaction found, in rows, and what it deleted.

    ``last`` tells the next one where to go on. ``kept`` rows are there as before, and ``why``: a trigger may
    say so, or a reference of somebody else's table. ``cut`` tells that it took too long to look at all.
    """

    found: int = 0
    rows: int = 0
    traits: int = 0
    last: Any = None
    kept: int = 0
    why: str = TRIGGER
    cut: bool = False


class Deleted(NamedTuple):
    """What batches deleted; ``finished`` tells that nothing was left.

    ``start`` is where to go on another time: those before it are kept, or were deleted. ``kept`` rows were
    met in the last look at all that there is, and ``why``.
    """

    rows: int = 0
    traits: int = 0
    batches: int = 0
    finished: bool = False
    start: Any = None
    kept: int = 0
    why: str = ""


DeleteBatch = Callable[[sa.Connection, int, Any], DeletedBatch]
"""Deletes the oldest, at most so many, behind the last one of another batch or from the beginning."""

_told: weakref.WeakSet[sa.Engine] = weakref.WeakSet()


class Schedule(Protocol):
    """How much to delete at a time, and when to stop."""

    @property
    def most_passes(self) -> int | None:
        """Times to look at all that there is, from the oldest on; None for any."""

    def size(self) -> int | None:
        """Return how many rows to delete now; None to stop."""

    def shrink(self) -> bool:
        """Take fewer rows after so many took too long; tell whether that can be."""

    def rest(self, batch: DeletedBatch, seconds: float) -> None:
        """Take note of a batch, and pause before the next one.

        :param seconds: for which it was deleted.
        """


class AtOnce:
    """Batches of one size, without a pause."""

    most_passes = 2  # for what comes meanwhile there is no end

    _rows = BATCH_SIZE

    def size(self) -> int | None:
        """Return how many rows to delete now; None to stop."""
        return self._rows

    def shrink(self) -> bool:
        """Take fewer rows after so many took too long; tell whether that can be."""
        if self._rows == 1:
            return False
        self._rows = max(1, self._rows // 4)
        return True

    def rest(self, batch: DeletedBatch, seconds: float) -> None:
        """Go on at once."""


class UntilStopped(AtOnce):
    """Batches without a pause, until the time is up or somebody wants us to stop.

    :param budget: seconds from now on; 0 or None for any.
    """

    def __init__(self, budget: float | None, stopping: threading.Event | None) -> None:
        self._late = time.monotonic() + (budget or math.inf)
        self._stopping = stopping or threading.Event()

    def size(self) -> int | None:
        """Return how many rows to delete now; None to stop."""
        return None if self._stopping.is_set() or time.monotonic() >= self._late else super().size()


def delete_in_batches(
    engine: sa.Engine,
    settings: StorageSettings,
    delete: DeleteBatch,
    schedule: Schedule,
    most: int | None = None,
    start: Any = None,
    *,
    warn: bool = True,
) -> Deleted:
    """Delete until no more can be, or ``schedule`` says that it is enough, or ``most`` rows are gone.

    :param start: behind which to begin; the oldest by default.
    :param warn: whether the log is to tell of rows that the database keeps.
    """
    delete_one = partial(_delete_one, engine, settings, delete)
    done, left, ended, passed_over = Deleted(), most or None, False, start is not None
    gone = kept = passes = 0  # the first two since the oldest was looked for
    why = ""
    while left != 0 and not ended and (wanted := schedule.size()) is not None:
        size = wanted if left is None else min(wanted, left)
        began = time.monotonic()
        try:
            batch = _by_parts(delete_one, size, start)
        except StorageUnavailable as error:
            took_long = 0 < settings.statement_timeout <= time.monotonic() - began
            if not _may_take_fewer(schedule, size, error, took_long=took_long):
                raise
            continue
        spent = time.monotonic() - began
        # Another expirer may have deleted what we found.
        left = None if left is None else left - (batch.found - batch.kept)
        gone, kept = gone + batch.found - batch.kept, kept + batch.kept
        why = batch.why if batch.kept else why
        # Older ones may have come since we began: look for them at the end, unless nothing can be deleted.
        at_end = batch.found < size and not batch.cut
        passes += at_end
        ended = at_end and not passed_over and (start is None or not gone or passes == schedule.most_passes)
        passed_over &= not at_end
        done = Deleted(
            done.rows + batch.rows,
            done.traits + batch.traits,
            done.batches + (batch.found > 0),
            finished=ended and not kept,
        )
        start = None if at_end else batch.last
        if not ended and left != 0:
            gone, kept = (0, 0) if at_end else (gone, kept)
            schedule.rest(batch, spent)
    if kept and warn and why == LOCKED:
        LOG.warning("%d expired rows stay until the next round, as %s", kept, LOCKED)
    elif kept and warn:
        _tell_once(engine, kept, why)
    # Also where none was kept: until the end is reached, nobody knows of those that were passed over.
    return done._replace(start=start if kept or passed_over else None, kept=kept, why=why)


def _may_take_fewer(schedule: Schedule, size: int, error: StorageUnavailable, *, took_long: bool) -> bool:
    """Have fewer rows taken where so many may take too long each time: nothing would ever be deleted."""
    if not (took_long or isinstance(error, TookTooLong)) or not schedule.shrink():
        return False
    LOG.warning(
        "To delete %d rows takes longer than [database] statement_timeout, or a limit of server, pooler or "
        "proxy: fewer are taken (%s)",
        size,
        error,
    )
    return True


def _tell_once(engine: sa.Engine, kept: int, why: str) -> None:
    if engine not in _told:
        _told.add(engine)
        LOG.warning(
            "%d expired rows stay, as the database keeps them, now and in later rounds: %s", kept, why
        )


def _delete_one(
    engine: sa.Engine, settings: StorageSettings, delete: DeleteBatch, size: int, start: Any
) -> DeletedBatch:
    """Delete in one transaction; a row alone that is refused when it commits is kept."""
    found: DeletedBatch | None = None

    def once(connection: sa.Connection) -> DeletedBatch:
        nonlocal found
        found = None
        found = delete(connection, size, start)
        return found

    try:
        return run_long_transaction(engine, settings, once)
    except Exception as error:
        if found is None or size > 1 or not fault_search.may_be_a_rows(error):
            raise
        why = error_classes.describe(error)
        return found._replace(rows=0, traits=0, kept=found.found, why=why)


def run_long_transaction(
    engine: sa.Engine, settings: StorageSettings, work: Callable[[sa.Connection], T]
) -> T:
    """Do work in a transaction, which is run again as ``run_transaction`` does it.

    :raises TookTooLong: the store ended it, and a shorter one may succeed.
    """
    opened = math.inf

    def once() -> T:
        nonlocal opened
        opened = math.inf
        with write_transaction(engine) as connection:
            opened = time.monotonic()
            return work(connection)

    try:
        return run_transaction(settings, once)
    except StorageUnavailable as error:
        cause = error.__cause__
        is_away = cause is not None and error_classes.classify(cause) is ErrorClass.AWAY
        if is_away and time.monotonic() - opened > LONG:
            raise TookTooLong(str(error)) from cause
        raise


def _by_parts(delete_one: Callable[[int, Any], DeletedBatch], size: int, start: Any) -> DeletedBatch:
    """Delete in one transaction, or where that is refused for a row, in small ones: others write between."""
    try:
        return delete_one(size, start)
    except Exception as error:
        if size == 1 or not fault_search.may_be_a_rows(error):
            raise
    done, part, until = DeletedBatch(), min(size // 2, SEARCHED), time.monotonic() + _LONGEST_SEARCH
    while done.found < size:
        part = min(part, size - done.found)
        try:
            batch = delete_one(part, done.last if done.found else start)
        except Exception as error:
            if part == 1 or not fault_search.may_be_a_rows(error):
                raise
            part = min(part // 2, SEARCHED)
            continue
        done = DeletedBatch(
            done.found + batch.found,
            done.rows + batch.rows,
            done.traits + batch.traits,
            batch.last if batch.found else done.last,
            done.kept + batch.kept,
            batch.why if batch.kept else done.why,
            batch.cut,
        )
        if batch.found < part:
            break
        if time.monotonic() > until:
            return done._replace(cut=True)
        part = part if batch.kept else 2 * part
        time.sleep(_TURN)
    return done
