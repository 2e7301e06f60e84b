"""The whole way from RabbitMQ to the commit, and how much of it the machine could do at best.

    python -m benchmarks.end_to_end [--database postgresql] [--workers 1] [--runs 3] [--count 20000]

Servers are private, at Debian's settings, durable. A run fills a durable queue with the standard load,
starts the daemon with its defaults, and takes the time from the first committed row to the last. In
the same run the parts are measured alone: draining the queue by bare py-amqp, decoding and converting,
loading ready rows. Their CPU costs, on both sides of the wire, tell what the cores could do if
nothing else were to be done: cores / sum of costs. With ``--latency``, a lone publisher offers 1, 100
and 1,000 events/s to the daemon instead, and the time from publishing to being queryable is taken.
"""

import argparse
import contextlib
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import amqp
import psutil
import rich
import sqlalchemy as sa
from rich.table import Table

from benchmarks import load
from benchmarks.convert import decode, standard_load
from benchmarks.storage import LIMITS
from panko_ingest.amqp.publisher import envelope
from panko_ingest.converter import EventConverter
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.limits import read_limits
from panko_ingest.storage.tables import Event
from panko_ingest.storage.validation import Validator
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.services import MariaDB, PostgreSQL, RabbitMQ, Server

QUEUE = "notifications.info"
BATCH = 1000
# Workers commit side by side, so a lower id may show up after a higher one.
_OVERLAP = 2000
RATES = {1: 20, 100: 2000, 1000: 10_000}
"""Events/s offered, and how many events."""


@dataclass
class Cost:
    """What a number of events took: wall seconds, and CPU seconds of each party."""

    events: int
    wall: float
    ours: float
    broker: float = 0.0
    database: float = 0.0

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.wall

    def micro(self, seconds: float) -> float:
        """Return CPU seconds as microseconds an event."""
        return seconds / self.events * 1e6

    @property
    def all_micro(self) -> float:
        """CPU microseconds an event of all parties."""
        return self.micro(self.ours + self.broker + self.database)


def cpu(processes: Sequence[psutil.Process]) -> float:
    """Return the CPU seconds that processes and their living children have used."""
    total = 0.0
    for process in processes:
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                total += times.user + times.system
    return total


class Bench:
    """A broker, a database and the standard load."""

    def __init__(self, kind: str, count: int) -> None:
        self.kind = kind
        self.bodies = standard_load(count)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Bench":
        self.broker = self._stack.enter_context(RabbitMQ())
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.server: Server | None = None
        if self.kind != "sqlite":
            self.server = self._stack.enter_context(PostgreSQL() if self.kind == "postgresql" else MariaDB())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def new_database(self) -> str:
        """Make an empty database with our tables and return its URL."""
        if isinstance(self.server, PostgreSQL | MariaDB):
            url = self.server.create_database()
        else:
            url = f"sqlite:///{self.folder}/{time.monotonic_ns()}.sqlite"
        connection = Connection(url)
        connection.upgrade()
        connection.close()
        return url

    def broker_cpu(self) -> float:
        """CPU seconds of the broker so far."""
        return cpu([psutil.Process(self.broker.pid)])

    def database_cpu(self) -> float:
        """CPU seconds of the database's living processes so far."""
        return cpu([psutil.Process(self.server.pid)]) if self.server else 0.0

    def filled_vhost(self) -> str:
        """Make a vhost whose durable queue holds the standard load; return its URL."""
        url = self.broker.create_vhost()
        with Bus(url) as bus:
            bus.declare()
            bus.publish(self.bodies)
        return url


def end_to_end(bench: Bench, workers: int) -> tuple[Cost, float]:
    """Take a full queue into the database; return the cost, and the largest PSS of a worker in bytes."""
    broker_url, url = bench.filled_vhost(), bench.new_database()
    conf = configuration(
        bench.folder, broker_url, url, f"[notification]\nworkers = {workers}\n[monitor]\nport = 0\n"
    )
    connection = Connection(url)
    with Daemon(conf, "--only", "ingester").running() as daemon:
        first = wait_for_rows(connection, lambda rows: rows > 0)
        family = [daemon.process]
        started = time.perf_counter(), cpu(family), bench.broker_cpu(), bench.database_cpu()
        wait_for_rows(connection, lambda rows: rows >= len(bench.bodies))
        ended = time.perf_counter(), cpu(family), bench.broker_cpu(), bench.database_cpu()
        pss = max(child.memory_full_info().pss for child in daemon.process.children())
        daemon.stop()
    connection.close()
    wall, ours, broker, database = (after - before for before, after in zip(started, ended, strict=True))
    return Cost(len(bench.bodies) - first, wall, ours, broker, database), pss


def wait_for_rows(connection: Connection, enough: Callable[[int], bool], timeout: float = 600) -> int:
    """Return the number of stored events as soon as there are enough."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with connection.engine.connect() as session:
            rows = session.execute(sa.select(sa.func.count()).select_from(Event)).scalar_one()
        if enough(rows):
            return rows
        time.sleep(0.05)
    raise TimeoutError("the daemon did not store the load in time")


def drain(bench: Bench) -> Cost:
    """Read a full queue by bare py-amqp, one ack for each batch."""
    host = f"127.0.0.1:{bench.broker.port}"
    vhost = bench.filled_vhost().rpartition("/")[2]
    received = 0

    def receive(_message: amqp.Message) -> None:
        nonlocal received
        received += 1

    with amqp.Connection(host, "guest", "guest", virtual_host=vhost) as connection:
        channel = connection.channel()
        channel.basic_qos(0, 2 * BATCH, False)
        wall, ours, broker = time.perf_counter(), time.process_time(), bench.broker_cpu()
        channel.basic_consume(QUEUE, callback=receive)
        acknowledged = 0
        while received < len(bench.bodies):
            connection.drain_events()
            if received - acknowledged >= BATCH:
                channel.basic_ack(received, multiple=True)
                acknowledged = received
        channel.basic_ack(received, multiple=True)
        return Cost(
            received,
            time.perf_counter() - wall,
            time.process_time() - ours,
            broker=bench.broker_cpu() - broker,
        )


def convert(bench: Bench) -> Cost:
    """Decode and convert the load in this process."""
    converter = EventConverter.from_file(load.definitions())
    wall, ours = time.perf_counter(), time.process_time()
    for body in bench.bodies:
        notification = decode(body)
        converter.to_event(notification.message, notification.priority)
    return Cost(len(bench.bodies), time.perf_counter() - wall, time.process_time() - ours)


def load_only(bench: Bench, kind: str) -> Cost:
    """Write ready rows by the fastest way of the driver, into the same tables."""
    events = load.events(len(bench.bodies))
    url = bench.new_database()
    connection = Connection(url)
    connection.record_events(events[:200])
    connection._recorder._types.resolve(sorted({event.event_type for event in events}))
    with connection.engine.connect() as session:
        rows = sorted(Validator(read_limits(session)).rows(events[200:])[0], key=lambda row: row.message_id)
    limit = LIMITS[kind][0](connection)
    wall = ours = 0.0
    database = bench.database_cpu()
    for start in range(0, len(rows), BATCH):
        prepared = limit.prepare(rows[start : start + BATCH])
        before = time.perf_counter(), time.process_time()
        limit.write(prepared)
        wall += time.perf_counter() - before[0]
        ours += time.process_time() - before[1]
    cost = Cost(len(rows), wall, ours, database=bench.database_cpu() - database)
    limit.raw.close()
    connection.close()
    return cost


def latency(bench: Bench, rate: int, count: int) -> list[float]:
    """Offer events at a steady rate; return the seconds from publishing each to its being queryable."""
    broker_url, url = bench.broker.create_vhost(), bench.new_database()
    conf = configuration(bench.folder, broker_url, url)
    published: dict[str, float] = {}
    seen: dict[str, float] = {}
    connection = Connection(url)
    with Bus(broker_url) as bus, Daemon(conf, "--only", "ingester").running() as daemon:
        bus.declare()
        daemon.wait_until_ready()
        channel = bus.channel()
        started = time.perf_counter()
        last = 0
        with connection.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as session:
            while len(seen) < count:
                due = min(count, int((time.perf_counter() - started) * rate) + 1)
                while len(published) < due:
                    number = len(published)
                    message_id = f"{rate}-{number}"
                    body = {
                        "message_id": message_id,
                        "event_type": "latency.probe",
                        "priority": "INFO",
                        "publisher_id": "bench.host",
                        "payload": {"number": number},
                        "timestamp": "2026-01-01 00:00:00",
                    }
                    published[message_id] = time.perf_counter()
                    channel.basic_publish(
                        amqp.Message(envelope(body), content_type="application/json", delivery_mode=2),
                        exchange="nova",
                        routing_key=QUEUE,
                    )
                query = sa.select(Event.id, Event.message_id).where(Event.id > last - _OVERLAP)
                found = session.execute(query).all()
                now = time.perf_counter()
                for row in found:
                    seen.setdefault(row.message_id, now)
                last = max([last, *(row.id for row in found)])
        daemon.stop()
    connection.close()
    return sorted(seen[message_id] - published[message_id] for message_id in seen)


def repeated(runs: int, measure: Callable[[], Cost]) -> list[Cost]:
    """Return the costs of several runs, the one of median rate first."""
    costs = sorted((measure() for _ in range(runs)), key=lambda cost: cost.rate)
    middle = costs[len(costs) // 2]
    return [middle, *(cost for cost in costs if cost is not middle)]


def show_throughput(bench: Bench, kind: str, workers: Sequence[int], runs: int) -> None:
    """Measure the whole way and its parts, and print them."""
    table = Table(title=f"{kind}: {len(bench.bodies):,} notifications, median of {runs} runs")
    for heading in (
        "",
        "events/s",
        "lowest..highest",
        "CPU µs: ours",
        "broker",
        "database",
        "PSS MB",
        "of best",
    ):
        table.add_column(heading, justify="right" if heading else "left")
    parts = {
        "drain only (py-amqp)": repeated(runs, lambda: drain(bench)),
        "decode and convert only": repeated(runs, lambda: convert(bench)),
        "load only": repeated(runs, lambda: load_only(bench, kind)),
    }
    best = (os.cpu_count() or 1) / sum(costs[0].all_micro for costs in parts.values()) * 1e6
    for name, costs in parts.items():
        table.add_row(name, *figures(costs), "", "")
    table.add_row("best of these cores", f"{best:,.0f}", "", "", "", "", "", "1.00", style="bold")
    for number in workers:
        pss: list[float] = []

        def whole(number: int = number, pss: list[float] = pss) -> Cost:
            cost, size = end_to_end(bench, number)
            pss.append(size)
            return cost

        costs = repeated(runs, whole)
        table.add_row(
            f"end to end, {number} worker{'s' * (number > 1)}",
            *figures(costs),
            f"{max(pss) / 1e6:.0f}",
            f"{costs[0].rate / best:.2f}",
            style="bold",
        )
    rich.print(table)


def figures(costs: Sequence[Cost]) -> Iterator[str]:
    """Yield the columns of a measured row."""
    middle = costs[0]
    rates = [cost.rate for cost in costs]
    yield f"{middle.rate:,.0f}"
    yield f"{min(rates):,.0f}..{max(rates):,.0f}"
    yield from (f"{middle.micro(part):.0f}" for part in (middle.ours, middle.broker, middle.database))


def show_latency(bench: Bench) -> None:
    """Measure latencies and print them."""
    table = Table(title="publish to queryable, default settings")
    for heading in ("events/s offered", "p50 ms", "p99 ms", "longest"):
        table.add_column(heading, justify="right")
    for rate, count in RATES.items():
        delays = [delay * 1000 for delay in latency(bench, rate, count)]
        table.add_row(
            f"{rate:,}",
            f"{statistics.median(delays):.1f}",
            f"{delays[int(len(delays) * 0.99) - 1]:.1f}",
            f"{delays[-1]:.1f}",
        )
    rich.print(table)


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--database", action="append", choices=list(LIMITS), help="default: postgresql")
    parser.add_argument("--workers", type=int, action="append", help="default: 1 and 2")
    parser.add_argument("--runs", type=int, default=3, help="runs of each (default: %(default)s)")
    parser.add_argument("--count", type=int, default=20_000, help="notifications (default: %(default)s)")
    parser.add_argument("--latency", action="store_true", help="measure latencies instead")
    args = parser.parse_args()
    rich.print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    for kind in args.database or ["postgresql"]:
        with Bench(kind, args.count) as bench:
            if args.latency:
                show_latency(bench)
            else:
                show_throughput(bench, kind, args.workers or [1, 2], args.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
