"""One connection whose broker takes long for each answer, so that a turn leaves some queues to the next."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from panko_ingest.amqp import AmqpConsumer, parse
from panko_ingest.amqp.amqp_link import IO_TIMEOUT
from panko_ingest.amqp.bindings import CostlyExchanges
from panko_ingest.amqp.refusals import Refusals
from panko_ingest.amqp.retention import Retention
from panko_ingest.amqp.session import Session, SessionTools
from panko_ingest.amqp.topology import Topology
from panko_ingest.backoff import Backoff
from panko_ingest.batch import Batch
from panko_ingest.delivery import Delivery
from tests.unit.clock import Clock

ROUND_TRIP = 0.3
QUEUES = [f"notifications.{number}" for number in range(10)]
ANSWERING = QUEUES[-1:]


class Channel:
    refusal: Exception | None = None

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def queue_declare(self, *_: object, **__: object) -> None:
        pass

    def basic_qos(self, *_: object) -> None:
        self._clock.advance(ROUND_TRIP)

    def basic_cancel(self, _tag: str) -> None:
        self._clock.advance(ROUND_TRIP)

    def close(self) -> None:
        pass


class Link:
    is_virtual = False

    def __init__(self, clock: Clock) -> None:
        self.changes: Counter[str] = Counter()
        self._clock = clock

    def channel(self, *, spare: bool = False) -> Channel:
        del spare
        return Channel(self._clock)

    def consume(self, _channel: Channel, queue: str, *_: Any) -> None:
        self._clock.advance(ROUND_TRIP)
        self.changes[queue] += 1

    def serve(self, _timeout: float) -> bool:
        self._clock.advance(0.1)
        return False


class Handler:
    """Has each queue read in every other turn."""

    def __init__(self) -> None:
        self.allowed = 16

    def ready(self) -> bool:
        return True

    def reset(self) -> None:
        pass

    def opened(self, queue: str) -> None:
        pass

    def prefetch(self, queue: str) -> int:
        del queue
        return self.allowed

    def following(self, queue: str, prefetch: int) -> None:
        pass

    def accept(self, delivery: Delivery) -> None:
        pass

    def poll(self, *, eager: bool) -> Sequence[Batch]:
        del eager
        return ()

    def waiting(self) -> bool:
        return False

    def must_give_back(self) -> bool:
        return False

    def probing(self) -> bool:
        return False

    def flush(self) -> bool:
        return True


def test_queues_that_a_turn_leaves_to_the_next_one_take_turns() -> None:
    clock, handler = Clock(), Handler()
    link = Link(clock)
    tools = SessionTools(
        Topology(QUEUES),
        handler,
        backoffs={name: Backoff(1, 10, clock) for name in QUEUES},
        absences={name: Backoff(1, 30, clock) for name in QUEUES},
        costly_backoffs={name: Backoff(2, 60, clock) for name in QUEUES},
        retentions={name: Retention() for name in QUEUES},
        costly_exchanges=CostlyExchanges(clock),
        refused_queues=Refusals(lambda _name, _reason: None),
        refused_exchanges=Refusals(lambda _name, _reason: None),
        unbound=Refusals(lambda _name, _reason: None),
        tell_absence=lambda _name, _absent: None,
        numbers=itertools.count(1),
        told=set(),
        beat=lambda: None,
        clock=clock,
        looks_after=False,
        siblings=None,
    )
    session = Session(tools, link, "bus")  # type: ignore[arg-type]
    for _ in range(100):
        session.step()
        handler.allowed = 16 - handler.allowed
    assert min(link.changes[queue] for queue in QUEUES) * 3 > max(link.changes.values())


class HangingLink(Link):
    """A link over which a question about most queues is not answered; every connection has another one."""

    def __init__(self, clock: Clock, read_for: Counter[str]) -> None:
        super().__init__(clock)
        self._read_for = read_for

    def channel(self, *, spare: bool = False) -> Channel:
        channel, clock = super().channel(spare=spare), self._clock

        def declare(queue: str, **_: object) -> None:
            if queue not in ANSWERING:
                clock.advance(IO_TIMEOUT)
                raise TimeoutError("timed out")

        channel.queue_declare = declare  # type: ignore[assignment, method-assign]
        return channel

    def serve(self, timeout: float) -> bool:
        self._read_for.update(self.changes.keys())
        return super().serve(timeout)

    def close(self) -> None:
        pass


def test_a_queue_is_read_though_many_others_hang() -> None:
    clock, read_for = Clock(), Counter[str]()
    consumer = AmqpConsumer(
        parse("rabbit://broker/"),
        Topology(QUEUES),
        Handler(),
        connect=lambda: HangingLink(clock, read_for),  # type: ignore[arg-type,return-value]
        clock=clock,
    )
    steps = consumer.steps()
    while clock.now < Clock().now + 3600:
        clock.advance(next(steps))
    assert read_for[ANSWERING[0]] * 0.1 > 3600 / 5
