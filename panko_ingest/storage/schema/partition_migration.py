"""Plain tables into partitioned ones, while events go on being recorded, and without copying.

An id that a plain table gave is a mere number, and so lies below the ids of every day: the plain
tables as they are become the first partition. That all their ids do is proven beforehand, beside
writers, by a constraint; the exchange then takes only a moment. Days up to it stay with that
partition, so that a redelivered event still meets its first delivery. Each step looks whether it is
done already, so that a run which was killed is taken up by the next.
"""

import datetime
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import sqlalchemy as sa

from panko_ingest.errors import ConfigError
from panko_ingest.storage.base import ToldProgress
from panko_ingest.storage.database import base as databases, clocks
from panko_ingest.storage.database.engine import read_transaction, write_transaction
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.schema import partition_ddl, partition_parents, partitions, revisions, table_locks
from panko_ingest.storage.schema.migration_connection import migrating
from panko_ingest.storage.schema.partition_parents import PLAIN_IDS
from panko_ingest.storage.schema.partitions import KEYS, PLAIN_SUFFIX, SEQUENCE_BITS, Partition, first_id
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import EVENT_TABLES

LOG = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE = 600.0
_SAY_AGAIN = 10.0
_DAY = datetime.timedelta(days=1)
_MOST_AHEAD = 7 * _DAY
_LATEST = datetime.date.max
"""The day for what other programs left beyond it: infinity, and years of which an id has no room."""

_CONSTRAINT = "SELECT convalidated FROM pg_constraint WHERE conrelid = %s::regclass AND conname = %s"


def migrate(engine: sa.Engine, settings: StorageSettings, width: str, tell: ToldProgress) -> None:
    """Make plain tables partitioned; see ``Connection.partition``."""
    if not databases.of(engine).has_partitions:
        raise ConfigError("db partition: partitions need PostgreSQL")
    if reason := partitions.too_many(width, settings.event_time_to_live):
        raise ConfigError(reason)
    with migrating(engine) as connection:
        _Migration(connection.engine, settings, tell).run(width)


class _Migration:
    def __init__(self, engine: sa.Engine, settings: StorageSettings, tell: ToldProgress) -> None:
        self._engine = engine
        self._settings = settings
        self._tell = tell
        self._say_at = 0.0
        self._holders = ""

    def run(self, width: str) -> None:
        """Go on from wherever the last run ended."""
        with read_transaction(self._engine) as connection:
            done = partitions.exist(connection)
        first_day = clocks.borne_out(self._engine, self._settings).date() if done else self._look()
        if not done:
            self._prove()
            started = time.monotonic()
            first_day = self._patiently(self._exchange)
            # Let those who waited have their turn before the next partitions keep them waiting again.
            time.sleep(min(1.0, 2 * (time.monotonic() - started)))
        # The partition after the first may be a short one, and does not tell the width.
        until = partitions.period_end(first_day, width)
        self._patiently(partial(partition_ddl.split, self._engine, width, until))

    def _look(self) -> datetime.date:
        """Refuse what can't be done; return the day from which on ids are to lead to days."""
        today = clocks.borne_out(self._engine, self._settings).date()
        with read_transaction(self._engine) as connection:
            return self._first_day(connection, today)

    def _first_day(self, connection: sa.Connection, today: datetime.date) -> datetime.date:
        state = revisions.schema_state(self._engine)
        if state.revision != state.head:
            raise StorageUnavailable(
                f"db partition: the schema is at revision {state.revision}, not at {state.head}: run "
                "`panko-ingest db sync` without --postpone-rewrites first",
                operator=True,
            )
        if why := partition_parents.obstacle(connection):
            raise StorageUnavailable(f"db partition: {why}", operator=True)
        newest = int(connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM event").scalar_one())
        if newest >> SEQUENCE_BITS:
            raise StorageUnavailable(f"db partition: event.id has reached {newest}, too many", operator=True)
        many = connection.exec_driver_sql(
            "SELECT least(generated, %s) FROM event ORDER BY generated DESC OFFSET %s LIMIT 1",
            (_LATEST - _DAY, partition_ddl.MOST_MOVED),
        ).scalar()
        first_day = max(today, many.date() if many else today) + _DAY
        if first_day > today + _MOST_AHEAD:
            raise StorageUnavailable(
                f"db partition: more than {partition_ddl.MOST_MOVED} events are of {first_day - _DAY} "
                "or later: some clock was wrong; delete them first",
                operator=True,
            )
        return first_day

    def _prove(self) -> None:
        """Let the database find out that all ids are plain, one table after the other."""
        with read_transaction(self._engine) as connection:
            sizes = {
                table: int(connection.exec_driver_sql("SELECT pg_table_size(%s)", (table,)).scalar_one())
                for table in EVENT_TABLES
            }
        read = 0
        for table in EVENT_TABLES:
            self._patiently(partial(self._constrain, table))
            self._patiently(partial(self._validate, table))
            read += sizes[table]
            self._tell(read, sum(sizes.values()))

    def _constrain(self, table: str) -> bool:
        with write_transaction(self._engine) as connection:
            table_locks.set_lock_timeout(connection)
            if connection.exec_driver_sql(_CONSTRAINT, (table, PLAIN_IDS)).first() is None:
                table_locks.end_autovacuum(connection, [table])
                connection.exec_driver_sql(
                    f"ALTER TABLE {table} ADD CONSTRAINT {PLAIN_IDS} "
                    f"CHECK ({KEYS[table]} < {1 << SEQUENCE_BITS}) NOT VALID"
                )
        return True

    def _validate(self, table: str) -> bool:
        with write_transaction(self._engine) as connection:
            table_locks.set_lock_timeout(connection)
            if not connection.exec_driver_sql(_CONSTRAINT, (table, PLAIN_IDS)).scalar_one():
                table_locks.end_autovacuum(connection, [table])
                connection.exec_driver_sql(f"ALTER TABLE {table} VALIDATE CONSTRAINT {PLAIN_IDS}")
        return True

    def _exchange(self) -> datetime.date:
        """Let partitioned tables take the place of the plain ones, which become their first partition."""
        # Not as it was before all was read: what came since for days from then on would be carried over now.
        first_day = self._look()
        with write_transaction(self._engine) as connection:
            table_locks.lock_tables(connection)
            partition_parents.exchange(connection, "db partition")
            for table in EVENT_TABLES:
                plain = f"{table}_{PLAIN_SUFFIX}"
                connection.exec_driver_sql(
                    f"ALTER TABLE {table} ATTACH PARTITION {plain} "
                    f"FOR VALUES FROM (MINVALUE) TO ({first_id(first_day)})"
                )
                connection.exec_driver_sql(f"ALTER TABLE {plain} DROP CONSTRAINT {PLAIN_IDS}")
            partition_ddl.make(connection, [Partition(first_day, None)], like=PLAIN_SUFFIX)
            _move(connection, first_day)
        LOG.info("The tables are partitioned; ids lead to days from %s on", first_day)
        return first_day

    def _patiently(self, work: Callable[[], T]) -> T:
        result = partition_ddl.patiently(work, _PATIENCE, in_use=self._say_who)
        if result is None:
            raise StorageUnavailable(
                f"db partition: the tables were in use for {_PATIENCE:.0f} s: {self._holders}; end that, and "
                "run it again: what is done stays"
            )
        return result

    def _say_who(self) -> None:
        with read_transaction(self._engine) as connection:
            found = list(databases.of(connection).table_users(connection, 1))
        self._holders = "; ".join(found) or self._holders
        if found and time.monotonic() >= self._say_at:
            self._say_at = time.monotonic() + _SAY_AGAIN
            LOG.warning("db partition waits for the tables, which are in use by %s", "; ".join(found))


def _move(connection: sa.Connection, first_day: datetime.date) -> None:
    """Give ids that lead to their day to events of days yet to come, which a wrong clock may have brought."""
    some = f"EXISTS(SELECT FROM event_{PLAIN_SUFFIX} WHERE generated >= %s)"
    if not connection.exec_driver_sql(f"SELECT {some}", (first_day,)).scalar():
        return
    # Statistics that are old must not make it read whole tables while everybody waits.
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    connection.exec_driver_sql("SET LOCAL enable_hashjoin = off")
    connection.exec_driver_sql("SET LOCAL enable_mergejoin = off")
    new_id = partitions.id_in_sql("event.id", f"least(generated, '{_LATEST}')")
    for table in EVENT_TABLES[1:]:
        connection.exec_driver_sql(
            f"UPDATE {table} AS trait SET event_id = {new_id} FROM event_{PLAIN_SUFFIX} AS event "  # noqa: S608
            "WHERE event.id = trait.event_id AND generated >= %s",
            (first_day,),
        )
    connection.exec_driver_sql(
        f"UPDATE event SET id = {new_id} WHERE generated >= %s AND id < {1 << SEQUENCE_BITS}",  # noqa: S608 - ours
        (first_day,),
    )
