"""Which revision the schema is at, and which ones this release works with.

The revisions themselves are alembic's, in ``migrations/``; ``upgrades`` leads from one to the next.
"""

import sqlalchemy as sa

from panko_ingest.storage.base import SchemaState
from panko_ingest.storage.database.engine import read_transaction
from panko_ingest.storage.database.retry import read
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import EVENT_TABLES, Base, Event, EventType

VERSION_TABLE = "panko_ingest_version"

RELEASED = ("0001", "0002")
"""All in ``migrations/``, the newest last: workers need know no more, and alembic takes 9 MB of each."""


def head() -> str:
    """Return the newest revision that this release knows."""
    return RELEASED[-1]


def usable_revisions() -> tuple[str, ...]:
    """Return the revisions that this release can work with: the newest and the one before it."""
    return RELEASED[:-3:-1]


def current(engine: sa.Engine) -> str | None:
    """Return the revision that the database is at; None where ``upgrade`` never ran.

    :raises StorageUnavailable: the database can't be reached.
    """
    return read(engine, StorageSettings(statement_timeout=0), revision_of)


def is_newest(connection: sa.Connection) -> bool:
    """Tell whether there is nothing to upgrade."""
    return revision_of(connection) == head()


def schema_state(engine: sa.Engine) -> SchemaState:
    """Return the state of a schema that this release can work with.

    :raises StorageUnavailable: with ``operator`` set when it can't, saying what to do.
    """
    with read_transaction(engine) as connection:
        revision = revision_of(connection)
        tables = set() if revision else set(sa.inspect(connection).get_table_names())
        refuse_what_is_not_ours(connection)
    if revision in usable_revisions():
        return SchemaState(str(revision), head())
    raise StorageUnavailable(_explain(revision, tables), operator=True)


def revision_of(connection: sa.Connection) -> str | None:
    """Return the revision that a database is at; None where ``upgrade`` never ran."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    query: sa.Select[tuple[str]] = sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE))
    found = list(connection.scalars(query))
    if len(found) > 1:
        raise StorageUnavailable(
            f"the table {VERSION_TABLE} has {len(found)} rows: leave that of the newest revision",
            operator=True,
        )
    return str(found[0]) if found else None


def refuse_what_is_not_ours(connection: sa.Connection) -> None:
    """Refuse a schema of a newer release, and tables of our names that are another service's, such as Heat's.

    :raises StorageUnavailable: saying which.
    """
    revision = revision_of(connection)
    if revision is not None:
        if revision not in RELEASED:
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


def _explain(revision: str | None, tables: set[str]) -> str:
    sync = "run `panko-ingest db sync`"
    if revision is None and Event.__tablename__ in tables:
        missing = sorted({EventType.__tablename__, *EVENT_TABLES} - tables)
        what = f", and {', '.join(missing)} is missing, which it makes" if missing else ""
        return f"the tables were made by Panko or Ceilometer and not adopted yet{what}: {sync}"
    if revision is None:
        return f"the database has no tables for events yet: {sync}"
    if revision in RELEASED:
        return f"the schema is at revision {revision}, too old for this release ({head()}): {sync}"
    return (
        f"the schema is at revision {revision}, which this release does not know (its newest is {head()}): "
        "a newer release made it; install that one"
    )
