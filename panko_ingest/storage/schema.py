"""Which revision the schema is at, which ones this release works with, and bringing it there.

The revisions themselves are alembic's, in ``migrations/``. Any number of processes may upgrade at
once: one does the work, under a lock in the database, the others wait and then find nothing to do.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import sqlalchemy as sa
import tenacity
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.util.exc import CommandError

from panko_ingest import resources
from panko_ingest.storage import faults, locks
from panko_ingest.storage.base import SchemaState
from panko_ingest.storage.engine import make_engine, read_transaction
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.settings import Settings

LOG = logging.getLogger(__name__)

VERSION_TABLE = "panko_ingest_version"
_EVENT_TABLES = {"event_type", "event", "trait_text", "trait_int", "trait_float", "trait_datetime"}

_PATIENCE = 600
"""Seconds for which a change of the schema is tried again when others are in its way."""


def head() -> str:
    """Return the newest revision that this release knows."""
    return usable_revisions()[0]


@functools.cache
def usable_revisions() -> tuple[str, ...]:
    """Return the revisions that this release can work with: the newest and the one before it."""
    script = ScriptDirectory.from_config(_alembic())
    newest = script.get_revision("head")
    return tuple(str(revision) for revision in (newest.revision, newest.down_revision) if revision)


def current(engine: sa.Engine) -> str | None:
    """Return the revision that the database is at; None where ``upgrade`` never ran.

    :raises StorageUnavailable: the database can't be reached.
    """
    with read_transaction(engine) as connection:
        return _revision(connection)


def schema_state(engine: sa.Engine) -> SchemaState:
    """Return the state of a schema that this release can work with.

    :raises StorageUnavailable: with ``operator`` set when it can't, saying what to do.
    """
    with read_transaction(engine) as connection:
        revision = _revision(connection)
        tables = set() if revision else set(sa.inspect(connection).get_table_names())
    if revision in usable_revisions():
        return SchemaState(str(revision), head())
    raise StorageUnavailable(_explain(revision, tables), operator=True)


def pending_rewrites(engine: sa.Engine) -> dict[str, str]:
    """Return the tables that ``upgrade`` would write anew, and how big they are; writers wait meanwhile.

    It waits for another process that changes the schema: a table that is being changed can't be looked at.

    :raises StorageUnavailable: the database can't be reached.
    """
    found: dict[str, str] = {}
    try:
        with migrating(engine) as connection:
            for revision in _pending(connection, "head"):
                found |= _rewrites(connection, revision)
    except sa.exc.SQLAlchemyError as error:
        raise faults.unavailable(error) from error
    except CommandError as error:
        raise StorageUnavailable(f"db sync: {error}", operator=True) from error
    return found


def upgrade(engine: sa.Engine, version: str | None = None, *, postpone_rewrites: bool = False) -> None:
    """Bring the schema to a revision, the newest by default; a database that is there already is left alone.

    :param postpone_rewrites: stop before the first revision that would write a table anew.
    :raises StorageUnavailable: it can't be done; what was done stays, and doing it again goes on from there.
    """
    # Writers at work may deadlock with a change of their tables, or hold them for too long.
    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: faults.classify(error) is faults.Fault.TRANSIENT),
        stop=tenacity.stop_after_delay(_PATIENCE),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
        before_sleep=tenacity.before_sleep_log(LOG, logging.INFO),
        reraise=True,
    )
    try:
        again(_upgrade, engine, version or "head", postpone_rewrites=postpone_rewrites)
    except CommandError as error:
        raise StorageUnavailable(f"db sync: {error}", operator=True) from error
    except sa.exc.SQLAlchemyError as error:
        raise faults.unavailable(error) from error


def _upgrade(engine: sa.Engine, target: str, *, postpone_rewrites: bool) -> None:
    with migrating(engine) as connection:
        if postpone_rewrites:
            target = _before_rewrites(connection, target)
        command.upgrade(_alembic(connection), target)


@contextmanager
def migrating(target: sa.Engine | str) -> Iterator[sa.Connection]:
    """Give a connection for changing the schema: alone under a lock, and without a limit of time.

    :param target: an engine, or a database's URL.
    """
    engine = make_engine(target, _PATIENT) if isinstance(target, str) else _patient(target)
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                with _sqlite_lock(connection) as locked:
                    yield locked
            else:
                with _lock(engine):
                    yield connection
    finally:
        if engine is not target:
            engine.dispose()


_PATIENT = Settings(statement_timeout=0)


def _patient(engine: sa.Engine) -> sa.Engine:
    """Return an engine whose statements may take hours; a database in memory has but one connection."""
    if isinstance(engine.pool, sa.pool.StaticPool):
        return engine
    return make_engine(engine.url.render_as_string(hide_password=False), _PATIENT)


@contextmanager
def _sqlite_lock(connection: sa.Connection) -> Iterator[sa.Connection]:
    """Hold the write lock for one transaction around all revisions.

    References are not enforced meanwhile: SQLite changes a table by making it anew.
    """
    sqlite: Any = connection.connection.driver_connection
    sqlite.execute("PRAGMA foreign_keys = OFF")
    try:
        connection = connection.execution_options(writes=True)
        with connection.begin():
            yield connection
    finally:
        if not connection.invalidated:
            sqlite.execute("PRAGMA foreign_keys = ON")


@contextmanager
def _lock(engine: sa.Engine) -> Iterator[None]:
    """Wait until no other process changes this schema.

    The lock has a connection of its own, and is asked for again and again rather than waited for:
    PostgreSQL builds an index online only once no older statement runs, a waiting one included.
    """
    if not locks.exist(engine):
        yield
        return
    with engine.connect() as connection, locks.holder(connection, locks.MIGRATION) as holder:
        waiting = 0
        while not holder.take():
            if waiting % 60 == 0:
                LOG.info("another process changes the schema; waiting for it")
            waiting += 1
            time.sleep(0.5)
        yield


def _alembic(connection: sa.Connection | None = None) -> Config:
    config = Config(str(resources.path("migrations", "alembic.ini")))
    config.attributes["connection"] = connection
    return config


def _revision(connection: sa.Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _pending(connection: sa.Connection, target: str) -> list[Script]:
    """Return the revisions between the database's and the target, the next one first."""
    script = ScriptDirectory.from_config(_alembic())
    return list(script.iterate_revisions(target, _revision(connection) or "base"))[::-1]


def _rewrites(connection: sa.Connection, revision: Script) -> dict[str, str]:
    look: Callable[[sa.Connection], dict[str, str]] | None = getattr(revision.module, "rewrites", None)
    return look(connection) if look else {}


def _before_rewrites(connection: sa.Connection, target: str) -> str:
    # On SQLite a transaction is open already; elsewhere alembic begins its own, after this one.
    with nullcontext() if connection.in_transaction() else connection.begin():
        for revision in _pending(connection, target):
            if _rewrites(connection, revision):
                return str(revision.down_revision)
    return target


def _explain(revision: str | None, tables: set[str]) -> str:
    sync = "run `panko-ingest db sync`"
    if revision is None and tables >= _EVENT_TABLES:
        return f"the tables were made by Panko or Ceilometer and not adopted yet: {sync}"
    if revision is None:
        return f"the database has no tables for events yet: {sync}"
    known = {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}
    if revision in known:
        return f"the schema is at revision {revision}, too old for this release ({head()}): {sync}"
    return (
        f"the schema is at revision {revision}, which this release does not know (its newest is {head()}): "
        "a newer release made it; install that one"
    )
