"""Random faults for as long as asked for, under load; counts at the end.

    python -m tests.faults.soak MINUTES

Publishes as many messages as make a million in an hour, through a broker and a PostgreSQL of its own,
and breaks something all the time. In the last third nothing ends a process of the daemon, so that what
is measured of their memory then covers their lives. Prints what it does, and writes docs/soak.md when
all is accounted for; exit code 1 if it is not.
"""

import contextlib
import itertools
import random
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import amqp
import psutil

from tests.bus import Bus
from tests.faults import poison
from tests.faults.breaking import at_rest, crash, kill_master, locked, memory_alarm, read_only, slots_taken
from tests.faults.long_scene import LongScene
from tests.faults.proxy import Proxy
from tests.faults.repeats import Repeats
from tests.faults.scene import Scene, bodies
from tests.services import PostgreSQL, RabbitMQ
from tests.waiting import wait_until

_PAGE = Path(__file__).parents[2] / "docs" / "soak.md"
_MESSAGES_A_MINUTE = 1_000_000 / 60
_HASTE = 1.25  # of that rate, as publishing stands still while the broker is broken
_QUIET = 15.0
_CONSUMER_TIMEOUT = 60
_MORE = f"""\
[notification]
consumer_timeout = {_CONSUMER_TIMEOUT}
[database]
statement_timeout = 10
lock_timeout = 3
"""
_GROWTH = 1.15
_GRAINS = 4 * 2**20
_LEAST_LOOKS = 10
_DRAINING = 600.0  # seconds for what piled up
_RENEWAL = 60.0  # within which workers that were killed, or told to read the configuration, are new ones


_HEAD = """\
# The last soak

`make soak` broke things at random for {minutes:.0f} minutes while messages were published. All ended as they
should: {counts}, each event with all its traits, nothing twice, nothing left on the queue.

*Recovery* is the longest time from the end of a fault until the next event is stored.

| fault | times | recovery |
|---|---:|---:|
"""
_MEMORY = """
Resident memory of each process in the last third of the run, in which none was ended: the most in the
first half of that time, and in the second.

"""


class Soak:
    """The scene of a soak, and the ways to break it."""

    def __init__(
        self, scene: Scene, broker: RabbitMQ, database: PostgreSQL, ways: tuple[Proxy, Proxy]
    ) -> None:
        self.scene = scene
        self.broker = broker
        self.database = database
        self.to_broker, self.to_database = ways
        self._rounds = itertools.count()

    def deadly_faults(self) -> dict[str, Callable[[], object]]:
        """Return what ends processes of the daemon, or makes them end."""
        daemon = self.scene.daemon
        return {
            "a worker killed": lambda: random.choice(self._workers()).kill(),
            "the master killed": lambda: kill_master(daemon),
            "the configuration read again": lambda: daemon.signal(signal.SIGHUP),
        }

    def other_faults(self) -> dict[str, Callable[[], object]]:
        """Return what the daemon is to live through."""
        return {
            "poison among the messages": self._poison,
            "broker: restarted": self.broker.restart,
            "broker: killed": lambda: crash(self.broker),
            "broker: connections closed by an administrator": self._close_connections,
            "broker: queue deleted and made again": self._lose_queue,
            "broker: a memory alarm": self._alarm,
            "broker: connections cut": self.to_broker.cut,
            "broker: connections cut in mid-frame": lambda: self._cut_after(self.to_broker, 70_001),
            "broker: connections half-open": self.to_broker.silence,
            "broker: 100 ms of latency for 5 s": lambda: self._slow(self.to_broker, 0.1),
            "database: restarted": self.database.restart,
            "database: killed": lambda: crash(self.database),
            f"database: away for {_CONSUMER_TIMEOUT} s, as long as the consumer_timeout": self._long_outage,
            "database: read-only": self._refuse,
            "database: a table locked for 10 s": self._lock,
            "database: all connection slots taken": self._take_slots,
            "database: connections cut": self.to_database.cut,
            "database: connections cut in mid-answer": lambda: self._cut_after(self.to_database, 5),
            "database: connections half-open": self.to_database.silence,
            "database: 50 ms of latency for 5 s": lambda: self._slow(self.to_database, 0.05),
            "database: the answer to a COMMIT cut off": self._swallow,
        }

    def _workers(self) -> list[psutil.Process]:
        return wait_until(lambda: self.scene.daemon.workers, 60, "a worker")

    def _poison(self) -> None:
        bad = poison.bodies()
        # The type is part of what tells dead letters apart; so each round makes new ones.
        kind = f"application/json; round={next(self._rounds)}"

        def publish() -> bool:
            with contextlib.suppress(amqp.AMQPError, OSError), Bus(self.broker.url) as bus:
                return bool(bus.publish(bad, content_type=kind))
            return False

        wait_until(publish, 60, "a broker that takes poison", interval=1)
        self.scene.dead += len(bad)

    def _close_connections(self) -> None:
        self.broker.ctl("close_all_connections", "closed by a test")

    def _lose_queue(self) -> None:
        scene = self.scene
        scene.feed.pause()

        def all_stored() -> bool:
            return scene.stored() >= scene.feed.confirmed and scene.ledger.dead_letters() >= scene.dead

        scene.wait_for(all_stored, _DRAINING, "an empty queue")
        with Bus(self.broker.url) as bus:
            bus.delete()
            wait_for(2)
            bus.declare()
        scene.feed.resume()

    def _alarm(self) -> None:
        with memory_alarm(self.broker):
            wait_until(lambda: at_rest(lambda: self.scene.feed.confirmed), 60, "blocked publishers")

    def _long_outage(self) -> None:
        self.database.stop()
        wait_for(_CONSUMER_TIMEOUT)
        self.database.start()

    def _refuse(self) -> None:
        with read_only(self.database, self.scene.ledger.url):
            wait_for(5)

    def _lock(self) -> None:
        with locked(self.scene.ledger.url):
            wait_for(10)

    def _take_slots(self) -> None:
        over = time.monotonic() + 5
        with slots_taken(self.scene.ledger.url, lambda: time.monotonic() > over):
            pass

    @staticmethod
    def _cut_after(way: Proxy, size: int) -> None:
        before = way.cuts
        way.cut_after(size)
        wait_until(lambda: way.cuts > before, 60, "a cut")

    @staticmethod
    def _slow(way: Proxy, seconds: float) -> None:
        way.latency = seconds
        wait_for(5)
        way.latency = 0.0

    def _swallow(self) -> None:
        before = self.to_database.swallowed
        self.to_database.swallow_answer_to(b"COMMIT")
        wait_until(lambda: self.to_database.swallowed > before, 60, "a COMMIT")


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
    with scene_of_soak(messages) as soak:
        scene, memory = soak.scene, Memory(soak.scene)
        recoveries: dict[str, list[float]] = defaultdict(list)
        with scene.running():
            memory.begin()
            faults = {**soak.deadly_faults(), **soak.other_faults()}
            break_until(lambda: scene.feed.confirmed > messages * 0.6, soak, faults, memory, recoveries)
            all_renewed = time.monotonic() + _RENEWAL
            break_until(
                lambda: time.monotonic() > all_renewed and scene.feed.confirmed > messages * 2 / 3,
                soak,
                soak.other_faults(),
                memory,
                recoveries,
            )
            memory.begin()
            break_until(
                lambda: scene.feed.confirmed > messages and memory.looks >= _LEAST_LOOKS,
                soak,
                soak.other_faults(),
                memory,
                recoveries,
            )
            lives = memory.verdict()
        counts = f"{scene.ledger.events():,} events and {scene.ledger.dead_letters():,} dead letters"
    elapsed = (time.monotonic() - started) / 60
    _PAGE.write_text(page(elapsed, counts, recoveries, lives))
    report(f"{counts}: each message is accounted for once. {'; '.join(lives)}")


@contextlib.contextmanager
def scene_of_soak(messages: int) -> Iterator[Soak]:
    """Start a broker, a database, and proxies before both."""
    with (
        tempfile.TemporaryDirectory() as folder,
        RabbitMQ({"consumer_timeout": str(_CONSUMER_TIMEOUT * 1000)}) as broker,
        PostgreSQL() as database,
        Proxy(broker.port) as to_broker,
        Proxy(database.port) as to_database,
    ):
        url = database.create_database()
        scene = LongScene(
            Path(folder),
            broker.url,
            url,
            through=(to_broker.url(broker.url) + "?heartbeat=5", to_database.url(url)),
            more=_MORE,
            rate=messages * _HASTE / (messages / _MESSAGES_A_MINUTE * 60),
            load=Repeats(bodies(10_000), 2 * messages + 100_000),
            look_every=1.0,
            patience=300,
        )
        yield Soak(scene, broker, database, (to_broker, to_database))


def break_until(
    over: Callable[[], bool],
    soak: Soak,
    faults: Mapping[str, Callable[[], object]],
    memory: Memory,
    recoveries: dict[str, list[float]],
) -> None:
    """Break one thing after the other, all of them before any again, until it is over."""
    scene = soak.scene
    kinds: list[str] = []
    while not over():
        kinds = kinds or random.sample(list(faults), len(faults))
        name = kinds.pop()
        report(f"{name} ...")
        mended = time.monotonic()
        with scene.fault(f"soak: {name}"):
            faults[name]()
            mended = time.monotonic()
        recoveries[name].append(time.monotonic() - mended)
        counts = f"{scene.stored():,} events, {scene.ledger.dead_letters():,} dead letters"
        report(
            f"... {recoveries[name][-1]:.1f} s; {scene.feed.confirmed:,} published: {counts}; {memory.look()}"
        )
        wait_for(random.uniform(1, _QUIET))
        memory.look()


def wait_for(seconds: float) -> None:
    """Let time go by."""
    threading.Event().wait(seconds)


def page(minutes: float, counts: str, recoveries: Mapping[str, list[float]], lives: list[str]) -> str:
    """Return the document about one run."""
    rows = "".join(
        f"| {name} | {len(seconds)} | {max(seconds):.1f} s |\n"
        for name, seconds in sorted(recoveries.items())
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
