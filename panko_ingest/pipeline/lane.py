"""The way of one bus's deliveries to the writer, and of the settled batches back."""

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from panko_ingest import timestamps
from panko_ingest.batch import Batch, Batcher
from panko_ingest.breaker import FloodBreaker
from panko_ingest.delivery import Delivery
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline.intake import Intake
from panko_ingest.pipeline.writer import Writer

LOG = logging.getLogger(__name__)

_SAY_AGAIN = 60.0
# Windows that must fit into max_bytes before a shrunk prefetch is doubled again.
_GROW_AFTER = 10
# Messages in a row that never came back, after which a death is over: each queue sends its own in turn.
_CALM = 10
_MEASURE_INTERVAL = 0.5


class Lane:
    """The way of one bus's deliveries to the writer, and of their settled batches back.

    Called from the thread of its bus only, except for what the writer calls.

    :param prefetch: unacknowledged messages that a queue may send.
    :param max_bytes: bytes in hand above which reading stops until all of them are settled.
    :param hold_limit: seconds that a batch may wait for the store before it is given back.
    :param bus: what the metrics call it.
    :param wake: ends the wait of the bus's thread.
    :param deaths: returns how many workers died so far.
    """

    def __init__(
        self,
        intake: Intake,
        batcher: Batcher,
        writer: Writer,
        breaker: FloodBreaker,
        metrics: Metrics,
        *,
        prefetch: int,
        max_bytes: int,
        hold_limit: float,
        bus: str = "",
        clock: Callable[[], float] = time.monotonic,
        wake: Callable[[], None] = lambda: None,
        deaths: Callable[[], int] = lambda: 0,
    ) -> None:
        self._intake = intake
        self._batcher = batcher
        self._writer = writer
        self._breaker = breaker
        self._metrics = metrics
        self._gauges = metrics.of_bus(bus)
        self._measure_at = 0.0
        self._window = 0
        self._full_prefetch = self._prefetch = prefetch
        self._max_bytes = max_bytes
        self._hold_limit = hold_limit
        self._clock = clock
        self.wake = wake
        self._deaths = deaths
        self._deaths_known = 0
        self._calm: int | None = None
        self.generation = 0
        self._outstanding: deque[Batch] = deque()
        self._settled: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        self._bytes = 0
        self._messages = 0
        self._pausing = False
        self._fitted = 0
        self._say_breaker_at = 0.0

    def ready(self) -> bool:
        """Whether a batch would be recorded now."""
        return self._writer.ready

    def probing(self) -> bool:
        """Whether reading is but a try now and then, as nearly everything became dead letters."""
        return self._breaker.open

    def reset(self, generation: int) -> None:
        """Forget all that is not committed: the broker delivers it again."""
        self.generation = generation
        self._batcher.take()
        self._outstanding.clear()
        self._bytes = self._messages = 0
        self._pausing = False
        while not self._settled.empty():
            self._settled.get()
        self._window = 0
        self._measure()

    def window(self) -> int:
        """Return how many unacknowledged messages a queue may send now."""
        self._window = self._allowed()
        return self._window

    def _allowed(self) -> int:
        if self._deaths() != self._deaths_known:
            self._deaths_known = self._deaths()
            self._take_care()
        if self._pausing:
            if self._messages:
                return 0
            self._pausing = False
        if self._breaker.open:
            self._say_breaker()
            return self._prefetch if self._breaker.probe_due else 0
        return self._prefetch

    def accept(self, delivery: Delivery) -> None:
        """Convert a delivery and put it into the batch."""
        self._bytes += len(delivery.body)
        self._messages += 1
        if self._calm is not None:
            self._regain_calm(delivery.returns)
        if len(self._batcher):
            self._intake.take(delivery, self._batcher)
        else:
            started = time.perf_counter()
            self._intake.take(delivery, self._batcher)
            self._metrics.convert_seconds.observe(time.perf_counter() - started)
        if self._batcher.full:
            self._hand_over()
        if self._bytes > self._max_bytes and not self._pausing:
            # As many as would have fitted, and room for bigger ones.
            self._shrink(min(self._full_prefetch, max(1, self._messages // 2)))
            LOG.info(
                "%d messages hold more than max_bytes_in_flight (%d bytes): reading on with a "
                "prefetch of %d when they are stored",
                self._messages,
                self._max_bytes,
                self._prefetch,
            )

    def turn(self, *, eager: bool) -> Sequence[Batch]:
        """Move things on; return the batches that were committed since the last turn.

        :param eager: nothing more is at hand, so an idle writer may get what there is.
        """
        filled = 0 < self._window <= len(self._batcher)  # the broker sends no more before there are acks
        if self._batcher.due or filled or (eager and self.waiting()):
            self._hand_over()
        settled = []
        while not self._settled.empty():
            batch = self._settled.get()
            if batch.generation != self.generation:
                continue
            self._outstanding.popleft()
            self._bytes -= batch.size
            self._messages -= len(batch.deliveries)
            self._grow(len(batch.deliveries))
            self._judge(batch)
            settled.append(batch)
        if self._clock() >= self._measure_at:
            self._measure()
        return settled

    def waiting(self) -> bool:
        """Whether an idle writer could take what is here."""
        # While the breaker is open a probe must be worth judging: it fills, or gets old.
        return len(self._batcher) > 0 and self._writer.idle and not self._breaker.open

    def must_release(self) -> bool:
        """Whether the oldest batch has waited for the store as long as it may."""
        return bool(self._outstanding) and self._clock() - self._outstanding[0].opened_at > self._hold_limit

    def flushed(self) -> bool:
        """Hand over what is left; return whether nothing is outstanding."""
        self._hand_over()
        return not self._outstanding or self._writer.gave_up

    def settle(self, batch: Batch) -> None:
        """Take back a batch that is committed. Called by the writer."""
        self._settled.put(batch)
        self.wake()

    def _hand_over(self) -> None:
        if not len(self._batcher):
            return
        batch = self._batcher.take()
        batch.handed_over_at = self._clock()
        self._metrics.received.inc(len(batch.deliveries))
        self._metrics.redelivered.inc(sum(delivery.redelivered for delivery in batch.deliveries))
        self._outstanding.append(batch)
        self._writer.submit(self, batch)

    def _take_care(self) -> None:
        """Read one by one what comes back after a death, as one of these the worker may have died of.

        A quorum queue counts what comes back, with all that was in hand beside it, and drops what did so
        too often. Here neighbours do no more than once for each worker.
        """
        if self._breaker.open:  # whose probes must be worth judging
            return
        if self._calm is None:
            self._shrink(1)
            LOG.info("A worker died: reading one by one what a quorum queue delivers again")
        self._calm = 0

    def _regain_calm(self, returns: int) -> None:
        # Not by doubling: each change of the prefetch makes a quorum queue count what is on its way.
        self._calm = 0 if returns else (self._calm or 0) + 1
        if self._calm == _CALM:
            self._calm = None
            self._prefetch = self._full_prefetch

    def _shrink(self, prefetch: int) -> None:
        """Read nothing until all in hand is settled, and then less at once."""
        self._pausing = True
        self._prefetch = prefetch
        self._fitted = 0

    def _grow(self, messages: int) -> None:
        """Let a prefetch that was shrunk grow back."""
        if self._prefetch == self._full_prefetch or self._pausing or self._calm is not None:
            return
        self._fitted += messages
        if self._fitted >= _GROW_AFTER * self._prefetch:
            self._fitted = 0
            self._prefetch = min(self._full_prefetch, 2 * self._prefetch)

    def _judge(self, batch: Batch) -> None:
        if self._breaker.record(len(batch.deliveries), batch.dead):
            self._gauges.breaker_open.set(self._breaker.open)
            if not self._breaker.open:
                LOG.warning("Dead letters are under the limit again: reading on")

    def in_hand(self) -> dict[str, Any]:
        """Return what is in hand, for a report. Callable from any thread."""
        return {
            "messages": self._messages,
            "bytes": self._bytes,
            "filling batch": len(self._batcher),
            "batches with the writer": [len(batch.deliveries) for batch in list(self._outstanding)],
            "prefetch": self._window,
            "flood breaker": "open" if self._breaker.open else "closed",
        }

    def _measure(self) -> None:
        """Bring the gauges up to date."""
        self._measure_at = self._clock() + _MEASURE_INTERVAL
        gauges = self._gauges
        gauges.prefetch.set(self._window)
        gauges.messages_in_flight.set(self._messages)
        gauges.bytes_in_flight.set(self._bytes)
        oldest = (self._outstanding[0] if self._outstanding else self._batcher.filling).oldest
        gauges.oldest_seconds.set(timestamps.age(oldest) if oldest else 0.0)

    def _say_breaker(self) -> None:
        if self._clock() >= self._say_breaker_at:
            self._say_breaker_at = self._clock() + _SAY_AGAIN
            LOG.error(
                "Nearly all of the last messages became dead letters ([notification] "
                "dead_letter_limit): taking one probing batch a minute. See `panko-ingest "
                "dead-letters list`"
            )
