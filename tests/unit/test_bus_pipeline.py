"""The way of deliveries to the recording thread and back, with a store that does as it is told."""

import datetime
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from random import Random

import pytest

from panko_ingest import storage
from panko_ingest.batch import Batcher
from panko_ingest.breaker import FloodBreaker
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.delivery import Delivery
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline import Budget, BusPipeline, FlowControl, MessageProcessor, RecordingThread
from panko_ingest.storage import RecordResult, StorageError, StorageUnavailable
from panko_ingest.storage.models import DeadLetter, Event
from tests.unit.clock import Clock
from tests.waiting import wait_until

QUEUE = "notifications.info"


class Store:
    """Takes what it is given while it is open; refuses one message_id where told to."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.away = False
        self.refused = ""
        self.events: list[str] = []
        self.letters: list[DeadLetter] = []
        self.tries = 0

    def prove_rows(self) -> None:
        """Answer whatever: it shows only later that it is away."""

    def __getattr__(self, name: str) -> object:
        if name == "statistics":
            return getattr(storage, "Statistics")  # noqa: B009
        raise AttributeError(name)

    def record_events(
        self,
        events: Sequence[Event],
        letters: Sequence[DeadLetter] = (),
        on_failure: Callable[[int, Exception], DeadLetter] | None = None,
    ) -> RecordResult:
        if not events and not letters:
            return RecordResult((), ())
        self.tries += 1
        self.open.wait(10)
        if self.away:
            raise StorageUnavailable("the disk is full")
        error = StorageError("refused")
        failed = [index for index, event in enumerate(events) if event.message_id == self.refused]
        known = [index for index, event in enumerate(events) if event.message_id in self.events]
        new = sorted(set(range(len(events))) - set(failed) - set(known))
        self.events += [events[index].message_id for index in new]
        self.letters += letters
        if on_failure:
            self.letters += [on_failure(index, error) for index in failed]
        return RecordResult(tuple(new), tuple(known), tuple((index, error) for index in failed))


class Line:
    """A pipeline, its recording thread, and the tags of the deliveries that may be acknowledged."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        batch: int = 10,
        max_bytes: int = 10**9,
        limit: float = 0.9,
        hourly_bytes: int = 0,
        deaths: int = 0,
    ) -> None:
        self.deaths = 0
        self.recording = RecordingThread(store, Metrics())  # type: ignore[arg-type]
        converter = EventConverter([])
        self.breaker = FloodBreaker(limit, clock, hourly_bytes)
        self.pipeline = BusPipeline(
            MessageProcessor(converter, TypeFilter(["*"]), max_size=10**6, max_depth=50),
            Batcher(batch, 1.0, 10**9, clock),
            FlowControl(Budget(2 * batch, max_bytes), clock, lambda: self.deaths),
            self.recording,
            self.breaker,
            self.recording.metrics,
            hold_limit=42,
            clock=clock,
        )
        self.deaths = deaths
        self.open()
        self.acks: list[int] = []
        self._tag = 0
        self._thread = threading.Thread(target=self.recording.run, daemon=True)
        self._thread.start()
        wait_until(self.pipeline.ready, 5, "a store that answers")

    def deliver(self, body: bytes, returns: int = 0, *, redelivered: bool = False, **headers: object) -> None:
        self._tag += 1
        if returns:
            headers |= {"x-delivery-count": returns, "x-acquired-count": returns}
        self.pipeline.accept(
            Delivery(body, headers=headers, tag=self._tag, queue=QUEUE, redelivered=redelivered)
        )

    def open(self) -> None:
        """Read the queue over a new channel."""
        self.pipeline.opened(QUEUE)
        self.follow()

    def follow(self) -> int:
        """Tell the broker what it may send, and return that."""
        prefetch = self.pipeline.prefetch(QUEUE)
        self.pipeline.following(QUEUE, prefetch)
        return prefetch

    def poll(self, *, eager: bool = True) -> list[int]:
        self.acks += [item.tag for batch in self.pipeline.poll(eager=eager) for item in batch.deliveries]
        return self.acks

    def stop(self) -> None:
        self.recording.hurry()
        self.recording.finish()
        self._thread.join(10)


def body(message_id: str = "", padding: int = 0, publisher: str = "h") -> bytes:
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    return json.dumps({
        "message_id": message_id or str(uuid.uuid4()), "publisher_id": publisher, "event_type": "a.b",
        "priority": "INFO", "payload": {"padding": "x" * padding}, "timestamp": str(now),
    }).encode()  # fmt: skip


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def line(store: Store, clock: Clock) -> Iterator[Line]:
    line = Line(store, clock)
    yield line
    line.stop()


def test_nothing_is_acknowledged_before_it_is_committed(line: Line, store: Store) -> None:
    store.open.clear()
    for _ in range(10):
        line.deliver(body())
    wait_until(lambda: store.tries, 5, "the batch at the store")
    assert line.poll() == []
    store.open.set()
    wait_until(line.poll, 5, "the acks")
    assert line.acks == list(range(1, 11))


def test_a_lone_message_goes_at_once_and_the_next_ones_wait_until_it_is_stored(
    line: Line, store: Store, clock: Clock
) -> None:
    store.open.clear()
    line.deliver(body())
    line.poll()
    wait_until(lambda: store.tries, 5, "the message at the store")
    line.deliver(body())
    line.poll()
    assert not line.pipeline.waiting()
    store.open.set()
    wait_until(lambda: line.poll() == [1, 2], 5, "both acks")


def test_a_batch_of_a_lost_connection_is_neither_recorded_nor_acknowledged(line: Line, store: Store) -> None:
    store.open.clear()
    for _ in range(10):
        line.deliver(body())
    wait_until(lambda: store.tries, 5, "the first batch at the store")
    for _ in range(15):
        line.deliver(body())
    line.pipeline.reset()
    line.open()
    store.open.set()
    line.deliver(body())
    wait_until(lambda: line.poll() == [26], 5, "the ack of the new channel's message")
    assert len(store.events) == 11, "of the others only what was on its way already"


def test_a_full_prefetch_is_handed_over_to_a_busy_writer(line: Line, store: Store) -> None:
    store.open.clear()
    line.deliver(body())
    line.poll()
    wait_until(lambda: store.tries, 5, "the first message at the store")
    line.deaths = 1
    line.pipeline.reset()  # the connection is lost, so that nothing is in hand
    line.open()
    assert line.follow() == 1
    line.deliver(body())
    line.poll(eager=False)
    store.open.set()
    wait_until(lambda: line.poll(eager=False) == [2], 5, "the ack, without waiting for more")


def test_a_stale_batch_is_the_probe_of_a_store_that_answers_but_takes_nothing(
    line: Line, store: Store, clock: Clock
) -> None:
    store.away = True
    for _ in range(10):
        line.deliver(body())
    wait_until(lambda: store.tries, 5, "the batch at the store")
    wait_until(lambda: not line.pipeline.ready(), 5, "a store that is away")
    clock.advance(43)
    assert line.pipeline.must_give_back()
    line.pipeline.reset()
    line.open()
    assert not line.pipeline.must_give_back()
    tries = store.tries
    wait_until(lambda: store.tries > tries + 1, 10, "more tries with what was given back")
    assert not line.pipeline.ready()
    store.away = False
    wait_until(line.pipeline.ready, 20, "a store that takes events")
    assert line.poll() == []


def test_an_event_that_the_store_refuses_becomes_a_dead_letter_and_its_neighbours_do_not(
    line: Line, store: Store
) -> None:
    store.refused = "deadly"
    for number in range(10):
        line.deliver(body("deadly" if number == 7 else ""))
    wait_until(line.poll, 5, "the acks")
    assert line.acks == list(range(1, 11))
    assert len(store.events) == 9
    assert [(letter.stage, letter.message_id) for letter in store.letters] == [("record", "deadly")]


def test_a_bus_is_only_probed_while_nearly_everything_is_dead(store: Store, clock: Clock) -> None:
    line = Line(store, clock, batch=500)
    try:
        for _ in range(1000):
            line.deliver(b"{")
        wait_until(lambda: len(line.poll()) == 1000, 10, "the acks")
        assert line.pipeline.probing()
        assert line.follow() == 0
        clock.advance(60)
        assert line.follow() > 0
        assert line.pipeline.probing()
        for _ in range(500):
            line.deliver(body())
        wait_until(lambda: len(line.poll()) == 1500, 10, "the probe's acks")
        assert not line.pipeline.probing()
        assert line.follow() > 0
    finally:
        line.stop()


def test_one_publisher_that_floods_the_bus_does_not_keep_the_messages_of_others_from_being_stored(
    store: Store, clock: Clock
) -> None:
    line = Line(store, clock, batch=500)
    try:
        for number in range(4000):
            line.deliver(body() if number % 20 == 0 else b"{")
        wait_until(lambda: len(line.poll()) == 4000, 10, "the acks")
        assert not line.pipeline.probing()
        assert len(store.events) == 200
    finally:
        line.stop()


def test_a_flood_that_bears_the_names_of_others_does_not_keep_their_messages_from_being_stored(
    store: Store, clock: Clock
) -> None:
    line = Line(store, clock, batch=500)
    publishers = ["compute.host1", "volume.host2"]
    try:
        for number in range(20):
            line.deliver(body(publisher=publishers[number % 2]))
        for number in range(4000):
            forged = {"message_id": "m", "publisher_id": publishers[number % 2], "event_type": "a.b"}
            line.deliver(json.dumps({**forged, "number": number}).encode())
        wait_until(lambda: len(line.poll()) == 4020, 60, "the acks")
        assert not line.pipeline.probing()
    finally:
        line.stop()


def test_what_is_stored_of_dead_letters_in_an_hour_is_bounded_and_nothing_else(
    store: Store, clock: Clock
) -> None:
    size = 100_000
    line = Line(store, clock, batch=10, limit=0.0, hourly_bytes=10 * size)
    try:
        for number in range(30):  # of these nothing is kept, or each once
            line.deliver(b"\x1f\x8b" + Random(number).randbytes(size))
            line.deliver(b"{" * size)
        wait_until(lambda: len(line.poll()) == 60, 60, "the acks")
        assert not line.pipeline.probing()
        for number in range(10):
            line.deliver(b"{%d" % number, filler="x" * size)
        wait_until(lambda: len(line.poll()) == 70, 60, "the acks")
        assert line.pipeline.probing()
    finally:
        line.stop()


def test_a_count_of_returns_that_a_publisher_wrote_slows_nothing_down(line: Line) -> None:
    whole = line.pipeline.prefetch(QUEUE)
    line.deliver(body(), returns=12)
    near_limit = line.recording.metrics.near_limit
    assert line.pipeline.prefetch(QUEUE) == whole
    assert near_limit._value.get() == 0
    line.deliver(body(), returns=12, redelivered=True)
    assert line.pipeline.prefetch(QUEUE) < whole
    assert near_limit._value.get() == 1


def test_messages_that_the_store_does_not_take_are_left_to_the_broker_at_the_end(
    line: Line, store: Store
) -> None:
    store.away = True
    for _ in range(15):
        line.deliver(body())
    assert not line.pipeline.flush()
    line.recording.hurry()
    wait_until(line.pipeline.flush, 10, "an end")
    assert line.poll() == []


def test_what_nobody_foresaw_of_a_store_is_waited_for_and_ends_nothing(
    line: Line, store: Store, clock: Clock
) -> None:
    takes = store.record_events

    def fail(*_: object) -> RecordResult:
        store.tries += 1
        raise KeyError("a fault of ours")

    store.record_events = fail  # type: ignore[assignment]
    line.deliver(body())
    line.poll()
    wait_until(lambda: store.tries, 10, "a try")
    assert not line.recording.gave_up
    store.record_events = takes  # type: ignore[method-assign]
    wait_until(lambda: line.poll() or line.acks, 10, "the ack")
    assert line.acks == [1]
    assert not line.recording.gave_up


def test_a_writer_that_fails_does_not_leave_the_buses_waiting(line: Line, store: Store) -> None:
    class Failure(BaseException):
        pass

    def fail(*_: object) -> RecordResult:
        raise Failure

    line.stop()
    store.record_events = fail  # type: ignore[assignment]
    line.deliver(body())
    line.poll()
    wait_until(line.pipeline.flush, 5, "an end")
