import datetime

import pytest

from panko_ingest.batch import Batcher
from panko_ingest.delivery import Delivery
from panko_ingest.storage.models import DeadLetter, Event
from tests.unit.clock import Clock


def event(message_id: str = "m") -> Event:
    return Event(message_id, "compute.instance.update", datetime.datetime(2026, 1, 1))


def dead_letter() -> DeadLetter:
    return DeadLetter(digest=bytes(32), body=b"", stage="decode", error_class="DecodeError", error="no JSON")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def batcher(clock: Clock) -> Batcher:
    return Batcher(max_count=3, max_age=1.0, max_bytes=100, clock=clock)


def test_a_batch_is_full_by_count_whatever_the_deliveries_became(batcher: Batcher) -> None:
    batcher.add_event(Delivery(b"1"), event())
    batcher.add_dead_letter(Delivery(b"2"), dead_letter())
    assert not batcher.full
    batcher.add_dropped(Delivery(b"3"))
    assert batcher.full


def test_a_batch_is_full_by_bytes(batcher: Batcher) -> None:
    batcher.add_event(Delivery(b"x" * 100), event())
    assert batcher.full


def test_a_batch_is_due_when_its_first_delivery_has_waited_long_enough(
    batcher: Batcher, clock: Clock
) -> None:
    assert not batcher.due
    clock.advance(10)
    batcher.add_event(Delivery(b"1"), event())
    clock.advance(0.9)
    batcher.add_event(Delivery(b"2"), event())
    assert not batcher.due
    clock.advance(0.1)
    assert batcher.due


def test_an_empty_batcher_is_never_due(batcher: Batcher, clock: Clock) -> None:
    clock.advance(1000)
    assert not batcher.due


def test_a_taken_batch_knows_the_delivery_of_each_event_and_what_was_dropped(batcher: Batcher) -> None:
    dropped, good, bad = (
        Delivery(b"1", generation=7),
        Delivery(b"22", generation=7),
        Delivery(b"333", generation=7),
    )
    batcher.add_dropped(dropped)
    batcher.add_event(good, event("good"))
    batcher.add_dead_letter(bad, dead_letter())

    batch = batcher.take()

    assert batch.deliveries == [dropped, good, bad]
    assert batch.sources == [good]
    assert [item.message_id for item in batch.events] == ["good"]
    assert (batch.dropped, len(batch.dead_letters), batch.size, batch.generation) == (1, 1, 6, 7)
    assert len(batcher) == 0
