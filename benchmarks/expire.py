"""What retention costs: its own rate, what it takes from ingest, and what partitions make of it.

    python -m benchmarks.expire [--database postgresql] [--events 1000000]

For each database: half of the stored events are deleted by rounds of the expirer, the other half by
plain set-based DELETEs in one transaction ("limit"); then events are recorded with and without an
expirer at work in a process of its own. For PostgreSQL also the partitioned layout: a day dropped,
ten days of steady ingest and expiry, and look-ups at 64 partitions.
"""

import argparse
import contextlib
import dataclasses
import datetime
import itertools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import rich
import sqlalchemy as sa
from rich.progress import track
from rich.table import Table

from benchmarks import load
from benchmarks.storage import TRAIT_TABLES, database
from panko_ingest.storage import EventFilter, partitioning
from panko_ingest.storage.engine import write_transaction
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event

INCUMBENT = {"postgresql": 5129, "mariadb": 3667}
"""Events/s of Panko's clear_expired_data at its best."""

NOW = datetime.datetime(2026, 3, 31, 12)
DAY = 86400.0
BYTES_AN_EVENT = 6000
"""Disk to ask for: tables, indexes, and the log of the transactions."""

_SAMPLE = 20_000
_numbers = itertools.count()


def fill(store: Connection, sample: Sequence[Event], count: int, day: datetime.datetime) -> float:
    """Record events over the 24 hours before ``day``; return events/s."""
    started = time.perf_counter()
    steps = track(range(0, count, 1000), f"{count:,} events", transient=True)
    for start in steps:
        part = list(itertools.islice(itertools.cycle(sample), start, min(start + 1000, count)))
        moments = (
            day - datetime.timedelta(seconds=DAY * (1 - (start + place) / count)) for place in range(1000)
        )
        events = [
            dataclasses.replace(event, message_id=f"bench-{next(_numbers)}", generated=moment)
            for event, moment in zip(part, moments, strict=False)
        ]
        assert len(store.record_events(events).recorded) == len(events)
    return count / (time.perf_counter() - started)


def delete_at_once(store: Connection, before: datetime.datetime) -> int:
    """Delete by plain SQL, in one transaction: what the database takes at all."""
    join = store.engine.dialect.name == "mysql"
    moment = sa.bindparam("before", before, type_=store_time())
    with store.engine.begin() as connection:
        for table in TRAIT_TABLES:
            statement = (
                f"DELETE t FROM {table} t JOIN event e ON e.id = t.event_id WHERE e.`generated` < :before"
                if join
                else f"DELETE FROM {table} WHERE event_id IN (SELECT id FROM event WHERE generated < :before)"
            )
            connection.execute(sa.text(statement).bindparams(moment))
        name = "`generated`" if join else "generated"
        return connection.execute(
            sa.text(f"DELETE FROM event WHERE {name} < :before").bindparams(moment)
        ).rowcount


def store_time() -> sa.types.TypeEngine[datetime.datetime]:
    from panko_ingest.storage.tables import PreciseTimestamp  # noqa: PLC0415 - a detail of one helper

    return PreciseTimestamp()


_EXPIRER = """
import datetime, sys, resource
from panko_ingest.storage.impl_sqlalchemy import Connection
store, now = Connection(sys.argv[1]), datetime.datetime.fromisoformat(sys.argv[2])
store.expire(86400 * 3650, clock=lambda: now)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("ready", flush=True)
report = store.expire(86400, clock=lambda: now)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(report.events, report.batches, report.seconds, before // 1024, after // 1024)
"""


@contextlib.contextmanager
def expirer(url: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a round in a process of its own; it is stopped at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _EXPIRER, url, str(NOW)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        process.terminate()
        process.wait()


def ingest(store: Connection, sample: Sequence[Event], seconds: float, go_on: Callable[[], bool]) -> float:
    """Record events of now for a while; return events/s."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds and go_on():
        part = list(
            itertools.islice(itertools.cycle(sample), count % len(sample), count % len(sample) + 1000)
        )
        store.record_events(
            [dataclasses.replace(one, message_id=f"bench-{next(_numbers)}", generated=NOW) for one in part]
        )
        count += len(part)
    return count / (time.perf_counter() - started)


def measure_deletion(kind: str, sample: Sequence[Event], count: int, seconds: float) -> None:
    with database(kind) as url:
        store = Connection(url)
        store.upgrade()
        old = NOW - datetime.timedelta(days=5)
        filling = fill(store, sample, count, old)
        report = store.expire(DAY * 5.5, clock=lambda: NOW)
        started = time.perf_counter()
        deleted = delete_at_once(store, NOW - datetime.timedelta(days=1))
        limit = deleted / (time.perf_counter() - started)
        rate = report.events / report.seconds
        times = f"{rate / INCUMBENT[kind]:.1f}" if kind in INCUMBENT else "-"

        fill(store, sample, count, old)
        alone, together = [], []
        for _ in range(3):
            alone.append(ingest(store, sample, seconds, lambda: True))
            with expirer(url) as process:
                together.append(ingest(store, sample, seconds, lambda: process.poll() is None))
        left = store.forecast_expiry(DAY, clock=lambda: NOW).events
        with expirer(url) as process:
            last = process.communicate()[0].split()
        share = statistics.median(together) / statistics.median(alone)
        figures = {
            "events/s recorded while filling": f"{filling:,.0f}",
            "events/s deleted by a round": f"{rate:,.0f}",
            "events/s deleted at once (limit)": f"{limit:,.0f}",
            "round / limit": f"{rate / limit:.2f}",
            "round / Panko's best": times,
            "ms a batch": f"{report.seconds / max(1, report.batches) * 1000:.0f}",
            "events/s recorded alone": f"{statistics.median(alone):,.0f}",
            "recorded with expirer / alone": f"{share:.2f}",
            "events/s deleted meanwhile": f"{(count - left) / (3 * seconds):,.0f}",
            "MB of the expirer, before and after": f"{last[3]}, {last[4]}",
        }
        store.close()
    table = Table(title=f"{kind}, {count:,} events")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for what, figure in figures.items():
        table.add_row(what, figure)
    rich.print(table)


def partitioned(url: str, today: datetime.datetime, width: str = "day") -> Connection:
    store = Connection(url)
    store.upgrade()
    with write_transaction(store.engine) as connection:
        partitioning.create(connection, width, today.date())
    return store


def bytes_stored(store: Connection) -> int:
    with store.engine.connect() as connection:
        names = ["event", *TRAIT_TABLES]
        return int(
            connection.exec_driver_sql(
                "SELECT sum(pg_total_relation_size(relid)) FROM unnest(%s::regclass[]) AS name, "
                "LATERAL pg_partition_tree(name) WHERE isleaf",
                (names,),
            ).scalar_one()
        )


def measure_partitions(sample: Sequence[Event], count: int, daily: int) -> None:
    with database("postgresql") as url:
        first = NOW - datetime.timedelta(days=15)
        store = partitioned(url, first)
        rate = fill(store, sample, count, datetime.datetime.combine(first, datetime.time()))
        report = store.expire(DAY, clock=lambda: first + datetime.timedelta(days=1.5))
        rich.print(
            f"partitioned: {rate:,.0f} events/s recorded; a day of {report.events:,} events expired in "
            f"{report.seconds:.2f} s, partitions {', '.join(report.partitions)}"
        )
        table = Table(title=f"partitioned, {daily:,} events a day, kept for two days")
        for heading in ("day", "MB", "round, s", "partitions dropped"):
            table.add_column(heading, justify="right")
        for number in range(10):
            end = datetime.datetime.combine(first, datetime.time()) + datetime.timedelta(days=3 + number)
            fill(store, sample, daily, end)
            report = store.expire(2 * DAY, clock=lambda: end)  # noqa: B023 - called at once
            table.add_row(
                str(number + 1),
                f"{bytes_stored(store) / 1e6:.0f}",
                f"{report.seconds:.2f}",
                str(len(report.partitions)),
            )
        rich.print(table)
        store.close()


def median_ms(work: Callable[[], object]) -> float:
    times = []
    for _ in range(15):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def measure_look_ups(sample: Sequence[Event], count: int) -> None:
    """Compare reads of plain tables and of 64 partitions."""
    table = Table(title=f"reads with {count:,} events, ms")
    for heading in (
        "layout",
        "by message_id",
        "by project_id, 100",
        "newest 100",
        "one hour, 100",
        "Panko's",
    ):
        table.add_column(heading, justify="right")
    start = NOW - datetime.timedelta(days=55)
    for layout in ("plain", "64 partitions"):
        with database("postgresql") as url:
            if layout == "plain":
                store = Connection(url)
                store.upgrade()
            else:
                store = partitioned(url, start)
                for day in range(1, 54):
                    partitioning.split(store.engine, "day", (start + datetime.timedelta(days=day)).date())
            for day in range(54):
                fill(store, sample, count // 54, start + datetime.timedelta(days=day + 1))
            with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("ANALYZE")
                project = connection.exec_driver_sql(
                    "SELECT value FROM trait_text WHERE key = 'project_id' LIMIT 1"
                ).scalar_one()
                message_id = connection.exec_driver_sql("SELECT message_id FROM event LIMIT 1").scalar_one()
            hour = NOW - datetime.timedelta(days=20)
            filters: list[tuple[EventFilter, dict[str, object]]] = [
                (EventFilter(message_id=message_id), {}),
                (EventFilter(traits_filter=[{"key": "project_id", "string": project}]), {"limit": 100}),
                (EventFilter(), {"limit": 100, "sort": [("generated", "desc")]}),
                (
                    EventFilter(start_timestamp=hour, end_timestamp=hour + datetime.timedelta(hours=1)),
                    {"limit": 100},
                ),
            ]
            times = [
                median_ms(lambda: list(store.get_events(which, pagination)))  # noqa: B023 - called at once
                for which, pagination in filters
            ]
            times.append(median_ms(lambda: panko_query(store, message_id)))  # noqa: B023 - called at once
            table.add_row(layout, *(f"{one:.1f}" for one in times))
            store.close()
    rich.print(table)


def panko_query(store: Connection, message_id: str) -> None:
    """Ask as Panko's API does for one event: all trait tables at once, around the event's query."""
    one = "SELECT id FROM event WHERE message_id = %(id)s"
    with store.engine.connect() as connection:
        connection.exec_driver_sql(
            " UNION ALL ".join(
                f"SELECT event_id, key, value::text FROM {table} WHERE event_id IN ({one})"
                for table in TRAIT_TABLES
            ),
            {"id": message_id},
        ).all()


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    kinds = ["postgresql", "mariadb", "sqlite", "partitioned", "reads"]
    parser.add_argument("--database", action="append", choices=kinds, help="default: all")
    parser.add_argument("--events", type=int, default=1_000_000, help="events stored")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the six windows of ingest")
    args = parser.parse_args()
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < args.events * BYTES_AN_EVENT:
        rich.print(
            f"{args.events * BYTES_AN_EVENT / 1e9:.0f} GB of free disk are needed, {free / 1e9:.0f} are there"
        )
        return 1
    sample = load.events(min(_SAMPLE, args.events))
    rich.print(f"{sum(len(one.traits) for one in sample) / len(sample):.1f} traits an event")
    wanted = args.database or kinds
    for kind in kinds[:3]:
        if kind in wanted:
            measure_deletion(kind, sample, args.events, args.seconds)
    if "partitioned" in wanted:
        measure_partitions(sample, args.events, args.events // 10)
    if "reads" in wanted:
        measure_look_ups(sample, args.events)
    return 0


if __name__ == "__main__":
    sys.exit(main())
