"""What a round of expiry would do, without doing it."""

import datetime
import time
from functools import partial

import sqlalchemy as sa

from panko_ingest import timestamps
from panko_ingest.storage import request_values
from panko_ingest.storage.database import clocks, fault_search
from panko_ingest.storage.database.engine import read_transaction
from panko_ingest.storage.expiry.batches import BATCH_SIZE, DeletedBatch, TookTooLong, run_long_transaction
from panko_ingest.storage.expiry.deletion import delete_events
from panko_ingest.storage.expiry.expiry_round import about_rows, oldest_event
from panko_ingest.storage.expiry_results import ExpiredByAge, ExpiryForecast, PartitionForecast
from panko_ingest.storage.schema import partition_ddl, partitions
from panko_ingest.storage.schema.partitions import Partition
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import EVENT_TABLES, Event

_DROP_SECONDS = 0.1
"""What dropping a partition takes, whatever is in it."""

_AGES = (0, 1, 7, 30, 90, 365)
"""Days since events expired, at which lines of a forecast begin."""


def forecast(
    engine: sa.Engine, settings: StorageSettings, ttl: float, clock: clocks.Clock | None = None
) -> ExpiryForecast:
    """Return what ``expire`` would do now; see ``Connection.forecast_expiry``."""
    if request_values.seconds(ttl, "ttl") <= 0:
        return ExpiryForecast()
    limit = timestamps.ago(ttl, clock() if clock else clocks.now(engine, settings))
    ages = _ages(engine, limit)
    events = sum(age.events for age in ages)
    found, not_dropped = _partitions(engine, limit)
    dropped = [partition for partition in found if partition.dropped]
    one_by_one = max(0, events - sum(partition.events for partition in dropped))
    spent, batch = _tried(engine, settings, limit) if one_by_one else (0.0, DeletedBatch())
    return ExpiryForecast(
        limit,
        events,
        oldest_event(engine, settings),
        ages,
        found,
        spent / max(1, batch.found) * one_by_one + _DROP_SECONDS * len(dropped),
        tried=batch.found,
        kept=batch.kept,
        why=batch.why if batch.kept else "",
        not_dropped=not_dropped,
    )


def _partitions(engine: sa.Engine, limit: datetime.datetime) -> tuple[tuple[PartitionForecast, ...], str]:
    """Return what becomes of partitions, and what keeps those from being dropped that are old enough."""
    with read_transaction(engine) as connection:
        there = partitions.found(connection)
        whole = partitions.expired(there, limit)
        kept = ""
        if whole:
            names = partitions.attached(connection, EVENT_TABLES, whole)
            kept = partition_ddl.kept_from_drop(connection, names)
        touched = [one for one in there if one.start is None or one.start <= limit.date()]
        return tuple(_partition(connection, one, dropped=not kept and one in whole) for one in touched), kept


def _partition(connection: sa.Connection, one: Partition, *, dropped: bool) -> PartitionForecast:
    tables = partitions.attached(connection, EVENT_TABLES, [one])
    size = connection.exec_driver_sql(
        "SELECT sum(pg_total_relation_size(name)) FROM unnest(%s::regclass[]) AS name", (tables,)
    ).scalar_one()
    events = about_rows(connection, EVENT_TABLES[:1], [one])
    return PartitionForecast(one.suffix, one.start, one.end, events, int(size), dropped)


def _ages(engine: sa.Engine, limit: datetime.datetime) -> tuple[ExpiredByAge, ...]:
    ends = [timestamps.ago(days * 86400, limit) for days in _AGES]
    starts = [*ends[1:], timestamps.EARLIEST]
    found = []
    # A count of a range of the index each, where one statement of conditions would read the table.
    with read_transaction(engine) as connection:
        for days, start, end in zip(_AGES, starts, ends, strict=True):
            statement = sa.select(sa.func.count()).select_from(Event).where(Event.generated < end)
            if start > timestamps.EARLIEST:
                statement = statement.where(Event.generated >= start)
            found.append(ExpiredByAge(days, int(connection.scalar(statement) or 0)))
    return tuple(age for age in found if age.events)


def _tried(
    engine: sa.Engine, settings: StorageSettings, limit: datetime.datetime
) -> tuple[float, DeletedBatch]:
    """Delete a batch and take it back; return how long that took, in seconds, and what came of it."""

    def measure(count: int, connection: sa.Connection) -> tuple[float, DeletedBatch]:
        started = time.perf_counter()
        batch = delete_events(connection, count, limit=limit)
        spent = time.perf_counter() - started
        connection.rollback()
        return spent, batch

    count = BATCH_SIZE
    while True:
        try:
            return run_long_transaction(engine, settings, partial(measure, count))
        except Exception as error:
            smaller = isinstance(error, TookTooLong) or fault_search.may_be_a_rows(error)
            if count == 1 or not smaller:
                raise
            count //= 2
