"""The time by which things are too old: no clock that is ahead, the host's or the server's, deletes."""

import datetime
import logging
import weakref

import sqlalchemy as sa

from panko_ingest import timestamps
from panko_ingest.storage.database import base as databases, retry
from panko_ingest.storage.settings import StorageSettings

LOG = logging.getLogger(__name__)

_MOST_APART = 300.0
"""Seconds that the clocks may differ before the log says so; `check` says so much earlier."""

_told: weakref.WeakSet[sa.Engine] = weakref.WeakSet()


def now(engine: sa.Engine, settings: StorageSettings) -> datetime.datetime:
    """Return the earlier one of this host's time and the database server's, naive UTC.

    :raises StorageUnavailable: the server can't be asked.
    """
    clock = databases.of(engine).now
    if not clock:
        return timestamps.utc_now()
    seconds = retry.read(
        engine, settings, lambda connection: float(connection.exec_driver_sql(f"SELECT {clock}").scalar_one())
    )
    ours, theirs = timestamps.utc_now(), datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    apart = (ours - theirs.replace(tzinfo=None)).total_seconds()
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
    return min(ours, theirs.replace(tzinfo=None))
