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
    assert not batcher.add(Delivery(b"1"), event())
    assert not batcher.add(Delivery(b"2"), dead_letter())
    assert batcher.add(Delivery(b"3"), None)


def test_a_batch_is_full_by_bytes(batcher: Batcher) -> None:
    assert batcher.add(Delivery(b"x" * 100), event())


def test_a_batch_is_due_when_its_first_delivery_has_waited_long_enough(
    batcher: Batcher, clock: Clock
) -> None:
    assert not batcher.due
    clock.advance(10)
    batcher.add(Delivery(b"1"), event())
    clock.advance(0.9)
    batcher.add(Delivery(b"2"), event())
    assert not batcher.due
    clock.advance(0.1)
    assert batcher.due


def test_an_empty_batcher_is_never_due(batcher: Batcher, clock: Clock) -> None:
    clock.advance(1000)
    assert not batcher.due


def test_a_taken_batch_knows_the_delivery_of_each_event_and_what_was_dropped(batcher: Batcher) -> None:
    dropped, good, bad = (
        Delivery(b"1"),
        Delivery(b"22"),
        Delivery(b"333"),
    )
    batcher.add(dropped, None)
    batcher.add(good, event("good"))
    batcher.add(bad, dead_letter())

    batch = batcher.take()

    assert batch.deliveries == [dropped, good, bad]
    assert batch.sources == [good]
    assert [item.message_id for item in batch.events] == ["good"]
    assert (batch.dropped, len(batch.dead_letters), batch.size) == (1, 1, 6)
    assert len(batcher) == 0
