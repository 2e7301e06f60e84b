"""The time by which things are too old: no clock that is ahead, the host's or the server's, deletes.

Where both are one clock, or are wrong alike, the store is the witness: by publishers' clocks its newest event
was generated, and this process knows how long ago it believed the time last.
"""

import datetime
import logging
import time
import weakref
from collections.abc import Callable

import sqlalchemy as sa

from panko_ingest import timestamps
from panko_ingest.storage.database import base as databases, retry
from panko_ingest.storage.errors import ClockDoubted
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import DeadLetter, Event

LOG = logging.getLogger(__name__)

Clock = Callable[[], datetime.datetime]

MOST_BEYOND = datetime.timedelta(days=7)
"""How far the time may be beyond all that tells it: for so long a cloud may well be silent."""

_MOST_APART = 300.0
"""Seconds that the clocks may differ before the log says so; `check` says so much earlier."""

_told: weakref.WeakSet[sa.Engine] = weakref.WeakSet()

_believed: weakref.WeakKeyDictionary[sa.Engine, tuple[datetime.datetime, float]] = weakref.WeakKeyDictionary()
"""The time that was believed last, and the monotonic seconds at which it was."""


def now(engine: sa.Engine, settings: StorageSettings) -> datetime.datetime:
    """Return the earlier one of this host's time and the database server's, naive UTC.

    :raises StorageUnavailable: the server can't be asked.
    """
    if not databases.of(engine).now:
        return timestamps.utc_now()
    theirs = retry.read(engine, settings, of_server)
    ours = timestamps.utc_now()
    apart = (ours - theirs).total_seconds()
    if abs(apart) < _MOST_APART:
        _told.discard(engine)
    elif engine not in _told:
        _told.add(engine)
        LOG.warning(
            "This host's clock is %.0f s %s that of the database server: the earlier one tells what is "
            "expired; let both follow the same time servers (chrony, NTP)",
            abs(apart),
            "ahead of" if apart > 0 else "behind",
        )
    return min(ours, theirs)


def of_server(connection: sa.Connection) -> datetime.datetime:
    """Return the database server's time, naive UTC; this host's where the server's clock is ours."""
    clock = databases.of(connection).now
    if not clock:
        return timestamps.utc_now()
    seconds = float(connection.exec_driver_sql(f"SELECT {clock}").scalar_one())
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(tzinfo=None)


def limit(
    engine: sa.Engine,
    settings: StorageSettings,
    ttl: float,
    column: sa.orm.InstrumentedAttribute[datetime.datetime],
    clock: Clock | None = None,
) -> datetime.datetime:
    """Return the time before which rows are expired, naive UTC.

    :param column: tells the time of a row.
    :param clock: tells the time, and the caller vouches for it; by default :func:`now` does, as far as
        anything bears it out. Events of now do so at once, and where no row is expired, none is lost by it.
    :raises ClockDoubted: nothing does.
    :raises StorageUnavailable: the store can't be asked.
    """
    if clock:
        return timestamps.ago(ttl, clock())
    moment = now(engine, settings)
    oldest_that_stays = timestamps.ago(ttl, moment)
    latest = _latest(engine, settings, moment)
    if latest is None or moment - latest <= MOST_BEYOND:
        _believed[engine] = moment, time.monotonic()
        return oldest_that_stays
    old = sa.select(sa.literal(1)).where(column < oldest_that_stays).limit(1)
    if retry.read(engine, settings, lambda connection: connection.scalar(old)) is None:
        return oldest_that_stays
    raise ClockDoubted(
        f"it is {moment:%Y-%m-%d %H:%M} UTC by the clocks of this host and of the database server, and "
        f"nothing in the event database is of the {(moment - latest).days} days since "
        f"{latest:%Y-%m-%d %H:%M}: if a clock is wrong, be it the publishers', set it right; if nothing came "
        "for so long, wait for an event of now or run `panko-ingest expire --trust-clock`",
        operator=True,
    )


def doubt(engine: sa.Engine, settings: StorageSettings, ttl: float, dead_letter_ttl: float) -> str:
    """Return why :func:`limit` gives none for events or dead letters; empty where it does.

    :raises StorageUnavailable: the store can't be asked.
    """
    try:
        for seconds, column in ((ttl, Event.generated), (dead_letter_ttl, DeadLetter.last_at)):
            if seconds > 0:
                limit(engine, settings, seconds, column)
    except ClockDoubted as error:
        return str(error)
    return ""


def borne_out(engine: sa.Engine, settings: StorageSettings) -> datetime.datetime:
    """Return the time as far as :func:`limit` would go with it: no partition may reach far beyond now.

    :raises StorageUnavailable: the store can't be asked.
    """
    moment = now(engine, settings)
    latest = _latest(engine, settings, moment)
    return moment if latest is None else min(moment, latest + MOST_BEYOND)


def _latest(
    engine: sa.Engine, settings: StorageSettings, moment: datetime.datetime
) -> datetime.datetime | None:
    """Return the latest time, up to a moment, that something bears out; None where nothing is stored."""
    times = []
    if engine in _believed:
        last, at = _believed[engine]
        times.append(last + datetime.timedelta(seconds=time.monotonic() - at))
        if moment - times[0] <= MOST_BEYOND:
            return times[0]

    def newest(connection: sa.Connection) -> datetime.datetime | None:
        # Dead letters bear witness where there is no event alone: their times are told by our own clocks.
        for column in (Event.generated, DeadLetter.last_at):
            look = sa.select(column).where(column <= moment).order_by(column.desc()).limit(1)
            if (found := connection.scalar(look)) is not None:
                return found
        return None

    times += filter(None, [retry.read(engine, settings, newest)])
    return max(times, default=None)
