"""The service that deletes what is older than its time to live."""

import datetime
import logging
import math
import random
import threading
import time
from collections.abc import Callable

from oslo_config import cfg

from panko_ingest.metrics import Metrics
from panko_ingest.storage import (
    ClockDoubted,
    Connection,
    ExpiryReport,
    StorageUnavailable,
    get_connection_from_config,
)
from panko_ingest.workers.live_config import Settings
from panko_ingest.workers.worker import Worker

LOG = logging.getLogger(__name__)

_TRY_AGAIN = 60.0
# One statement may take long, when it moves rows out of the last partition.
_HANG_LIMIT = 3600.0
_BEAT_INTERVAL = 5.0


class _Heartbeat(threading.Event):
    """Set when the daemon stops; a look at it, as expiry takes between two batches, is a sign of life."""

    def __init__(self, beat: Callable[[], None]) -> None:
        super().__init__()
        self._beat = beat

    def is_set(self) -> bool:
        """Return whether the daemon stops."""
        self._beat()
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the daemon stops, or so many seconds are over; return whether it stops."""
        until = time.monotonic() + (math.inf if timeout is None else timeout)
        while not self.is_set() and (left := until - time.monotonic()) > 0:
            super().wait(min(left, _BEAT_INTERVAL))
        return self.is_set()


class ExpirerService(Worker):
    """Runs one round of expiry every ``[expirer] interval``."""

    name = "expirer"

    @classmethod
    def number(cls, settings: Settings) -> int:
        """Return how many of this kind there are to be."""
        return 0 if settings.conf.command.only == "ingester" else 1

    def _prepare(self) -> None:
        self._slot = self._shared.service_slot(self.name)
        self._cannot_work = False
        self._say_doubt_at = 0.0
        self._stopping: _Heartbeat = _Heartbeat(lambda: self._slot.beat(not self._cannot_work))
        self._finished = threading.Event()

    def run(self) -> None:
        """Work until :meth:`terminate`."""
        self._occupy(self._slot, _HANG_LIMIT)
        try:
            self._work()
        finally:
            self._slot.clear()
            self._finished.set()

    def terminate(self) -> None:
        """Finish the transaction in hand, then return: the process ends right after."""
        self._stopping.set()
        self._finished.wait()

    def _work(self) -> None:
        interval = self._conf.expirer.interval
        metrics = self._shared_metrics.join(self.place(self.worker_id))
        connection = get_connection_from_config(self._conf, expires=True)
        # Hosts that were started together need not begin together.
        pause = random.uniform(0, min(interval, 10.0))
        while not self._stopping.wait(pause):
            started = time.monotonic()
            refusal: Exception | None = None
            try:
                report = run_round(connection, self._conf, _log, self._stopping, metrics)
            except Exception as error:  # noqa: BLE001 - a row that nobody foresaw must not end expiry for ever
                refusal = error
            else:
                # Who stood by looks soon again whether the one at work is still there.
                pause = interval - (time.monotonic() - started)
                pause = max(0.0, min(pause, _TRY_AGAIN) if report.stood_by else pause)
            self._cannot_work = refusal is not None
            if refusal is not None:  # outside of the clause, where oslo.log would add its text once more
                metrics.expiry_failures.inc()
                if isinstance(refusal, ClockDoubted):
                    self._say_doubt(refusal)
                elif isinstance(refusal, StorageUnavailable):
                    LOG.warning("Expiry has to wait for the event database: %s", refusal)
                else:
                    LOG.error("A round of expiry failed, and is tried again", exc_info=refusal)
                pause = min(interval, _TRY_AGAIN)
        connection.close()

    def _say_doubt(self, doubt: ClockDoubted) -> None:
        """Tell once in the time of a round: it is looked more often whether it has ended."""
        if time.monotonic() >= self._say_doubt_at:
            self._say_doubt_at = time.monotonic() + self._conf.expirer.interval
            LOG.error("Expiry deletes nothing: %s", doubt)


def _log(line: str) -> None:
    LOG.info("Expiry: %s", line)


def run_round(
    connection: Connection,
    conf: cfg.ConfigOpts,
    tell: Callable[[str], None],
    stopping: threading.Event | None = None,
    metrics: Metrics | None = None,
) -> ExpiryReport:
    """Delete every expired event and dead letter; return what was done about events.

    Where events can't be deleted dead letters are, before the failure of the events is raised.

    :param tell: is given a line of what was deleted of either, as soon as it is.
    :param stopping: ends the round between two batches when it is set.
    :raises ClockDoubted: nothing stored bears the time out; nothing was deleted.
    :raises StorageUnavailable: the store is away; what was deleted so far stays deleted.
    """

    def expire_letters() -> None:
        ttl = conf.expirer.dead_letter_time_to_live
        if ttl <= 0:
            return
        letters = connection.clear_expired_dead_letters(ttl, budget=conf.expirer.interval, stopping=stopping)
        if metrics is not None:
            metrics.expired.labels("dead_letters").inc(letters)
        tell(f"{letters} dead letters deleted")

    try:
        report = connection.expire(
            conf.database.event_time_to_live,
            batch_size=conf.database.events_delete_batch_size,
            budget=conf.expirer.interval,
            stopping=stopping,
        )
    except ClockDoubted:
        raise
    except Exception:
        expire_letters()  # whatever is wrong with events, dead letters are in a table of their own
        raise
    if metrics is not None:
        _count(metrics, report)
    tell(str(report))
    if not report.stood_by:
        expire_letters()
    return report


def _count(metrics: Metrics, report: ExpiryReport) -> None:
    metrics.expired.labels("events").inc(report.events)
    metrics.expired.labels("traits").inc(report.traits)
    metrics.expired_partitions.inc(len(report.partitions))
    if report.stood_by:
        return
    metrics.expiry_backlog.set(report.backlog)
    oldest = report.oldest.replace(tzinfo=datetime.UTC).timestamp() if report.oldest else 0.0
    metrics.oldest_event.set(oldest)
    metrics.expiry_seconds.observe(report.seconds)
    metrics.last_expiry.set(time.time())
