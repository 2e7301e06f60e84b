"""What becomes of the rate as a store fills, and of memory as a backlog is worked off."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import amqp
import psutil
import psycopg

from benchmarks.end_to_end import take
from benchmarks.latency import EXCHANGE
from benchmarks.rig import QUEUE, Rig, Sample, bodies
from panko_ingest.storage.tables import EVENT_TABLES
from tests.bus import Bus
from tests.daemon import Daemon, configuration

_SPAWN = multiprocessing.get_context("spawn")
_LOOK = 0.05
_ARRIVING_SEED = 90
_LONGEST = 120.0
"""Seconds for which messages arrive at most."""

_EVERY = 1.0
"""Seconds between two looks at memory: each costs a few milliseconds of processor."""

_SETTLED = 0.2
"""Share of a backlog after which memory should no longer grow: batches have reached their size by then."""


def backlog(rig: Rig, count: int, arriving: float = 0.0) -> Sample:
    """Drain a queue of that length while so many more arrive a second, until but a second's are left.

    ``events`` are all that were taken meanwhile. The sample tells PSS of the largest worker on the way:
    ``pss_settled_bytes`` is that after the first fifth, ``pss_end_bytes`` at the end, ``pss_bytes`` the most.
    """
    sizes: list[tuple[float, float]] = []
    looked = 0.0
    with rig.full_queue(bodies(count)) as broker_url, rig.store() as url, Bus(broker_url) as bus:
        conf = configuration(rig.folder, broker_url, url)
        with (
            arrivals(broker_url, arriving) as arrived,
            Daemon(conf, "--only", "ingester").running() as daemon,
        ):
            # Its length tells nothing of the first delivery where messages arrive.
            while not bus.consumers():
                time.sleep(0.005)
            before = count + arrived.value
            meter = rig.meter(daemon.process)
            while (left := bus.count()) > arriving:
                if time.monotonic() - looked > _EVERY:
                    looked = time.monotonic()
                    sizes.append((1 - left / count, _pss(daemon.workers)))
                time.sleep(_LOOK)
            sample = meter.sample(count + arrived.value - left)
            sizes.append((1.0, _pss(daemon.workers)))
    settled = [size for done, size in sizes if done >= _SETTLED]
    sample.more |= {
        "pss_settled_bytes": settled[0],
        "pss_end_bytes": settled[-1],
        "pss_bytes": max(size for _, size in sizes),
        "arrived": float(count + arrived.value - before),
    }
    return sample


@contextlib.contextmanager
def arrivals(url: str, rate: float) -> Iterator[Any]:
    """Have a process of its own publish at a steady rate; yields the number that it has published."""
    number = _SPAWN.Value("l", 0)
    publisher = _SPAWN.Process(target=_publish, args=(number, url, rate), daemon=True)
    if rate:
        publisher.start()
        while not number.value:
            time.sleep(0.01)
    try:
        yield number
    finally:
        if rate:
            publisher.kill()
            publisher.join()


def _publish(number: Any, url: str, rate: float) -> None:
    load = list(bodies(int(rate * _LONGEST), seed=_ARRIVING_SEED))
    with Bus(url) as bus:
        channel = bus.channel()
        started = time.perf_counter()
        for place, body in enumerate(load):
            time.sleep(max(0.0, started + place / rate - time.perf_counter()))
            message = amqp.Message(body, content_type="application/json", delivery_mode=2)
            channel.basic_publish(message, exchange=EXCHANGE, routing_key=QUEUE)
            number.value = place + 1


def _pss(workers: Sequence[psutil.Process]) -> float:
    return float(max((worker.memory_full_info().pss for worker in workers), default=0))


def stored(rig: Rig, url: str, count: int, seed: int, workers: int | None, options: str = "") -> Sample:
    """Take messages that were not seen yet into a database that holds events already.

    :param options: more lines of [notification].
    """
    behind = last_id(url)
    with rig.full_queue(bodies(count, seed)) as broker_url:
        return take(rig, [broker_url], url, count, workers, behind, options=options)


def last_id(url: str) -> int:
    """Return the highest id of an event in PostgreSQL, 0 where there is none."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()
    return int(row[0]) if row else 0


class Filler:
    """Fills PostgreSQL with copies of the events that it has, each a day older, as fast as it takes them.

    The copies are made inside the database and references aren't checked, for they are known to hold.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._base = last_id(url)
        self._copies = 0

    def fill(self, count: int) -> float:
        """Add copies until this has made so many events; return events/s."""
        started = time.perf_counter()
        behind = last_id(self._url)
        first, last = self._copies + 1, max(self._copies, count // self._base - 1)
        shifts = {copy: behind + (copy - first) * self._base for copy in range(first, last + 1)}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done in [pool.submit(self._copy, copy, shift) for copy, shift in shifts.items()]:
                done.result()
        self._copies = last
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("SELECT setval('event_id_seq', (SELECT max(id) FROM event))")
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")
        return len(shifts) * self._base / (time.perf_counter() - started)

    def _copy(self, copy: int, shift: int) -> None:
        words = {"shift": shift, "days": copy, "base": self._base}
        with psycopg.connect(self._url, prepare_threshold=None) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(
                "INSERT INTO event (id, message_id, generated, raw, event_type_id) "
                "SELECT id + %(shift)s, md5(message_id || %(days)s::text)::uuid::text, "
                "generated - make_interval(days => %(days)s), raw, event_type_id "
                "FROM event WHERE id <= %(base)s",
                words,
            )
            for table in EVENT_TABLES[1:]:
                connection.execute(
                    f"INSERT INTO {table} (event_id, key, value) "
                    f"SELECT event_id + %(shift)s, key, value FROM {table} WHERE event_id <= %(base)s",
                    words,
                )
