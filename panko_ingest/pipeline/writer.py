"""The thread that records batches, and waits with them while the store is away."""

import logging
import queue
import threading
import time
from collections import Counter
from typing import Protocol

from panko_ingest import dead_letter, timestamps
from panko_ingest.backoff import pauses
from panko_ingest.batch import Batch
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline.halving import record_by_halves
from panko_ingest.storage import Connection, RecordResult, Statistics, StorageUnavailable
from panko_ingest.storage.models import SALVAGED_KEY, DeadLetter

LOG = logging.getLogger(__name__)

_FIRST_PAUSE = 0.2
_IDLE_PROBE = 15.0
_LONGEST_PAUSE = 15.0
_SAY_AGAIN = 60.0
_SLOW = 10.0


class Owner(Protocol):
    """Whose batches the writer records; called from the writer's thread."""

    generation: int
    """Batches of an older generation are not worth recording: they are delivered again."""

    def settle(self, batch: Batch) -> None:
        """Take back a batch that is committed."""

    def wake(self) -> None:
        """Notice that the writer is idle, or that a batch is back."""


class Writer:
    """Records batches, one after the other, in the thread that calls :meth:`run`."""

    def __init__(self, connection: Connection, metrics: Metrics) -> None:
        self.metrics = metrics
        self.store_answers = False
        """Whether the store took the last batch, or answered the last question."""
        self.gave_up = False
        """Whether nothing more is going to be recorded: what is left stays with the broker."""
        self._connection = connection
        self._jobs: queue.SimpleQueue[tuple[Owner, Batch] | None] = queue.SimpleQueue()
        self._submitted = 0
        self._done = 0
        self._busy_since: float | None = None
        self._stopping = threading.Event()
        self._say_at = 0.0
        self._counted = Statistics()

    @property
    def idle(self) -> bool:
        """Whether nothing is submitted that is not done."""
        return self._submitted == self._done

    @property
    def ready(self) -> bool:
        """Whether a batch would be recorded now: the store answers, and in good time."""
        busy_since = self._busy_since
        return self.store_answers and (busy_since is None or time.monotonic() - busy_since < _SLOW)

    def submit(self, owner: Owner, batch: Batch) -> None:
        """Queue a batch; the prefetch window bounds how many there can be."""
        self._submitted += 1
        self._jobs.put((owner, batch))

    def hurry(self) -> None:
        """Give up what the store does not take at once, for the process is to stop."""
        self._stopping.set()

    def finish(self) -> None:
        """Make :meth:`run` return when all that was submitted is done."""
        self._jobs.put(None)

    def run(self) -> None:
        """Record what is submitted, until :meth:`finish`; ask the store now and then when nothing is."""
        try:
            self._work()
        finally:
            self.gave_up = True  # or the buses would wait for ever for what is still queued

    def _work(self) -> None:
        waits = pauses(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._probe()
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE_PROBE if self.store_answers else next(waits))
            except queue.Empty:
                self._probe()
                continue
            if job is None:
                return
            owner, batch = job
            self._busy_since = time.monotonic()
            self._record(owner, batch)
            self._busy_since = None
            self._done += 1
            owner.wake()
            if self.store_answers:
                waits = pauses(_FIRST_PAUSE, _LONGEST_PAUSE)

    def _probe(self) -> None:
        refusal = None
        try:
            self._connection.ping()
            # What the store must learn before its first batch, it learns before that is here.
            self._connection.record_events(())
        except StorageUnavailable as error:
            refusal = error
        self.metrics.store_away.set(refusal is not None)
        self._note_answer(refusal is None)
        if refusal is not None:
            self._say(refusal)

    def _note_answer(self, answers: bool) -> None:
        if answers != self.store_answers:
            self.metrics.store_away.set(not answers)
        if answers and self._say_at:
            self._say_at = 0.0  # the next outage is news again
            LOG.info("The event database takes events again")
        self.store_answers = answers

    def _record(self, owner: Owner, batch: Batch) -> None:
        started = time.monotonic()
        for pause in pauses(_FIRST_PAUSE, _LONGEST_PAUSE):
            # A batch whose channel is gone comes again. But while the store is away it is the best
            # probe: a store that is full, or read-only, still answers questions.
            if batch.generation != owner.generation and self.store_answers:
                return
            try:
                result = self._store(batch)
            except StorageUnavailable as error:
                refusal = error
            else:
                self._note_answer(True)
                batch.dead = len(batch.dead_letters) + len(result.failed)
                self._count(batch, result, time.monotonic() - started)
                owner.settle(batch)
                return
            self._note_answer(False)
            self.metrics.store_retries.labels("operator" if refusal.operator else "unavailable").inc()
            self._say(refusal)
            if self._stopping.wait(pause):
                self.gave_up = True
                return

    def _store(self, batch: Batch) -> RecordResult:
        def on_failure(index: int, error: Exception) -> DeadLetter:
            event = batch.events[index]
            return dead_letter.from_delivery(
                batch.sources[index],
                error,
                stage="record",
                message_id=event.message_id,
                event_type=event.event_type,
            )

        try:
            return self._connection.record_events(batch.events, batch.dead_letters, on_failure)
        except StorageUnavailable:
            raise
        except Exception:
            LOG.exception(
                "Unexpected error while recording %d events: looking for those at fault", len(batch.events)
            )
            return record_by_halves(self._connection, batch.events, batch.dead_letters, on_failure)

    def _count(self, batch: Batch, result: RecordResult, seconds: float) -> None:
        metrics = self.metrics
        metrics.recorded.inc(len(result.recorded))
        metrics.duplicates.inc(len(result.duplicates))
        metrics.dropped.inc(batch.dropped)
        metrics.batch_messages.observe(len(batch.deliveries))
        metrics.record_seconds.observe(seconds)
        metrics.commit_seconds.observe(time.monotonic() - batch.handed_over_at)
        stages = Counter(letter.stage for letter in batch.dead_letters)
        stages["record"] += len(result.failed)
        for stage, count in stages.items():
            metrics.dead_letters.labels(stage).inc(count)
        if result.recorded:
            oldest = min(batch.events[index].generated for index in result.recorded)
            metrics.lag_seconds.observe(timestamps.age(oldest))
        for event in batch.events:
            if event.raw and SALVAGED_KEY in event.raw:
                for fault in event.raw[SALVAGED_KEY]:
                    metrics.count_salvaged(event.event_type, fault["trait"])
        self._count_storage()

    def _count_storage(self) -> None:
        """Add what happened within the storage since the last commit."""
        now, before = self._connection.statistics(), self._counted
        self._counted = now
        if now.salvaged > before.salvaged:
            self.metrics.salvaged.labels("record", "", "").inc(now.salvaged - before.salvaged)
        if now.conflicts > before.conflicts:
            self.metrics.store_retries.labels("conflict").inc(now.conflicts - before.conflicts)
        if now.reconnects > before.reconnects:
            self.metrics.store_retries.labels("reconnect").inc(now.reconnects - before.reconnects)

    # Called outside of except clauses: within one, oslo.log would add the error's text once more.
    def _say(self, error: StorageUnavailable) -> None:
        now = time.monotonic()
        if now >= self._say_at:
            self._say_at = now + _SAY_AGAIN
            level = logging.ERROR if error.operator else logging.WARNING
            LOG.log(level, "Waiting for the event database: %s", error)
