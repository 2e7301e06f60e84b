"""One consumer whose brokers are away, over an hour of a clock that the test moves."""

import contextlib
import itertools
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from amqp.exceptions import NotAllowed

from panko_ingest.amqp import AmqpConsumer, Topology, parse
from tests.handler import Handler
from tests.unit.clock import Clock
from tests.unit.test_session import Channel, Link

HOUR = 3600.0


class ClosingLink(Link):
    """A link that is lost as soon as it is used."""

    def serve(self, _timeout: float) -> bool:
        raise ConnectionResetError("the connection was cut")

    def close(self) -> None:
        pass


class OneConsumerLink(Link):
    """A link that is lost over the second consumer of a channel."""

    def __init__(self, clock: Clock, changes: Counter[str]) -> None:
        super().__init__(clock)
        self.changes = changes

    def channel(self, *, spare: bool = False) -> Channel:
        channel = super().channel(spare=spare)
        tags = channel.tags = set[str]()  # type: ignore[attr-defined]
        channel.basic_cancel = tags.remove  # type: ignore[assignment, method-assign]
        return channel

    def consume(self, channel: Any, queue: str, tag: str, *others: Any) -> None:
        if channel.tags:
            raise NotAllowed("NOT_ALLOWED - reached maximum (1) of consumers per channel")
        channel.tags.add(tag)
        super().consume(channel, queue, tag, *others)

    def close(self) -> None:
        pass


class Trying:
    """A consumer that connects by what a test says, and how many connections it counts as lost."""

    def __init__(self, connect: Callable[[], Link], topology: Topology | None = None) -> None:
        self.clock = Clock()
        self.handler = Handler()
        self.lost = 0
        self._steps = AmqpConsumer(
            parse("rabbit://broker/"),
            topology or Topology(("notifications.info",)),
            self.handler,
            on_lost=self._count,
            connect=connect,  # type: ignore[arg-type]
            clock=self.clock,
        ).steps()

    def _count(self) -> None:
        self.lost += 1

    def run(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.advance(next(self._steps) or 0.1)


def test_a_broker_that_is_away_is_told_at_once_and_then_once_a_minute_and_costs_no_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reason = "Connection refused"

    def refuse() -> Link:
        raise ConnectionRefusedError(reason)

    trying = Trying(refuse)
    trying.run(1)
    assert caplog.text.count("ConnectionRefusedError: Connection refused") == 1
    trying.run(HOUR)
    assert 55 <= caplog.text.count("Connection refused") <= 61
    reason = "another one"
    caplog.clear()
    trying.run(5)
    assert caplog.text.count("another one") == 1
    assert trying.lost == 0


def test_a_broker_that_goes_again_is_news_again_and_counts_as_lost(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    away = True
    trying = Trying(lambda: refuse() if away else ClosingLink(trying.clock))

    def refuse() -> Link:
        raise ConnectionRefusedError("Connection refused")

    trying.run(5)
    away = False
    trying.run(5)
    assert trying.lost
    assert caplog.text.count("lets us in again") == 1
    away = True
    trying.run(40)
    assert caplog.text.count("Connection refused") == 2


def test_where_a_channel_may_have_one_consumer_alone_one_connection_is_lost_over_all_queues() -> None:
    queues = ["notifications.info", "notifications.error"]
    changes = Counter[str]()
    topology = Topology(queues, declare="never")  # so that nobody knows whether they delete themselves
    trying = Trying(lambda: OneConsumerLink(trying.clock, changes), topology)
    for _ in range(10):
        trying.run(10)
        trying.handler.allowed = 16 - trying.handler.allowed
    assert trying.lost == 1
    assert min(changes[queue] for queue in queues) > 4


def test_the_broker_that_was_tried_last_is_not_the_next_one(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with contextlib.ExitStack() as bound:
        sockets = [bound.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))  # and listens to nobody
        places = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
        steps = AmqpConsumer(
            parse(f"rabbit://{','.join(places)}/"),
            Topology(("notifications.info",)),
            Handler(),
            clock=clock,
        ).steps()
        while len(caplog.messages) < 30:
            clock.advance(61 if next(steps) else 0)  # each failure is told, as a minute has passed
    tried = [place for message in caplog.messages for place in places if message.startswith(place)]
    assert all(before != after for before, after in itertools.pairwise(tried))
    assert len(tried) == 30
