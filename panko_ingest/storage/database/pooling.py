"""What our pools do beside SQLAlchemy's, whatever the driver."""

import collections
import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, event, exc
from sqlalchemy.pool import ConnectionPoolEntry, SingletonThreadPool

CONNECT_TIMEOUT = 10
"""Seconds to wait for a database server to answer."""

IDLE = 5.0
"""Seconds without use after which a pooled connection is pinged before it is given out.

One that broke sooner is found by its first statement, and the transaction is run again.
"""


class OneConnection(SingletonThreadPool):
    """The one connection to a database in memory, which is gone with it: threads use it in turns.

    Within a thread, who asks for it again gets it beside those who have it, as SQLAlchemy's own pool does.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._record: ConnectionPoolEntry | None = None
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: collections.deque[threading.Event] = collections.deque()

    def _do_get(self) -> ConnectionPoolEntry:
        # Of a lock of Python's, threads that want it all the time leave others nothing.
        turn = threading.Event()
        with self._lock:
            if self._taken:
                self._waiting.append(turn)
            else:
                self._taken = True
                turn.set()
        try:
            turn.wait()
            self._record = self._record or self._create_connection()
        except BaseException:
            self._give_up(turn)
            raise
        self._all_conns.add(self._record)
        return self._record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        self._end_turn()

    def _give_up(self, turn: threading.Event) -> None:
        with self._lock:
            waits = turn in self._waiting
            if waits:
                self._waiting.remove(turn)
        if not waits:
            self._end_turn()

    def _end_turn(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False


_made: weakref.WeakKeyDictionary[Engine, int] = weakref.WeakKeyDictionary()

ANY_SERVER = "panko_ingest.any_server"
"""Key of a pooled connection's ``info``: whether a proxy may have another server serve each transaction."""

_USED_AT = "panko_ingest.used_at"
_POOL = "panko_ingest.pool"


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
