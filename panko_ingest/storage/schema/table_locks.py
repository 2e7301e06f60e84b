"""Getting the tables of events for ourselves: soon or not at all, for all others wait behind us."""

from collections.abc import Sequence

import sqlalchemy as sa

from panko_ingest.storage.database import base as databases
from panko_ingest.storage.schema import partition_parents, partitions
from panko_ingest.storage.schema.partitions import Partition
from panko_ingest.storage.tables import EVENT_TABLES

LOCK_TIMEOUT = 0.1
"""Seconds to wait for the tables, and so to keep others waiting, at one try."""

_TIMEOUT = f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT * 1000:.0f}ms'"
# In milliseconds, and within the time that a statement has: that would end what is to be tried again.
_UNTIL_AUTOVACUUM_ENDS = """
SELECT set_config(
    'lock_timeout',
    least(deadlock.setting::bigint + 1000, 15000, nullif(statement.setting::bigint, 0) / 2)::text,
    true
)
FROM pg_settings deadlock, pg_settings statement
WHERE deadlock.name = 'deadlock_timeout' AND statement.name = 'statement_timeout'
"""
# LOCK TABLE takes no TOAST table, and what changes an option of one locks it as much as its table.
_LOCK_TOAST = (
    "SELECT format('ALTER TABLE %%s RESET (toast.vacuum_index_cleanup)', oid::regclass) FROM pg_class "
    "WHERE oid = ANY(%s::regclass[]) AND reltoastrelid <> 0"
)


def lock_tables(connection: sa.Connection, parts: Sequence[Partition] = ()) -> None:
    """Get the tables for ourselves, soon or not at all, and in the order in which all others lock them.

    :param parts: partitions that are to be changed as well.
    """
    hold_partitions(connection, parts)
    be_alone(connection)


def hold_partitions(connection: sa.Connection, parts: Sequence[Partition] = ()) -> None:
    """Keep everybody else from splitting, dropping or attaching partitions; others read and write on.

    :param parts: those that are to be changed.
    """
    set_lock_timeout(connection)
    partition_parents.act_as_owner(connection)
    end_autovacuum(connection, EVENT_TABLES)
    if names := partitions.attached(connection, EVENT_TABLES, parts):
        end_autovacuum(connection, names)


def be_alone(connection: sa.Connection) -> None:
    """Get the tables whose partitions are held for ourselves, soon or not at all."""
    tables = ", ".join(f"ONLY {table}" for table in EVENT_TABLES)
    connection.exec_driver_sql(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")


def set_lock_timeout(connection: sa.Connection) -> None:
    """Let a transaction wait for its locks no longer than others may have to wait behind it.

    Too short for the watch that looks what keeps us waiting: sessions without a client are ended here.
    """
    databases.of(connection).end_stuck_users(connection)
    connection.exec_driver_sql(_TIMEOUT)


def end_autovacuum(connection: sa.Connection, tables: Sequence[str]) -> None:
    """Have the server end its own VACUUM and ANALYZE of tables, and begin none in this transaction.

    It does so for a session that has waited for ``deadlock_timeout``, which is longer than anybody may wait
    behind us: so a lock is asked for that is in no reader's or writer's way.
    """
    connection.exec_driver_sql(_UNTIL_AUTOVACUUM_ENDS)
    names = ", ".join(f"ONLY {table}" for table in tables)
    connection.exec_driver_sql(f"LOCK TABLE {names} IN SHARE UPDATE EXCLUSIVE MODE")
    connection.exec_driver_sql(_TIMEOUT)


def end_autovacuum_of_toast(connection: sa.Connection, tables: Sequence[str]) -> None:
    """Have the server end its own VACUUM of what tables keep out of line, which to it is another table.

    It is for tables that are dropped in this transaction: they lose an option that an operator may have set.
    """
    connection.exec_driver_sql(_UNTIL_AUTOVACUUM_ENDS)
    for statement in connection.exec_driver_sql(_LOCK_TOAST, (list(tables),)).scalars().all():
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    connection.exec_driver_sql(_TIMEOUT)
