"""What a publisher writes into names is not kept, however long it makes them."""

import json
import tracemalloc
from collections.abc import Callable

import pytest

from panko_ingest.breaker import FloodBreaker, Tally
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.delivery import Delivery
from panko_ingest.pipeline import MessageProcessor
from panko_ingest.storage.models import Event

LONG = 1_000_000


@pytest.mark.parametrize(
    "change",
    [
        lambda number: {f"_context_{number}{'k' * LONG}": 1},
        lambda number: {f"{number}{'k' * LONG}": 1},
        lambda number: {"publisher_id": f"{number}{'p' * LONG}"},
        lambda number: {"event_type": f"{number}{'t' * LONG}"},
        lambda number: {"message_id": f"{number}{'m' * LONG}"},
        lambda number: {"priority": f"{number}{'q' * LONG}"},
    ],
    ids=["context", "key", "publisher", "type", "message", "priority"],
)
def test_long_names_are_forgotten_with_their_messages(change: Callable[[int], dict[str, object]]) -> None:
    processor = MessageProcessor(
        EventConverter([]), TypeFilter(["compute.*"]), max_size=1 << 24, max_depth=100
    )
    breaker = FloodBreaker(0.9, lambda: 0.0)

    def take(number: int) -> None:
        message = {
            "message_id": f"m{number}",
            "event_type": "compute.x",
            "publisher_id": "p",
            "timestamp": "2026-01-01 00:00:00",
            "payload": {},
        }
        delivery = Delivery(json.dumps(message | change(number)).encode())
        outcome = processor.process(delivery)
        is_event = isinstance(outcome, Event)
        breaker.record(Tally([delivery.source] * is_event, [delivery.source] * (not is_event)))

    take(0)
    tracemalloc.start()
    for number in range(1, 20):
        take(number)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2 * LONG


def test_the_breaker_remembers_but_so_many_publishers() -> None:
    breaker = FloodBreaker(0.9, lambda: 0.0)
    tracemalloc.start()
    for number in range(20_000):
        breaker.record(Tally([(f"{number}{'p' * 200}", "compute.x")], []))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < LONG
