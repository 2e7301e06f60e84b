"""Random faults for as long as asked for, under load; counts at the end.

    python -m tests.faults.soak MINUTES

Publishes as many messages as make a million in an hour, through a broker and a PostgreSQL of its own,
and breaks two things at a time, all the time. In the last third nothing ends a process of the daemon, so
that what is measured of their memory then covers their lives. Prints what it does, and writes
docs/soak.md when all is accounted for; exit code 1 if it is not.
"""

import contextlib
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from tests.faults.long_scene import LongScene
from tests.faults.proxy import Proxy
from tests.faults.repeats import Repeats
from tests.faults.scene import Scene, bodies
from tests.faults.soak_faults import CONSUMER_TIMEOUT, SoakFaults, wait_for
from tests.services import PostgreSQL, RabbitMQ

_PAGE = Path(__file__).parents[2] / "docs" / "soak.md"
_MESSAGES_A_MINUTE = 1_000_000 / 60
_HASTE = 1.25  # of that rate, as publishing stands still while the broker is broken
_QUIET = 15.0
_MORE = f"""\
[notification]
consumer_timeout = {CONSUMER_TIMEOUT}
[database]
statement_timeout = 10
lock_timeout = 3
"""
_GROWTH = 1.15
_GRAINS = 4 * 2**20
_LEAST_LOOKS = 10
_RENEWAL = 60.0  # within which workers that were killed, or told to read the configuration, are new ones


Recovery = tuple[float, str]
"""Seconds, and the fault that came with it."""

_HEAD = """\
# The last soak

`make soak` broke things at random, two at a time, for {minutes:.0f} minutes while messages were published.
All ended as they should: {counts}, each event with all its traits, nothing twice,
nothing left on the queue.

*Recovery* is the longest time from the end of a fault, and of the one that came with it, until the next
event is stored.

| fault | times | recovery | with |
|---|---:|---:|---|
"""
_MEMORY = """
Resident memory of each process in the last third of the run, in which none was ended: the most in the
first half of that time, and in the second.

"""


class Memory:
    """Looks at the resident memory of each process of a daemon now and then."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._sizes: dict[psutil.Process, list[int]] = {}

    def begin(self) -> None:
        """Measure those that live now, and forget the others."""
        master = self._scene.daemon.process
        self._sizes = {process: [] for process in (master, *master.children(recursive=True))}

    @property
    def looks(self) -> int:
        """How often it has measured."""
        return min(map(len, self._sizes.values()))

    def look(self) -> str:
        """Measure, and return what was found."""
        for process, sizes in self._sizes.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                sizes.append(process.memory_info().rss)
        return ", ".join(f"{sizes[-1] / 2**20:.0f} MiB" for sizes in self._sizes.values() if sizes)

    def verdict(self) -> list[str]:
        """Return a line for each process.

        :raises AssertionError: one of them has ended, or has grown: in the second half of the
            measurements it was well above all of the first half.
        """
        lines = []
        for process, sizes in self._sizes.items():
            assert process.is_running(), f"process {process.pid} ended, although nobody killed it"
            middle = len(sizes) // 2
            early, late = max(sizes[:middle]), max(sizes[middle:])
            role = "master" if process == self._scene.daemon.process else "worker"
            lines.append(f"{role}: {early / 2**20:.0f} MiB at most, then {late / 2**20:.0f} MiB")
            assert late < early * _GROWTH + _GRAINS, f"memory grew: {lines[-1]}"
        return lines


def main(minutes: float) -> None:
    """Run it."""
    messages = int(minutes * _MESSAGES_A_MINUTE)
    started = time.monotonic()
    # A server that a thread starts dies with it.
    with ThreadPoolExecutor(2) as threads, faults_of_soak(messages) as broken:
        scene, memory = broken.scene, Memory(broken.scene)
        recoveries: dict[str, list[Recovery]] = defaultdict(list)
        with scene.running():
            memory.begin()
            faults = {**broken.deadly(), **broken.others()}
            break_until(
                lambda: scene.feed.confirmed > messages * 0.6, threads, scene, faults, memory, recoveries
            )
            all_renewed = time.monotonic() + _RENEWAL
            break_until(
                lambda: time.monotonic() > all_renewed and scene.feed.confirmed > messages * 2 / 3,
                threads,
                scene,
                broken.others(),
                memory,
                recoveries,
            )
            memory.begin()
            break_until(
                lambda: scene.feed.confirmed > messages and memory.looks >= _LEAST_LOOKS,
                threads,
                scene,
                broken.others(),
                memory,
                recoveries,
            )
            lives = memory.verdict()
        counts = f"{scene.ledger.events():,} events and {scene.ledger.dead_letters():,} dead letters"
    elapsed = (time.monotonic() - started) / 60
    _PAGE.write_text(page(elapsed, counts, recoveries, lives))
    report(f"{counts}: each message is accounted for once. {'; '.join(lives)}")


@contextlib.contextmanager
def faults_of_soak(messages: int) -> Iterator[SoakFaults]:
    """Start a broker, a database, and proxies before both."""
    with (
        tempfile.TemporaryDirectory() as folder,
        RabbitMQ({"consumer_timeout": str(CONSUMER_TIMEOUT * 1000)}) as broker,
        PostgreSQL() as database,
        Proxy(broker.port) as to_broker,
        Proxy(database.port) as to_database,
    ):
        url, bus = database.create_database(), broker.create_vhost()
        scene = LongScene(
            Path(folder),
            bus,
            url,
            through=(to_broker.url(bus) + "?heartbeat=5", to_database.url(url)),
            more=_MORE,
            rate=messages * _HASTE / (messages / _MESSAGES_A_MINUTE * 60),
            load=Repeats(bodies(10_000), 2 * messages + 100_000),
            look_every=1.0,
            patience=300,
        )
        yield SoakFaults(scene, broker, database, (to_broker, to_database))


def break_until(
    over: Callable[[], bool],
    threads: ThreadPoolExecutor,
    scene: Scene,
    faults: Mapping[str, Callable[[], object]],
    memory: Memory,
    recoveries: dict[str, list[Recovery]],
) -> None:
    """Break two things after the other, all of them before any again, until it is over."""
    kinds: list[str] = []
    while not over():
        kinds = kinds or random.sample(list(faults), len(faults))
        pair = [kinds.pop()]
        # Two faults of the same part would undo each other.
        pair += [kind for kind in kinds if _part(kind) != _part(pair[0])][-1:]
        kinds = [kind for kind in kinds if kind not in pair]
        report(f"{' and '.join(pair)} ...")
        mended = time.monotonic()
        with scene.fault(f"soak: {' and '.join(pair)}"):
            for fault in [threads.submit(faults[kind]) for kind in pair]:
                fault.result()
            mended = time.monotonic()
        took = time.monotonic() - mended
        for kind, other in zip(pair, [*pair[1:], pair[0]], strict=True):
            recoveries[kind].append((took, "" if other == kind else other))
        counts = f"{scene.feed.confirmed:,} published: {scene.stored():,} events"
        letters = f"{scene.ledger.dead_letters():,} dead letters"
        report(f"... {took:.1f} s; {counts}, {letters}; {memory.look()}")
        wait_for(random.uniform(1, _QUIET))
        memory.look()


def _part(kind: str) -> str:
    return kind.partition(":")[0]


def page(minutes: float, counts: str, recoveries: Mapping[str, list[Recovery]], lives: list[str]) -> str:
    """Return the document about one run."""
    rows = "".join(
        f"| {name} | {len(found)} | {max(found)[0]:.1f} s | {max(found)[1]} |\n"
        for name, found in sorted(recoveries.items())
    )
    return (
        _HEAD.format(minutes=minutes, counts=counts)
        + rows
        + _MEMORY
        + "".join(f"- {line}\n" for line in lives)
    )


def report(text: str) -> None:
    """Print a line with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]))
