"""Listening to what is published on a bus, so that nobody else loses a message by it."""

import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any

from amqp.exceptions import AccessRefused, NotFound

from panko_ingest.amqp.amqp_link import AmqpLink
from panko_ingest.amqp.link import LINK_ERRORS, Waker, words
from panko_ingest.amqp.reaching import reach_any
from panko_ingest.amqp.urls import Broker, Bus
from panko_ingest.delivery import Delivery
from panko_ingest.errors import BrokerError, ConfigError

_PREFETCH = 50
# A tap that is not read, such as one whose output is paused, must not fill the broker's memory.
_BOUNDS = {"x-max-length": 10_000, "x-max-length-bytes": 64 * 1024 * 1024}


class Tap:
    """A queue of its own, bound to exchanges, that only this connection can read and that goes with it.

    :param exchanges: where to listen; ``left_out`` says why where that can't be done.
    :param keys: routing keys, with ``*`` and ``#`` as topic exchanges have them.
    :raises BrokerError: no broker lets us in or lets us make the queue.
    :raises ConfigError: the bus is an embedded transport, which has no such queues.
    """

    def __init__(self, bus: Bus, exchanges: Sequence[str], keys: Sequence[str]) -> None:
        if bus.virtual_url is not None:
            raise ConfigError(
                f"{bus.name} is an embedded transport, which can't be tapped: that takes RabbitMQ"
            )
        self.left_out: dict[str, str] = {}
        """What keeps us from listening to an exchange, by its name."""
        self.loses_messages = False
        """Whether more was published than was read, so that the broker dropped the oldest."""
        self._name = bus.name
        self._queue = f"panko-ingest.tap.{uuid.uuid4().hex}"
        self._left_out = f"{self._queue}.left-out"
        self._received: deque[Delivery] = deque()
        self._waker = Waker()
        try:
            self._link = reach_any(bus, self._connect)
        except BrokerError:
            self._waker.close()
            raise
        try:
            self._losses = self._watch_losses()
            self._channel = self._listen(exchanges, keys)
        except LINK_ERRORS as error:
            self.close()
            raise BrokerError(f"{bus.name}: can't listen: {words(error)}") from error

    def read(self, timeout: float) -> Delivery | None:
        """Return the next message; None where none comes for so many seconds.

        :raises BrokerError: the connection is lost, and the queue with it.
        """
        try:
            if not self._received:
                self._link.serve(timeout)
            if not self._received:
                return None
            delivery = self._received.popleft()
            self._channel.basic_ack(delivery.tag)
        except LINK_ERRORS as error:
            raise BrokerError(f"{self._name}: the connection is lost: {words(error)}") from error
        return delivery

    def close(self) -> None:
        """Close the connection; the queue goes with it."""
        self._link.close()
        self._waker.close()

    def _connect(self, broker: Broker) -> AmqpLink:
        return AmqpLink(broker, {"connection_name": "panko-ingest tap"}, self._waker)

    def _listen(self, exchanges: Sequence[str], keys: Sequence[str]) -> Any:
        channel = self._link.channel()
        arguments = {**_BOUNDS, "x-dead-letter-exchange": self._left_out}
        channel.queue_declare(self._queue, exclusive=True, auto_delete=True, arguments=arguments)
        for exchange in exchanges:
            try:
                for key in keys:
                    channel.queue_bind(self._queue, exchange, key)
            except (NotFound, AccessRefused) as error:
                is_absent = isinstance(error, NotFound)
                self.left_out[exchange] = "it is not there" if is_absent else "the account may not read it"
                channel = self._link.channel()  # the broker closed that one by way of an answer
        channel.basic_qos(0, _PREFETCH, False)
        self._link.consume(channel, self._queue, "tap", 1, self._received.append)
        return channel

    def _watch_losses(self) -> Any:
        """Have the broker send us the first message that it drops: nothing tells how many bytes wait."""
        channel, name = self._link.channel(), self._left_out
        channel.exchange_declare(name, "fanout", durable=False, auto_delete=True)
        channel.queue_declare(name, exclusive=True, auto_delete=True, arguments={"x-max-length": 1})
        channel.queue_bind(name, name)
        channel.basic_qos(0, 1, False)
        self._link.consume(channel, name, "left out", 1, self._note_loss)
        return channel

    def _note_loss(self, dropped: Delivery) -> None:
        self.loses_messages = True
        # One tells enough, and without a reader the queue goes.
        self._losses.basic_cancel("left out", nowait=True)
        self._losses.basic_ack(dropped.tag)
