"""Which revision the schema is at, which ones this release works with, and bringing it there.

The revisions themselves are alembic's, in ``migrations/``. Any number of processes may upgrade at
once: one does the work, under a lease, the others wait and then find nothing to do.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import sqlalchemy as sa
import tenacity
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util.exc import CommandError

from panko_ingest import resources
from panko_ingest.storage.base import SchemaState
from panko_ingest.storage.database import base as databases, leases, pooling
from panko_ingest.storage.database.engine import make_engine, read_transaction
from panko_ingest.storage.database.error_classes import classify, unavailable
from panko_ingest.storage.database.retry import read
from panko_ingest.storage.errors import ErrorClass, StorageUnavailable
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import EVENT_TABLES, Base, Event, EventType

LOG = logging.getLogger(__name__)

VERSION_TABLE = "panko_ingest_version"

_PATIENCE = 600
"""Seconds for which a change of the schema is tried again when others are in its way."""


def head() -> str:
    """Return the newest revision that this release knows."""
    return usable_revisions()[0]


@functools.cache
def usable_revisions() -> tuple[str, ...]:
    """Return the revisions that this release can work with: the newest and the one before it."""
    newest = _script().get_revision("head")
    return tuple(str(revision) for revision in (newest.revision, newest.down_revision) if revision)


def current(engine: sa.Engine) -> str | None:
    """Return the revision that the database is at; None where ``upgrade`` never ran.

    :raises StorageUnavailable: the database can't be reached.
    """
    return read(engine, _PATIENT, _revision)


def is_newest(connection: sa.Connection) -> bool:
    """Tell whether there is nothing to upgrade."""
    return _revision(connection) == head()


def schema_state(engine: sa.Engine) -> SchemaState:
    """Return the state of a schema that this release can work with.

    :raises StorageUnavailable: with ``operator`` set when it can't, saying what to do.
    """
    with read_transaction(engine) as connection:
        revision = _revision(connection)
        tables = set() if revision else set(sa.inspect(connection).get_table_names())
        _refuse_what_is_not_ours(connection)
    if revision in usable_revisions():
        return SchemaState(str(revision), head())
    raise StorageUnavailable(_explain(revision, tables), operator=True)


def pending_rewrites(engine: sa.Engine, *, dry_run: bool = False) -> dict[str, str]:
    """Return the tables that ``upgrade`` would write anew, and how big they are; writers wait meanwhile.

    It waits for another process that changes the schema: a table that is being changed can't be looked at.

    :param dry_run: don't keep others from changing it meanwhile, for which something must be written.
    :raises StorageUnavailable: the database can't be reached.
    """
    with _refusals_told():
        if databases.of(engine).one_writer_at_a_time:  # which has waited for its lock by then
            return _find_rewrites(engine, dry_run)
        return _again(engine)(_find_rewrites, engine, dry_run)


def _find_rewrites(engine: sa.Engine, dry_run: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    with (_looking if dry_run else migrating)(engine) as connection:
        for revision in _pending(connection, "head"):
            found |= _rewrites(connection, revision)
    return found


def obstacles(connection: sa.Connection) -> list[str]:
    """Return what keeps ``upgrade`` from reaching the newest revision, each with what mends it.

    :raises StorageUnavailable: the schema is of another release.
    """
    with _refusals_told():
        pending = _pending(connection, "head")
    hooks = [getattr(revision.module, "obstacles", None) for revision in pending]
    return [text for look in hooks if look for text in look(connection)]


def left_out_on_a_cluster(engine: sa.Engine, *, dry_run: bool = False) -> list[str]:
    """Return the statements that ``upgrade`` leaves out unless ``block_cluster`` is set; none elsewhere.

    It waits for another process that changes the schema: a table that is being changed can't be looked at.

    :param dry_run: don't keep others from changing it meanwhile, for which something must be written.
    :raises StorageUnavailable: the database can't be reached.
    """
    with _refusals_told():
        if not read(engine, _PATIENT, databases.of(engine).is_cluster):
            return []
        return _again(engine)(_find_left_out, engine, dry_run)


def _find_left_out(engine: sa.Engine, dry_run: bool) -> list[str]:
    with (_looking if dry_run else migrating)(engine) as connection:
        pending = [one for one in _pending(connection, "head") if _rewrites(connection, one)]
        return [statement for one in pending for statement in one.module.statements(connection)]


def upgrade(
    engine: sa.Engine,
    version: str | None = None,
    *,
    postpone_rewrites: bool = False,
    block_cluster: bool = False,
) -> None:
    """Bring the schema to a revision, the newest by default; a database that is there already is left alone.

    :param postpone_rewrites: stop before the first revision that would write or index a big table.
    :param block_cluster: don't stop there on a cluster either, where nobody writes meanwhile.
    :raises StorageUnavailable: it can't be done; what was done stays, and doing it again goes on from there.
    """
    with _refusals_told():
        _again(engine)(_upgrade, engine, version or "head", postpone_rewrites, block_cluster)


def _again(engine: sa.Engine) -> tenacity.Retrying:
    """Return what tries again: writers at work may deadlock with a change of their tables, or hold them."""

    def say_who(state: tenacity.RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        why = unavailable(error) if isinstance(error, sa.exc.SQLAlchemyError) else error
        users: list[str] = []
        with suppress(sa.exc.SQLAlchemyError, StorageUnavailable), read_transaction(engine) as connection:
            users += databases.of(connection).table_users(connection, EVENT_TABLES, 1)
        by = "".join(f" by {user}" for user in users[:1])
        LOG.warning("The tables are in use%s; trying again: %s", by, why)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: classify(error) is ErrorClass.TRANSIENT),
        stop=tenacity.stop_after_delay(_PATIENCE),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
        before_sleep=say_who,
        reraise=True,
    )


@contextmanager
def _refusals_told() -> Iterator[None]:
    """Tell what alembic or the database refuses as an error of the store."""
    try:
        yield
    except (CommandError, RevisionError) as error:
        raise StorageUnavailable(f"db sync: {error}", operator=True) from error
    except sa.exc.SQLAlchemyError as error:
        raise unavailable(error) from error


def _upgrade(engine: sa.Engine, target: str, postpone_rewrites: bool, block_cluster: bool) -> None:
    with migrating(engine) as connection:
        # On SQLite a transaction is open already; elsewhere alembic begins its own, after this one.
        with nullcontext() if connection.in_transaction() else connection.begin():
            if postpone_rewrites or (not block_cluster and databases.of(connection).is_cluster(connection)):
                target = _before_rewrites(connection, target)
        command.upgrade(_alembic(connection), target)


@contextmanager
def migrating(target: sa.Engine | str) -> Iterator[sa.Connection]:
    """Give a connection for changing the schema: alone under a lease, and without a limit of time.

    :param target: an engine, or a database's URL.
    :raises StorageUnavailable: the tables are another service's or a newer release's; nothing was touched.
    """
    engine = make_engine(target, _PATIENT) if isinstance(target, str) else _patient(target)
    try:
        if databases.of(engine).one_writer_at_a_time:
            with engine.connect() as connection, _sqlite_lock(connection) as locked:
                _refuse_what_is_not_ours(locked)
                yield locked
            return
        with engine.connect() as connection:
            _refuse_what_is_not_ours(connection)
            leases.make(connection)
        with leases.waited_for(engine, _PATIENT, leases.MIGRATION) as lease:
            sa.event.listen(engine, "before_cursor_execute", _proof_of(lease))
            with engine.connect() as connection:
                yield connection
    finally:
        if engine is not target:
            engine.dispose()


@contextmanager
def _looking(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Give a connection for looking at the schema, when nobody changes it."""
    with engine.connect() as connection:
        _refuse_what_is_not_ours(connection)
    leases.wait_until_free(engine, _PATIENT, leases.MIGRATION)
    with engine.connect() as connection:
        yield connection


def _proof_of(lease: leases.Lease) -> Callable[..., None]:
    """Return what lets each statement that changes anything run only while the lease is ours."""

    def prove(_connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if leases.TABLE not in statement and not statement.lstrip().upper().startswith(_LOOKS_ONLY):
            lease.prove()

    return prove


_LOOKS_ONLY = ("SELECT", "SHOW", "DESCRIBE", "SET")
_PATIENT = StorageSettings(statement_timeout=0)


def _patient(engine: sa.Engine) -> sa.Engine:
    """Return an engine whose statements may take hours; a database in memory has but one connection."""
    if isinstance(engine.pool, pooling.OneConnection):
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


def _refuse_what_is_not_ours(connection: sa.Connection) -> None:
    """Refuse a schema of a newer release, and tables of our names that are another service's, such as Heat's.

    :raises StorageUnavailable: saying which.
    """
    revision = _revision(connection)
    if revision is not None:
        if revision not in _known():
            raise StorageUnavailable(_explain(revision, set()), operator=True)
        return
    declared = Base.metadata.tables
    live = sa.inspect(connection).get_multi_columns(filter_names=list(declared))
    for (_, table), columns in live.items():
        missing = set(declared[table].columns.keys()) - {column["name"] for column in columns}
        if missing:
            raise StorageUnavailable(
                f"the table {table} is another service's, for it has no {', '.join(sorted(missing))}: let "
                "[database] connection name a database of panko_ingest's own",
                operator=True,
            )


def _alembic(connection: sa.Connection | None = None) -> Config:
    config = Config(str(resources.path("migrations", "alembic.ini")))
    config.attributes["connection"] = connection
    return config


@functools.cache
def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic())


def _revision(connection: sa.Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _pending(connection: sa.Connection, target: str) -> list[Script]:
    """Return the revisions between the database's and the target, the next one first."""
    return list(_script().iterate_revisions(target, _revision(connection) or "base"))[::-1]


def _rewrites(connection: sa.Connection, revision: Script) -> dict[str, str]:
    look: Callable[[sa.Connection], dict[str, str]] | None = getattr(revision.module, "rewrites", None)
    return look(connection) if look else {}


def _before_rewrites(connection: sa.Connection, target: str) -> str:
    for revision in _pending(connection, target):
        if _rewrites(connection, revision):
            return str(revision.down_revision)
    return target


def _known() -> set[str]:
    return {script.revision for script in _script().walk_revisions()}


def _explain(revision: str | None, tables: set[str]) -> str:
    sync = "run `panko-ingest db sync`"
    if revision is None and Event.__tablename__ in tables:
        missing = sorted({EventType.__tablename__, *EVENT_TABLES} - tables)
        what = f", and {', '.join(missing)} is missing, which it makes" if missing else ""
        return f"the tables were made by Panko or Ceilometer and not adopted yet{what}: {sync}"
    if revision is None:
        return f"the database has no tables for events yet: {sync}"
    if revision in _known():
        return f"the schema is at revision {revision}, too old for this release ({head()}): {sync}"
    return (
        f"the schema is at revision {revision}, which this release does not know (its newest is {head()}): "
        "a newer release made it; install that one"
    )
