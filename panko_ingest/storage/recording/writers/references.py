"""Traits on PostgreSQL without a second proof that their event is there; docs/adr says why that is safe.

The tables keep their references, and everybody else's statements are checked. Only while our own transaction
writes traits, each of which takes its event_id from an event of that transaction, they are not looked up.
"""

from collections.abc import Iterator

import sqlalchemy as sa

from panko_ingest.findings import OK, Finding
from panko_ingest.storage.database.engine import read_transaction
from panko_ingest.storage.schema import partitions
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import EVENT_TABLES

_TABLES = ", ".join(f"to_regclass('{table}')" for table in EVENT_TABLES)

# Nobody else's trigger may be passed over, and one that leaves out events would leave their traits behind.
_TRIGGERS = (
    "SELECT tgname FROM pg_trigger LEFT JOIN pg_constraint ON pg_constraint.oid = tgconstraint "  # noqa: S608 - ours
    f"WHERE tgrelid IN ({_TABLES}) AND NOT (tgisinternal AND contype = 'f' "
    f"AND conrelid IN ({_TABLES}) AND confrelid IN ({_TABLES}, to_regclass('event_type')))"
)

SKIP_CHECKS = f"SELECT set_config('session_replication_role', 'replica', true) WHERE NOT EXISTS ({_TRIGGERS})"
"""For the statements that follow in this transaction, unless an operator's trigger stands on these tables."""

CHECK_AGAIN = "SET LOCAL session_replication_role = DEFAULT"

_SINCE = 15_00_00  # the PostgreSQL from which on the right can be granted
_MAY = "SELECT has_parameter_privilege('session_replication_role', 'SET')"
_VERSION = "SELECT current_setting('server_version_num')::int"
_GAIN = "batches are stored in about two thirds of the time"


def are_skipped(connection: sa.Connection, settings: StorageSettings) -> bool:
    """Tell whether the option, the release of the server and our role allow it."""
    return _obstacle(connection, settings) is None


def check(engine: sa.Engine, settings: StorageSettings) -> Iterator[Finding]:
    """Tell whether it is in force, and if not, why, and what it would bring.

    :raises StorageUnavailable: the store can't be reached.
    """
    with read_transaction(engine) as connection:
        if connection.dialect.name != "postgresql" or partitions.exist(connection):
            return
        obstacle = _obstacle(connection, settings)
        if obstacle is None and (trigger := connection.exec_driver_sql(_TRIGGERS).scalar()):
            obstacle = f"the trigger {trigger} stands on the tables"
    if obstacle is None:
        yield Finding(OK, "reference checks", f"skipped for our own traits: {_GAIN}")
    else:
        yield Finding(OK, "reference checks", f"not skipped: {obstacle}; without them {_GAIN}")


def _obstacle(connection: sa.Connection, settings: StorageSettings) -> str | None:
    if not settings.skip_reference_checks:
        return "[database] skip_reference_checks is off"
    if connection.exec_driver_sql(_VERSION).scalar_one() < _SINCE:
        return "the right for it came with PostgreSQL 15"
    if not connection.exec_driver_sql(_MAY).scalar_one():
        role = connection.exec_driver_sql("SELECT current_user").scalar_one()
        return f"as superuser, GRANT SET ON PARAMETER session_replication_role TO {role}"
    return None
