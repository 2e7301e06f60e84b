"""What retention costs: its own rate, what it takes from ingest, and what partitions make of it.

    python -m benchmarks.expire [--part postgresql] [--events 1000000] [--seconds 20]

The parts ``postgresql``, ``mariadb`` and ``sqlite`` fill a database, untimed, and then delete half of
it, in turns by rounds of the expirer and by plain set-based DELETEs in one transaction ("limit"); then
events are recorded, in turns without and with an expirer at work in a process of its own. The other
parts are about partitions on PostgreSQL, in ``benchmarks.partitions``; ``large`` is run when it is named.
"""

import argparse
import contextlib
import datetime
import itertools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import rich
import sqlalchemy as sa

from benchmarks import load, partitions
from benchmarks.filling import DAY, fill, patient_engine, settle
from benchmarks.storage import database
from benchmarks.turns import NOW, SAMPLE, Work, balanced, ingest, show
from panko_ingest.storage.expiry.expiry_round import count_expired
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import EVENT_TABLES, PreciseTimestamp

INCUMBENT = {"postgresql": 5129, "mariadb": 3667}
"""Events/s of Panko's clear_expired_data at its best."""

FILLED = datetime.datetime(2026, 3, 25)
"""The day of the events that are stored beforehand."""

BYTES_AN_EVENT = 6000
"""Disk to ask for: tables, indexes, and the log of the transactions."""


@contextlib.contextmanager
def timed_transactions(store: Connection, times: list[float]) -> Iterator[None]:
    """Note how long each transaction that commits takes."""
    began = 0.0

    def begin(_connection: sa.Connection) -> None:
        nonlocal began
        began = time.perf_counter()

    def commit(_connection: sa.Connection) -> None:
        times.append(time.perf_counter() - began)

    sa.event.listen(store.engine, "begin", begin)
    sa.event.listen(store.engine, "commit", commit)
    yield
    sa.event.remove(store.engine, "begin", begin)
    sa.event.remove(store.engine, "commit", commit)


def delete_by_rounds(store: Connection, before: datetime.datetime, spent: Work) -> None:
    """Let the expirer delete what is from before a time."""
    with spent.measured(store), timed_transactions(store, spent.transactions):
        report = store.expire((NOW - before).total_seconds(), clock=lambda: NOW)
    spent.events += report.events


def delete_at_once(store: Connection, before: datetime.datetime, spent: Work) -> None:
    """Delete by plain SQL, in one transaction: what the database takes at all."""
    join = store.engine.dialect.name == "mysql"
    moment = sa.bindparam("before", before, type_=PreciseTimestamp())
    engine = patient_engine(store)
    with (
        engine.connect().execution_options(writes=True) as connection,
        spent.measured(store),
        connection.begin(),
    ):
        for table in EVENT_TABLES[1:]:
            statement = (
                f"DELETE t FROM {table} t JOIN event e ON e.id = t.event_id WHERE e.`generated` < :before"
                if join
                else f"DELETE FROM {table} WHERE event_id IN (SELECT id FROM event WHERE generated < :before)"
            )
            connection.execute(sa.text(statement).bindparams(moment))
        name = "`generated`" if join else "generated"
        spent.events += connection.execute(
            sa.text(f"DELETE FROM event WHERE {name} < :before").bindparams(moment)
        ).rowcount
    engine.dispose()


_EXPIRER = """
import datetime, pathlib, re, sys
from panko_ingest.storage.impl_sqlalchemy import Connection

def most_mb():  # getrusage would tell of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) // 1024

store, now = Connection(sys.argv[1]), datetime.datetime.fromisoformat(sys.argv[2])
store.expire(86400 * 3650, clock=lambda: now)
before = most_mb()
print("ready", flush=True)
report = store.expire(86400, clock=lambda: now)
print(before, most_mb())
"""


@contextlib.contextmanager
def expirer(url: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a round in a process of its own; it is stopped at the end."""
    arguments = [sys.executable, "-c", _EXPIRER, url, str(NOW)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield process
        finally:
            process.terminate()


def measure_deletion(kind: str, sample: Sequence[Event], count: int, seconds: float) -> None:
    with database(kind) as url:
        store = Connection(url)
        store.upgrade()
        fill(store, sample, count, FILLED)
        settle(store)
        rounds, limit = Work(), Work()
        eighths = (FILLED + number * DAY / 8 for number in itertools.count(1))
        for _ in range(2):
            delete_by_rounds(store, next(eighths), rounds)
            delete_at_once(store, next(eighths), limit)
        lines = list(_of_deletion(kind, rounds, limit))
        settle(store)
        lines += _of_ingest(store, url, sample, seconds)
        with expirer(url) as process:
            before, after = process.communicate()[0].split()
        lines.append(("MB of the expirer, at first and at most", f"{before}, {after}"))
        store.close()
    show(f"{kind}, {count:,} events", ("what", kind), lines)


def _of_deletion(kind: str, rounds: Work, limit: Work) -> Iterator[tuple[str, str]]:
    yield "events/s deleted by rounds", f"{rounds.rate:,.0f}"
    yield "events/s deleted at once (limit)", f"{limit.rate:,.0f}"
    yield "rounds / limit", f"{rounds.rate / limit.rate:.2f}"
    if kind in INCUMBENT:
        yield "rounds / Panko's best", f"{rounds.rate / INCUMBENT[kind]:.1f}"
    yield "µs of CPU an event: rounds, limit", f"{rounds.cpu_us:.0f}, {limit.cpu_us:.0f}"
    times = sorted(rounds.transactions)
    yield (
        "ms a batch: median, 99 %",
        f"{times[len(times) // 2] * 1e3:.0f}, {times[-1 - len(times) // 100] * 1e3:.0f}",
    )


def _of_ingest(
    store: Connection, url: str, sample: Sequence[Event], seconds: float
) -> Iterator[tuple[str, str]]:
    def together() -> Work:
        with expirer(url) as process:
            return ingest(store, sample, seconds, lambda: process.poll() is None)

    before = _old_events(store)
    turns = balanced(lambda: ingest(store, sample, seconds), together)
    deleted = before - _old_events(store)
    yield "events/s recorded alone", f"{statistics.median(alone.rate for alone, _ in turns):,.0f}"
    yield "events/s recorded with an expirer", f"{statistics.median(work.rate for _, work in turns):,.0f}"
    ratios = [work.rate / alone.rate for alone, work in turns]
    yield "with / alone, each turn", ", ".join(f"{ratio:.2f}" for ratio in ratios)
    yield "events/s deleted meanwhile", f"{deleted / sum(work.seconds for _, work in turns):,.0f}"


def _old_events(store: Connection) -> int:
    engine = patient_engine(store)
    count = count_expired(engine, StorageSettings(), NOW - DAY, sys.maxsize)
    engine.dispose()
    return count


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and show."""
    databases = ["postgresql", "mariadb", "sqlite"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--part",
        action="append",
        choices=[*databases, *partitions.PARTS, "large"],
        help="default: all but large",
    )
    parser.add_argument("--events", type=int, default=1_000_000, help="stored, by the 20,000")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each window of ingest")
    args = parser.parse_args(argv)
    # A multiple of what is copied.
    args.events -= args.events % SAMPLE if args.events > SAMPLE else 0
    wanted = args.part or [*databases, *partitions.PARTS]
    most = args.events * (partitions.LARGE_DAYS if "large" in wanted else 1)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < most * BYTES_AN_EVENT:
        rich.print(
            f"{most * BYTES_AN_EVENT / 1e9:.0f} GB of free disk are needed, {free / 1e9:.0f} are there"
        )
        return 1
    sample = load.events(min(SAMPLE, args.events))
    rich.print(f"{sum(len(one.traits) for one in sample) / len(sample):.1f} traits an event")
    for part in wanted:
        started = time.monotonic()
        if part in databases:
            measure_deletion(part, sample, args.events, args.seconds)
        else:
            measure = partitions.measure_large if part == "large" else partitions.PARTS[part]
            measure(sample, args.events, args.seconds)
        rich.print(f"{part}: {time.monotonic() - started:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
