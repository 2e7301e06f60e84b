"""The way of deliveries to the writer and back, with a store that does as it is told."""

import datetime
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence

import pytest

from panko_ingest import storage
from panko_ingest.batch import Batcher
from panko_ingest.breaker import FloodBreaker
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.delivery import Delivery
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline import Intake, Lane, Writer
from panko_ingest.storage import RecordResult, StorageUnavailable
from panko_ingest.storage.models import DeadLetter, Event
from tests.unit.clock import Clock
from tests.waiting import wait_until


class Store:
    """Takes what it is given while it is open; breaks on one message_id where told to."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.away = False
        self.deadly = ""
        self.events: list[str] = []
        self.letters: list[DeadLetter] = []
        self.tries = 0

    def ping(self) -> None:
        """Answer whatever: a full store does."""

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
        if any(event.message_id == self.deadly for event in events):
            raise ZeroDivisionError
        new = [index for index, event in enumerate(events) if event.message_id not in self.events]
        self.events += [events[index].message_id for index in new]
        self.letters += letters
        return RecordResult(tuple(new), tuple(set(range(len(events))) - set(new)))


class Line:
    """A lane, its writer's thread, and the tags of the deliveries that may be acknowledged."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        batch: int = 10,
        max_bytes: int = 10**9,
        limit: float = 0.9,
        deaths: int = 0,
    ) -> None:
        self.writer = Writer(store, Metrics())  # type: ignore[arg-type]
        converter = EventConverter([])
        self.breaker = FloodBreaker(limit, clock)
        self.lane = Lane(
            Intake(converter, TypeFilter(["*"]), max_size=10**6, max_depth=50),
            Batcher(batch, 1.0, 10**9, clock),
            self.writer,
            self.breaker,
            self.writer.metrics,
            prefetch=2 * batch,
            max_bytes=max_bytes,
            hold_limit=42,
            clock=clock,
            deaths=lambda: self.deaths,
        )
        self.deaths = deaths
        self.acks: list[int] = []
        self._tag = 0
        self._thread = threading.Thread(target=self.writer.run, daemon=True)
        self._thread.start()
        wait_until(self.lane.ready, 5, "a store that answers")

    def deliver(self, body: bytes, returns: int = 0) -> None:
        self._tag += 1
        headers = {"x-delivery-count": returns} if returns else {}
        self.lane.accept(Delivery(body, headers=headers, tag=self._tag, generation=self.lane.generation))

    def turn(self, *, eager: bool = True) -> list[int]:
        self.acks += [item.tag for batch in self.lane.turn(eager=eager) for item in batch.deliveries]
        return self.acks

    def stop(self) -> None:
        self.writer.hurry()
        self.writer.finish()
        self._thread.join(10)


def body(message_id: str = "", padding: int = 0) -> bytes:
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    return json.dumps({
        "message_id": message_id or str(uuid.uuid4()), "publisher_id": "h", "event_type": "a.b",
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
    assert line.turn() == []
    store.open.set()
    wait_until(line.turn, 5, "the acks")
    assert line.acks == list(range(1, 11))


def test_a_lone_message_goes_at_once_to_an_idle_writer_and_waits_for_a_busy_one(
    line: Line, store: Store, clock: Clock
) -> None:
    store.open.clear()
    line.deliver(body())
    line.turn()
    wait_until(lambda: store.tries, 5, "the message at the store")
    line.deliver(body())
    line.turn()
    assert not line.lane.waiting()
    store.open.set()
    wait_until(lambda: line.turn() == [1, 2], 5, "both acks")


def test_what_belongs_to_a_lost_channel_is_neither_recorded_nor_acknowledged(
    line: Line, store: Store
) -> None:
    store.open.clear()
    for _ in range(25):
        line.deliver(body())
    wait_until(lambda: store.tries, 5, "the first batch at the store")
    line.lane.reset(1)
    store.open.set()
    wait_until(lambda: line.writer.idle, 5, "an idle writer")
    assert line.turn() == []
    assert len(store.events) == 10, "only what was on its way already"


def test_reading_stops_over_max_bytes_goes_on_with_less_and_grows_back(store: Store, clock: Clock) -> None:
    line = Line(store, clock, max_bytes=50_000)
    try:
        store.open.clear()
        assert line.lane.window() == 20
        for _ in range(6):
            line.deliver(body(padding=10_000))
        assert line.lane.window() == 0
        store.open.set()
        wait_until(lambda: len(line.turn()) == 6, 5, "all acks")
        assert line.lane.window() == 2
        for count in range(1, 400):
            line.deliver(body())
            wait_until(lambda wanted=count + 6: len(line.turn()) == wanted, 5, "the ack")  # type: ignore[misc]
        assert line.lane.window() == 20
    finally:
        line.stop()


def test_after_a_death_it_reads_one_by_one_what_a_queue_counts(line: Line, store: Store) -> None:
    assert line.lane.window() == 20
    store.open.clear()
    for _ in range(6):
        line.deliver(body())
    line.turn()
    line.deaths = 1
    assert line.lane.window() == 0, "what is in hand comes first"
    store.open.set()
    wait_until(lambda: len(line.turn()) == 6, 5, "all acks")
    windows = []
    came_back = [*[3] * 30, 0, 0, 1, *[0] * 10]  # another queue's are mixed in
    for count, returns in enumerate(came_back, 7):
        windows.append(line.lane.window())
        line.deliver(body(), returns)
        wait_until(lambda wanted=count: len(line.turn()) == wanted, 5, "the ack")  # type: ignore[misc]
    assert windows == [1] * len(came_back)
    assert line.lane.window() == 20


def test_who_comes_after_a_dead_one_starts_one_by_one(store: Store, clock: Clock) -> None:
    line = Line(store, clock, deaths=3)
    try:
        assert line.lane.window() == 1
        line.deliver(body())
        assert line.lane.window() == 1, "a full window is no reason to give up the consumer"
        line.deaths = 4
        assert line.lane.window() == 1, "it can't read less"
    finally:
        line.stop()


def test_a_full_window_is_handed_over_to_a_busy_writer(line: Line, store: Store) -> None:
    store.open.clear()
    line.deliver(body())
    line.turn()
    wait_until(lambda: store.tries, 5, "the first message at the store")
    line.deaths = 1
    line.lane.reset(1)  # the channel is lost, so that nothing is in hand
    assert line.lane.window() == 1
    line.deliver(body())
    line.turn(eager=False)
    store.open.set()
    wait_until(lambda: line.turn(eager=False) == [2], 5, "the ack, without waiting for more")


def test_a_stale_batch_is_the_probe_of_a_store_that_answers_but_takes_nothing(
    line: Line, store: Store, clock: Clock
) -> None:
    store.away = True
    for _ in range(10):
        line.deliver(body())
    wait_until(lambda: store.tries, 5, "the batch at the store")
    wait_until(lambda: not line.lane.ready(), 5, "a store that is away")
    clock.advance(43)
    assert line.lane.must_release()
    line.lane.reset(1)
    assert not line.lane.must_release()
    tries = store.tries
    wait_until(lambda: store.tries > tries + 1, 10, "more tries with what was given back")
    assert not line.lane.ready()
    store.away = False
    wait_until(line.lane.ready, 20, "a store that takes events")
    assert line.turn() == []


def test_an_event_that_breaks_recording_costs_neither_the_worker_nor_its_neighbours(
    line: Line, store: Store
) -> None:
    store.deadly = "deadly"
    for number in range(10):
        line.deliver(body("deadly" if number == 7 else ""))
    wait_until(line.turn, 5, "the acks")
    assert line.acks == list(range(1, 11))
    assert len(store.events) == 9
    assert [(letter.stage, letter.message_id) for letter in store.letters] == [("record", "deadly")]


def test_a_bus_is_only_probed_while_nearly_everything_is_dead(store: Store, clock: Clock) -> None:
    line = Line(store, clock, batch=500)
    try:
        for _ in range(1000):
            line.deliver(b"{")
        wait_until(lambda: len(line.turn()) == 1000, 10, "the acks")
        assert line.lane.probing()
        assert line.lane.window() == 0
        clock.advance(60)
        assert line.lane.window() == 1000
        assert line.lane.probing()
        for _ in range(500):
            line.deliver(body())
        wait_until(lambda: len(line.turn()) == 1500, 10, "the probe's acks")
        assert not line.lane.probing()
        assert line.lane.window() == 1000
    finally:
        line.stop()


def test_at_the_end_what_the_store_does_not_take_is_left_to_the_broker(line: Line, store: Store) -> None:
    store.away = True
    for _ in range(15):
        line.deliver(body())
    assert not line.lane.flushed()
    line.writer.hurry()
    wait_until(line.lane.flushed, 10, "an end")
    assert line.turn() == []


def test_a_writer_that_fails_does_not_leave_the_buses_waiting(line: Line, store: Store) -> None:
    class Failure(BaseException):
        pass

    def fail(*_: object) -> RecordResult:
        raise Failure

    line.stop()
    store.record_events = fail  # type: ignore[assignment]
    line.deliver(body())
    line.turn()
    wait_until(line.lane.flushed, 5, "an end")
