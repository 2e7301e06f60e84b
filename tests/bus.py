"""A notification bus as the cloud's services use it."""

from collections.abc import Iterable
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

import amqp
import amqp.exceptions


class Bus:
    """Publishes raw bodies, and looks at queues, in one vhost.

    :param durable: whether exchanges and queues that it makes survive a restart of the broker.
    """

    def __init__(self, url: str, *, durable: bool = True, quorum: bool = False) -> None:
        parts = urlsplit(url)
        self._connection = amqp.Connection(
            f"{parts.hostname}:{parts.port}",
            parts.username,
            parts.password,
            virtual_host=unquote(parts.path[1:]),
            connect_timeout=10,
            read_timeout=30,
        )
        self._connection.connect()
        self._channel = self._connection.channel()
        self._durable = durable
        self._arguments = {"x-queue-type": "quorum"} if quorum else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def channel(self) -> amqp.Channel:
        """Open a channel for what this class does not offer."""
        return self._connection.channel()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def drop(self) -> None:
        """Go without a word, whatever the broker has sent meanwhile."""
        self._connection.collect()

    def declare(self, queue: str = "notifications.info", exchange: str = "nova") -> None:
        """Make exchange and queue and bind them, as a notifier does."""
        self._channel.exchange_declare(exchange, "topic", durable=self._durable, auto_delete=False)
        self._channel.queue_declare(
            queue, durable=self._durable, auto_delete=False, arguments=self._arguments
        )
        self._channel.queue_bind(queue, exchange, queue)

    def delete(self, queue: str = "notifications.info") -> None:
        """Delete a queue, with all that it holds."""
        self._channel.queue_delete(queue)

    def publish(
        self,
        bodies: Iterable[bytes],
        queue: str = "notifications.info",
        exchange: str = "nova",
        **properties: object,
    ) -> int:
        """Publish bodies, and return how many when the broker has them all."""
        properties = {"content_type": "application/json", "content_encoding": "utf-8", **properties}
        count = 0
        with self._connection.channel() as channel:
            confirms = _Confirms(channel)
            for count, body in enumerate(bodies, 1):
                channel.basic_publish(
                    amqp.Message(body, delivery_mode=2, **properties), exchange=exchange, routing_key=queue
                )
                confirms.expect(count)
                if count % 5000 == 0:
                    confirms.wait()
            confirms.wait()
        return count

    def count(self, queue: str = "notifications.info") -> int:
        """Return how many messages a queue holds that no consumer has in hand."""
        return int(self._channel.queue_declare(queue, passive=True).message_count)

    def consumers(self, queue: str = "notifications.info") -> int:
        """Return how many consumers a queue has; 0 for one that is not there."""
        try:
            return int(self._channel.queue_declare(queue, passive=True).consumer_count)
        except amqp.exceptions.NotFound:
            self._channel = self._connection.channel()
            return 0


class _Confirms:
    """What the broker has yet to confirm. (A transaction would not wait for the nodes of a quorum queue.)"""

    def __init__(self, channel: amqp.Channel) -> None:
        self._connection = channel.connection
        self._open: dict[int, None] = {}
        channel.confirm_select()
        channel.events["basic_ack"].add(self._confirm)
        channel.events["basic_nack"].add(self._refuse)

    def expect(self, number: int) -> None:
        """Note that a message was published, the first of the channel as number 1."""
        self._open[number] = None

    def wait(self) -> None:
        """Return when everything is confirmed.

        :raises amqp.AMQPError: the broker could not take a message.
        """
        while self._open:
            self._connection.drain_events()

    def _confirm(self, number: int, multiple: bool) -> None:
        if not multiple:
            self._open.pop(number, None)
            return
        while self._open and (first := next(iter(self._open))) <= number:
            del self._open[first]

    @staticmethod
    def _refuse(number: int, multiple: bool) -> None:
        raise amqp.AMQPError(f"the broker refused message {number}")
