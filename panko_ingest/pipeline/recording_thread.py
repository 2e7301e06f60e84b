"""The thread that records batches of all buses in turn, and waits with them while the store is away."""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

from panko_ingest import dead_letter, timestamps
from panko_ingest.backoff import Backoff
from panko_ingest.batch import Batch
from panko_ingest.delivery import Delivery
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline.recording_queue import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Owner,
    Piece,
    RecordingQueue,
    parts,
)
from panko_ingest.shared_state import Slot
from panko_ingest.storage import Connection, RecordResult, Statistics, StorageUnavailable
from panko_ingest.storage.models import SALVAGED_KEY, DeadLetter, Event

LOG = logging.getLogger(__name__)

T = TypeVar("T")

_IDLE_PROBE = 15.0
_FINISH_POLL = 0.5
_SAY_AGAIN = 60.0
_SLOW = 10.0


class RecordingThread:
    """Records batches in the thread that calls :meth:`run`, the buses in turn.

    :param slot: where it leaves its signs of life, and which message it stores, in case it dies of that.
    :param most: messages of several batches that are recorded together at most.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        connection: Connection,
        metrics: Metrics,
        *,
        slot: Slot | None = None,
        most: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = metrics
        self.store_answers = False
        """Whether the store took the last batch, or answered the last question."""
        self.refusal: StorageUnavailable | None = None
        """Why the store does not take what it is given; None while it does."""
        self.gave_up = False
        """Whether nothing more is going to be recorded: what is left stays with the broker."""
        self._connection = connection
        self._slot = Slot() if slot is None else slot
        self._clock = clock
        self._submitted: SimpleQueue[tuple[Owner, Batch]] = SimpleQueue()
        self._wakeup = threading.Event()
        self._queue = RecordingQueue(most, clock)
        self._store_backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, clock)
        self._probe_at = 0.0
        self._busy_since: float | None = None
        self._has_nothing = True
        self._stopping = False
        self._finishing = False
        self._say_at = 0.0
        self._counted = Statistics()

    def is_ready_for(self, owner: Owner) -> bool:
        """Whether a batch would be recorded now: the store answers, in good time, and took the last one."""
        busy_since = self._busy_since
        return (
            self.store_answers
            and not self.refuses(owner)
            and (busy_since is None or self._clock() - busy_since < _SLOW)
        )

    def refuses(self, owner: Owner) -> bool:
        """Whether the store takes other batches, but not the last one of this bus."""
        return owner in self._queue.troubled

    @property
    def idle(self) -> bool:
        """Whether nothing of what was submitted waits for the store. Callable from any thread."""
        return self._has_nothing and self._submitted.empty()

    def submit(self, owner: Owner, batch: Batch) -> None:
        """Queue a batch; what the broker may send bounds how many there can be."""
        self._submitted.put((owner, batch))
        self._wakeup.set()

    def hurry(self) -> None:
        """Give up what the store does not take at once, for the process is to stop."""
        self._stopping = True
        self._wakeup.set()

    def finish(self) -> None:
        """Make :meth:`run` return when all that was submitted is done."""
        self._finishing = True
        self._wakeup.set()

    def run(self) -> None:
        """Record what is submitted, until :meth:`finish`; ask the store now and then when nothing is."""
        try:
            for pause in self.steps():
                if pause:
                    self._wakeup.wait(pause)
                    self._wakeup.clear()
        finally:
            self.gave_up = True  # or the buses would wait for ever for what is still queued

    def steps(self) -> Iterator[float]:
        """Do the work of :meth:`run`, step by step; yield the seconds to wait before the next one."""
        self._probe()
        while True:
            finishing = self._finishing  # before looking: what is submitted until then is to be recorded
            self._slot.beat()
            self._take_submitted()
            self._has_nothing = self._queue.empty
            pieces = self._queue.next() if self.store_answers else []
            if pieces:
                self._record(pieces)
                yield 0
            elif finishing and self._queue.empty:
                return
            elif self._stopping and not self._queue.empty:
                self.gave_up = True  # which the buses see, and end; the worker then finishes this thread
                if finishing:
                    return
                yield _FINISH_POLL
            elif pause := self._pause():
                yield pause
            else:
                self._probe()

    def _pause(self) -> float:
        """Return seconds until there is something to do unasked."""
        if not self.store_answers:
            return self._store_backoff.due_in
        until_probe = max(0.0, self._probe_at - self._clock())
        due_in = self._queue.due_in
        return until_probe if due_in is None else min(due_in, until_probe)

    def _take_submitted(self) -> None:
        while True:
            try:
                owner, batch = self._submitted.get_nowait()
            except Empty:
                return
            self._queue.add(owner, batch)

    def _probe(self) -> None:
        # What the store must learn before its first batch, it learns before that is here.
        refusal = self._ask(self._connection.prove_rows)
        self._probe_at = self._clock() + _IDLE_PROBE
        if refusal is None:
            self._store_backoff.succeeded()
        else:
            self._store_backoff.failed()
            self._say(refusal)
        self.store_answers = refusal is None
        self._note_troubles()

    def _note_troubles(self) -> None:
        working = self.store_answers and not self._queue.troubled
        if working:
            self.refusal = None
        self.metrics.store_away.set(not working)
        if working and self._say_at:
            self._say_at = 0.0  # the next outage is news again
            LOG.info("The event database takes events again")

    def _ask(self, work: Callable[[], T]) -> T | StorageUnavailable:
        """Return what the store answers, or why it does not: also what nobody foresaw ends no thread.

        To end would give back all that is in hand, again and again, which a quorum queue bears a few times.
        """
        try:
            return work()
        except StorageUnavailable as error:
            return error
        except Exception as error:  # noqa: BLE001 - told below
            unforeseen = error
        # Outside of the clause, where oslo.log would add the error's text once more.
        LOG.error("Unforeseen error of the event store", exc_info=unforeseen)
        return StorageUnavailable(f"unforeseen {type(unforeseen).__name__} (see the log)", operator=True)

    def _record(self, pieces: list[Piece]) -> None:
        self._busy_since = started = self._clock()
        with self._held(pieces):
            result = self._ask(lambda: self._store(pieces))
        if isinstance(result, StorageUnavailable):
            self._refuse(pieces, result)
        self._busy_since = None
        if isinstance(result, StorageUnavailable):
            return
        self._probe_at = self._clock() + _IDLE_PROBE
        self.metrics.record_seconds.observe(self._clock() - started)
        self.metrics.batch_messages.observe(sum(len(piece.batch.deliveries) for piece in pieces))
        for piece, result_of_piece in zip(pieces, parts(pieces, result), strict=True):
            self._count(piece, result_of_piece)
            if self._queue.accept(piece):
                self._settle(piece)
        self._note_troubles()
        self._count_storage()

    @contextlib.contextmanager
    def _held(self, pieces: list[Piece]) -> Iterator[None]:
        """Note down what is being stored, where it is one message that was delivered before."""
        batch = pieces[0].batch
        if len(pieces) == len(batch.deliveries) == 1 and batch.deliveries[0].redelivered:
            self._slot.hold(batch.deliveries[0].digest(), as_letter=bool(batch.dead_letters))
        yield
        self._slot.release()

    def _settle(self, piece: Piece) -> None:
        batch = piece.batch
        self.metrics.dropped.inc(batch.dropped)
        self.metrics.commit_seconds.observe(self._clock() - batch.handed_over_at)
        piece.waiting.owner.settle(batch)

    def _refuse(self, pieces: list[Piece], refusal: StorageUnavailable) -> None:
        """Find out whether the store is away, or takes but not this: then less of it is tried later."""
        self.metrics.store_retries.labels("operator" if refusal.operator else "unavailable").inc()
        self._say(refusal)
        self._probe()
        if self.store_answers:
            self._queue.refuse(pieces)
            self.refusal = refusal
            self._note_troubles()

    def _store(self, pieces: list[Piece]) -> RecordResult:
        events: list[Event] = []
        letters: list[DeadLetter] = []
        for piece in pieces:
            events += piece.batch.events[piece.events.start : piece.events.stop]
            letters += piece.batch.dead_letters[piece.letters.start : piece.letters.stop]

        def source(index: int) -> tuple[Batch, Delivery]:
            piece = next(piece for piece in reversed(pieces) if piece.events and piece.first <= index)
            return piece.batch, piece.batch.sources[piece.events[index - piece.first]]

        refused: dict[int, DeadLetter] = {}

        def on_failure(index: int, error: Exception) -> DeadLetter:
            event = events[index]
            refused[index] = dead_letter.from_delivery(
                source(index)[1],
                error,
                stage="record",
                message_id=event.message_id,
                event_type=event.event_type,
            )
            return refused[index]

        if not events and not letters:
            return RecordResult((), ())
        result = self._connection.record_events(events, letters, on_failure)
        # Not before: it is asked in each try of a transaction, and another one may store the event.
        for index, _ in result.failed:
            batch, delivery = source(index)
            delivery.is_dead = True
            batch.refused.append(refused[index])
        return result

    def _count(self, piece: Piece, result: RecordResult) -> None:
        metrics, batch = self.metrics, piece.batch
        metrics.recorded.inc(len(result.recorded))
        metrics.duplicates.inc(len(result.duplicates))
        stages = Counter(batch.dead_letters[index].stage for index in piece.letters)
        stages["record"] += len(result.failed)
        for stage, count in stages.items():
            metrics.dead_letters.labels(stage).inc(count)
        if result.recorded:
            oldest = min(batch.events[index].generated for index in result.recorded)
            metrics.lag_seconds.observe(timestamps.age(oldest))
        for index in piece.events:
            event = batch.events[index]
            if event.raw and SALVAGED_KEY in event.raw:
                for fault in event.raw[SALVAGED_KEY]:
                    metrics.count_salvaged(event.event_type, fault["trait"])

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
        if now.blockers_ended > before.blockers_ended:
            self.metrics.store_retries.labels("blocker").inc(now.blockers_ended - before.blockers_ended)

    # Called outside of except clauses: within one, oslo.log would add the error's text once more.
    def _say(self, error: StorageUnavailable) -> None:
        self.refusal = error
        now = self._clock()
        if now >= self._say_at:
            self._say_at = now + _SAY_AGAIN
            level = logging.ERROR if error.operator else logging.WARNING
            LOG.log(level, "Waiting for the event database: %s", error)
