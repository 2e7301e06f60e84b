"""Tables of ours that are gone, as after a restore of some of them, and which can be made anew, empty."""

import sqlalchemy as sa

from panko_ingest.storage.database import base as databases
from panko_ingest.storage.tables import EVENT_TABLES, TRAITS, Base, Event, EventType

_ARE_PARTITIONED = """
SELECT count(*) FROM unnest(CAST(%s AS text[])) AS name
WHERE (SELECT relkind FROM pg_class WHERE oid = to_regclass(name)) = 'p'
"""


def missing_tables(connection: sa.Connection) -> list[str]:
    """Return those of our tables that are not there, in the order in which they refer to each other."""
    inspector = sa.inspect(connection)
    return [table.name for table in Base.metadata.sorted_tables if not inspector.has_table(table.name)]


def unmakeable(connection: sa.Connection) -> str:
    """Return why what is gone can't be made anew; empty where it can, or nothing is.

    Ids begin at 1 again in an empty table: whatever refers to the old ones would be the new rows'.
    """
    missing = set(missing_tables(connection))
    gone = sorted(missing.intersection(EVENT_TABLES))
    if gone and _any_is_partitioned(connection):
        return f"{', '.join(gone)} is gone, and other tables of events are partitioned: restore it"
    referring: dict[str, list[type[Base]]] = {
        EventType.__tablename__: [Event],
        Event.__tablename__: list(TRAITS),
    }
    for name in missing.intersection(referring):
        for table in referring[name]:
            there = table.__tablename__ not in missing
            if there and connection.scalar(sa.select(sa.exists().select_from(table))):
                return (
                    f"{name} is gone, and rows of {table.__tablename__} refer to it, which would pass for "
                    "those of what is stored from now on: restore it"
                )
    return ""


def _any_is_partitioned(connection: sa.Connection) -> bool:
    if not databases.of(connection).has_partitions:
        return False
    return bool(connection.exec_driver_sql(_ARE_PARTITIONED, (list(EVENT_TABLES),)).scalar())
