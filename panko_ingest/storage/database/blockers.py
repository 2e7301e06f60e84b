"""Sessions of ours whose client is gone, which keep others waiting: found while we wait, and ended."""

import logging
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine

from panko_ingest.storage.database.watch import Watch

LOG = logging.getLogger(__name__)

LONGEST_PAUSE = 2.0
"""Seconds between two looks at who keeps us waiting."""

_ended: WeakKeyDictionary[Engine, int] = WeakKeyDictionary()


def ended(engine: Engine) -> int:
    """Return how many sessions were ended for an engine's sake."""
    return _ended.get(engine, 0)


def count(engine: Engine, sessions: int) -> None:
    """Note that sessions were ended for an engine's sake."""
    _ended[engine] = ended(engine) + sessions


def end_while_waiting(engine: Engine, patience: float, end: Callable[[Connection, float], int]) -> None:
    """Let ``end`` look for such sessions as long as a connection is out for longer than a moment.

    :param patience: seconds for which a session may wait for its client.
    :param end: ends those that have waited for longer; returns how many.
    """
    _BlockersWatch(engine, patience, end).follow(engine)


class _BlockersWatch(Watch):
    """Looks when a connection is out for long."""

    def __init__(self, engine: Engine, patience: float, end: Callable[[Connection, float], int]) -> None:
        super().__init__("blockers", min(LONGEST_PAUSE, patience / 4))
        self._engine = engine
        self._patience = patience
        self._end = end

    def look(self) -> None:
        long_ago = time.monotonic() - self._pause
        with self._lock:
            waits = any(out.since < long_ago for out in self._out.values())
        if waits:
            try:
                with self._engine.connect() as connection:
                    # Closed by us: the pool that it would go back to may have been closed meanwhile.
                    connection.detach()
                    count(self._engine, self._end(connection, self._patience))
                    connection.commit()
            except Exception as error:  # noqa: BLE001 - also one of no database, such as no file is free
                LOG.debug("Nobody could be asked who keeps us waiting: %s", error)
