"""Sessions of ours whose client is gone, which keep others waiting: found while we wait, and ended."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event

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
    watch = _Watch(engine, patience, end)

    @event.listens_for(engine, "checkout")
    def _note(connection: Any, _record: Any, _proxy: Any) -> None:
        watch.note(connection)

    @event.listens_for(engine, "checkin")
    def _forget(connection: Any, _record: Any) -> None:
        watch.forget(connection)

    @event.listens_for(engine, "invalidate")
    def _lost(connection: Any, _record: Any, _error: Any) -> None:
        watch.forget(connection)


class _Watch:
    """A thread that lives while connections are out, and looks when one is out for long."""

    def __init__(self, engine: Engine, patience: float, end: Callable[[Connection, float], int]) -> None:
        self._engine = engine
        self._patience = patience
        self._end = end
        self._pause = min(LONGEST_PAUSE, patience / 4)
        self.start_over()
        threads.in_children(self, _Watch.start_over)

    def start_over(self) -> None:
        """Watch nothing: what is out in a process that was forked is its parent's, and a lock stays taken."""
        self._lock = threading.Lock()
        self._out: dict[int, float] = {}
        self._looking: threading.Thread | None = None

    def note(self, connection: Any) -> None:
        with self._lock:
            if threading.current_thread() is self._looking:
                return
            self._out[id(connection)] = time.monotonic()
            if self._looking is None:
                with contextlib.suppress(OSError):  # no transaction fails for it: the next one tries again
                    self._looking = threads.start(self._look, "blockers")

    def forget(self, connection: Any) -> None:
        with self._lock:
            self._out.pop(id(connection), None)

    def _look(self) -> None:
        try:
            self._look_on()
        finally:
            with self._lock:
                if self._looking is threading.current_thread():
                    self._looking = None

    def _look_on(self) -> None:
        while True:
            time.sleep(self._pause)
            with self._lock:
                if not self._out:
                    self._looking = None
                    return
                waits = min(self._out.values()) < time.monotonic() - self._pause
            if waits:
                try:
                    with self._engine.connect() as connection:
                        # Closed by us: the pool that it would go back to may have been closed meanwhile.
                        connection.detach()
                        count(self._engine, self._end(connection, self._patience))
                        connection.commit()
                except Exception as error:  # noqa: BLE001 - also one of no database, such as no file is free
                    LOG.debug("Nobody could be asked who keeps us waiting: %s", error)
