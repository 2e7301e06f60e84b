"""Engines: which driver serves a URL, and how each session of it is set up.

Everything that a session needs is decided here and nowhere else: isolation (READ COMMITTED), time
limits, strictness. No setting lowers the durability that the server gives.
"""

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.pool import StaticPool

from panko_ingest.errors import ConfigError
from panko_ingest.storage import faults
from panko_ingest.storage.pooling import (
    BEGINNING,
    break_hung_connections,
    is_pooler,
    ping_idle_connections,
    roll_back_only_open_transactions,
)
from panko_ingest.storage.settings import Settings

CONNECT_TIMEOUT = 10
"""Seconds to wait for a database server to answer."""

SQL_MODE = "STRICT_TRANS_TABLES,STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
"""sql_mode of every MySQL session: what does not fit is refused, never changed in silence."""

_DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mysql+pymysql"}
_EXTRAS = {"postgresql": "postgresql", "mysql": "mysql"}
_NETWORK_FILE_SYSTEMS = {
    "9p", "afs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs",
    "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs",
}  # fmt: skip
_FOREVER = 2**31 - 1
_LOCK_LOOKS, _LOCK_PAUSE = 1.0, 0.001
_TRANSACTION_TIMEOUT = 17_00_00  # the PostgreSQL that came with it
# A batch of a thousand events changes more than SQLite's 2 MB of cache, and fills its log of 4 MB. Each time
# the log is full (here: of 64 MB) one writer puts it into the file, and all wait.
_SQLITE_SIZES = ("cache_size = -16384", "wal_autocheckpoint = 16000")


def dress_url(url: str) -> str:
    """Return the URL with PyMySQL as its driver where it names MySQL or MariaDB and no driver.

    :raises ConfigError: it is no URL.
    """
    parsed = _parse(url)
    if parsed.drivername in {"mysql", "mariadb"}:
        parsed = parsed.set(drivername=_DRIVERS[parsed.drivername])
        return parsed.render_as_string(hide_password=False)
    return url


def make_engine(url: str, settings: Settings) -> Engine:
    """Return a pooled engine; it connects when it is first used.

    :raises ConfigError: the URL can't be used, or the driver is not installed.
    """
    parsed = _with_driver(_parse(url))
    make: Callable[[URL, Settings], Engine] = {
        "postgresql": _postgresql,
        "mysql": _mysql,
        "sqlite": _sqlite,
    }.get(parsed.get_backend_name(), _other)
    try:
        engine = make(parsed, settings)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(parsed.get_backend_name())
        remedy = f"pip install 'panko-ingest[{extra}]'" if extra else f"install {error.name}"
        raise ConfigError(
            f"[database] connection: the driver {error.name} is not installed: {remedy}"
        ) from error
    except exc.NoSuchModuleError as error:
        raise ConfigError(f"[database] connection: no driver for {parsed.drivername!r}") from error
    event.listen(engine, "handle_error", _drop_connections_that_cannot_write)
    if not isinstance(engine.pool, StaticPool):
        ping_idle_connections(engine)
    return engine


@contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """Open a connection and a transaction that is going to write; commit at the end.

    On SQLite it takes the write lock at once: a transaction that reads first and then wants to
    write is refused without waiting.
    """
    with engine.connect() as connection:
        connection = connection.execution_options(writes=True)  # noqa: PLW2901 - the same connection
        with connection.begin():
            yield connection


@contextmanager
def read_transaction(engine: Engine) -> Iterator[Connection]:
    """Open a connection that only reads.

    :raises StorageUnavailable: the store can't be read.
    """
    try:
        with engine.connect() as connection:
            yield connection
    except exc.SQLAlchemyError as error:
        raise faults.unavailable(error) from error


def _parse(url: str) -> URL:
    try:
        return make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        # The text of a URL may hold a password, so it is not repeated.
        raise ConfigError(
            "[database] connection: is no URL: write postgresql://user:password@host/panko"
        ) from error


def _with_driver(url: URL) -> URL:
    backend, _, driver = url.drivername.partition("+")
    if not driver:
        return url.set(drivername=_DRIVERS.get(backend, backend))
    # SQLAlchemy's mysql dialect serves MariaDB too: one name for both from here on.
    return url.set(drivername=f"mysql+{driver}") if backend == "mariadb" else url


def _pool(settings: Settings) -> dict[str, Any]:
    return {
        "pool_size": settings.max_pool_size,
        "max_overflow": settings.max_overflow,
        "pool_timeout": settings.pool_timeout,
        "pool_recycle": settings.connection_recycle_time,
        # Values of events are no business of a log.
        "hide_parameters": True,
    }


def _postgresql(url: URL, settings: Settings) -> Engine:
    arguments: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT,
        "client_encoding": "utf8",
        # A peer that vanished is noticed within a minute: while we wait for its answer, and when it does
        # not even confirm that it got our question, of which keepalives would not tell.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
        "application_name": "panko-ingest",
    }
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    if told := "prepare_threshold" in url.query:
        threshold = str(url.query["prepare_threshold"])
        arguments["prepare_threshold"] = int(threshold) if threshold.isdigit() else None
        url = url.difference_update_query(["prepare_threshold"])
    engine = create_engine(url, isolation_level="READ COMMITTED", connect_args=arguments, **_pool(settings))

    statement_timeout, lock_timeout = settings.statement_timeout * 1000, settings.lock_timeout * 1000

    def limits(connection: Any, of_transaction: str) -> str:
        # Who has no limit may hold a lock, or change the schema, for longer than the server lets others.
        unlimited = not settings.statement_timeout and connection.info.server_version >= _TRANSACTION_TIMEOUT
        return (
            f"SELECT set_config('statement_timeout', '{statement_timeout:.0f}', {of_transaction}), "
            # A session whose network went away in a transaction keeps its locks until the server ends it,
            # and who comes back with the same events waits for them.
            "set_config('idle_in_transaction_session_timeout', "
            f"'{statement_timeout:.0f}', {of_transaction}), "
            f"set_config('lock_timeout', '{lock_timeout:.0f}', {of_transaction})"
            # A page is ready before the helpers of a parallel plan have started, which the planner prefers.
            f", set_config('max_parallel_workers_per_gather', '0', {of_transaction})"
            + (f", set_config('transaction_timeout', '0', {of_transaction})" if unlimited else "")
        )

    def begin(connection: Connection) -> None:
        if statement := connection.info.get(BEGINNING):
            # Whoever wants the rows of a query bit by bit does not mean these.
            at_once = {"stream_results": False, "yield_per": None}
            connection.exec_driver_sql(statement, execution_options=at_once)

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, record: Any) -> None:
        if is_pooler(connection):
            # What we set in a session of the server, and prepare there, others would meet.
            record.info[BEGINNING] = limits(connection, "true")
            if not told:
                connection.prepare_threshold = None
            # Only now, because every statement of an engine with listeners takes longer.
            event.listen(engine, "begin", begin)
        else:
            connection.execute(limits(connection, "false"))
        connection.commit()

    if settings.statement_timeout:
        break_hung_connections(engine, 2 * settings.statement_timeout + CONNECT_TIMEOUT)
    return engine


def _mysql(url: URL, settings: Settings) -> Engine:
    # Names and values may hold any character, whatever an old URL says.
    url = url.update_query_dict({"charset": "utf8mb4"})
    arguments: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT}
    pymysql = url.get_driver_name() == "pymysql"
    if pymysql and settings.statement_timeout:
        patience = math.ceil(settings.statement_timeout) + CONNECT_TIMEOUT
        arguments |= {"read_timeout": patience, "write_timeout": patience}
    engine = create_engine(
        url,
        isolation_level="READ COMMITTED",
        connect_args=arguments,
        **_pool(settings),
        **({"pool_reset_on_return": None} if pymysql else {}),
    )
    lock_timeout = max(1, math.ceil(settings.lock_timeout)) if settings.lock_timeout else 100_000_000
    statements = [
        f"SET SESSION sql_mode = '{SQL_MODE}'",
        f"SET SESSION innodb_lock_wait_timeout = {lock_timeout}",
        f"SET SESSION lock_wait_timeout = {min(lock_timeout, 31_536_000)}",
    ]

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            cursor.execute("SELECT @@sql_mode, VERSION()")
            sql_mode, version = cursor.fetchone()
            if "STRICT_ALL_TABLES" not in sql_mode:
                raise ConfigError(
                    f"[database] connection: the server keeps sql_mode {sql_mode!r}; a strict one is "
                    "needed, or values that don't fit would be changed in silence"
                )
            cursor.execute(_mysql_statement_timeout(settings.statement_timeout, version))
            if "MariaDB" in version:  # a lost session must not keep its locks, as on PostgreSQL
                cursor.execute(
                    f"SET SESSION idle_transaction_timeout = {math.ceil(settings.statement_timeout)}"
                )

    if pymysql:
        roll_back_only_open_transactions(engine)
    return engine


def _mysql_statement_timeout(seconds: float, version: str) -> str:
    if "MariaDB" in version:
        return f"SET SESSION max_statement_time = {seconds:f}"
    # MySQL can limit SELECT only; the driver's read timeout covers the rest.
    return f"SET SESSION max_execution_time = {seconds * 1000:.0f}"


def _sqlite(url: URL, settings: Settings) -> Engine:
    wait = settings.lock_timeout or _FOREVER / 1000
    arguments = {"timeout": wait}
    if _in_memory(url):
        engine = create_engine(
            url,
            poolclass=StaticPool,
            connect_args={**arguments, "check_same_thread": False},
            hide_parameters=True,
        )
    else:
        refuse_network_file_system(Path(str(url.database)))
        engine = create_engine(url, connect_args=arguments, **_pool(settings))

    @event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _record: Any) -> None:
        # We begin transactions ourselves: the module would begin them too late.
        connection.isolation_level = None
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", *_SQLITE_SIZES):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        driver: Any = connection.connection.driver_connection
        if not writes or not begin_writing(driver):
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def begin_writing(driver: sqlite3.Connection) -> bool:
    """Begin a transaction that holds SQLite's write lock, if it is free within a second; tell whether it was.

    SQLite itself, when it has to wait, looks again after pauses of up to 100 ms, in which nobody writes.
    """
    (patience,) = driver.execute("PRAGMA busy_timeout").fetchone()
    deadline = time.monotonic() + min(_LOCK_LOOKS, patience / 1000)
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                driver.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    return False
            else:
                return True
            time.sleep(_LOCK_PAUSE)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {patience}")


def _other(url: URL, settings: Settings) -> Engine:
    return create_engine(url, **_pool(settings))


def _in_memory(url: URL) -> bool:
    return url.database in {None, "", ":memory:"} or "mode=memory" in str(url)


def refuse_network_file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Refuse a SQLite file where its locks don't hold between hosts.

    :raises ConfigError: the file is, or would be, on a network file system.
    """
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return  # no such list on this system
    folder = path.absolute().parent.resolve()
    best, kind = Path(), ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = Path(before.split()[4].replace("\\040", " "))
        if folder.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, after.split()[0]
    if kind in _NETWORK_FILE_SYSTEMS:
        raise ConfigError(
            f"[database] connection: {path} is on a network file system ({kind} at {best}), where "
            "SQLite loses data: use a local file, or PostgreSQL or MariaDB"
        )


def _drop_connections_that_cannot_write(context: ExceptionContext) -> None:
    # After a failover the pool would stay on the demoted server, which answers pings.
    if faults.needs_new_connection(context.original_exception):
        context.is_disconnect = True
