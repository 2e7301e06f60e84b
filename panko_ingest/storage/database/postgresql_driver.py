"""What is psycopg's and libpq's own.

A COMMIT says more than it seems, options come from more places than the URL, times may be beyond Python's,
and nobody breaks a connection whose server hangs.
"""

import contextlib
import datetime
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import URL

from panko_ingest.errors import DatabaseUrlError
from panko_ingest.storage import far_times
from panko_ingest.storage.database.watch import Watch
from panko_ingest.storage.errors import StorageConflict

_WAITS_FOR_STANDBY = "SyncRepWaitForLSN"
"""The function of the server that warns when its wait is cancelled; COMMIT succeeds all the same."""


def connect(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Connect by psycopg, but take no COMMIT for one that did not wait for its synchronous standby."""
    import psycopg  # noqa: PLC0415 - not everybody has it

    cancelled: list[psycopg.errors.Diagnostic] = []

    class Doubting(psycopg.Connection[Any]):
        def commit(self) -> None:
            cancelled.clear()
            super().commit()
            if cancelled:
                raise StorageConflict("COMMIT was kept from waiting for a synchronous standby")

    def note(notice: psycopg.errors.Diagnostic) -> None:
        if notice.source_function == _WAITS_FOR_STANDBY:
            cancelled.append(notice)

    connection = Doubting.connect(*arguments, **options)
    connection.add_notice_handler(note)
    return connection


def connect_to_any_host(dialect: Any, record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Connect likewise, but to whichever host the environment or a service wants, or else answers."""
    options = {name: value for name, value in options.items() if name != "target_session_attrs"}
    return connect(dialect, record, arguments, options)


_SYSTEM_FOLDERS = ("/etc/postgresql-common", "/etc/sysconfig/pgsql", "/etc/postgresql")
"""Where builds of libpq look for services: Debian's and psycopg's own, PostgreSQL's packages, any other."""

_NUMBER = re.compile(r"-?\d{1,9}")
_VALUES = {
    **dict.fromkeys(
        ("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        _NUMBER,
    ),
    "tcp_user_timeout": _NUMBER,
    "sslmode": re.compile("disable|allow|prefer|require|verify-ca|verify-full"),
    "target_session_attrs": re.compile("any|read-write|read-only|primary|standby|prefer-standby"),
}


def refuse_unknown_options(url: URL) -> None:
    """Refuse what libpq would.

    :raises ConfigError: it has no such option, or not with such a value.
    """
    from psycopg.pq import Conninfo  # noqa: PLC0415 - not everybody has it

    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    for name in url.query.keys() - known:
        raise DatabaseUrlError(f"PostgreSQL's library has no option {name!r}")
    for name, values in _VALUES.items():
        value = url.query.get(name)
        if value is not None and not (isinstance(value, str) and values.fullmatch(value)):
            raise DatabaseUrlError(f"the value of {name} can't be used")


def asks_for_tls(url: URL) -> bool:
    """Tell whether there are settings of TLS with a mode in which libpq might go on without.

    They come from the URL, from libpq's environment, or from its service file.
    """
    settings = _settings_elsewhere(url.query.get("service", "")) | dict(url.query)
    named = {name for name in settings if name.startswith("ssl")} - {"sslmode"}
    return bool(named) and settings.get("sslmode", "prefer") in {"prefer", "allow"}


def wants_whoever_can_be_written_to(url: URL) -> bool:
    """Tell whether several hosts are named, and not which is wanted: libpq takes the first that answers.

    They come from the URL, from libpq's environment, or from its service file.
    """
    settings = _settings_elsewhere(url.query.get("service", "")) | dict(url.query)
    hosts = url.host or settings.get("host", "")
    several = "," in hosts if isinstance(hosts, str) else len(hosts) > 1
    return several and not ("target_session_attrs" in settings or _any_host_is_wanted(settings))


def _any_host_is_wanted(settings: dict[str, Any]) -> bool:
    """Tell whether somebody has asked for what is libpq's own default, which it does not tell from that."""
    if "PGTARGETSESSIONATTRS" in os.environ:
        return True
    if not (name := settings.get("service") or os.environ.get("PGSERVICE")):
        return False
    system = [os.environ["PGSYSCONFDIR"]] if "PGSYSCONFDIR" in os.environ else _SYSTEM_FOLDERS
    own = os.environ.get("PGSERVICEFILE", "~/.pg_service.conf")
    for file in (own, *(f"{folder}/pg_service.conf" for folder in system)):
        # Nobody's home, or no file.
        with contextlib.suppress(RuntimeError, OSError):
            text = Path(file).expanduser().read_text("utf-8", "replace")
            if found := re.search(rf"(?ms)^\s*\[{re.escape(str(name))}\](.*?)(?=^\s*\[|\Z)", text):
                return bool(re.search(r"(?m)^\s*target_session_attrs=", found[1]))
    return False


def _settings_elsewhere(service: Any) -> dict[str, Any]:
    """Return what libpq takes from its environment and from a service, and is not its own default."""
    try:
        from psycopg.conninfo import make_conninfo  # noqa: PLC0415 - not everybody has it
        from psycopg.pq import PGconn  # noqa: PLC0415
    except ImportError:
        return {}  # SQLAlchemy tells
    # There is no socket in /: libpq finds out what it would use, and goes no further.
    nowhere = make_conninfo(host="/", **({"service": service} if service else {}))
    connection = PGconn.connect_start(nowhere.encode())
    options = connection.info
    connection.finish()
    return {
        option.keyword.decode(): option.val.decode("utf-8", "replace")
        for option in options
        if option.val is not None and option.val != option.compiled and option.keyword != b"sslcertmode"
    }


def read_far_times(connection: Any) -> None:
    """Let a connection read timestamps that Python has not as the nearest limit of the calendar."""
    from psycopg import DataError  # noqa: PLC0415 - not everybody has it
    from psycopg.adapt import Loader  # noqa: PLC0415
    from psycopg.pq import Format  # noqa: PLC0415

    oid = connection.adapters.types["timestamp"].oid
    strict = connection.adapters.get_loader(oid, Format.TEXT)

    class Lenient(Loader):
        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._load = strict(oid, context).load

        def load(self, data: Any) -> datetime.datetime:
            try:
                time: datetime.datetime = self._load(data)
            except DataError:
                text = bytes(data).decode()
                return far_times.nearest(text, late=not text.startswith("-") and not text.endswith("BC"))
            return time

    connection.adapters.register_loader(oid, Lenient)


def is_pooler(connection: Any) -> bool:
    """Tell whether a connection ends at a pooler, such as PgBouncer, and not at PostgreSQL.

    A pooler tells a number of its own for the process that serves us, whichever it is.
    """
    (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone()
    return bool(pid != connection.info.backend_pid)


def break_hung_connections(engine: Engine, patience: float) -> None:
    """Cut connections that were made, or given out, for longer than ``patience`` seconds.

    A server that is frozen, or whose disk hangs, keeps its connections up and never answers, and
    its own statement timeout can't fire; psycopg would wait for ever.
    """
    watchdog = _Watchdog(patience)
    watchdog.follow(engine)

    # First of all: what sets a session up may meet a server that answers no more.
    @event.listens_for(engine, "connect", insert=True)
    def _watch_new(connection: Any, _record: Any) -> None:
        watchdog.note(connection)

    @event.listens_for(engine, "close_detached")
    def _closed(connection: Any) -> None:
        watchdog.forget(connection)


class _Watchdog(Watch):
    """Closes the sockets of connections that are out too long."""

    def __init__(self, patience: float) -> None:
        super().__init__("database watchdog", min(1.0, patience / 4))
        self._patience = patience

    def look(self) -> None:
        long_ago = time.monotonic() - self._patience
        with self._lock:
            late = [key for key, out in self._out.items() if out.since < long_ago]
            connections = [self._out.pop(key).connection() for key in late]
        for connection in connections:
            _cut(connection)


def _cut(connection: Any) -> None:
    """Shut the socket down beneath libpq, which then reports a lost connection to the thread that waits."""
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
