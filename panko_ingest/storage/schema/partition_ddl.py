"""Making, splitting and dropping partitions: all DDL of the partitioned layout.

Whatever needs the tables for itself asks for them with little patience and comes again later: while
it waits behind a long reader, everybody else would wait behind it.
"""

import datetime
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import sqlalchemy as sa
import tenacity

from panko_ingest.errors import ConfigError
from panko_ingest.findings import FAILURE, OK, WARNING, Finding
from panko_ingest.storage.database import base as databases, clocks, error_classes
from panko_ingest.storage.database.engine import read_transaction, write_transaction
from panko_ingest.storage.errors import ErrorClass, StorageUnavailable
from panko_ingest.storage.schema import partition_parents, partitions, revisions, table_locks
from panko_ingest.storage.schema.migration_connection import migrating
from panko_ingest.storage.schema.partitions import KEYS, Partition, first_id
from panko_ingest.storage.schema.table_locks import lock_tables
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import EVENT_TABLES
from panko_ingest.timestamps import utc_now

LOG = logging.getLogger(__name__)

# Of a row or a statement, before or after: one may keep events from being deleted, another keep a copy.
_SEE_DELETED = """
SELECT format('the trigger %%I of %%s', tgname, tgrelid::regclass) FROM pg_trigger
WHERE tgrelid = ANY(%(tables)s::regclass[]) AND NOT tgisinternal AND tgtype & 8 <> 0
AND tgenabled IN ('O', 'A')
UNION SELECT format('the rule %%I of %%s', rulename, ev_class::regclass) FROM pg_rewrite
WHERE ev_class = ANY(%(tables)s::regclass[]) AND ev_type = '4' AND ev_enabled IN ('O', 'A')
UNION SELECT format('the row-level security of %%s', name) FROM unnest(%(tables)s::regclass[]) AS name
WHERE row_security_active(name::oid)
ORDER BY 1 LIMIT 1
"""

# Generated ones of an operator's take no value.
_STORED_COLUMNS = (
    "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute "
    "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
)

T = TypeVar("T")

SYNC_PATIENCE = 60.0
"""Seconds that `db sync` tries for."""

MOST_MOVED = 10_000
"""Events that a split may carry over while everybody waits; more have to be moved by `db sync`."""


def sync(engine: sa.Engine, settings: StorageSettings) -> None:
    """Make the tables of a new database partitioned, or new partitions, as the options say.

    :raises StorageUnavailable: it can't be done.
    """
    if not databases.of(engine).has_partitions:
        return
    today = clocks.borne_out(engine, settings).date()
    with migrating(engine) as connection:
        patient, width = connection.engine, settings.partition_by

        def make() -> int:
            with write_transaction(patient) as connection:
                if not partitions.exist(connection) and width != "none":
                    create(connection, width, today)
            _take_from_plain(patient)
            return split(patient, width, today, most_moved=None)

        if patiently(make, SYNC_PATIENCE) is None:
            raise StorageUnavailable(
                f"db sync: the tables were in use for {SYNC_PATIENCE:.0f} s by long transactions; try again"
            )


def _take_from_plain(engine: sa.Engine) -> None:
    """Take from tables that became a partition as they were what was left with them at the time."""
    with read_transaction(engine) as connection:
        if not _left_with_plain(connection):
            return
    with write_transaction(engine) as connection:
        lock_tables(connection)
        for statement in _left_with_plain(connection):
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _left_with_plain(connection: sa.Connection) -> list[str]:
    plain = [one for one in partitions.found(connection) if one.plain]
    return [
        statement
        for table in EVENT_TABLES
        for name in partitions.attached(connection, (table,), plain)
        for statement in partition_parents.of_the_whole(connection, table, name)
    ]


def refuse(engine: sa.Engine, settings: StorageSettings) -> None:
    """Refuse a layout that can't be.

    :raises ConfigError: saying what to set.
    """
    width = settings.partition_by
    if width == "none":
        return
    if not databases.of(engine).has_partitions:
        raise ConfigError(f"[database] partition_by: {width} needs PostgreSQL: set none")
    if reason := partitions.too_many(width, settings.event_time_to_live):
        raise ConfigError(reason)


def obstacles(connection: sa.Connection, settings: StorageSettings) -> list[str]:
    """Return what keeps :func:`sync` from putting partitioned tables in the place of plain ones."""
    width = settings.partition_by
    there = width != "none" and connection.exec_driver_sql("SELECT to_regclass('event')").scalar()
    if not there or partitions.exist(connection):
        return []
    if _hold_events(connection):
        # `db partition` needs the newest revision, to which `db sync` has to lead first.
        return [_refusal(width)] if revisions.is_newest(connection) else []
    return [why] if (why := partition_parents.obstacle(connection)) else []


def _hold_events(connection: sa.Connection) -> bool:
    return bool(connection.exec_driver_sql("SELECT exists(SELECT FROM event)").scalar())


def _refusal(width: str) -> str:
    return (
        f"[database] partition_by: {width}, but the plain tables hold events already, and only empty "
        "ones can be replaced: run `panko-ingest db partition`"
    )


def create(connection: sa.Connection, width: str, today: datetime.date) -> None:
    """Put partitioned tables in the place of plain ones.

    :raises StorageUnavailable: the plain ones hold events, or something of others' hangs on them.
    """
    lock_tables(connection)
    if _hold_events(connection):
        raise StorageUnavailable(_refusal(width), operator=True)
    partition_parents.exchange(connection, "db sync")
    make(connection, partitions.at_first(width, today), like=partitions.PLAIN_SUFFIX)
    for table in reversed(EVENT_TABLES):
        connection.exec_driver_sql(f"DROP TABLE {table}_{partitions.PLAIN_SUFFIX}")


def split(engine: sa.Engine, width: str, today: datetime.date, most_moved: int | None = MOST_MOVED) -> int:
    """Split new partitions off the last one, ahead of need; return how many.

    :param width: of the new ones; that of the newest one where it is ``none``.
    :param most_moved: events that were written to the last one already and may be carried over.
    :raises StorageUnavailable: there are more of them.
    """
    with read_transaction(engine) as connection:
        if not _to_split(connection, width, today):
            return 0
        last = partitions.found(connection)[-1:]
    with write_transaction(engine) as connection:
        lock_tables(connection, last)
        # Another process may have been quicker.
        if new := _to_split(connection, width, today):
            _split(connection, new, most_moved)
        return max(0, len(new) - 1)


def _to_split(connection: sa.Connection, width: str, today: datetime.date) -> list[Partition]:
    there = partitions.found(connection)
    if not there or there[-1].start is None:
        return []
    width = partitions.width_of(there) if width == "none" else width
    return partitions.missing(there[-1].start, width, today)


def _split(connection: sa.Connection, new: Sequence[Partition], most_moved: int | None) -> None:
    *bounded, last = new
    end = first_id(last.start) if last.start else 0
    # Everybody waits: of millions only so many are counted as matter.
    count = connection.exec_driver_sql(
        "SELECT count(*) FROM (SELECT FROM event_last WHERE id < %s LIMIT %s) AS found",
        (end, 1 if most_moved is None else most_moved + 1),
    ).scalar_one()
    if most_moved is not None and count > most_moved:
        raise StorageUnavailable(
            f"more than {most_moved} events went to the last partition, because nobody made new ones in "
            "time: run `panko-ingest db sync`, which moves them while writers wait",
            operator=True,
        )
    for table in EVENT_TABLES:
        connection.exec_driver_sql(f"ALTER TABLE {table} DETACH PARTITION {table}_last")
    make(connection, bounded)
    for table, key in KEYS.items():
        if count:
            columns = connection.exec_driver_sql(_STORED_COLUMNS, (table,)).scalar_one()
            connection.exec_driver_sql(
                f"WITH moved AS (DELETE FROM {table}_last WHERE {key} < {end} RETURNING {columns}) "  # noqa: S608
                f"INSERT INTO {table} ({columns}) SELECT {columns} FROM moved",
                execution_options={"no_parameters": True},
            )
        connection.exec_driver_sql(
            f"ALTER TABLE {table} ATTACH PARTITION {table}_last FOR VALUES FROM ({end}) TO (MAXVALUE)"
        )
    LOG.info("made partitions up to %s", last.start)


def drop(engine: sa.Engine, old: Sequence[Partition]) -> bool:
    """Drop the oldest partitions, and let a new first one reach as far as they did.

    What an administrator has detached is not ours to drop.

    :returns: False where another expirer was quicker.
    :raises StorageUnavailable: a trigger, a rule or a policy is to see what is deleted, and would not.
    """
    with write_transaction(engine) as connection:
        table_locks.hold_partitions(connection, old)
        if not set(old) <= set(partitions.found(connection)):
            return False
        names = partitions.attached(connection, EVENT_TABLES[::-1], old)
        if why := kept_from_drop(connection, names):
            raise StorageUnavailable(why, operator=True)
        table_locks.end_autovacuum_of_toast(connection, names)
        table_locks.be_alone(connection)
        for name in names:
            connection.exec_driver_sql(f"DROP TABLE {name}")
        _detach_remains(connection, old[-1].end or datetime.date.max)
        make(connection, [Partition(None, old[-1].end)])
        return True


def kept_from_drop(connection: sa.Connection, parts: Sequence[str]) -> str:
    """Return what is to see each event or trait that is deleted, and would see none of a drop; else nothing.

    :param parts: the names of partitions.
    """
    seen_by = connection.exec_driver_sql(_SEE_DELETED, {"tables": [*EVENT_TABLES, *parts]}).scalar()
    return "" if seen_by is None else f"{seen_by} acts on each deleted row, which DROP TABLE would bypass"


def _detach_remains(connection: sa.Connection, end: datetime.date) -> None:
    """Detach the partitions of traits, up to a day, of which an administrator has detached event's own.

    They are in the way of the new first one.
    """
    for one in partitions.unpaired(connection):
        if "event" in one.without and one.end and one.end <= end:
            for table in one.tables:
                connection.exec_driver_sql(f"ALTER TABLE {table} DETACH PARTITION {table}_{one.suffix}")
            names = ", ".join(f"{table}_{one.suffix}" for table in one.tables)
            LOG.warning("Detached %s, as event_%s is detached, too", names, one.suffix)


def make(connection: sa.Connection, new: Sequence[Partition], like: str = "last") -> None:
    """Make new partitions of all tables.

    :param like: suffix of those whose storage parameters they get: partitioned tables can have none.
    """
    storage = {table: partition_parents.storage(connection, f"{table}_{like}") for table in EVENT_TABLES}
    identities = {table: partition_parents.identity(connection, table) for table in EVENT_TABLES}
    for partition in new:
        start = "MINVALUE" if partition.start is None else first_id(partition.start)
        end = "MAXVALUE" if partition.end is None else first_id(partition.end)
        suffix = partition.suffix if partition.start else _free(connection, partition.suffix)
        for table in EVENT_TABLES:
            connection.exec_driver_sql(
                f"CREATE TABLE {table}_{suffix} PARTITION OF {table} FOR VALUES FROM ({start}) TO ({end}) "
                f"{storage[table]}"
            )
            connection.exec_driver_sql(f"ALTER TABLE {table}_{suffix} REPLICA IDENTITY {identities[table]}")
        # Unique within the partition: PostgreSQL keeps no index over all of them.
        connection.exec_driver_sql(f"CREATE UNIQUE INDEX ON event_{suffix} (message_id)")


def _free(connection: sa.Connection, suffix: str) -> str:
    """Return a suffix that no table has: a partition that was detached keeps its name."""
    names = itertools.chain([suffix], (f"{suffix}_{number}" for number in itertools.count(2)))
    taken = "SELECT bool_or(to_regclass(t || '_' || %s) IS NOT NULL) FROM unnest(%s::text[]) AS t"
    return next(
        name
        for name in names
        if not connection.exec_driver_sql(taken, (name, list(EVENT_TABLES))).scalar_one()
    )


def patiently(
    work: Callable[[], T],
    seconds: float,
    stopping: threading.Event | None = None,
    in_use: Callable[[], None] = lambda: None,
) -> T | None:
    """Try again what found the tables in use, with growing pauses; return its result, None if they stay so.

    :param in_use: called each time that they are.
    :raises StorageUnavailable: it fails for another reason.
    """
    stopping = stopping or threading.Event()
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(
            lambda error: error_classes.classify(error) is ErrorClass.TRANSIENT
        ),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
        stop=tenacity.stop_any(tenacity.stop_after_delay(seconds), tenacity.stop_when_event_set(stopping)),
        before_sleep=lambda _state: in_use(),
        sleep=tenacity.sleep_using_event(stopping),
        reraise=True,
    )
    try:
        return retrying(work)
    except sa.exc.SQLAlchemyError as error:
        meaning = error_classes.classify(error)
        if meaning is ErrorClass.TRANSIENT:
            return None
        unavailable = error_classes.unavailable(error)
        # No row is at fault where tables are changed: what refuses it for good, such as a trigger that
        # keeps tables from being dropped, is an operator's.
        unavailable.operator |= meaning is ErrorClass.PERMANENT
        raise unavailable from error


def _holds_events_from(connection: sa.Connection, day: datetime.date | None) -> bool:
    # A role that may read the whole table may read no partition by its own name.
    late = "SELECT exists(SELECT FROM event WHERE id >= %s)"
    return bool(day and connection.exec_driver_sql(late, (first_id(day),)).scalar())


def check(engine: sa.Engine, settings: StorageSettings) -> Iterator[Finding]:
    """Tell what is wrong with the partitions, or with the options about them.

    :raises StorageUnavailable: the database can't be reached.
    """
    width = settings.partition_by
    with read_transaction(engine) as connection:
        there = partitions.found(connection)
        unpaired = partitions.unpaired(connection) if there else []
        detaching = partitions.detaching(connection) if there else []
        ends = bool(there) and there[-1].end is not None
        late = there and not ends and _holds_events_from(connection, there[-1].start)
    for statement in detaching:
        told = f"a DETACH PARTITION ... CONCURRENTLY has not ended, and is in expiry's way: {statement}"
        yield Finding(FAILURE, "partitions", told)
    for one in unpaired:
        missing = ", ".join(f"{table}_{one.suffix}" for table in one.without)
        detach = "; ".join(
            f"ALTER TABLE {table} DETACH PARTITION {table}_{one.suffix}" for table in one.tables
        )
        told = f"{missing}: detached, and those of the other tables are not: attach it again, or {detach}"
        yield Finding(FAILURE, "partitions", told)
    if not there:
        if width != "none":
            yield Finding(WARNING, "partitions", f"the tables are plain, though partition_by is {width}")
        return
    if there[0].start:
        told = "the first one is detached, and what is before the others becomes dead letters"
        yield Finding(WARNING, "partitions", f"{told}: attach it again, or wait for expiry to make another")
    width = partitions.width_of(there) if width == "none" else width
    level = WARNING
    if text := partitions.too_many(width, settings.event_time_to_live):
        level = FAILURE
    elif len(there) > partitions.MOST:
        text = f"there are {len(there)}, more than {partitions.MOST}: is the expirer running?"
    elif ends:
        text = "the last one is detached, and what is beyond the others becomes dead letters: attach it again"
    elif there[-1].start is None or there[-1].start <= utc_now().date():
        text = "the last one is in use already: run `panko-ingest db sync`, and see that the expirer runs"
    elif late:
        text = "the last one holds events of the future: is a clock wrong?"
    else:
        level, text = OK, f"{len(there)}, made up to {there[-1].start}"
    yield Finding(level, "partitions", text)
