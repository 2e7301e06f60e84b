"""Engines: which database and driver serve a URL, and transactions that read or write.

How a session is set up (isolation READ COMMITTED, time limits, strictness) is decided in the module of its
database and nowhere else. No setting lowers the durability that the server gives.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import ExceptionContext

from panko_ingest import threads
from panko_ingest.errors import DatabaseUrlError
from panko_ingest.storage.database import base, error_classes, pooling, registry
from panko_ingest.storage.settings import StorageSettings

_ALIASES = {"mariadb": "mysql"}
"""SQLAlchemy's mysql dialect serves MariaDB too: one name for both from here on."""

_LAST_PORT = 2**16 - 1
_PORT = re.compile(r":\d+$")
_HOSTS = re.compile(r"^postgresql[^@]*@[^/?@]+:\d+,[^/?@]+")
_ACCOUNT = re.compile(r"[^:]+://([^:/]*(:[^@]*)?@)?")
"""What SQLAlchemy takes for driver, user and password."""


def dress_url(url: str) -> str:
    """Return the URL with PyMySQL as its driver where it names MySQL or MariaDB and no driver.

    :raises ConfigError: it is no URL.
    """
    parsed = _parse(url)
    if parsed.drivername in {"mysql", "mariadb"}:
        return _with_driver(parsed).render_as_string(hide_password=False)
    return url


def make_engine(url: str, settings: StorageSettings) -> Engine:
    """Return a pooled engine, which knows its database; it connects when it is first used.

    :raises ConfigError: the URL can't be used, or the driver is not installed.
    """
    parsed = _with_driver(_parse(url))
    database = registry.find(parsed.get_backend_name())
    try:
        if parsed.get_dialect().is_async:
            raise DatabaseUrlError(_other_driver(parsed, database, "is asynchronous"))
        if database.no_other_driver and parsed.get_driver_name() != database.driver:
            raise DatabaseUrlError(_other_driver(parsed, database, "is not ours"))
        engine = database.create_engine(parsed, settings)
    except ModuleNotFoundError as error:
        if not database.driver:
            raise DatabaseUrlError(f"no driver for {parsed.drivername!r}") from error
        if parsed.get_driver_name() != database.driver:
            raise DatabaseUrlError(_other_driver(parsed, database, "is not installed")) from error
        raise DatabaseUrlError(
            f"the driver {error.name} is not installed: pip install '{database.extra}'"
        ) from error
    except exc.NoSuchModuleError as error:
        raise DatabaseUrlError(f"no driver for {parsed.drivername!r}") from error
    except (exc.ArgumentError, ValueError):
        raise DatabaseUrlError(f"{_option_at_fault(parsed)} can't be used") from None
    base.attach(engine, database)
    event.listen(engine, "handle_error", _drop_connections_that_cannot_write)
    pooling.count_connections(engine)
    if not isinstance(engine.pool, pooling.OneConnection):
        threads.in_children(engine, lambda engine: engine.dispose(close=False))
        pooling.ping_idle_connections(engine)
        pooling.close_what_comes_back_late(engine)
    return engine


def check_driver(url: str) -> None:
    """Check that there is a driver for a URL that another library connects by; nothing is connected.

    :raises DatabaseUrlError: there is none, or the URL can't be used.
    """
    name = url.partition(":")[0]
    try:
        create_engine(url).dispose()
    except ModuleNotFoundError as error:
        raise DatabaseUrlError(f"{name}: the driver {error.name} is not installed") from error
    except exc.NoSuchModuleError as error:
        raise DatabaseUrlError(f"{name}: there is no such driver") from error
    except (exc.ArgumentError, ValueError, TypeError):
        raise DatabaseUrlError(f"{name}: can't be used as the URL of a database") from None


@contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """Open a connection and a transaction that is going to write; commit at the end.

    On SQLite it takes the write lock at once: a transaction that reads first and then wants to
    write is refused without waiting.
    """
    with engine.connect() as connection:
        connection = connection.execution_options(writes=True)  # noqa: PLW2901 - the same connection
        with connection.begin(), unusable_if_interrupted(connection):
            yield connection


@contextmanager
def unusable_if_interrupted(connection: Connection) -> Iterator[None]:
    """Give a connection up where the program is interrupted while it is in use.

    A driver may be in the middle of a statement then: ROLLBACK would fail, and hide the interruption.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as interruption:
        connection.invalidate(interruption)
        raise


@contextmanager
def read_transaction(engine: Engine) -> Iterator[Connection]:
    """Open a connection that only reads.

    :raises StorageUnavailable: the store can't be read.
    """
    try:
        with engine.connect() as connection:
            yield connection
    except exc.SQLAlchemyError as error:
        raise error_classes.unavailable(error) from error


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        # The text of a URL, and of what is wrong with it, may hold a password, so neither is repeated.
        wanted = "postgresql://user:password@host/panko"
        if _HOSTS.search(url):
            wanted = "several hosts as postgresql://user:password@/panko?host=host1:5432&host=host2:5432"
        raise DatabaseUrlError(f"is no URL: write {wanted}") from None
    if "%00" in url or (parsed.port is not None and not 0 < parsed.port <= _LAST_PORT):
        fault = "%00 stands in it" if "%00" in url else f"{parsed.port} is no port"
        raise DatabaseUrlError(fault)
    _refuse_no_name(parsed)
    rest = _ACCOUNT.sub("", url, count=1)
    of_a_file = parsed.get_backend_name() == "sqlite" and not parsed.host
    if "@" in rest and not of_a_file:
        # What stands before the last @ may be a part of the password, and would be shown as host or database.
        raise DatabaseUrlError(
            "an @ stands after the host: write %40 for it, and in user and password "
            "%2F for /, %3F for ?, %23 for # and %3A for :"
        )
    for name, value in parse_qsl(rest.partition("?")[2], keep_blank_values=True):
        if not value.strip() and name.lower().startswith("ssl"):
            # SQLAlchemy leaves it out, and with it the TLS that it asks for.
            raise DatabaseUrlError(f"{name} is blank")
    return parsed


def _refuse_no_name(url: URL) -> None:
    """Refuse what no resolver is asked for, as it can't be written as a name."""
    if "hostaddr" in url.query:  # and so none is
        return
    named = url.query.get("host", ())
    lists = (url.host or "", *([named] if isinstance(named, str) else named))
    for host in (host for listed in lists for host in listed.split(",")):
        if host.startswith(("/", "@")):  # a socket's
            continue
        try:
            _PORT.sub("", host).encode("idna")
        except UnicodeError:
            # Not shown: it may be a part of a password.
            raise DatabaseUrlError(
                "the name of a host has a part between dots that is empty, or longer than 63 characters"
            ) from None


def _with_driver(url: URL) -> URL:
    scheme, _, driver = url.drivername.partition("+")
    backend = _ALIASES.get(scheme, scheme)
    driver = driver or registry.find(backend).driver
    return url.set(drivername=f"{backend}+{driver}" if driver else backend)


def _other_driver(url: URL, database: base.Database, fault: str) -> str:
    backend = url.get_backend_name()
    ours = f", for {database.driver} of {database.extra}" if database.extra else ""
    return f"the driver of {url.drivername}:// {fault}: write {backend}:// in its place{ours}"


def _option_at_fault(url: URL) -> str:
    """Name the option behind the ``?`` whose value its dialect can't take."""
    dialect = url.get_dialect()()
    for name, value in url.query.items():
        try:
            dialect.create_connect_args(url.set(query={name: value}))
        except (exc.ArgumentError, ValueError):
            return f"the value of {name}"
    return "the value of an option"


def _drop_connections_that_cannot_write(context: ExceptionContext) -> None:
    # After a failover the pool would stay on the demoted server, which answers pings.
    if error_classes.needs_new_connection(context.original_exception):
        context.is_disconnect = True
        if context.engine is not None:
            # A session at rest would stay there until somebody wants it.
            context.engine.dispose()
