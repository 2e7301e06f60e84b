"""Connections for changing the schema: alone under a lease, and without a limit of time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from panko_ingest.storage.database import base as databases, leases, pooling
from panko_ingest.storage.database.engine import make_engine
from panko_ingest.storage.schema import revisions, unfit_tables
from panko_ingest.storage.settings import StorageSettings

PATIENT = StorageSettings(statement_timeout=0)
"""Statements may take hours."""


@contextmanager
def migrating(target: sa.Engine | str) -> Iterator[sa.Connection]:
    """Give a connection for changing the schema: alone under a lease, and without a limit of time.

    It makes the file of SQLite's where that is absent.

    :param target: an engine, or a database's URL.
    :raises StorageUnavailable: the tables are another service's or a newer release's, or a change would spoil
        what they hold; nothing was touched.
    """
    engine = make_engine(target, PATIENT) if isinstance(target, str) else patient(target)
    try:
        databases.of(engine).make_file(engine)
        if databases.of(engine).one_writer_at_a_time:
            with engine.connect() as connection, _sqlite_lock(connection) as locked:
                _refuse_others(locked)
                yield locked
            return
        with engine.connect() as connection:
            _refuse_others(connection)
            leases.make(connection)
        with leases.waited_for(engine, PATIENT, leases.MIGRATION) as lease:
            sa.event.listen(engine, "before_cursor_execute", _proof_of(lease))
            with engine.connect() as connection:
                yield connection
    finally:
        if engine is not target:
            engine.dispose()


@contextmanager
def looking(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Give a connection for looking at the schema, when nobody changes it."""
    with engine.connect() as connection:
        _refuse_others(connection)
    leases.wait_until_free(engine, PATIENT, leases.MIGRATION)
    with engine.connect() as connection:
        yield connection


def _refuse_others(connection: sa.Connection) -> None:
    revisions.refuse_what_is_not_ours(connection)
    unfit_tables.refuse_to_spoil(connection)


def _proof_of(lease: leases.Held) -> Callable[..., None]:
    """Return what lets each statement that changes anything run only while the lease is ours."""

    def prove(_connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if leases.TABLE not in statement and not statement.lstrip().upper().startswith(_LOOKS_ONLY):
            lease.prove()

    return prove


_LOOKS_ONLY = ("SELECT", "SHOW", "DESCRIBE", "SET")


def patient(engine: sa.Engine) -> sa.Engine:
    """Return an engine whose statements may take hours; a database in memory has but one connection."""
    if isinstance(engine.pool, pooling.OneConnection):
        return engine
    return make_engine(engine.url.render_as_string(hide_password=False), PATIENT)


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
