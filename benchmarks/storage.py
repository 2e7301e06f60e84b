"""How close record_events comes to what the database takes at all.

    python -m benchmarks.storage [--database postgresql] [--sizes 1,100,1000] [--events 10000]

For each database and list length the same run writes lists in turn by ``record_events`` and by the
fastest way that the same driver offers ("limit"), into the same growing tables, with the same
indexes, references and durability. What the limit writes is prepared beforehand and not timed.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich
from rich.table import Table

from benchmarks import load
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from panko_ingest.storage.recording import sql_text
from panko_ingest.storage.recording.validation import Row, Validator
from panko_ingest.storage.recording.writers.portable import traits_by_table
from panko_ingest.storage.recording.writers.sqlite import timestamp
from panko_ingest.storage.schema.column_limits import read_limits
from panko_ingest.storage.tables import EVENT_TABLES, TraitDatetime

INCUMBENT = {"postgresql": 185, "mariadb": 256, "sqlite": 309}
"""Events/s of Panko's record_events with lists of one."""


@dataclass
class Spent:
    """Wall and client CPU seconds for a number of events."""

    events: int = 0
    wall: float = 0.0
    cpu: float = 0.0

    @contextlib.contextmanager
    def on(self, events: int) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        self.events += events

    @property
    def rate(self) -> float:
        return self.events / self.wall

    @property
    def cpu_us(self) -> float:
        return self.cpu / self.events * 1e6


class Limit(ABC):
    """The fastest way that a driver offers to write rows that are ready."""

    def __init__(self, connection: Connection) -> None:
        self.raw: Any = connection.engine.raw_connection()
        self.driver: Any = self.raw.driver_connection
        cursor = self.raw.cursor()
        cursor.execute(f"SELECT {self.desc}, id FROM event_type")
        self.types: dict[str, int] = dict(cursor.fetchall())

    desc = '"desc"'
    next_id = "SELECT max(id) + 1 FROM event"

    def number(self, rows: Sequence[Row]) -> list[tuple[int, Row]]:
        """Give each row the id that the database would give it."""
        cursor: Any = self.driver.cursor()
        cursor.execute(self.next_id.format(count=len(rows)))
        (first,) = cursor.fetchone()
        self.driver.commit()
        return list(enumerate(rows, first))

    @abstractmethod
    def prepare(self, rows: Sequence[Row]) -> Any:
        """Return the rows in the form that ``write`` takes."""

    @abstractmethod
    def write(self, prepared: Any) -> None:
        """Write them in one transaction."""


class Copy(Limit):
    """PostgreSQL: psycopg COPY of text that is ready."""

    next_id = "SELECT setval('event_id_seq', nextval('event_id_seq') + {count}) - {count}"

    def prepare(self, rows: Sequence[Row]) -> list[tuple[str, bytes]]:
        numbered = self.number(rows)
        text = "".join(
            f"{number}\t{row.message_id}\t{row.generated}\t{row.raw}\t{self.types[row.event_type]}\n"
            for number, row in numbered
        )
        copies = [("COPY event (id, message_id, generated, raw, event_type_id) FROM STDIN", text.encode())]
        for table, traits in traits_by_table(numbered):
            statement = f"COPY {table.__tablename__} (event_id, key, value) FROM STDIN"
            copies.append((statement, sql_text.copy_of_traits(traits).encode()))
        return copies

    def write(self, prepared: list[tuple[str, bytes]]) -> None:
        with self.driver.cursor() as cursor:
            for place, (statement, text) in enumerate(prepared):
                if place == 1:  # as our writer does: the events of these traits have just been written
                    cursor.execute("SET LOCAL session_replication_role = replica")
                with cursor.copy(statement) as copy:
                    copy.write(text)
        self.driver.commit()


class Executemany(Limit):
    """MariaDB and SQLite: executemany of tuples that are ready."""

    mark = "%s"
    key = "`key`"
    desc = "`desc`"

    def prepare(self, rows: Sequence[Row]) -> list[tuple[str, list[tuple[Any, ...]]]]:
        numbered = self.number(rows)
        five, three = ", ".join([self.mark] * 5), ", ".join([self.mark] * 3)
        statements: list[tuple[str, list[tuple[Any, ...]]]] = [
            (
                f"INSERT INTO event (id, message_id, generated, raw, event_type_id) VALUES ({five})",
                [
                    (
                        number,
                        row.message_id,
                        self.time(row.generated),
                        row.raw,
                        self.types[row.event_type],
                    )
                    for number, row in numbered
                ],
            )
        ]
        for table, traits in traits_by_table(numbered):
            values = [
                (number, key, self.time(value) if table is TraitDatetime else value)
                for number, found in traits
                for key, _, value in found
            ]
            columns = f"{table.__tablename__} (event_id, {self.key}, value)"
            statements.append((f"INSERT INTO {columns} VALUES ({three})", values))
        return statements

    def time(self, moment: Any) -> Any:
        return sql_text.seconds(moment)

    def write(self, prepared: list[tuple[str, list[tuple[Any, ...]]]]) -> None:
        cursor = self.driver.cursor()
        for statement, values in prepared:
            cursor.executemany(statement, values)
        self.driver.commit()


class SqliteExecutemany(Executemany):
    mark = "?"
    key = "key"
    desc = '"desc"'

    def time(self, moment: Any) -> Any:
        return timestamp(moment)

    def write(self, prepared: list[tuple[str, list[tuple[Any, ...]]]]) -> None:
        self.driver.execute("BEGIN IMMEDIATE")
        super().write(prepared)


class LoadData(Executemany):
    """MariaDB: LOAD DATA LOCAL of files that are ready; shown beside the limit, not judged."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.driver.autocommit(False)
        self.folder = Path(tempfile.mkdtemp(prefix="load-data-"))

    def prepare(self, rows: Sequence[Row]) -> list[tuple[str, list[tuple[Any, ...]]]]:
        statements: list[tuple[str, list[tuple[Any, ...]]]] = []
        for number, (statement, values) in enumerate(super().prepare(rows)):
            file = self.folder / f"{rows[0].message_id}-{number}"
            file.write_text("".join("\t".join(map(str, row)) + "\n" for row in values))
            table, columns = statement.removeprefix("INSERT INTO ").partition(" VALUES")[0].split(" ", 1)
            load_data = f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE {table} CHARACTER SET utf8mb4 {columns}"
            statements.append((load_data, []))
        return statements

    def write(self, prepared: list[tuple[str, list[tuple[Any, ...]]]]) -> None:
        cursor = self.driver.cursor()
        for statement, _ in prepared:
            cursor.execute(statement)
        self.driver.commit()


LIMITS: dict[str, list[type[Limit]]] = {
    "postgresql": [Copy],
    "mariadb": [Executemany, LoadData],
    "sqlite": [SqliteExecutemany],
}


@contextlib.contextmanager
def database(kind: str) -> Iterator[str]:
    """Give the URL of an empty database: a private server with the durability it ships with, or a file."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/events.sqlite"
        return
    from tests.services import MariaDB, PostgreSQL  # noqa: PLC0415 - servers are started only when asked for

    with PostgreSQL() if kind == "postgresql" else MariaDB() as server:
        url = server.create_database()
        yield url if kind == "postgresql" else f"{url}?local_infile=1"


def measure(kind: str, url: str, events: list[Event], size: int, seconds: float) -> dict[str, Spent]:
    """Write lists in turn by record_events and by each limit, until the events or the time are used up."""
    connection = Connection(url)
    connection.clear()
    connection.record_events(events[-200:])
    events = events[:-200]
    with connection.engine.connect() as session:
        validator = Validator(read_limits(session))
    connection._recorder._types.resolve({event.event_type for event in events})
    limits = [limit(connection) for limit in LIMITS[kind]]
    spent = {"record_events": Spent(), **{type(limit).__name__: Spent() for limit in limits}}
    lists = [events[start : start + size] for start in range(0, len(events), size)]
    ends = time.monotonic() + seconds
    for turn in range(0, len(lists) - len(limits), len(limits) + 1):
        if time.monotonic() > ends and turn > 2 * len(limits):
            break
        with spent["record_events"].on(len(lists[turn])):
            result = connection.record_events(lists[turn])
        assert len(result.recorded) == len(lists[turn])
        for limit, part in zip(limits, lists[turn + 1 :], strict=False):
            rows = sorted(validator.rows(part)[0], key=lambda row: row.message_id)
            prepared = limit.prepare(rows)
            with spent[type(limit).__name__].on(len(part)):
                limit.write(prepared)
    for limit in limits:
        limit.raw.close()
    connection.close()
    return spent


def bytes_at_rest(url: str, events: list[Event]) -> None:
    """Show what PostgreSQL needs on disk for an event, table by table."""
    connection = Connection(url)
    connection.clear()
    with connection.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as session:
        for name in EVENT_TABLES:
            session.exec_driver_sql(f"VACUUM FULL {name}")
    for start in range(0, len(events), 1000):
        connection.record_events(events[start : start + 1000])
    table = Table(title=f"PostgreSQL, bytes at rest an event ({len(events):,} events)")
    table.add_column("table or index")
    table.add_column("bytes", justify="right")
    with connection.engine.connect() as session:
        sizes = session.exec_driver_sql(
            "SELECT relname, pg_relation_size(oid) FROM pg_class WHERE relkind IN ('r', 'i') "
            "AND relnamespace = 'public'::regnamespace ORDER BY 2 DESC"
        ).all()
    for name, size in sizes:
        if size / len(events) >= 1:
            table.add_row(name, f"{size / len(events):,.0f}")
    total = sum(size for name, size in sizes if not name.startswith(("dead", "alembic", "pk_dead")))
    table.add_row("total", f"{total / len(events):,.0f}", style="bold")
    rich.print(table)
    connection.close()


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--database", action="append", choices=list(LIMITS), help="default: all three")
    parser.add_argument("--sizes", default="1,100,1000", help="list lengths")
    parser.add_argument("--events", type=int, default=20_000, help="events of the standard load to use")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for one list length")
    parser.add_argument("--no-bytes", action="store_true", help="leave out bytes at rest")
    args = parser.parse_args()
    events = load.events(args.events)
    traits = sum(len(event.traits) for event in events) / len(events)
    rich.print(f"{len(events):,} events of the standard load, {traits:.1f} traits each")
    table = Table(title="record_events and the limit, one connection")
    for heading in ("database", "list of", "events/s", "limit", "ratio", "CPU µs", "limit's", "others"):
        table.add_column(heading, justify="left" if heading == "database" else "right")
    for kind in args.database or LIMITS:
        with database(kind) as url:
            Connection(url).upgrade()
            for size in [int(size) for size in args.sizes.split(",")]:
                ours, limit, *others = measure(kind, url, events, size, args.seconds).items()
                times = f", {ours[1].rate / INCUMBENT[kind]:.1f} x Panko's" if size == 1 else ""
                table.add_row(
                    kind,
                    str(size),
                    f"{ours[1].rate:,.0f}{times}",
                    f"{limit[1].rate:,.0f}",
                    f"{ours[1].rate / limit[1].rate:.2f}",
                    f"{ours[1].cpu_us:.0f}",
                    f"{limit[1].cpu_us:.0f}",
                    ", ".join(f"{name} {spent.rate:,.0f}" for name, spent in others),
                )
            if kind == "postgresql" and not args.no_bytes:
                bytes_at_rest(url, events)
    rich.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
