"""What an administrator may have taken from the tables, after which events are doubled or lost in silence."""

import logging
import weakref
from collections.abc import Iterator

import sqlalchemy as sa

from panko_ingest.findings import FAILURE, WARNING, Finding
from panko_ingest.storage.database.engine import read_transaction
from panko_ingest.storage.tables import EVENT_TABLES, Base

LOG = logging.getLogger(__name__)

_UNIQUE = (("event", "message_id"), ("event_type", "desc"), ("dead_letter", "digest"))

# With their partitions, of which each has an index of its own.
_OURS = """(
    SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name
    UNION
    SELECT inhrelid FROM pg_inherits JOIN unnest(%(tables)s::text[]) AS name ON inhparent = to_regclass(name)
    JOIN pg_class one ON one.oid = inhrelid WHERE relispartition
)"""
_NOT_UNIQUE = f"""
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attname = %(column)s
WHERE relkind = 'r' AND c.oid IN {_OURS} AND NOT EXISTS (
    SELECT FROM pg_index WHERE indrelid = c.oid AND indisunique AND indisvalid AND indpred IS NULL
    AND indnkeyatts = 1 AND indkey[0] = attnum)
ORDER BY 1
"""  # noqa: S608 - ours
# SQLAlchemy sees no index that the optimizer ignores, and which keeps rows apart all the same.
_UNIQUE_BY_MYSQL = (
    "SELECT index_name FROM information_schema.statistics WHERE table_schema = DATABASE() "
    "AND table_name = %s AND non_unique = 0 GROUP BY index_name HAVING COUNT(*) = 1 AND MAX(column_name) = %s"
)
_UNLOGGED = f"""
SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relpersistence = 'u' AND oid IN {_OURS}
ORDER BY 1
"""  # noqa: S608 - ours
_NOT_INNODB = sa.text(
    "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND engine <> 'InnoDB' "
    "AND table_name IN :tables ORDER BY 1"
).bindparams(sa.bindparam("tables", list(Base.metadata.tables), expanding=True))
_DISABLED = f"""
SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger JOIN pg_constraint c ON c.oid = tgconstraint
WHERE contype = 'f' AND conrelid IN {_OURS} AND tgenabled NOT IN ('O', 'A') ORDER BY 1
"""  # noqa: S608 - ours
_NOT_VALIDATED = f"""
SELECT conrelid::regclass::text, quote_ident(conname) FROM pg_constraint
WHERE contype = 'f' AND conrelid IN {_OURS} AND NOT convalidated ORDER BY 1, 2
"""  # noqa: S608 - ours

_looked_at: weakref.WeakSet[sa.Engine] = weakref.WeakSet()


def tell_once(engine: sa.Engine) -> None:
    """Say in the log of each process what would double events, when its store is first used.

    :raises StorageUnavailable: the store can't be reached.
    """
    if engine in _looked_at:
        return
    with read_transaction(engine) as connection:
        for text in _not_unique(connection):
            LOG.error("%s", text)
    _looked_at.add(engine)


def check(connection: sa.Connection) -> Iterator[Finding]:
    """Tell what would double or lose events."""
    yield from (Finding(FAILURE, "unique", text) for text in _not_unique(connection))
    given = {"tables": list(Base.metadata.tables)}
    if connection.dialect.name == "postgresql":
        for name in connection.exec_driver_sql(_UNLOGGED, given).scalars():
            text = f"a crash of the server empties {name}: ALTER TABLE {name} SET LOGGED"
            yield Finding(FAILURE, "tables", text)
    if connection.dialect.name == "mysql":
        for name in connection.scalars(_NOT_INNODB):
            text = f"{name} knows no transactions: ALTER TABLE {name} ENGINE=InnoDB"
            yield Finding(FAILURE, "tables", text)


def _not_unique(connection: sa.Connection) -> Iterator[str]:
    postgresql = connection.dialect.name == "postgresql"
    for table, column in _UNIQUE:
        given = {"tables": [table], "column": column}
        if postgresql:
            found = list(connection.exec_driver_sql(_NOT_UNIQUE, given).scalars())
        else:
            found = [] if _has_unique_index(connection, table, column) else [table]
        quoted = connection.dialect.identifier_preparer.quote(column)
        for name in found:
            index = "INDEX CONCURRENTLY" if postgresql else f"INDEX uq_{table}_{column}"
            twice = f"SELECT {quoted} FROM {name} GROUP BY {quoted} HAVING count(*) > 1"  # noqa: S608 - ours
            yield (
                f"{name} has no valid unique index of {column}, and keeps twice what is delivered twice: "
                f"CREATE UNIQUE {index} ON {name} ({quoted}); if refused, for what is there twice: {twice}"
            )


def _has_unique_index(connection: sa.Connection, table: str, column: str) -> bool:
    if connection.dialect.name == "mysql":
        if connection.exec_driver_sql(_UNIQUE_BY_MYSQL, (table, column)).first() is not None:
            return True
        # Nothing is shown of a table to which we have no right: let that be said.
        connection.exec_driver_sql(f"SELECT 1 FROM {table} WHERE FALSE")  # noqa: S608 - ours
        return False
    inspector = sa.inspect(connection)
    indexes = [one["column_names"] for one in inspector.get_indexes(table) if one["unique"]]
    return [column] in indexes + [one["column_names"] for one in inspector.get_unique_constraints(table)]


def references_off(connection: sa.Connection) -> Iterator[Finding]:
    """Tell which references PostgreSQL does not keep, as after a restore that was interrupted."""
    if connection.dialect.name != "postgresql":
        return
    given = {"tables": list(EVENT_TABLES)}
    for name in connection.exec_driver_sql(_DISABLED, given).scalars():
        text = (
            f"references of {name} are not kept, for their triggers are disabled: as superuser, "
            f"ALTER TABLE {name} ENABLE TRIGGER ALL"
        )
        yield Finding(FAILURE, "references", text)
    for name, constraint in connection.exec_driver_sql(_NOT_VALIDATED, given):
        text = f"rows of {name} were never checked: ALTER TABLE {name} VALIDATE CONSTRAINT {constraint}"
        yield Finding(WARNING, "references", text)
