"""What becomes of the rate as a store fills, and of memory as a backlog is worked off."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil
import psycopg

from benchmarks.end_to_end import take
from benchmarks.rig import Rig, Sample, bodies
from benchmarks.storage import TRAIT_TABLES
from tests.daemon import Daemon

_EVERY = 1.0
"""Seconds between two looks at memory: each costs a few milliseconds of processor."""

_SETTLED = 0.2
"""Share of a backlog after which memory should no longer grow: batches have reached their size by then."""


def backlog(rig: Rig, count: int, workers: int | None) -> Sample:
    """Work off a queue of that length; the sample tells PSS of the largest worker on the way.

    ``pss_settled_bytes`` is that after the first fifth, ``pss_end_bytes`` at the end, ``pss_bytes`` the most.
    """
    sizes: list[tuple[float, float]] = []
    looked = 0.0

    def watch(daemon: Daemon, left: int) -> None:
        nonlocal looked
        if time.monotonic() - looked > _EVERY:
            looked = time.monotonic()
            sizes.append((1 - left / count, _pss(daemon.workers)))

    with rig.full_queue(bodies(count)) as broker_url, rig.store() as url:
        sample = take(rig, broker_url, url, count, workers, watch=watch)
    sizes.append((1.0, sample.more["pss_bytes"]))
    settled = [size for done, size in sizes if done >= _SETTLED]
    sample.more |= {
        "pss_settled_bytes": settled[0],
        "pss_end_bytes": settled[-1],
        "pss_bytes": max(size for _, size in sizes),
    }
    return sample


def _pss(workers: Sequence[psutil.Process]) -> float:
    return float(max((worker.memory_full_info().pss for worker in workers), default=0))


def stored(rig: Rig, url: str, count: int, seed: int, workers: int | None) -> Sample:
    """Take messages that were not seen yet into a database that holds events already."""
    behind = last_id(url)
    with rig.full_queue(bodies(count, seed)) as broker_url:
        return take(rig, broker_url, url, count, workers, behind)


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
            for table in TRAIT_TABLES:
                connection.execute(
                    f"INSERT INTO {table} (event_id, key, value) "
                    f"SELECT event_id + %(shift)s, key, value FROM {table} WHERE event_id <= %(base)s",
                    words,
                )
