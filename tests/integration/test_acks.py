"""Which deliveries are acknowledged when batches come back in any order."""

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pytest

from panko_ingest.amqp import AmqpConsumer, Topology
from panko_ingest.amqp.urls import parse
from panko_ingest.batch import Batch
from panko_ingest.delivery import Delivery
from tests.bus import Bus
from tests.handler import Handler
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

QUEUES = ("notifications.info", "notifications.error")


class Hands(Handler):
    """Takes deliveries, and gives those back as settled that it is told to, in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = 100
        self.taken: dict[str, list[Delivery]] = defaultdict(list)
        self._settled: list[Batch] = []
        self._given_back = 0
        self._lock = threading.Lock()

    def settle(self, *deliveries: Delivery) -> None:
        """Have a batch of them acknowledged; returns when it is."""
        with self._lock:
            self._settled.append(Batch(0.0, deliveries=list(deliveries)))
            wanted = self._given_back + 1
        # Who is asked again has acknowledged what he was given before.
        wait_until(lambda: self._given_back > wanted, 10, "another turn")

    def poll(self, *, eager: bool) -> Sequence[Batch]:
        with self._lock:
            settled, self._settled = self._settled, []
            self._given_back += 1
            return settled

    def accept(self, delivery: Delivery) -> None:
        self.taken[delivery.queue].append(delivery)

    def waiting(self) -> bool:
        return True


@pytest.fixture
def bus(broker_url: str) -> Iterator[Bus]:
    with Bus(broker_url) as bus:
        for queue in QUEUES:
            bus.declare(queue)
        yield bus


def left(bus: Bus, queue: str) -> list[int]:
    """Return the numbers of the messages that are in a queue, taking them out."""
    channel = bus.channel()
    numbers = []
    while message := channel.basic_get(queue, no_ack=True):
        numbers.append(int(message.body))
    channel.close()
    return sorted(numbers)


def test_interleaved_batches_of_two_queues_settle_their_own_deliveries_only(
    broker_url: str, bus: Bus
) -> None:
    hands = Hands()
    consumer = AmqpConsumer(parse(broker_url), Topology(QUEUES), hands, client_properties={})
    thread = threading.Thread(target=consumer.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: all(bus.consumers(queue) for queue in QUEUES), 30, "consumers of both")
        for number in range(10):
            for queue in QUEUES:
                bus.publish([b"%d" % number], queue)
                wait_until(lambda queue=queue, count=number + 1: len(hands.taken[queue]) == count)  # type: ignore[misc]
        info, error = (hands.taken[queue] for queue in QUEUES)
        assert [delivery.tag for delivery in info] == [delivery.tag for delivery in error], "mixed up"
        hands.settle(info[0], error[0])  # an unbroken run from the first, in each channel
        hands.settle(*error[1:3])  # one in one channel only
        hands.settle(info[3], error[3])  # an unbroken run there, a gap in the other
        hands.settle(info[1])
        hands.settle(error[8], info[9], error[9])  # the last ones first
        assert all(bus.count(queue) == 0 for queue in QUEUES)
    finally:
        consumer.stop()
        thread.join(30)
    assert not thread.is_alive()
    wait_until(lambda: (bus.count(QUEUES[0]), bus.count(QUEUES[1])) == (6, 4), 10, "what is given back")
    assert left(bus, QUEUES[0]) == [2, 4, 5, 6, 7, 8]
    assert left(bus, QUEUES[1]) == [4, 5, 6, 7]


def test_a_prefetch_that_changes_all_the_time_adds_up_to_no_more_than_two(broker_url: str, bus: Bus) -> None:
    prefetches = itertools.cycle([20, 40])

    class Restless(Hands):
        def prefetch(self, queue: str) -> int:
            return next(prefetches)

    hands = Restless()
    bus.publish((b"%d" % number for number in range(500)), QUEUES[0])
    consumer = AmqpConsumer(parse(broker_url), Topology(QUEUES[:1]), hands)
    thread = threading.Thread(target=consumer.run, daemon=True)
    thread.start()
    try:
        taken = hands.taken[QUEUES[0]]
        wait_until(lambda: len(taken) >= 20, 20, "the first prefetch")
        for _ in range(20):
            hands.settle()  # nothing, but the prefetch is looked at again
        assert len(taken) <= 60
    finally:
        consumer.stop()
        thread.join(30)
