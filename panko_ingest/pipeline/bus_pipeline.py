"""The way of one bus's deliveries to the recording thread, and of the settled batches back."""

import logging
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from panko_ingest import timestamps
from panko_ingest.batch import Batch, Batcher
from panko_ingest.breaker import HOUR, FloodBreaker, Tally
from panko_ingest.dead_letter import KeptBytes
from panko_ingest.delivery import Delivery
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline.flow_control import FlowControl
from panko_ingest.pipeline.processor import MessageProcessor
from panko_ingest.pipeline.recording_thread import RecordingThread
from panko_ingest.pipeline.solitude import Solitude

LOG = logging.getLogger(__name__)

_SAY_AGAIN = 60.0
_SAY_LARGE = 0.25  # of the dead letters that an hour may bring
_MEASURE_INTERVAL = 0.5
_NEAR_LIMIT = 10  # returns of a message, of the 20 that RabbitMQ 4 allows


class _LaidAside(NamedTuple):
    """A delivery that waits until it may be taken, since when, and whether a worker may have died of it."""

    delivery: Delivery
    since: float
    is_suspect: bool


class BusPipeline:
    """The way of one bus's deliveries to the recording thread, and of their settled batches back.

    Called from the thread of its bus only, except for what the recording thread calls.

    :param flow: says how much may be in hand.
    :param hold_limit: seconds that a batch may wait for the store before it is given back.
    :param solitude: that of the worker: what it may die of is handled when there is nothing else in hand.
    :param bus: what the metrics call it.
    """

    def __init__(
        self,
        processor: MessageProcessor,
        batcher: Batcher,
        flow: FlowControl,
        recording: RecordingThread,
        breaker: FloodBreaker,
        metrics: Metrics,
        *,
        hold_limit: float,
        solitude: Solitude | None = None,
        bus: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._processor = processor
        self._batcher = batcher
        self._flow = flow
        self._recording = recording
        self._breaker = breaker
        self._metrics = metrics
        self._bus = bus
        self._gauges = metrics.of_bus(bus)
        self._measure_at = 0.0
        self._hold_limit = hold_limit
        self._clock = clock
        self._wake: Callable[[], None] = lambda: None
        self.session = 0
        self._outstanding: deque[Batch] = deque()
        self._settled: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        self._kept = KeptBytes()
        self._say_breaker_at = 0.0
        self._say_large_at = 0.0
        self._was_open = False
        self._accepting = False
        self._laid_aside: deque[_LaidAside] = deque()
        self._solitude = Solitude(clock) if solitude is None else solitude
        self._solitude.join(self)

    @property
    def idle(self) -> bool:
        """Whether nothing is in hand, apart from what is laid aside. Callable from any thread."""
        return not self._accepting and not self._flow.messages

    def call_when_settled(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called by the recording thread whenever it has committed a batch of this bus."""
        self._wake = wake

    def ready(self) -> bool:
        """Whether a batch would be recorded now."""
        return self._recording.is_ready_for(self)

    def probing(self) -> bool:
        """Whether reading is only a try now and then, as nearly everything became dead letters."""
        return self._breaker.open

    def reset(self) -> None:
        """Forget all that is not committed: the broker delivers it again, in another session."""
        self.session += 1
        self._batcher.take()
        self._outstanding.clear()
        self._laid_aside.clear()
        self._flow.reset()
        self._solitude.leave(self)
        while not self._settled.empty():
            self._settled.get()
        self._measure()

    def opened(self, queue: str) -> None:
        """Take note that a queue is read over a new channel from now on."""
        self._flow.opened(queue)

    def prefetch(self, queue: str) -> int:
        """Return how many unacknowledged messages a queue may send now."""
        prefetch = self._flow.prefetch(queue)
        if self._laid_aside or self._solitude.is_wanted:
            return 0
        if self._breaker.open:
            self._say_breaker()
            return prefetch if self._breaker.probe_due else 0
        return prefetch

    def following(self, queue: str, prefetch: int) -> None:
        """Take note of how many the broker was told that a queue may send."""
        self._flow.following(queue, prefetch)

    def accept(self, delivery: Delivery) -> None:
        """Take a delivery: convert it and put it into the batch, unless that would endanger others."""
        self._accepting = True  # before looking at the others, who look at this before they begin
        if not delivery.redelivered and self._solitude.had_by is None:
            self._take(delivery)
        elif (is_suspect := self._processor.suspects(delivery)) or self._solitude.had_by is not None:
            self._laid_aside.append(_LaidAside(delivery, self._clock(), is_suspect))
        else:
            self._take(delivery, alone=self._flow.after_death)
        self._accepting = False

    def _take_what_was_laid_aside(self) -> None:
        """Take suspects one by one, alone, and what only came while a bus was alone as anything else."""
        while self._laid_aside:
            first = self._laid_aside[0]
            if first.is_suspect:
                if self.idle and self._solitude.ask(self):
                    self._take(self._laid_aside.popleft().delivery, alone=True, since=first.since)
                return
            if self.idle:
                self._solitude.leave(self)
            self._accepting = True
            may_be_taken = self._solitude.had_by is None
            if may_be_taken:
                self._laid_aside.popleft()
                alone = first.delivery.redelivered and self._flow.after_death
                self._take(first.delivery, alone=alone, since=first.since)
            self._accepting = False
            if not may_be_taken:
                return

    def _take(self, delivery: Delivery, *, alone: bool = False, since: float | None = None) -> None:
        """Convert a delivery and put it into the batch.

        :param alone: whether that is one of its own.
        :param since: when it came, where it was laid aside since.
        """
        if alone:
            self._hand_over()
        started = 0.0 if self._batcher.filling.deliveries else time.perf_counter()
        outcome = self._processor.process(delivery)
        if started:
            self._metrics.convert_seconds.observe(time.perf_counter() - started)
        is_full = self._batcher.add(delivery, outcome)
        if since is not None:
            self._batcher.filling.opened_at = min(self._batcher.filling.opened_at, since)
        returns = delivery.returns
        if returns >= _NEAR_LIMIT:
            self._metrics.near_limit.inc()
        exceeded = self._flow.received(delivery.queue, delivery.bytes_held, returns, delivery.redelivered)
        if is_full or alone:
            self._batcher.filling.alone = alone
            self._hand_over()
        if exceeded:
            LOG.info(
                "%d messages of %s hold %d bytes, more than their part of max_bytes_in_flight: reading on "
                "with fewer at once when they are stored",
                self._flow.messages,
                self._bus or "the bus",
                self._flow.bytes,
            )

    def poll(self, *, eager: bool) -> Sequence[Batch]:
        """Move things on; return the batches that were committed since the last poll.

        :param eager: nothing more is at hand, so an idle recording thread may get what there is.
        """
        if self._batcher.due or self._flow.waits_for_acks or (eager and self._batch_may_go()):
            self._hand_over()
        settled = []
        while not self._settled.empty():
            batch = self._settled.get()
            if batch.session != self.session:
                continue
            self._outstanding.popleft()
            self._flow.settled(Counter(delivery.queue for delivery in batch.deliveries), batch.size)
            self._judge(batch)
            settled.append(batch)
        if eager and self._laid_aside:
            self._take_what_was_laid_aside()
        # What the store takes of others, but not of this bus, would keep these waiting.
        is_through = self.idle and not self._laid_aside
        if self._solitude.is_wanted and (is_through or self._recording.refuses(self)):
            self._solitude.leave(self)
        if self._clock() >= self._measure_at:
            self._measure()
        return settled

    def waiting(self) -> bool:
        """Whether what is here may go on at once."""
        return self._batch_may_go() or self._laid_aside_may_go()

    def _laid_aside_may_go(self) -> bool:
        if not self._laid_aside:
            return False
        if self._laid_aside[0].is_suspect:
            return self.idle and self._solitude.may_ask(self)
        return self._solitude.had_by in (None, self) and self.idle

    def _batch_may_go(self) -> bool:
        """Whether the batch may go, as the recording thread has nothing of this bus."""
        # While the breaker is open a probe must be worth judging: it fills, or gets old.
        return len(self._batcher) > 0 and not self._outstanding and not self._breaker.open

    def must_give_back(self) -> bool:
        """Whether the oldest batch, or what was laid aside, has waited for the store as long as it may."""
        since = [self._outstanding[0].opened_at] if self._outstanding else []
        since += [self._laid_aside[0].since] if self._laid_aside else []
        return bool(since) and self._clock() - min(since) > self._hold_limit

    def flush(self) -> bool:
        """Hand over what is left; return whether nothing is outstanding."""
        self._laid_aside.clear()
        self._hand_over()
        return not self._outstanding or self._recording.gave_up

    def settle(self, batch: Batch) -> None:
        """Take back a batch that is committed. Called by the recording thread."""
        self._settled.put(batch)
        self._wake()

    def _hand_over(self) -> None:
        if not len(self._batcher):
            return
        batch = self._batcher.take()
        batch.handed_over_at = self._clock()
        batch.session = self.session
        self._metrics.received.inc(len(batch.deliveries))
        self._metrics.redelivered.inc(sum(delivery.redelivered for delivery in batch.deliveries))
        self._outstanding.append(batch)
        self._recording.submit(self, batch)

    def _judge(self, batch: Batch) -> None:
        breaker = self._breaker
        good = [one.source for one in batch.deliveries if not one.is_dead]
        dead = [one.source for one in batch.deliveries if one.is_dead]
        kept = sum(map(self._kept.of, (*batch.dead_letters, *batch.refused)))
        breaker.record(Tally(good, dead, kept))
        if breaker.share_of_hourly_bytes > _SAY_LARGE and self._clock() >= self._say_large_at:
            self._say_large_at = self._clock() + HOUR
            LOG.warning(
                "%s: the dead letters of this hour take %.0f %% of [notification] dead_letter_hourly_bytes, "
                "at which reading all but stops. See `panko-ingest dead-letters list`",
                self._bus,
                100 * breaker.share_of_hourly_bytes,
            )

    def in_hand(self) -> dict[str, Any]:
        """Return what is in hand, for a report. Callable from any thread."""
        return {
            "messages": self._flow.messages,
            "bytes": self._flow.bytes,
            "laid aside": len(self._laid_aside),
            "filling batch": len(self._batcher),
            "batches with the recording thread": [len(batch.deliveries) for batch in list(self._outstanding)],
            "prefetch": self._flow.prefetches,
            "flood breaker": "open" if self._breaker.open else "closed",
        }

    def _measure(self) -> None:
        """Bring the gauges up to date."""
        self._measure_at = self._clock() + _MEASURE_INTERVAL
        gauges = self._gauges
        gauges.breaker_open.set(self._breaker.open)
        gauges.not_stored.set(self._recording.refuses(self))
        if self._was_open and not self._breaker.open:
            LOG.warning("%s: dead letters are under the limit again, or nothing comes: reading on", self._bus)
        self._was_open = self._breaker.open
        gauges.prefetch.set(max(self._flow.prefetches.values(), default=0))
        gauges.messages_in_flight.set(self._flow.messages)
        gauges.bytes_in_flight.set(self._flow.bytes)
        oldest = (self._outstanding[0] if self._outstanding else self._batcher.filling).oldest
        gauges.oldest_seconds.set(timestamps.age(oldest) if oldest else 0.0)

    def _say_breaker(self) -> None:
        if self._clock() >= self._say_breaker_at:
            self._say_breaker_at = self._clock() + _SAY_AGAIN
            LOG.error(
                "%s: %s: taking one probing batch a minute. See `panko-ingest dead-letters list`",
                self._bus,
                "The dead letters of this hour are larger than [notification] dead_letter_hourly_bytes"
                if self._breaker.too_large
                else "Nearly all of the last messages became dead letters ([notification] dead_letter_limit)",
            )
