"""The whole way: from the first delivery out of a full queue to the last commit."""

import time
from collections.abc import Callable

import psutil

from benchmarks.rig import Rig, Rows, Sample
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.services import PostgreSQL

_LOOK = 0.05
Watch = Callable[[int], None]
"""Is told now and then how many messages are still in the queue."""


def end_to_end(rig: Rig, workers: int | None) -> Sample:
    """Take a full queue into an empty database, by the daemon with its defaults.

    :param workers: how many; None for the default.
    """
    with rig.full_queue() as broker_url, rig.store() as url:
        return take(rig, broker_url, url, len(rig.bodies), workers)


def take(
    rig: Rig,
    broker_url: str,
    url: str,
    count: int,
    workers: int | None,
    behind: int = 0,
    watch: Callable[[Daemon, int], None] | None = None,
) -> Sample:
    """Run the daemon until it has stored a queue's messages.

    :param behind: id of the last event that was there before.
    :param watch: called with the daemon, and the messages left in the queue, every 50 ms.
    """
    chosen = "" if workers is None else f"[notification]\nworkers = {workers}\n"
    conf = configuration(rig.folder, broker_url, url, rig.database_options + chosen)
    rows = Rows(url, behind=behind)
    wal = _wal(rig)
    with Daemon(conf, "--only", "ingester").running() as daemon:

        def look(left: int) -> None:
            if watch:
                watch(daemon, left)

        sample = clock(rig, broker_url, rows, count, daemon.process, look)
        pss = [worker.memory_full_info().pss for worker in daemon.workers]
        sample.more |= {"pss_bytes": max(pss), "workers": len(pss), **_database_figures(rig, url, count)}
        if wal is not None:
            sample.more["wal_bytes_an_event"] = ((_wal(rig) or 0) - wal) / count
        daemon.stop()
    rows.close()
    return sample


def clock(
    rig: Rig, broker_url: str, rows: Rows, count: int, ours: psutil.Process, watch: Watch = lambda _: None
) -> Sample:
    """Take the time from the first delivery to the last commit, while something stores a queue's messages.

    The queue is asked how much it holds, which costs next to nothing, and only when it is empty the
    database is asked how much it has.
    """
    with Bus(broker_url) as bus:
        while bus.count() == count:
            time.sleep(0.005)
        meter = rig.meter(ours)
        started = time.perf_counter()
        while left := bus.count():
            watch(left)
            time.sleep(_LOOK)
        rows.wait_for(count, count / (time.perf_counter() - started))
        return meter.sample(count)


def _wal(rig: Rig) -> int | None:
    if not isinstance(rig.server, PostgreSQL):
        return None
    return int(rig.server.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")[0][0])


def _database_figures(rig: Rig, url: str, count: int) -> dict[str, float]:
    """Return what PostgreSQL says of the database: its connections, and its size without an empty one's."""
    if not isinstance(rig.server, PostgreSQL):
        return {}
    name = url.rpartition("/")[2]
    ((connections,),) = rig.server.execute(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'")
    ((size,),) = rig.server.execute(f"SELECT pg_database_size('{name}') - pg_database_size('template1')")
    # one connection is that of who counts rows
    return {"connections": float(connections - 1), "database_bytes_an_event": float(size) / count}
