"""What partitions on PostgreSQL bring and cost; run by ``benchmarks.expire``."""

import contextlib
import datetime
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.filling import DAY, copy_days, fill, renamed, settle
from benchmarks.storage import database
from benchmarks.turns import NOW, SAMPLE, balanced, ingest, show
from panko_ingest.storage import EventFilter, StorageUnavailable
from panko_ingest.storage.database.engine import write_transaction
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from panko_ingest.storage.schema import partition_ddl
from panko_ingest.storage.tables import EVENT_TABLES

LARGE_DAYS = 5
"""Days of which the part ``large`` stores so many events each."""

_REPEAT = 15
_MIDNIGHT = datetime.time()


def plain(url: str) -> Connection:
    store = Connection(url)
    store.upgrade()
    return store


def partitioned(url: str, today: datetime.datetime) -> Connection:
    """Return a store partitioned by day, as it would be on a day."""
    store = plain(url)
    with write_transaction(store.engine) as connection:
        partition_ddl.create(connection, "day", today.date())
    return store


@contextlib.contextmanager
def two_databases() -> Iterator[tuple[str, str]]:
    """Give the URLs of two databases of one server."""
    from tests.services import PostgreSQL  # noqa: PLC0415 - servers are started only when asked for

    with PostgreSQL() as server:
        yield server.create_database(), server.create_database()


def in_turns(
    one: Connection, other: Connection, names: tuple[str, str], sample: Sequence[Event], seconds: float
) -> list[tuple[str, str]]:
    """Record into two stores, in turns; return what to show of it."""
    turns = balanced(lambda: ingest(one, sample, seconds), lambda: ingest(other, sample, seconds))
    lines = []
    for what, figure in (("events/s recorded", "rate"), ("µs of CPU an event", "cpu_us")):
        columns = [[getattr(work, figure) for work in works] for works in zip(*turns, strict=True)]
        ratios = [b / a for a, b in zip(*columns, strict=True)]
        lines += [
            (f"{what}, {name}", f"{statistics.median(column):,.0f}")
            for name, column in zip(names, columns, strict=True)
        ]
        lines.append(("the second / the first, each turn", ", ".join(f"{ratio:.2f}" for ratio in ratios)))
    return lines


def measure_partitions(sample: Sequence[Event], count: int, seconds: float) -> None:
    """Drop a day, and record into both layouts."""
    with two_databases() as urls:
        stores = plain(urls[0]), partitioned(urls[1], NOW)
        start = datetime.datetime.combine(NOW.date() - DAY, _MIDNIGHT)
        fill(stores[1], sample, count, start)
        settle(stores[1])
        stored = bytes_stored(stores[1])
        report = stores[1].expire(86400.0, clock=lambda: start + 2 * DAY)
        assert report.events >= count
        assert not report.batches
        lines = [
            (f"s to expire a day of {report.events:,} events", f"{report.seconds:.2f}"),
            ("MB that were freed", f"{(stored - bytes_stored(stores[1])) / 1e6:,.0f}"),
            *in_turns(*stores, ("plain", "partitioned"), sample, seconds),
        ]
        for store in stores:
            store.close()
    show("partitions", ("what", "figure"), lines)


def bytes_stored(store: Connection) -> int:
    with store.engine.connect() as connection:
        return int(
            connection.exec_driver_sql(
                "SELECT sum(pg_total_relation_size(relid)) FROM unnest(%s::regclass[]) AS name, "
                "LATERAL pg_partition_tree(name) WHERE isleaf",
                (list(EVENT_TABLES),),
            ).scalar_one()
        )


def measure_days(sample: Sequence[Event], count: int, _seconds: float) -> None:
    """Let ten days go by, with a tenth of the events each, of which the last two stay."""
    first = datetime.datetime.combine(NOW.date(), _MIDNIGHT)
    lines = []
    with database("postgresql") as url:
        store = partitioned(url, first)
        for number in range(10):
            start = first + number * DAY
            fill(store, sample, count // 10, start)
            report = store.expire(2 * 86400.0, clock=lambda: start + DAY)  # noqa: B023 - called at once
            lines.append(
                (
                    str(number + 1),
                    f"{bytes_stored(store) / 1e6:,.0f}",
                    f"{report.seconds:.2f}",
                    str(len(report.partitions)),
                )
            )
        store.close()
    show(
        f"{count // 10:,} events a day, kept for two days",
        ("day", "MB", "s of a round", "partitions dropped"),
        lines,
    )


def measure_large(sample: Sequence[Event], count: int, seconds: float) -> None:
    """Record into empty partitioned tables and into those that hold days of events."""
    with two_databases() as urls:
        start = datetime.datetime.combine(NOW.date() - LARGE_DAYS * DAY, _MIDNIGHT)
        stores = partitioned(urls[0], start), partitioned(urls[1], start)
        fill(stores[1], sample, count, start)
        copy_days(stores[1], LARGE_DAYS)
        settle(stores[1])
        names = "into empty tables", f"with {LARGE_DAYS * count:,} stored"
        lines = in_turns(*stores, names, sample, seconds)
        for store in stores:
            store.close()
    show("ingest, partitioned by day", ("what", "figure"), lines)


_PARTITIONING = """
import sys
from oslo_config import cfg
from panko_ingest import config
from panko_ingest.storage.impl_sqlalchemy import Connection
conf = cfg.ConfigOpts()
config.register_opts(conf)
conf.set_override("event_time_to_live", "30d", "database")
Connection(sys.argv[1], conf).partition("day", lambda done, total: None)
"""


def measure_conversion(sample: Sequence[Event], count: int, _seconds: float) -> None:
    """Partition plain tables while events are recorded."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    first = datetime.datetime.combine(now.date() - 6 * DAY, _MIDNIGHT)
    with database("postgresql") as url:
        store = plain(url)
        fill(store, sample[: max(1, min(SAMPLE, count) // 5)], count // 5, first)
        copy_days(store, 5)
        settle(store)
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", _PARTITIONING, url])
        recorded, longest, turned_away = record_until_the_end(store, sample, process, now)
        assert process.wait() == 0
        seconds = time.perf_counter() - started
        with store.engine.connect() as connection:
            stored = connection.exec_driver_sql("SELECT count(*) FROM event").scalar_one()
        assert stored == count + recorded
        store.close()
    lines = [
        ("s in all", f"{seconds:,.0f}"),
        ("events recorded meanwhile", f"{recorded:,}"),
        ("longest time between two lists of 100 recorded, s", f"{longest:.1f}"),
        ("lists that had to be recorded again", str(turned_away)),
    ]
    show(f"db partition of {count:,} events", ("what", "figure"), lines)


def record_until_the_end(
    store: Connection, sample: Sequence[Event], process: "subprocess.Popen[bytes]", now: datetime.datetime
) -> tuple[int, float, int]:
    """Record until a process ends; return how many events, the longest gap in seconds, and failures."""
    recorded = turned_away = 0
    longest, last = 0.0, time.perf_counter()
    while process.poll() is None:
        events = renamed(sample, 100, itertools.repeat(now))
        while True:
            try:
                recorded += len(store.record_events(events).recorded)
                break
            except StorageUnavailable:
                turned_away += 1
        longest = max(longest, time.perf_counter() - last)
        last = time.perf_counter()
    return recorded, longest, turned_away


def measure_look_ups(sample: Sequence[Event], count: int, _seconds: float) -> None:
    """Compare reads of plain tables and of 64 partitions, with a fifth of the events."""
    start = datetime.datetime.combine(NOW.date() - 55 * DAY, _MIDNIGHT)
    times: list[list[float]] = []
    questions: list[tuple[str, Callable[[], Any]]] = []
    for layout in (plain, partitioned_64_times):
        with database("postgresql") as url:
            store = layout(url) if layout is plain else partitioned_64_times(url, start)
            fill(store, sample[: count // 5 // 54], count // 5 // 54, start)
            copy_days(store, 54)
            settle(store)
            questions = list(_questions(store, start + 20.5 * DAY))
            times.append([median_ms(ask) for _, ask in questions])
            store.close()
    show(
        f"ms to read, {count // 5:,} events of 54 days",
        ("what", "plain", "64 partitions"),
        [
            (name, f"{one:.1f}", f"{other:.1f}")
            for (name, _), one, other in zip(questions, *times, strict=True)
        ],
    )


def partitioned_64_times(url: str, start: datetime.datetime) -> Connection:
    """Return a store with a partition for each of so many days that there are 64 in all."""
    store = partitioned(url, start)
    for day in range(1, 54):
        partition_ddl.split(store.engine, "day", (start + day * DAY).date())
    with store.engine.connect() as connection:
        count = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'event'::regclass"
        )
        assert count.scalar_one() == 64
    return store


def _questions(store: Connection, hour: datetime.datetime) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Give what is asked of a store: by ourselves, and by Panko's API."""
    with store.engine.connect() as connection:
        project, message_id = connection.exec_driver_sql(
            "SELECT value, message_id FROM trait_text JOIN event ON event.id = event_id "
            "WHERE key = 'project_id' ORDER BY event_id LIMIT 1"
        ).one()

    def ours(limit: int | None = 100, **fields: Any) -> Callable[[], Any]:
        return lambda: list(store.get_events(EventFilter(**fields), {"limit": limit}))

    until = hour + datetime.timedelta(hours=1)
    yield "a message_id", ours(message_id=message_id)
    yield "a project_id, 100 events", ours(traits_filter=[{"key": "project_id", "string": project}])
    yield "the oldest 100", ours()
    yield "an hour, 100 events", ours(start_timestamp=hour, end_timestamp=until)
    yield "Panko's API: a message_id", lambda: ask_as_panko(store, "message_id = %s", (message_id,))
    within = "generated >= %s AND generated <= %s"
    yield "Panko's API: an hour, 100 events", lambda: ask_as_panko(store, within, (hour, until))
    of_project = (
        "EXISTS (SELECT 1 FROM trait_text AS t WHERE t.event_id = event.id "
        "AND t.key = 'project_id' AND t.value = %s)"
    )
    yield "Panko's API: a project_id, 100 events", lambda: ask_as_panko(store, of_project, (project,))


def ask_as_panko(store: Connection, where: str, values: tuple[Any, ...]) -> None:
    """Ask as Panko's get_events does: for the events, then for the traits of all tables around that query."""
    page = (
        "SELECT event.id AS id, generated, message_id, event_type.desc, raw FROM event "
        f"JOIN event_type ON event_type.id = event.event_type_id WHERE {where} "
        "ORDER BY generated, message_id LIMIT 100"
    )
    traits = " UNION ALL ".join(
        f"SELECT event_id, key, value::text FROM {table} "
        f"WHERE EXISTS (SELECT 1 FROM ({page}) AS page WHERE {table}.event_id = page.id)"
        for table in EVENT_TABLES[1:]
    )
    with store.engine.connect() as connection:
        connection.exec_driver_sql(page, values).all()
        connection.exec_driver_sql(f"{traits} ORDER BY key", values * len(EVENT_TABLES[1:])).all()


def median_ms(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEAT):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


Measure = Callable[[Sequence[Event], int, float], None]

PARTS: dict[str, Measure] = {
    "partitions": measure_partitions,
    "days": measure_days,
    "look-ups": measure_look_ups,
    "conversion": measure_conversion,
}
