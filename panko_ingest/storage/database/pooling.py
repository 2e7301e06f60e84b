"""What our pools do beside SQLAlchemy's: ping a connection that sat idle, and break one that hangs."""

import contextlib
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, event, exc

from panko_ingest import threads

CONNECT_TIMEOUT = 10
"""Seconds to wait for a database server to answer."""

IDLE = 5.0
"""Seconds without use after which a pooled connection is pinged before it is given out.

One that broke sooner is found by its first statement, and the transaction is run again.
"""

_IN_TRANSACTION = 1  # SERVER_STATUS_IN_TRANS of the MySQL protocol

_pooled: weakref.WeakSet[Engine] = weakref.WeakSet()
_made: weakref.WeakKeyDictionary[Engine, int] = weakref.WeakKeyDictionary()

BEGINNING = "panko_ingest.beginning"
"""Key of a pooled connection's ``info``: a statement that each of its transactions has to begin with."""

ANY_SERVER = "panko_ingest.any_server"
"""Key of a pooled connection's ``info``: whether a proxy may have another server serve each transaction."""

_USED_AT = "panko_ingest.used_at"
_POOL = "panko_ingest.pool"


def is_pooler(connection: Any) -> bool:
    """Tell whether a connection of psycopg ends at a pooler, such as PgBouncer, and not at PostgreSQL.

    A pooler tells a number of its own for the process that serves us, whichever it is.
    """
    (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone()
    return bool(pid != connection.info.backend_pid)


def set_up_each(engine: Engine, set_up: Callable[[Any, Any], None], *, first: bool = False) -> None:
    """Have each new connection of a pool set up, and closed where it can't be.

    SQLAlchemy before 2.0.54 leaves that to the garbage collector, which comes late: the error refers to the
    connection.

    :param set_up: is given the driver's connection and the pool's record of it.
    :param first: whether to do so before SQLAlchemy itself looks at the connection.
    """

    def set_up_or_close(connection: Any, record: Any) -> None:
        try:
            set_up(connection, record)
        except BaseException:
            with contextlib.suppress(Exception):  # closed by the server already, as the error says
                # PyMySQL's close() is an error the second time, and later releases of SQLAlchemy close, too.
                getattr(connection, "_force_close", connection.close)()
            raise

    event.listen(engine, "connect", set_up_or_close, insert=first)


def ping_idle_connections(engine: Engine) -> None:
    """Ping connections only when they sat idle, not before every transaction: that costs a round trip."""

    @event.listens_for(engine, "checkout")
    def _check(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get(_USED_AT, time.monotonic()) < IDLE:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise exc.DisconnectionError from error  # the pool gives out another one

    @event.listens_for(engine, "checkin")
    def _note(_connection: Any, record: Any) -> None:
        record.info[_USED_AT] = time.monotonic()


def close_what_comes_back_late(engine: Engine) -> None:
    """Close a connection that was out when its engine was disposed of, as soon as it comes back.

    SQLAlchemy puts it into the old pool, where its session stays until garbage is collected.
    """

    @event.listens_for(engine, "connect")
    def _note_pool(_connection: Any, record: Any) -> None:
        record.info[_POOL] = weakref.ref(engine.pool)

    @event.listens_for(engine, "checkin")
    def _close(_connection: Any, record: Any) -> None:
        pool = record.info.get(_POOL)
        if pool is not None and pool() is not engine.pool:
            record.invalidate()


def count_connections(engine: Engine) -> None:
    """Count the connections that an engine makes; see :func:`connections_made`."""
    _made[engine] = 0

    @event.listens_for(engine, "connect")
    def _count(_connection: Any, _record: Any) -> None:
        _made[engine] += 1


def connections_made(engine: Engine) -> int:
    """Return how many connections an engine has made: with each it may have met another server."""
    return _made[engine]


def may_be_another_server(connection: Connection, made_before: int) -> bool:
    """Tell whether a server may be another one than when so many connections had been made.

    A proxy keeps the sessions of its clients when one server takes the place of another.
    """
    return connections_made(connection.engine) != made_before or ANY_SERVER in connection.info


def start_over_in_children(engine: Engine) -> None:
    """Have a process that is forked make connections of its own: those here go on being its parent's."""
    _pooled.add(engine)


def _connect_anew() -> None:
    for engine in _pooled:
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_connect_anew)


def roll_back_only_open_transactions(engine: Engine) -> None:
    """Spare a connection of PyMySQL the ROLLBACK at its return, a round trip, where nothing is to roll back.

    The engine's ``pool_reset_on_return`` must be None.
    """

    @event.listens_for(engine, "reset")
    def _reset(connection: Any, record: Any, _state: Any) -> None:
        if connection.server_status & _IN_TRANSACTION:
            try:
                connection.rollback()
            except engine.dialect.loaded_dbapi.Error as error:
                record.invalidate(error)  # whoever had it knows why by its own error


def break_hung_connections(engine: Engine, patience: float) -> None:
    """Cut connections of psycopg that were made, or given out, for longer than ``patience`` seconds.

    A server that is frozen, or whose disk hangs, keeps its connections up and never answers, and
    its own statement timeout can't fire; psycopg would wait for ever.
    """
    watchdog = _Watchdog(patience)

    # First of all: what sets a session up may meet a server that answers no more.
    @event.listens_for(engine, "connect", insert=True)
    def _watch_new(connection: Any, _record: Any) -> None:
        watchdog.watch(connection)

    @event.listens_for(engine, "checkout")
    def _watch(connection: Any, _record: Any, _proxy: Any) -> None:
        watchdog.watch(connection)

    @event.listens_for(engine, "checkin")
    def _release(connection: Any, _record: Any) -> None:
        watchdog.release(connection)

    @event.listens_for(engine, "close_detached")
    def _closed(connection: Any) -> None:
        watchdog.release(connection)

    @event.listens_for(engine, "invalidate")
    def _forget(connection: Any, _record: Any, _error: Any) -> None:
        watchdog.release(connection)


class _Watchdog:
    """A thread that lives while connections are out, and closes the sockets of those out too long."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.start_over()
        threads.start_over_in_children(self)

    def start_over(self) -> None:
        """Watch nothing: what is out in a process that was forked is its parent's."""
        self._lock = threading.Lock()
        self._out: dict[int, tuple[float, weakref.ref[Any]]] = {}
        self._thread: threading.Thread | None = None

    def watch(self, connection: Any) -> None:
        with self._lock:
            self._out[id(connection)] = (time.monotonic() + self._patience, weakref.ref(connection))
            if self._thread is None:
                with contextlib.suppress(OSError):  # no transaction fails for it: the next one tries again
                    self._thread = threads.start(self._run, "database watchdog")

    def release(self, connection: Any) -> None:
        with self._lock:
            self._out.pop(id(connection), None)

    def _run(self) -> None:
        while True:
            time.sleep(min(1.0, self._patience / 4))
            with self._lock:
                if not self._out:
                    self._thread = None
                    return
                now = time.monotonic()
                late = [key for key, (deadline, _) in self._out.items() if deadline < now]
                connections = [self._out.pop(key)[1]() for key in late]
            for connection in connections:
                _cut(connection)


def _cut(connection: Any) -> None:
    """Shut the socket down beneath libpq, which then reports a lost connection to whoever waits."""
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
