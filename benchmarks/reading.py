"""How long reading takes with a million events stored.

    python -m benchmarks.reading [--database postgresql] [--events 1000000] [--repeat 40]
    python -m benchmarks.reading --url postgresql://...   (a database of your own, filled as far as it is not)

The store is the standard load over one day, and copies of it, each a day older: identifiers come
back day after day, as they do in a cloud. Each repetition asks with other values.
CPU is what client and server used together: on a busy machine it tells more than the clock.
"""

import argparse
import contextlib
import datetime
import itertools
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import rich
import sqlalchemy as sa
from rich.table import Table

from benchmarks import load
from benchmarks.storage import database
from panko_ingest.cli import event_lists, events
from panko_ingest.storage import EventFilter
from panko_ingest.storage.database.engine import make_engine
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from panko_ingest.storage.recording.writers.portable import stored_ids
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import EVENT_TABLES, TraitText

BASE = 20_000
"""Events of the standard load; the rest are copies of them."""

TYPE = "compute.instance.update"
HOUR = datetime.timedelta(hours=1)

_COPY_EVENTS = {
    "postgresql": "INSERT INTO event (id, message_id, generated, raw, event_type_id) "
    "SELECT id + {shift}, md5(message_id || '{copy}'), generated - interval '{copy} days', raw, "
    "event_type_id "
    "FROM event WHERE id <= {last}",
    "mysql": "INSERT INTO event (id, message_id, generated, raw, event_type_id) "
    "SELECT id + {shift}, md5(concat(message_id, '{copy}')), generated - {copy} * 86400, raw, event_type_id "
    "FROM event WHERE id <= {last}",
    "sqlite": "INSERT INTO event (id, message_id, generated, raw, event_type_id) "
    "SELECT id + {shift}, message_id || '{copy}', "
    "strftime('%Y-%m-%d %H:%M:%f000', generated, '-{copy} days'), raw, event_type_id "
    "FROM event WHERE id <= {last}",
}
# Rows are known to refer to what is there; checking it 19 million times is not what is measured.
_TRUST = {
    "postgresql": ["SET session_replication_role = replica"],
    "mysql": ["SET foreign_key_checks = 0", "SET unique_checks = 0"],
    "sqlite": [],
}
_SETTLE = {
    "postgresql": ["VACUUM ANALYZE", "CHECKPOINT"],
    "mysql": ["ANALYZE TABLE event, event_type, trait_text, trait_int, trait_float, trait_datetime"],
    "sqlite": ["ANALYZE"],
}


# Made anew at the end: all values in their order at once cost less than one by one.
_LAST_INDEX = {
    "postgresql": "ix_trait_text_identifiers",
    "mysql": "ix_trait_text_key_value",
    "sqlite": "ix_trait_text_identifiers",
}


def fill(url: str, events: Sequence[Event], count: int) -> None:
    """Store the events, then copies of them until there are so many; go on where an earlier try ended."""
    store = Connection(url)
    store.upgrade()
    for start in range(0, len(events), 1000):
        store.record_events(events[start : start + 1000])
    store.close()
    engine = make_engine(url, StorageSettings(statement_timeout=0))
    key = engine.dialect.identifier_preparer.quote("key")
    index = _last_index(engine.dialect.name)
    with engine.connect().execution_options(writes=True) as connection:
        last = max(stored_ids(connection, [event.message_id for event in events]).values())
        copied = connection.exec_driver_sql("SELECT max(id) FROM event").scalar_one() - 1
        connection.rollback()
        for statement in _TRUST[engine.dialect.name]:
            connection.exec_driver_sql(statement)
        index.drop(connection, checkfirst=True)
        connection.commit()
        for copy in range(copied // last + 1, count // len(events)):
            words = {"shift": copy * last, "copy": copy, "last": last}
            statement = _COPY_EVENTS[engine.dialect.name].format(**words)
            connection.exec_driver_sql(statement)
            for table in EVENT_TABLES[1:]:
                connection.exec_driver_sql(
                    f"INSERT INTO {table} (event_id, {key}, value) "
                    f"SELECT event_id + {copy * last}, {key}, value FROM {table} WHERE event_id <= {last}"
                )
            connection.commit()
        index.create(connection)
        connection.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in _SETTLE[engine.dialect.name]:
            connection.exec_driver_sql(statement)
    engine.dispose()


def _last_index(kind: str) -> sa.Index:
    table: Any = TraitText.__table__
    indexes: dict[str, sa.Index] = {index.name: index for index in table.indexes}
    return indexes[_LAST_INDEX[kind]]


class Questions:
    """What is asked, each time with other values."""

    def __init__(self, store: Connection, events: Sequence[Event], days: int) -> None:
        self.store = store
        self.random = random.Random(2)
        self.days = days
        self.first = min(event.generated for event in events)
        self.ids = [event.message_id for event in events]
        self.values = {
            name: self._by_frequency(events, name) for name in ("project_id", "resource_id", "request_id")
        }

    def _by_frequency(self, events: Iterable[Event], name: str) -> list[str]:
        found = Counter(
            str(trait.value)
            for event in events
            for trait in event.traits
            if trait.name == name and trait.value
        )
        return [value for value, _ in found.most_common()]

    def moment(self) -> datetime.datetime:
        """Return any time within the store."""
        return self.first + datetime.timedelta(days=1 - self.days * self.random.random())

    def page(self, limit: int | None = 100, **pagination: Any) -> Callable[..., int]:
        """Return a function that reads one page and says how many events it had."""

        def read(**fields: Any) -> int:
            found = self.store.get_events(EventFilter(**fields), {"limit": limit, **pagination})
            return sum(1 for _ in found)

        return read

    def having(self, *pairs: tuple[str, str]) -> int:
        """Read a page of the events with these text traits."""
        return self.page()(traits_filter=[{"key": key, "string": value} for key, value in pairs])

    def any_of(self, name: str, start: float, end: float) -> str:
        """Return a value from a part of all, the frequent ones first."""
        values = self.values[name]
        return self.random.choice(values[int(len(values) * start) : max(1, int(len(values) * end))])

    def quick(self) -> Iterator[tuple[str, Callable[[], int]]]:
        """Give the questions whose answer is a page."""
        yield "by message_id", lambda: self.page(None)(message_id=self.random.choice(self.ids))
        yield "event_type + one hour, limit 100", self._type_and_hour
        yield "event_type, limit 100", lambda: self.page()(event_type=TYPE)
        yield "one hour, limit 100", self._hour
        yield (
            "project_id = a rare one",
            lambda: self.having(("project_id", self.any_of("project_id", 0.5, 1))),
        )
        yield (
            "project_id = the most frequent",
            lambda: self.having(("project_id", self.values["project_id"][0])),
        )
        yield "resource_id =", lambda: self.having(("resource_id", self.any_of("resource_id", 0, 1)))
        yield "history of a resource", self._history
        yield "events of a request", self._request
        yield "events of each type, one day", lambda: sum(self.store.count_events(*self.day()).values())
        yield "events of each type", lambda: sum(self.store.count_events().values())
        yield "state = active (a third of all)", lambda: self.having(("state", "active"))
        yield (
            "project_id = a rare one and state = active",
            lambda: self.having(("project_id", self.any_of("project_id", 0.5, 1)), ("state", "active")),
        )
        yield (
            "memory_mb >= 4096",
            lambda: self.page()(traits_filter=[{"key": "memory_mb", "integer": 4096, "op": "ge"}]),
        )
        yield (
            "a project's and nobody's (admin_proj)",
            lambda: self.page()(admin_proj=self.values["project_id"][0]),
        )
        yield "first page", self.page()
        yield "newest page", self.page(sort=[("generated", "desc"), ("message_id", "desc")])
        yield "page behind a marker", self._behind_a_marker
        yield "get_event_types", lambda: len(list(self.store.get_event_types()))

    def slow(self) -> Iterator[tuple[str, Callable[[], int]]]:
        """Give the questions that look at all events of a type."""
        yield "get_trait_types", lambda: len(list(self.store.get_trait_types(TYPE)))
        yield "get_traits, to the first", lambda: len(list(itertools.islice(self.store.get_traits(TYPE), 1)))
        yield "get_traits, to the end", lambda: sum(1 for _ in self.store.get_traits(TYPE))
        yield (
            "get_traits of one name, to the end",
            lambda: sum(1 for _ in self.store.get_traits(TYPE, "project_id")),
        )

    def _history(self) -> int:
        resource = self.any_of("resource_id", 0, 1)
        return sum(1 for _ in event_lists.timeline(self.store, events.RESOURCE_TRAITS, resource, 100))

    def _request(self) -> int:
        request = self.any_of("request_id", 0, 1)
        return sum(1 for _ in event_lists.timeline(self.store, ["request_id"], request, 100))

    def day(self) -> tuple[datetime.datetime, datetime.datetime]:
        """Return a random day."""
        start = self.moment()
        return start, start + 24 * HOUR

    def _behind_a_marker(self) -> int:
        return self.page(marker=self.random.choice(self.ids))()

    def _type_and_hour(self) -> int:
        start = self.moment()
        return self.page()(event_type=TYPE, start_timestamp=start, end_timestamp=start + HOUR)

    def _hour(self) -> int:
        start = self.moment()
        return self.page()(start_timestamp=start, end_timestamp=start + HOUR)


def cpu(store: Connection) -> float:
    """Return the CPU seconds that we and the server, on this machine, have used so far."""
    ours = time.process_time()
    if store.engine.dialect.name == "sqlite":
        return ours
    with store.engine.connect() as connection:
        if store.engine.dialect.name == "postgresql":
            pids = connection.exec_driver_sql(
                "SELECT pid FROM pg_stat_activity "
                "WHERE datname = current_database() AND backend_type = 'client backend'"
            ).scalars()
            servers = [int(pid) for pid in pids]
        else:
            pid_file = connection.exec_driver_sql("SELECT @@pid_file").scalar_one()
            servers = [int(Path(pid_file).read_text())]
    for pid in servers:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            ours += times.user + times.system
    return ours


def ask(store: Connection, name: str, question: Callable[[], int], repeat: int) -> Sequence[str]:
    """Ask once to warm up and then so many times, and return a row of the table."""
    if repeat > 1:
        question()
    times, rows, before = [], 0, cpu(store)
    for _ in range(repeat):
        start = time.perf_counter()
        rows = question()
        times.append((time.perf_counter() - start) * 1000)
    used = (cpu(store) - before) / repeat * 1000
    times.sort()
    p95 = times[min(len(times) - 1, round(0.95 * len(times)))]
    return name, f"{rows:,}", *(f"{value:,.1f}" for value in (used, times[0], statistics.median(times), p95))


def measure(kind: str, url: str, events: Sequence[Event], count: int, repeat: int, *, slow: bool) -> None:
    """Fill the store where it is empty, ask everything, and show it."""
    with contextlib.closing(Connection(url)) as store:
        start = time.monotonic()
        if store.current_revision() is None or not _is_full(store, count // len(events) * len(events)):
            fill(url, events, count)
        rich.print(f"{kind}: {size(store)}; ready after {time.monotonic() - start:,.0f} s")
        table = Table(title=f"{kind}: reading, ms")
        for heading in ("question", "rows", "CPU", "best", "p50", "p95"):
            table.add_column(heading, justify="left" if heading == "question" else "right")
        questions = Questions(store, events, count // len(events))
        for name, question in questions.quick():
            table.add_row(*ask(store, name, question, repeat))
        for name, question in questions.slow() if slow else ():
            table.add_row(*ask(store, name, question, 1))
        rich.print(table)


def _is_full(store: Connection, count: int) -> bool:
    with store.engine.connect() as connection:
        indexes = [index["name"] for index in sa.inspect(connection).get_indexes("trait_text")]
        stored = connection.exec_driver_sql("SELECT count(*) FROM event").scalar_one()
    return _LAST_INDEX[store.engine.dialect.name] in indexes and bool(stored >= count)


def size(store: Connection) -> str:
    """Return how much is stored."""
    with store.engine.connect() as connection:
        events = connection.exec_driver_sql("SELECT count(*) FROM event").scalar_one()
        bytes_ = {
            "postgresql": "SELECT pg_database_size(current_database())",
            "mysql": "SELECT sum(data_length + index_length) FROM information_schema.tables "
            "WHERE table_schema = database()",
            "sqlite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
        }[store.engine.dialect.name]
        used = connection.exec_driver_sql(bytes_).scalar_one()
    return f"{events:,} events, {float(used) / 1e6:,.0f} MB"


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--database", action="append", choices=("postgresql", "mariadb", "sqlite"))
    parser.add_argument("--url", help="use this database; nothing is deleted afterwards")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="leave out what looks at all events of a type")
    args = parser.parse_args()
    events = load.events(BASE)
    if args.url:
        measure(
            sa.make_url(args.url).get_backend_name(),
            args.url,
            events,
            args.events,
            args.repeat,
            slow=not args.quick,
        )
        return 0
    for kind in args.database or ("postgresql", "mariadb"):
        with database(kind) as url:
            measure(kind, url, events, args.events, args.repeat, slow=not args.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
