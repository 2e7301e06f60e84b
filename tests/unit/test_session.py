"""One connection whose broker takes long for each answer, so that a turn leaves some queues to the next."""

import itertools
import random
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import pytest
from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed

from panko_ingest.amqp import AmqpConsumer, parse
from panko_ingest.amqp.amqp_link import IO_TIMEOUT
from panko_ingest.amqp.bindings import CostlyExchanges
from panko_ingest.amqp.consumer_need import ConsumerNeed
from panko_ingest.amqp.costly_queues import CostlyQueues
from panko_ingest.amqp.refusals import Refusals
from panko_ingest.amqp.session import Session, SessionTools
from panko_ingest.amqp.topology import Topology
from panko_ingest.backoff import Backoff
from panko_ingest.delivery import Delivery
from tests.handler import Handler
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


def session_over(link: Link, handler: Handler, clock: Clock, queues: Sequence[str] = QUEUES) -> Session:
    tools = SessionTools(
        Topology(queues),
        handler,
        backoffs={name: Backoff(1, 10, clock) for name in queues},
        absences={name: Backoff(1, 30, clock) for name in queues},
        costly_queues=CostlyQueues(queues, clock),
        consumer_needs={name: ConsumerNeed() for name in queues},
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
    return Session(tools, link, "bus")  # type: ignore[arg-type]


def test_queues_that_a_turn_leaves_to_the_next_one_take_turns() -> None:
    clock, handler = Clock(), Handler()
    link = Link(clock)
    session = session_over(link, handler, clock)
    for _ in range(100):
        session.step()
        handler.allowed = 16 - handler.allowed
    assert min(link.changes[queue] for queue in QUEUES) * 3 > max(link.changes.values())


class HangingLink(Link):
    """A link over which a question about most queues is not answered; every connection has another one."""

    def __init__(self, clock: Clock, read_for: Counter[str], answering: Collection[str] = ANSWERING) -> None:
        super().__init__(clock)
        self._read_for = read_for
        self._answering = answering

    def channel(self, *, spare: bool = False) -> Channel:
        channel, clock = super().channel(spare=spare), self._clock

        def declare(queue: str, **_: object) -> None:
            if queue not in self._answering:
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


def seconds_until_any_is_read(seed: int, queues: Sequence[str], answering: Collection[str]) -> float:
    random.seed(seed)
    clock, read_for = Clock(), Counter[str]()
    consumer = AmqpConsumer(
        parse("rabbit://broker/"),
        Topology(queues),
        Handler(),
        connect=lambda: HangingLink(clock, read_for, answering),  # type: ignore[arg-type,return-value]
        clock=clock,
    )
    steps, began = consumer.steps(), clock.now
    while not read_for:
        clock.advance(next(steps))
    return clock.now - began


def test_not_all_queues_that_hang_are_asked_about_before_another_is_read() -> None:
    queues = [f"notifications.{number}" for number in range(30)]
    hanging, answering = queues[:24], queues[24:]
    waited = [seconds_until_any_is_read(seed, queues, answering) for seed in range(20)]
    assert sum(waited) / len(waited) < len(hanging) * IO_TIMEOUT / 2


class LosingLink(Link):
    """A link whose broker answers a question about a queue by an error, and which is lost after that."""

    def __init__(self, clock: Clock, answer: Exception) -> None:
        super().__init__(clock)
        self._answer = answer

    def channel(self, *, spare: bool = False) -> Channel:
        channel = super().channel(spare=spare)

        def declare(*_: object, **__: object) -> None:
            raise self._answer

        channel.queue_declare = declare  # type: ignore[method-assign]
        return channel

    def serve(self, timeout: float) -> bool:
        super().serve(timeout)
        raise ConnectionResetError("reset by peer")

    def close(self) -> None:
        pass


def test_a_queue_that_was_absent_at_the_connection_before_and_is_refused_now_is_not_told_as_absent() -> None:
    clock, told = Clock(), dict[str, bool]()
    absent = NotFound("NOT_FOUND - no queue 'notifications.0' in vhost '/'")
    refused = AccessRefused("ACCESS_REFUSED - read access to queue 'notifications.0' refused")
    links = itertools.chain([LosingLink(clock, absent)], itertools.repeat(LosingLink(clock, refused)))
    consumer = AmqpConsumer(
        parse("rabbit://broker/"),
        Topology(QUEUES[:1]),
        Handler(),
        on_absence=told.__setitem__,
        connect=lambda: next(links),  # type: ignore[arg-type,return-value]
        clock=clock,
    )
    steps = consumer.steps()
    while clock.now < Clock().now + 120:
        clock.advance(next(steps))
    assert told == {QUEUES[0]: False}


BURST = 10
CONVERSION = 0.7


class BurstLink(Link):
    """A link that brings many messages at a time, some of them with the answer to a question."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.kept_alive = 0
        self.waited = 0.0
        self.delivered = itertools.count(1)
        self._number = 0
        self._receive: Any = None

    def consume(self, channel: Channel, queue: str, *more: Any) -> None:
        _, self._number, self._receive, *_ = more
        self.read_over = channel
        before = self._clock()
        super().consume(channel, queue, *more)
        self.bring(BURST)
        self.waited = self._clock() - before

    def serve(self, timeout: float) -> bool:
        if self.read_over.refusal is None:
            self.bring(BURST)
        return super().serve(timeout)

    def keep_alive(self) -> None:
        self.kept_alive += 1

    def bring(self, count: int) -> None:
        for tag in itertools.islice(self.delivered, count):
            self._receive(Delivery(b"{}", queue=QUEUES[0], tag=tag, channel=self._number))


class SlowHandler(Handler):
    """Takes long for each message."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.accepted: list[int] = []
        self._clock = clock

    def accept(self, delivery: Delivery) -> None:
        self._clock.advance(CONVERSION)
        self.accepted.append(delivery.tag)


def test_between_messages_that_take_long_heartbeats_and_acks_go_out() -> None:
    clock = Clock()
    link, handler = BurstLink(clock), SlowHandler(clock)
    session = session_over(link, handler, clock, QUEUES[:1])
    for _ in range(12):
        before, accepted = clock(), len(handler.accepted)
        session.step()
        assert clock() - before < 1 + CONVERSION + 3 * ROUND_TRIP
        assert len(handler.accepted) > accepted
    assert link.kept_alive
    assert handler.accepted == list(range(1, len(handler.accepted) + 1))
    # What it has to do is not more than one look at the socket and one answer brought.
    assert next(link.delivered) - len(handler.accepted) <= 2 * BURST


def test_while_an_answer_is_waited_for_no_message_is_converted() -> None:
    clock = Clock()
    link, handler = BurstLink(clock), SlowHandler(clock)
    session = session_over(link, handler, clock, QUEUES[:1])
    session.step()
    assert link.waited == pytest.approx(ROUND_TRIP)
    session.step()
    assert handler.accepted


def test_what_waits_to_be_converted_is_left_to_the_broker_at_the_end() -> None:
    clock = Clock()
    link, handler = BurstLink(clock), SlowHandler(clock)
    session = session_over(link, handler, clock, QUEUES[:1])
    session.step()
    accepted = len(handler.accepted)
    assert session.drain()
    assert len(handler.accepted) == accepted


def test_what_waits_of_a_channel_that_is_gone_is_not_converted_once_the_queue_is_read_anew() -> None:
    clock = Clock()
    link, handler = BurstLink(clock), SlowHandler(clock)
    session = session_over(link, handler, clock, QUEUES[:1])
    session.step()
    link.read_over.refusal = PreconditionFailed("delivery acknowledgement timed out")
    for _ in range(BURST):
        session.step()
        if link.changes[QUEUES[0]] > 1:
            break
    for _ in range(BURST):
        session.step()
    assert set(range(1, BURST + 1)) - set(handler.accepted)
    assert set(range(BURST + 1, 2 * BURST + 1)) <= set(handler.accepted)
