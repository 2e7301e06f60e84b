"""Notices a store that keeps a worker's messages waiting, and says why, once."""

import contextlib
import logging
import time
from collections.abc import Callable

from panko_ingest import threads
from panko_ingest.deadline import Asked
from panko_ingest.metrics import Metrics
from panko_ingest.shared_metrics import Totals
from panko_ingest.storage import Connection
from panko_ingest.workers.awake import Awake

LOG = logging.getLogger(__name__)

SLOW = 5.0
"""Seconds that messages are in hand without one being committed, after which the log says so."""

_ANSWER_WITHIN = 3.0
_LONGEST_BETWEEN_LOOKS = 3.0


class StoreWatch:
    """Looks at what a worker has in hand, and asks the store for the cause when nothing of it is committed.

    :param totals: returns what the metrics of this worker add up to.
    :param idle: returns whether the store was given nothing that it has not taken.
    :param refusal: returns how the store refused what it was given last; None while it takes it.
    """

    def __init__(
        self,
        connection: Connection,
        metrics: Metrics,
        totals: Callable[[], Totals],
        idle: Callable[[], bool],
        refusal: Callable[[], Exception | None],
    ) -> None:
        self._connection = connection
        self._metrics = metrics
        self._totals = totals
        self._idle = idle
        self._refusal = refusal
        self._committed = -1.0
        self._since = self._idle_at = time.monotonic()
        self._told = self._told_idle = False
        self._awake = Awake(_LONGEST_BETWEEN_LOOKS)

    def look(self) -> None:
        """Look; called about once a second. It never waits for the store."""
        totals, now = self._totals(), time.monotonic()
        self._metrics.pool_in_use.set(self._connection.statistics().connections_in_use)
        committed, in_hand = totals["batch_messages_sum"], int(totals["messages_in_flight"])
        commits = committed != self._committed
        if commits or not in_hand:
            self._committed, self._since = committed, now
        silent = min(now - self._since, self._awake.seconds())
        self._metrics.unwritten_seconds.set(silent)
        if self._idle():
            self._idle_at = now
        if self._told and commits:  # or else what was in hand may have been given back
            self._told = False
            LOG.info("The event database takes what it was slow to take")
        if silent < SLOW:
            self._told_idle = False
        elif self._idle_at == now:
            self._tell_idle(totals, silent, in_hand)
        elif not self._told and now - self._idle_at >= SLOW:
            with contextlib.suppress(OSError):  # the next look tries again
                threads.start(self._tell, "cause", silent, in_hand)
                self._told = True

    def _tell_idle(self, totals: Totals, silent: float, in_hand: int) -> None:
        if self._told_idle:
            return
        self._told_idle = True
        buses = [bus for bus, count in totals.by_label("messages_in_flight").items() if count]
        LOG.warning(
            "Nothing was given to the event database for %.0f s, %d messages are in hand: those of %s are "
            "still converted, which takes long, or gather until [notification] batch_timeout",
            silent,
            in_hand,
            ", ".join(buses),
        )

    def _tell(self, silent: float, in_hand: int) -> None:
        LOG.warning(
            "Nothing was written to the event database for %.0f s, %d messages are in hand: %s",
            silent,
            in_hand,
            _cause(self._connection, self._refusal()),
        )


def _cause(connection: Connection, refusal: Exception | None) -> str:
    """Return in words why a store does not get on: its refusal, and who holds locks, if it tells in time."""
    asked = Asked("the database", connection.lock_waits, _ANSWER_WITHIN)
    waits = asked.answer() or ()
    causes = [str(cause) for cause in (refusal, *waits) if cause]
    return "; ".join(causes) or asked.error or "it answers, and no lock is seen: it is slow"
