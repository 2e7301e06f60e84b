"""The benchmark suite: ``make bench`` for the short one, ``make bench-full`` for all of it.

    python -m benchmarks.suite [--full] [--step NAME]... [--runs N] [--list]

It goes in steps, each on servers of its own, durable and with Debian's settings. A round of a step
measures all that is to be compared, one after the other, so that ratios are of one and the same run. Each
round is kept in test-results/bench as soon as it is done: after an interruption the same command goes on
where it was, and what is finished is not measured again unless the program or the sizes have changed,
or ``--again`` is given. At the end the pages of docs/performance are written anew.
"""

import argparse
import contextlib
import dataclasses
import datetime
import gc
import itertools
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import rich
from rich.table import Table

from benchmarks import buses, growth, incumbent, latency, machine, parts, report, results
from benchmarks.by_hand import by_hand
from benchmarks.end_to_end import end_to_end, take
from benchmarks.rig import Rig, Sample
from tests.services import PostgreSQL

Round = dict[str, Sample]
GIGABYTE = 1e9
BYTES_AN_EVENT = 3500
"""Disk to ask for: tables and indexes of an event, and PostgreSQL's log."""

RATES = (1, 100, 1000)
"""Events/s offered to measure latency."""

ARRIVING = 500.0
"""Events/s that arrive while a backlog is drained."""

FILL_ROUNDS = 3


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    :param count: notifications in the queue of a run.
    :param seconds: for which a rate is offered.
    :param stored: events in the largest store.
    :param backlog: notifications in the longest queue.
    :param spread: notifications in the queues of many buses.
    :param release: a checkout of the release before, with an environment, to measure in turns with this one.
    """

    runs: int
    count: int = 20_000
    seconds: float = 10.0
    stored: int = 1_000_000
    backlog: int = 60_000
    spread: int = 48_000
    release: Path | None = None


Rounds = Callable[[Rig, Sizes], Generator[Round, None, None]]


@dataclass(frozen=True)
class Step:
    """A part of the suite.

    :param minutes: that it takes on two cores: to begin with, and for each round.
    :param once: measured in one go, however many runs are asked for.
    :param depends_on: the sizes that bear on it, first that of the load.
    :param against_release: whether the release before is measured, too.
    :param why_not: tells why it can't be measured here.
    """

    about: str
    rounds: Rounds
    minutes: tuple[float, float]
    kind: str = "postgresql"
    once: bool = False
    depends_on: tuple[str, ...] = ("count",)
    against_release: bool = False
    why_not: Callable[[], str | None] = lambda: None


def throughput(rig: Rig, sizes: Sizes) -> Generator[Round, None, None]:
    """Measure the parts alone, then the whole way with one worker and with two, and by the release before."""
    events = rig.events()
    gc.collect()
    gc.freeze()  # so that collections cost what they do in a daemon, not what our lists add to them
    while True:
        found = {
            "drain": parts.drain(rig),
            "convert": parts.convert(rig),
            "load": parts.load_only(rig, events),
            "record": parts.record_only(rig, events),
        }
        for workers in (1, 2):
            found[f"workers_{workers}"] = end_to_end(rig, workers)
        if sizes.release and rig.kind != "sqlite":
            found["release"] = end_to_end(rig, 2, release=sizes.release)
        yield found


def hand(rig: Rig, _sizes: Sizes) -> Generator[Round, None, None]:
    """Measure the hand-written script, and the daemon with its defaults."""
    while True:
        found = {"ours": end_to_end(rig, None)}
        for tables in ("bare", "searchable", "panko", "granted"):
            for processes in (1, 2):
                found[f"{tables}_{processes}"] = by_hand(rig, tables, processes)
        yield found


def peer(rig: Rig, sizes: Sizes) -> Generator[Round, None, None]:
    """Measure the incumbent as shipped and tuned, and the daemon with its defaults."""
    agent = incumbent.Incumbent(rig, results.FOLDER / "incumbent")
    while True:
        yield {
            "shipped": agent.measure("shipped", sizes.count // 10),
            "tuned": agent.measure("tuned", sizes.count // 5),
            "ours": end_to_end(rig, None),
        }


def delays(rig: Rig, sizes: Sizes) -> Generator[Round, None, None]:
    """Measure what measuring costs, then the delay at each rate."""
    while True:
        found = {"floor": latency.floor(rig, 100, sizes.seconds / 2)}
        for rate in RATES:
            found[f"rate_{rate}"] = latency.latency(rig, rate, sizes.seconds)
        if sizes.release:
            found["release_100"] = latency.latency(rig, 100, sizes.seconds, release=sizes.release)
        yield found


def workers(rig: Rig, _sizes: Sizes) -> Generator[Round, None, None]:
    """Measure the whole way as workers are added."""
    while True:
        yield {f"workers_{number}": end_to_end(rig, number) for number in (1, 2, 4)}


def small_batches(rig: Rig, sizes: Sizes) -> Generator[Round, None, None]:
    """Measure batches that are small for want of messages: of one worker, which has them all, and of two."""
    numbers = (1, 2)
    while True:
        yield {
            f"workers_{number}": latency.latency(rig, 1000, sizes.seconds, workers=number)
            for number in numbers
        }
        numbers = numbers[::-1]


def broker(rig: Rig, _sizes: Sizes) -> Generator[Round, None, None]:
    """Measure what RabbitMQ needs to take a message and to hand it out, for both kinds of queues."""
    while True:
        yield {
            "publish_classic": parts.publish(rig, quorum=False),
            "drain_classic": parts.drain(rig, quorum=False),
            "publish_quorum": parts.publish(rig),
            "drain_quorum": parts.drain(rig),
        }


def queues(rig: Rig, _sizes: Sizes) -> Generator[Round, None, None]:
    """Measure the whole way out of either kind of queue."""
    while True:
        yield {
            "classic": end_to_end(rig, 2, quorum=False),
            "quorum": end_to_end(rig, 2),
        }


def cluster(rig: Rig, _sizes: Sizes) -> Generator[Round, None, None]:
    """Measure the whole way into one MariaDB, and into three nodes behind a proxy."""
    while True:
        found = {"alone": end_to_end(rig, 2)}
        with rig.full_queue() as broker_url, rig.cluster() as url:
            found["galera"] = take(rig, [broker_url], url, len(rig.bodies), 2)
        yield found


def many_buses(rig: Rig, _sizes: Sizes) -> Generator[Round, None, None]:
    """Measure one bus and many, on a machine that has nothing else to do and on a busy one."""
    numbers = (1, buses.MANY)
    while True:
        found = {f"buses_{number}": buses.spread(rig, number) for number in numbers}
        with buses.busy_cores():
            found |= {f"busy_{number}": buses.spread(rig, number) for number in numbers}
        yield found
        numbers = numbers[::-1]


def bus_delays(rig: Rig, sizes: Sizes) -> Generator[Round, None, None]:
    """Measure the delay of a few messages a second on each of many buses, and of as many on one."""
    while True:
        yield {
            f"buses_{number}": latency.latency(rig, 5 * buses.MANY, sizes.seconds, buses=number)
            for number in (1, buses.MANY)
        }


def long_queue(rig: Rig, sizes: Sizes) -> Generator[Round, None, None]:
    """Measure a long backlog by itself, and while more arrives."""
    while True:
        yield {
            "backlog": growth.backlog(rig, sizes.backlog),
            "arriving": growth.backlog(rig, sizes.backlog, ARRIVING),
        }


def full_store(rig: Rig, sizes: Sizes) -> Generator[Round, None, None]:
    """Measure into an empty store, one that is a fifth full, and a full one; all rounds come at the end."""
    found: list[Round] = [{} for _ in range(FILL_ROUNDS)]
    with rig.store() as url:
        filler: growth.Filler | None = None
        for place, level in enumerate((0, sizes.stored // 5, sizes.stored)):
            if filler:
                rich.print(f"  filled to {level:,} at {filler.fill(level):,.0f} events/s")
            for number, entry in enumerate(found):
                seed = 2 + place * FILL_ROUNDS + number
                entry[f"stored_{level}"] = growth.stored(rig, url, sizes.count, seed, None)
                filler = filler or growth.Filler(url)
    yield from found


def settings(rig: Rig, sizes: Sizes) -> Generator[Round, None, None]:
    """Measure what may be set otherwise, each right behind a checkpoint, when pages are logged whole."""
    ways = {"default": ("off", ""), "compressed": ("lz4", ""), "larger": ("off", "batch_size = 4000\n")}
    names = list(ways)
    assert isinstance(rig.server, PostgreSQL)
    with rig.store() as url:
        growth.stored(rig, url, sizes.count, 2, None)
        growth.Filler(url).fill(sizes.stored // 5)
        for seed in itertools.count(3, len(ways)):
            found: Round = {}
            for place, name in enumerate(names):
                compression, options = ways[name]
                rig.server.execute(f"ALTER SYSTEM SET wal_compression = {compression}")
                rig.server.execute("SELECT pg_reload_conf()")
                rig.server.execute("CHECKPOINT")
                found[name] = growth.stored(rig, url, sizes.count, seed + place, None, options)
            yield {name: found[name] for name in ways}
            names.append(names.pop(0))


def _throughput(kind: str, minutes: float) -> Step:
    about = f"the whole way and its parts, {kind}"
    return Step(about, throughput, (0.6, minutes), kind, against_release=kind != "sqlite")


STEPS: dict[str, Step] = {
    "postgresql": _throughput("postgresql", 0.8),
    "latency": Step(
        "publish to queryable at 1, 100 and 1,000 events/s",
        delays,
        (0.5, 2.2),
        depends_on=("count", "seconds"),
        against_release=True,
    ),
    "by-hand": Step("a hand-written script, and ours", hand, (0.5, 1.1)),
    "incumbent": Step("Ceilometer's agent, and ours", peer, (0.5, 1.2), why_not=incumbent.absent),
    "partitioned": _throughput("partitioned", 0.8),
    "mariadb": _throughput("mariadb", 0.8),
    "sqlite": _throughput("sqlite", 0.8),
    "stored": Step(
        "the rate over a store that fills", full_store, (8.0, 2.0), once=True, depends_on=("count", "stored")
    ),
    "settings": Step(
        "the log compressed, and larger batches", settings, (1.5, 0.5), depends_on=("count", "stored")
    ),
    "backlog": Step("a long queue, and memory", long_queue, (0.3, 0.6), depends_on=("backlog",)),
    "queues": Step("a quorum queue and a classic one", queues, (0.3, 0.2)),
    "galera": Step("Galera of three nodes and one MariaDB", cluster, (0.7, 0.3), "galera"),
    "buses": Step("many buses and one", many_buses, (0.3, 1.3), depends_on=("spread",)),
    "bus-delays": Step(
        "5 events/s on each of many buses", bus_delays, (0.3, 0.6), depends_on=("count", "seconds")
    ),
    "workers": Step("1, 2 and 4 workers", workers, (0.5, 0.6)),
    "small-batches": Step(
        "1,000 events/s, one worker and two", small_batches, (0.3, 0.6), depends_on=("count", "seconds")
    ),
    "broker": Step("what RabbitMQ needs for a message", broker, (0.5, 0.3), "sqlite"),
}
SHORT = ("postgresql", "latency")


def run(name: str, sizes: Sizes, *, again: bool = False) -> bool:
    """Measure what is missing of a step; return whether it could be measured."""
    step = STEPS[name]
    reason = step.why_not() or _no_room(name, sizes)
    if reason:
        rich.print(f"[bold]{name}[/bold]: left out, {reason}")
        return False
    chosen: dict[str, float] = {size: getattr(sizes, size) for size in step.depends_on}
    release = machine.revision(sizes.release) if sizes.release and step.against_release else ""
    key = results.key(machine.code() + release, chosen)
    kept = None if again else results.load(name)
    rounds = kept.rounds if kept and kept.key == key else []
    wanted = FILL_ROUNDS if name == "stored" else 1 if step.once else sizes.runs
    if len(rounds) >= wanted:
        rich.print(f"[bold]{name}[/bold]: measured before, {len(rounds)} rounds")
        return True
    rich.print(f"[bold]{name}[/bold]: {step.about}")
    with Rig(step.kind, getattr(sizes, step.depends_on[0])) as rig:
        found = results.Step(
            name=name,
            key=key,
            when=datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
            command=_command(name, sizes.runs, chosen) + (" RELEASE=checkout" if release else ""),
            revision=machine.revision(),
            machine=machine.machine(),
            versions=machine.versions(rig) | ({"the release before": release} if release else {}),
            settings=machine.settings(rig),
            sizes=chosen,
            rounds=rounds,
        )
        with contextlib.closing(step.rounds(rig, sizes)) as measured:
            while len(found.rounds) < wanted:
                started = time.monotonic()
                found.rounds.append(next(measured))
                results.save(found)
                took = time.monotonic() - started
                rich.print(f"  round {len(found.rounds)} of {wanted}: {took:.0f} s")
    show(found)
    return True


def _command(name: str, runs: int, chosen: Mapping[str, float]) -> str:
    """Return what measures this step alone in the same way."""
    others = [f"--{size} {value:g}" for size, value in chosen.items() if value != getattr(Sizes, size)]
    return f"make bench ARGS='{' '.join([f'--step {name} --runs {runs}', *others])}'"


def _no_room(name: str, sizes: Sizes) -> str | None:
    events = max(getattr(sizes, size) for size in STEPS[name].depends_on)
    needed = events * BYTES_AN_EVENT + 3 * GIGABYTE
    free = machine.free_disk()
    if free > needed:
        return None
    return f"{needed / GIGABYTE:.0f} GB of free disk are needed, there are {free / GIGABYTE:.0f}"


def show(step: results.Step) -> None:
    """Print the medians of a step."""
    table = Table(title=f"{step.name}, median of {len(step.rounds)}")
    for heading in ("", "events/s", "lowest..highest", "CPU µs: ours", "broker", "database"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in step.rounds[0]:
        series = step.series(name)
        if "p50" in series.samples[0].more:
            p50, p99, longest = (series.median(what) for what in ("p50", "p99", "longest"))
            table.add_row(name, f"p50 {p50:.1f} ms", f"p99 {p99:.1f} ms, longest {longest:.1f} ms")
            continue
        costs = (f"{series.micro(party):.0f}" for party in ("ours", "broker", "database"))
        table.add_row(name, f"{series.rate:,.0f}", f"{series.lowest:,.0f}..{series.highest:,.0f}", *costs)
    rich.print(table)


def main(words: list[str] | None = None) -> int:
    """Measure, show, and write the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--full", action="store_true", help="all steps")
    parser.add_argument("--step", action="append", choices=list(STEPS), help="only this one; repeatable")
    parser.add_argument("--runs", type=int, default=3, help="rounds of a step (default: %(default)s)")
    parser.add_argument("--count", type=int, default=Sizes.count, help="notifications (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=Sizes.seconds, help="for each rate of `latency`")
    parser.add_argument("--stored", type=int, default=Sizes.stored, help="events of `stored`")
    parser.add_argument("--backlog", type=int, default=Sizes.backlog, help="notifications of `backlog`")
    parser.add_argument("--spread", type=int, default=Sizes.spread, help="notifications of `buses`")
    parser.add_argument("--release", type=Path, help="a checkout of the release before, with its .venv")
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--list", action="store_true", help="list the steps and the minutes they take")
    parser.add_argument("--no-report", action="store_true", help="leave docs/performance as it is")
    args = parser.parse_args(words)
    sizes = Sizes(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Sizes)})
    names = args.step or list(STEPS if args.full else SHORT)
    if args.list:
        list_steps(names, sizes)
        return 0
    for name in names:
        run(name, sizes, again=args.again)
    if not args.no_report:
        report.write(Path("docs/performance"))
    return 0


def list_steps(names: list[str], sizes: Sizes) -> None:
    """Print the steps, and about how many minutes each takes on two cores."""
    for name in names:
        step = STEPS[name]
        begin, each = step.minutes
        minutes = begin + each * (1 if step.once else sizes.runs)
        print(f"{name:12} {minutes:5.1f} min  {step.about}")


if __name__ == "__main__":
    sys.exit(main())
