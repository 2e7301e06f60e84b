"""The whole way: from the first delivery out of a full queue to the last commit."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.rig import Rig, Rows, Sample, command
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.services import PostgreSQL

_LOOK = 0.05


def end_to_end(rig: Rig, workers: int | None, *, quorum: bool = True, release: Path | None = None) -> Sample:
    """Take a full queue into an empty database, by the daemon with its defaults.

    :param workers: how many; None for the default.
    :param release: the checkout of another release, whose daemon it is.
    """
    with rig.full_queue(quorum=quorum) as broker_url, rig.store(release) as url:
        return take(rig, [broker_url], url, len(rig.bodies), workers, release=release)


def take(
    rig: Rig,
    broker_urls: Sequence[str],
    url: str,
    count: int,
    workers: int | None,
    behind: int = 0,
    release: Path | None = None,
    options: str = "",
) -> Sample:
    """Run the daemon until it has stored what the queues of one or more buses hold.

    :param behind: id of the last event that was there before.
    :param options: more lines of [notification].
    """
    conf = configuration(
        rig.folder, broker_urls[0], url, rig.database_options + notification(broker_urls, workers) + options
    )
    rows = Rows(url, behind=behind)
    wal = _wal(rig)
    with Daemon(conf, "--only", "ingester", command=command(release)).running() as daemon:
        sample = clock(rig, broker_urls, rows, count, daemon.process)
        sample.more |= memory(daemon) | _database_figures(rig, url, count)
        if wal is not None:
            sample.more["wal_bytes_an_event"] = ((_wal(rig) or 0) - wal) / count
        daemon.stop()
    rows.close()
    return sample


def notification(broker_urls: Sequence[str], workers: int | None) -> str:
    """Return the lines of [notification] for these buses, and so many workers."""
    lines = [f"messaging_urls = {url}" for url in broker_urls]
    return "\n".join(["[notification]", *lines, *([f"workers = {workers}"] if workers else []), ""])


def memory(daemon: Daemon) -> dict[str, float]:
    """Return what the workers hold, shared pages counted in part: the largest, and all of them."""
    pss = [worker.memory_full_info().pss for worker in daemon.workers]
    return {"pss_bytes": max(pss), "pss_bytes_of_all": sum(pss), "workers": len(pss)}


def clock(rig: Rig, broker_urls: Sequence[str], rows: Rows, count: int, ours: psutil.Process) -> Sample:
    """Take the time from the first delivery to the last commit, while something stores messages.

    The queues are asked how much they hold, which costs next to nothing, and only when they are empty the
    database is asked how much it has.
    """
    with contextlib.ExitStack() as stack:
        buses = [stack.enter_context(Bus(url)) for url in broker_urls]
        while sum(bus.count() for bus in buses) == count:
            time.sleep(0.005)
        meter = rig.meter(ours)
        started = time.perf_counter()
        while any(bus.count() for bus in buses):
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
