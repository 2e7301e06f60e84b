"""What a worker may have died of waits until nothing else is in hand, and holds nobody up for long."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from panko_ingest.batch import Batcher
from panko_ingest.breaker import FloodBreaker
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.delivery import Delivery
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline import (
    Budget,
    BusPipeline,
    FlowControl,
    MessageProcessor,
    PoisonGuard,
    RecordingThread,
    Solitude,
)
from panko_ingest.shared_state import SharedState
from panko_ingest.storage import StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.unit.clock import Clock
from tests.unit.test_bus_pipeline import QUEUE, body


@dataclass
class Worker:
    """Two buses of a worker whose recording thread goes on when it is told to."""

    store: Connection
    shared: SharedState = field(default_factory=lambda: SharedState(workers=1, buses=2))
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.recording = RecordingThread(self.store, Metrics(), clock=self.clock)
        self._steps = self.recording.steps()
        budget, solitude = Budget(20, 10**9), Solitude(self.clock)
        self.buses = []
        for number in range(2):
            guard = PoisonGuard(self.shared, self.shared.bus_slot(0, number))
            bus = BusPipeline(
                MessageProcessor(
                    EventConverter([]), TypeFilter(["*"]), max_size=10**6, max_depth=50, guard=guard
                ),
                Batcher(10, 1.0, 10**9, self.clock),
                FlowControl(budget, self.clock),
                self.recording,
                FloodBreaker(0.9, self.clock),
                self.recording.metrics,
                hold_limit=42,
                solitude=solitude,
                clock=self.clock,
            )
            bus.opened(QUEUE)
            self.buses.append(bus)
        self.go_on()

    def go_on(self) -> None:
        """Let the recording thread do what there is."""
        next(self._steps)

    def suspect(self, message: str) -> Delivery:
        """Return a message that a worker held when it died, beside another."""
        delivery = again(message)
        for number, digest in enumerate((delivery.digest(), again(f"beside {message}").digest())):
            self.shared.bus_slot(0, number).hold(digest)
        self.shared.record_death(0)
        return delivery

    def prefetches(self) -> list[int]:
        """Tell the brokers how many they may send, and return that."""
        found = [bus.prefetch(QUEUE) for bus in self.buses]
        for bus, prefetch in zip(self.buses, found, strict=True):
            bus.following(QUEUE, prefetch)
        return found

    def stored(self) -> int:
        """Poll all buses, and return how many messages are settled since the last time."""
        return sum(len(batch.deliveries) for bus in self.buses for batch in bus.poll(eager=True))


def again(message: str) -> Delivery:
    return Delivery(body(message), queue=QUEUE, redelivered=True)


@pytest.fixture
def worker(tmp_path: object) -> Iterator[Worker]:
    with closing(Connection(f"sqlite:///{tmp_path}/events.sqlite")) as store:
        store.upgrade()
        yield Worker(store)


def test_nothing_more_is_read_of_any_bus_until_a_suspect_that_is_taken_alone_is_stored(
    worker: Worker,
) -> None:
    one, _ = worker.buses
    one.accept(worker.suspect("m1"))
    assert worker.stored() == 0
    assert one.in_hand()["messages"] == 1
    assert worker.prefetches() == [0, 0]
    worker.go_on()
    assert worker.stored() == 1
    assert min(worker.prefetches()) > 0


def test_what_comes_while_a_bus_is_alone_waits_and_is_then_taken_as_anything_else(worker: Worker) -> None:
    one, other = worker.buses
    one.accept(worker.suspect("m1"))
    worker.stored()
    for number in range(8):
        other.accept(Delivery(body(f"n{number}"), queue=QUEUE))
        one.accept(Delivery(body(f"o{number}"), queue=QUEUE))
    assert [bus.in_hand()["messages"] for bus in worker.buses] == [1, 0]
    worker.go_on()
    assert worker.stored() == 1
    assert [bus.in_hand()["laid aside"] for bus in worker.buses] == [0, 0], "at once, not one after the other"
    assert min(worker.prefetches()) > 0
    worker.stored()
    worker.go_on()
    assert worker.stored() == 16


def test_suspects_follow_one_another_without_a_pause(worker: Worker) -> None:
    one, _ = worker.buses
    for number in range(5):
        one.accept(worker.suspect(f"m{number}"))
    worker.stored()
    for _ in range(4):
        worker.go_on()
        assert worker.stored() == 1
        assert one.in_hand()["messages"] == 1, "the next one is with the recording thread"
    worker.go_on()
    assert worker.stored() == 1
    assert min(worker.prefetches()) > 0


def test_a_suspect_that_the_store_does_not_take_keeps_no_other_bus_waiting(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = worker.buses
    record = Connection.record_events

    def refuse(store: Connection, events: list[object], *arguments: object) -> object:
        if [getattr(event, "message_id", "") for event in events] == ["m1"]:
            raise StorageUnavailable("its row is locked")
        return record(store, events, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Connection, "record_events", refuse)
    one.accept(worker.suspect("m1"))
    worker.stored()
    worker.go_on()
    worker.go_on()
    worker.stored()
    assert worker.prefetches()[1] > 0
    other.accept(Delivery(body("n1"), queue=QUEUE))
    worker.stored()
    worker.clock.advance(1)
    for _ in range(3):
        worker.go_on()
    assert worker.stored() == 1


def test_what_is_laid_aside_is_given_back_before_its_broker_loses_patience(worker: Worker) -> None:
    one, other = worker.buses
    one.accept(Delivery(body("o1"), queue=QUEUE))  # which nobody stores
    one.poll(eager=True)
    other.accept(worker.suspect("m1"))
    other.poll(eager=True)
    assert not other.must_give_back()
    worker.clock.advance(43)
    assert other.must_give_back()
    other.poll(eager=True)
    assert other.in_hand()["messages"] == 1, "it was patient with the one bus for long enough"
    assert other.must_give_back(), "since it came, not since it is with the recording thread"


def test_a_full_table_of_suspects_gives_up_the_one_that_was_noted_first() -> None:
    shared = SharedState(workers=1, buses=2)

    def die(*digests: bytes) -> None:
        for number, digest in enumerate(digests):
            shared.bus_slot(0, number).hold(digest)
        shared.record_death(0)

    for number in range(200):
        die(bytes([number]) * 32)
    killer = b"k" * 20 + b"i" * 12
    for number in range(10):
        die(killer, b"r" + bytes([number]) * 31)
    assert shared.is_suspect(killer)
