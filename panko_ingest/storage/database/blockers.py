"""Sessions of ours whose client is gone, which keep others waiting: found while we wait, and ended."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event, exc

from panko_ingest import threads

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
    pause = min(LONGEST_PAUSE, patience / 4)
    lock = threading.Lock()
    out: dict[int, float] = {}
    looking: threading.Thread | None = None

    def look() -> None:
        nonlocal looking
        while True:
            time.sleep(pause)
            with lock:
                if not out:
                    looking = None
                    return
                waits = min(out.values()) < time.monotonic() - pause
            if waits:
                try:
                    with engine.connect() as connection:
                        # Closed by us: the pool that it would go back to may have been closed meanwhile.
                        connection.detach()
                        count(engine, end(connection, patience))
                        connection.commit()
                except exc.SQLAlchemyError as error:
                    LOG.debug("Nobody could be asked who keeps us waiting: %s", error)

    @event.listens_for(engine, "checkout")
    def _note(connection: Any, _record: Any, _proxy: Any) -> None:
        nonlocal looking
        with lock:
            if threading.current_thread() is looking:
                return
            if looking is not None and not looking.is_alive():  # a fork takes over names, but no thread
                looking = None
                out.clear()
            out[id(connection)] = time.monotonic()
            if looking is None:
                with contextlib.suppress(OSError):  # no transaction fails for it: the next one tries again
                    looking = threads.start(look, "blockers")

    @event.listens_for(engine, "checkin")
    def _forget(connection: Any, _record: Any) -> None:
        with lock:
            out.pop(id(connection), None)

    @event.listens_for(engine, "invalidate")
    def _lost(connection: Any, _record: Any, _error: Any) -> None:
        with lock:
            out.pop(id(connection), None)
