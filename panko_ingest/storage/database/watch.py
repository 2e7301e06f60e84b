"""A thread beside an engine that looks at the connections which are out, for as long as any is."""

import abc
import contextlib
import threading
import time
import weakref
from typing import Any, NamedTuple

from sqlalchemy import Engine, event

from panko_ingest import threads


class Out(NamedTuple):
    """A connection that was given out."""

    since: float
    connection: weakref.ref[Any]


class Watch(abc.ABC):
    """Knows which connections of an engine's driver are out, and looks now and then while there are any."""

    def __init__(self, name: str, pause: float) -> None:
        self._name = name
        self._pause = pause
        self.start_over()
        threads.in_children(self, Watch.start_over)

    def start_over(self) -> None:
        """Watch nothing: what is out in a process that was forked is its parent's, and a lock stays taken."""
        self._lock = threading.Lock()
        self._out: dict[int, Out] = {}
        self._thread: threading.Thread | None = None

    def follow(self, engine: Engine) -> None:
        """Note what an engine gives out, and forget what comes back or is lost."""

        @event.listens_for(engine, "checkout")
        def _note(connection: Any, _record: Any, _proxy: Any) -> None:
            self.note(connection)

        @event.listens_for(engine, "checkin")
        def _forget(connection: Any, _record: Any) -> None:
            self.forget(connection)

        @event.listens_for(engine, "invalidate")
        def _lost(connection: Any, _record: Any, _error: Any) -> None:
            self.forget(connection)

    def note(self, connection: Any) -> None:
        """Watch a connection from now on, unless it is the one that looking itself takes."""
        with self._lock:
            if threading.current_thread() is self._thread:
                return
            self._out[id(connection)] = Out(time.monotonic(), weakref.ref(connection))
            if self._thread is None:
                with contextlib.suppress(OSError):  # no transaction fails for it: the next one tries again
                    self._thread = threads.start(self._run, self._name)

    def forget(self, connection: Any) -> None:
        """Watch a connection no longer."""
        with self._lock:
            self._out.pop(id(connection), None)

    @abc.abstractmethod
    def look(self) -> None:
        """Do something about those that are out for too long; called without the lock."""

    def _run(self) -> None:
        try:
            while self._is_needed():
                self.look()
        finally:
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _is_needed(self) -> bool:
        time.sleep(self._pause)
        with self._lock:
            if not self._out:
                self._thread = None  # the next one that is noted starts another
            return bool(self._out)
