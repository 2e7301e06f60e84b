"""How a session of MySQL or MariaDB is set up: strict, with time limits, with settings that we rely on."""

import math
from typing import Any

from panko_ingest.errors import DatabaseUrlError
from panko_ingest.storage.settings import StorageSettings

SQL_MODE = "STRICT_TRANS_TABLES,STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
"""sql_mode of every session: what does not fit is refused, never changed in silence."""

# A proxy that answers "SELECT VERSION()" itself, with MySQL's for a MariaDB, passes this on.
OWN_VERSION = "CONCAT(VERSION())"
_NO_LIMIT, _LONGEST_TABLE_LOCK = 100_000_000, 31_536_000

_TRUSTED = {
    "sql_select_limit": str(2**64 - 1),
    "sql_big_selects": "1",
    "max_sort_length": "1024",
    "foreign_key_checks": "1",
    "unique_checks": "1",
    "completion_type": "NO_CHAIN",
    "sql_safe_updates": "0",
    "sql_quote_show_create": "1",  # SQLAlchemy reads columns out of SHOW CREATE TABLE, by their quotes
}
"""Settings that change what statements find, keep or do, and the values that we rely on.

They are set only where a server has others: a proxy may not pass them on.
"""


def set_up(connection: Any, cursor: Any, settings: StorageSettings) -> bool:
    """Set a session up; return whether a proxy stands between.

    :raises ConfigError: the server keeps a sql_mode that is not strict.
    """
    lock_timeout = max(1, math.ceil(settings.lock_timeout)) if settings.lock_timeout else _NO_LIMIT
    for statement in (
        f"SET SESSION sql_mode = '{SQL_MODE}'",
        f"SET SESSION innodb_lock_wait_timeout = {lock_timeout}",
        f"SET SESSION lock_wait_timeout = {min(lock_timeout, _LONGEST_TABLE_LOCK)}",
    ):
        cursor.execute(statement)
    if settings.mysql_wsrep_sync_wait is not None:
        cursor.execute(f"SET SESSION wsrep_sync_wait = {settings.mysql_wsrep_sync_wait:d}")
    names = ", ".join(f"@@SESSION.{name}" for name in _TRUSTED)
    cursor.execute(f"SELECT @@sql_mode, @@pseudo_thread_id, {OWN_VERSION}, {names}")
    sql_mode, session, version, *found = cursor.fetchone()
    # A proxy tells a session's number of its own.
    proxied = hasattr(connection, "thread_id") and connection.thread_id() != session
    for (name, value), its in zip(_TRUSTED.items(), found, strict=True):
        if str(its) != value:
            cursor.execute(f"SET SESSION {name} = {value}")
    if "STRICT_ALL_TABLES" not in sql_mode:
        raise DatabaseUrlError(
            f"the server keeps sql_mode {sql_mode!r}; a strict one is needed, or "
            "values that don't fit would be changed in silence"
        )
    if "MariaDB" not in version:
        # MySQL can limit SELECT only; the driver's read timeout covers the rest.
        cursor.execute(f"SET SESSION max_execution_time = {settings.statement_timeout * 1000:.0f}")
        return proxied
    # A proxy that knows this setting takes it for a whole number.
    cursor.execute(f"SET SESSION max_statement_time = {settings.statement_timeout:g}")
    # A proxy ends the server's sessions of a client that is gone; a setting that it does not know would pin
    # us to one of them.
    if not proxied:
        # A lost session must not keep its locks, as on PostgreSQL.
        idle = math.ceil(settings.statement_timeout)
        cursor.execute(f"SET SESSION idle_transaction_timeout = {idle}")
        if idle:  # the same where it went away in the middle of a statement
            cursor.execute(f"SET SESSION net_read_timeout = {idle}")
    return proxied
