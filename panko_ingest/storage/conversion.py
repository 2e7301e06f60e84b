"""Plain tables into partitioned ones, while events go on being recorded.

Everything is copied beside, into a schema of its own, in transactions that note how far they came;
the tables change places at the end, when what is left to copy takes but a moment. So it can be
interrupted at any time, and another call goes on from there.
"""

import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from panko_ingest.errors import ConfigError
from panko_ingest.storage import partitioning, partitions, schema
from panko_ingest.storage.engine import read_transaction, write_transaction
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.expiry import limit_of, utc_now
from panko_ingest.storage.partitions import SEQUENCE, SEQUENCE_BITS, TABLES, id_in_sql
from panko_ingest.storage.retention import only_expirer
from panko_ingest.storage.retry import run_transaction
from panko_ingest.storage.settings import Settings

ToldProgress = Callable[[int, int], None]
"""Takes the number of events copied, and of all there are, as far as known."""

_NEW, _OLD = "panko_ingest_conversion", "panko_ingest_plain"
_COPIED = "SELECT copied FROM panko_ingest_conversion.progress FOR UPDATE"
_BATCH = 2000
_LEFT_TO_THE_SWITCH = 2 * _BATCH
_PATIENCE = 600.0


def convert(engine: sa.Engine, settings: Settings, width: str, tell: ToldProgress) -> None:
    """Make plain tables partitioned; see ``Connection.convert``."""
    if engine.dialect.name != "postgresql":
        raise ConfigError("db convert: partitions need PostgreSQL")
    if reason := partitions.too_many(width, settings.event_time_to_live):
        raise ConfigError(reason)
    with schema.migrating(engine) as migrating, only_expirer(engine, settings) as alone:
        if not alone:
            raise StorageUnavailable("db convert: an expirer is at work; try again when its round is over")
        _Conversion(migrating.engine, settings, tell).run(width)


class _Conversion:
    def __init__(self, engine: sa.Engine, settings: Settings, tell: ToldProgress) -> None:
        self._engine = engine
        self._settings = settings
        self._tell = tell
        self._progress = (0, 0)

    def run(self, width: str) -> None:
        """Go on from wherever the last run ended."""
        with read_transaction(self._engine) as connection:
            done = partitions.exist(connection)
        if not done:
            run_transaction(self._settings, lambda: self._prepare(width))
            while self._copy_what_is_there() > _LEFT_TO_THE_SWITCH:
                pass
            if not partitioning.patiently(self._switch, _PATIENCE, threading.Event()):
                raise StorageUnavailable(
                    "db convert: all is copied, but the tables were in use by long transactions: run it again"
                )
        run_transaction(self._settings, self._remove_plain)

    def _prepare(self, width: str) -> None:
        with write_transaction(self._engine) as connection:
            if connection.exec_driver_sql(f"SELECT to_regclass('{_NEW}.progress')").scalar():
                return
            oldest = limit_of(self._settings.event_time_to_live, utc_now()).date()
            first = connection.exec_driver_sql("SELECT min(generated) FROM event").scalar()
            if first is not None:
                oldest = max(oldest, min(first, utc_now()).date())
            connection.exec_driver_sql(f"CREATE SCHEMA {_NEW}")
            connection.exec_driver_sql(
                "SELECT set_config('search_path', %s, true)", (self._path(connection),)
            )
            partitioning.make_tables(connection, partitions.covering(oldest, width, utc_now().date()))
            connection.exec_driver_sql(
                "CREATE TABLE progress AS SELECT 0::bigint AS copied, 0::bigint AS events"
            )

    def _path(self, connection: sa.Connection) -> str:
        return f"{_NEW}, {_home(connection)}"

    def _copy_what_is_there(self) -> int:
        """Copy the events that are stored now; return how many there were."""
        with read_transaction(self._engine) as connection:
            newest = int(connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM event").scalar_one())
            if newest >> SEQUENCE_BITS:
                raise StorageUnavailable(
                    f"db convert: event.id has reached {newest}, too many", operator=True
                )
        # A smaller id may be committed after a larger one.
        self._wait_for_writers()
        total = 0
        while True:
            started = time.monotonic()
            count = run_transaction(self._settings, lambda: self._copy_batch(newest))
            if not count:
                return total
            total += count
            # Half of the time is the writers'.
            time.sleep(min(1.0, time.monotonic() - started))

    def _wait_for_writers(self) -> None:
        with read_transaction(self._engine) as connection:
            reader = connection.execution_options(isolation_level="AUTOCOMMIT")
            end = reader.exec_driver_sql("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").scalar_one()
            running = f"SELECT pg_snapshot_xmin(pg_current_snapshot()) < '{end}'::xid8"
            while reader.exec_driver_sql(running).scalar_one():
                time.sleep(0.05)

    def _copy_batch(self, newest: int) -> int:
        with write_transaction(self._engine) as connection:
            count = self._copy(connection, newest, _BATCH)
        self._tell(*self._progress)
        return count

    def _copy(self, connection: sa.Connection, newest: int, most: int | None) -> int:
        """Copy the next events, up to an id, and note it; return how many there were."""
        copied = connection.exec_driver_sql(_COPIED).scalar_one()
        end, count = connection.exec_driver_sql(
            "SELECT max(id), count(*) FROM "
            "(SELECT id FROM event WHERE id > %s AND id <= %s ORDER BY id LIMIT %s) AS next",
            (copied, newest, most),
        ).one()
        if not count:
            return 0
        connection.exec_driver_sql(
            f"INSERT INTO {_NEW}.event (id, message_id, generated, raw, event_type_id) "  # noqa: S608 - ours
            f"SELECT {id_in_sql('id')}, message_id, generated, raw, event_type_id FROM event "
            "WHERE id > %s AND id <= %s",
            (copied, end),
        )
        for table in TABLES[1:]:
            connection.exec_driver_sql(
                f"INSERT INTO {_NEW}.{table} (event_id, key, value) "  # noqa: S608 - ours
                f"SELECT {id_in_sql('event.id')}, key, value FROM {table} JOIN event ON event.id = event_id "
                "WHERE event_id > %s AND event_id <= %s AND event.id > %s AND event.id <= %s",
                (copied, end, copied, end),
            )
        events = connection.exec_driver_sql(
            f"UPDATE {_NEW}.progress SET copied = %s, events = events + %s RETURNING events",  # noqa: S608
            (end, count),
        ).scalar_one()
        left = connection.exec_driver_sql(
            "SELECT greatest(reltuples, 0) FROM pg_class WHERE oid = 'event'::regclass"
        ).scalar_one()
        self._progress = int(events), max(int(left), int(events))
        return int(count)

    def _switch(self) -> bool:
        with write_transaction(self._engine) as connection:
            partitioning.lock_tables(connection)
            # Nobody writes any more: what there is now is all.
            self._copy(connection, 2**SEQUENCE_BITS, None)
            home = _home(connection)
            number = connection.exec_driver_sql("SELECT coalesce(max(id), 0) + 1 FROM event").scalar_one()
            connection.exec_driver_sql(f"SELECT setval('{_NEW}.{SEQUENCE}', {number}, false)")
            rights = list(connection.exec_driver_sql(_RIGHTS, (list(TABLES), home)).scalars())
            connection.exec_driver_sql(f"CREATE SCHEMA {_OLD}")
            for table in TABLES:
                connection.exec_driver_sql(f"ALTER TABLE {table} SET SCHEMA {_OLD}")
            moved = connection.exec_driver_sql(
                "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relname <> 'progress' "
                "AND relnamespace = %s::regnamespace",
                (_NEW,),
            ).scalars()
            for table in list(moved):
                connection.exec_driver_sql(f"ALTER TABLE {_NEW}.{table} SET SCHEMA {home}")
            connection.exec_driver_sql(f"ALTER SEQUENCE {_NEW}.{SEQUENCE} SET SCHEMA {home}")
            connection.exec_driver_sql(f"ALTER FUNCTION {_NEW}.panko_ingest_own_ids SET SCHEMA {home}")
            for grant in rights:
                connection.exec_driver_sql(grant)
            connection.exec_driver_sql(f"DROP SCHEMA {_NEW} CASCADE")
        self._tell(*self._progress)
        return True

    def _remove_plain(self) -> None:
        with write_transaction(self._engine) as connection:
            connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {_OLD} CASCADE")


def _home(connection: sa.Connection) -> str:
    """Return the schema of the tables, quoted."""
    return str(
        connection.exec_driver_sql(
            "SELECT quote_ident(nspname) FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid "
            "WHERE c.oid = 'event'::regclass"
        ).scalar_one()
    )


# What others may do with the tables, and those who may insert events with the numbers of their ids.
_RIGHTS = """
SELECT format('GRANT %%s ON %%I TO %%s', privilege, relname, CASE role WHEN 0 THEN 'PUBLIC'
              ELSE quote_ident(pg_get_userbyid(role)) END)
FROM (
    SELECT relname, (aclexplode(relacl)).privilege_type AS privilege, (aclexplode(relacl)).grantee AS role
    FROM pg_class WHERE relname = ANY(%s) AND relnamespace = %s::regnamespace
) AS rights
UNION ALL
SELECT format('GRANT USAGE, SELECT ON SEQUENCE event_id_seq TO %%s', quote_ident(pg_get_userbyid(role)))
FROM (
    SELECT (aclexplode(relacl)).privilege_type AS privilege, (aclexplode(relacl)).grantee AS role
    FROM pg_class WHERE oid = 'event'::regclass
) AS rights WHERE privilege = 'INSERT' AND role <> 0
"""
