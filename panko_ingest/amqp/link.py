"""What a session needs of a connection to a broker, AMQP or not: the seam at which either can be another."""

import os
import re
import select
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from amqp.exceptions import AMQPError, NotFound
from kombu.exceptions import KombuError

from panko_ingest.delivery import Delivery

# What ends a connection and nothing more. Anything else is a fault of ours and ends the worker.
LINK_ERRORS = (AMQPError, KombuError, OSError)

PRODUCT = "panko-ingest"
"""How our connections call themselves."""

PRIORITY = "x-priority"
"""The argument of a consumer that every queue except a stream takes."""

IS_STREAM = (
    "it is a stream, of which no message is ever taken and acknowledged: let it be a classic or a quorum "
    "queue ([oslo_messaging_rabbit] rabbit_quorum_queue of the publishers), or set [notification] pool"
)

CONSUMER_TIMEOUT = "x-consumer-timeout"
"""The argument of a consumer that wants a time limit of its own."""


def is_absent(error: object, what: str = "queue|exchange") -> bool:
    """Tell whether a broker says that a queue or an exchange is not there, and nothing else.

    :param what: ``queue`` or ``exchange``, where one of the other kind does not count.

    By the same number it refuses a queue that is there, and whose node is down or whose process has ended.
    """
    absent = f"(NOT_FOUND - )?no ({what}) '"
    return isinstance(error, NotFound) and bool(re.match(absent, str(error.reply_text)))


def words(error: BaseException) -> str:
    """Return what an error says, without the numbers that a library puts around it."""
    return str(
        getattr(error, "reply_text", None)
        or getattr(error, "strerror", None)
        or error
        or type(error).__name__
    )


class Channel(Protocol):
    """One channel of a connection; method names and errors are py-amqp's.

    A method that waits for an answer raises a ``ChannelError`` where the broker refuses. The channel is
    closed then, others go on.
    """

    refusal: Exception | None
    """Why the broker closed the channel, or cancelled its consumer, unasked; None while all is well."""

    def queue_declare(
        self,
        queue: str,
        passive: bool = False,
        durable: bool = False,
        *,
        auto_delete: bool = True,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make a queue, or look for it; the answer has a ``consumer_count``."""

    def exchange_declare(self, exchange: str, type: str, *, durable: bool = False) -> Any:
        """Make an exchange."""

    def queue_bind(self, queue: str, exchange: str, routing_key: str) -> Any:
        """Bind a queue to an exchange; once more is no error."""

    def basic_qos(self, prefetch_size: int, prefetch_count: int, a_global: bool) -> Any:
        """Bound what consumers that start after this may have unacknowledged, each of them."""

    def basic_cancel(self, consumer_tag: str) -> Any:
        """End a consumer; what it has in hand may still be acknowledged."""

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> Any:
        """Acknowledge one delivery, or all up to it that are not yet."""

    def close(self) -> Any:
        """Close it; what is unacknowledged goes back to its queue."""


class Link(Protocol):
    """A connection to one broker. Only the thread that opened it may use it."""

    is_virtual: bool
    """Whether kombu emulates the broker: nothing has to be looked for, nothing is refused."""

    def channel(self, *, spare: bool = False) -> Channel:
        """Open a channel.

        :param spare: only if the connection has had so many before, for one too many may end it.
        :raises ChannelError: there may be no more.
        """

    def consume(
        self,
        channel: Channel,
        queue: str,
        tag: str,
        number: int,
        receive: Callable[[Delivery], None],
        timeout: float | None = None,
    ) -> None:
        """Start a consumer whose deliveries go to ``receive``.

        :param number: of the channel, which the deliveries carry.
        :param timeout: seconds that a delivery may be unacknowledged; None asks for nothing.
        """

    def serve(self, timeout: float) -> bool:
        """Wait for frames, or to be woken, and dispatch what came; keep the heartbeat.

        :returns: whether anything came, so that more may be at hand.
        :raises LINK_ERRORS: the connection is to be given up.
        """

    def keep_alive(self) -> None:
        """Keep the heartbeat, and read nothing: there is enough to do with what came.

        :raises LINK_ERRORS: the connection is to be given up.
        """

    def close(self) -> None:
        """Close the connection; a broker that is gone already is no error."""


class Waker:
    """Lets another thread end the wait of the thread that serves the connection."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def wake(self) -> None:
        """End the current or the next wait."""
        os.eventfd_write(self.fd, 1)

    def wait(self, timeout: float) -> None:
        """Wait for so many seconds, or until woken."""
        if timeout > 0:
            select.select([self.fd], [], [], timeout)
        self.clear()

    def clear(self) -> None:
        """Forget the wake-ups so far."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)
