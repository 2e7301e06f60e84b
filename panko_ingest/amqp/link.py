"""One open connection to a broker, AMQP or virtual, with what the two do differently."""

import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from kombu.connection import Connection
from kombu.transport.virtual import Channel as VirtualChannel

from panko_ingest.amqp import framing
from panko_ingest.amqp.deliveries import Receiver
from panko_ingest.amqp.urls import Broker
from panko_ingest.delivery import Delivery

CONNECT_TIMEOUT = 10.0
# A write that can't leave for so long means a dead peer; acks are small and normally just buffered.
IO_TIMEOUT = 15.0
_CLOSE_TIMEOUT = 2.0
_HEARTBEAT_CHECK_INTERVAL = 1.0
_VIRTUAL_POLL = 0.2


class Waker:
    """Lets another thread end the wait of the thread that serves the connection."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def wake(self) -> None:
        """End the current or the next wait."""
        os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Forget the wake-ups so far."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)


class AmqpLink:
    """A connection to one AMQP broker. Only the thread that opened it may use it.

    :raises OSError: (or an error of py-amqp) the broker can't be reached or refuses us.
    """

    is_virtual = False

    def __init__(self, broker: Broker, client_properties: Mapping[str, str], waker: Waker) -> None:
        self._waker = waker
        self.client = Connection(
            **broker.parameters(),
            heartbeat=broker.heartbeat,
            connect_timeout=CONNECT_TIMEOUT,
            transport=framing.Transport,
            transport_options={
                "client_properties": {"product": "panko-ingest", **client_properties},
                "socket_settings": {socket.TCP_USER_TIMEOUT: max(broker.heartbeat, 10) * 1000},
            },
        )
        self._transport = self.client.transport
        self._connection = self._transport.establish_connection()
        self._sock = self._connection.sock
        self._sock.settimeout(IO_TIMEOUT)
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)
        self._poll.register(waker.fd, select.POLLIN)
        self._next_heartbeat_check = 0.0

    def channel(self) -> Any:
        """Open a channel."""
        channel = self._transport.create_channel(self._connection)
        channel.auto_decode = False  # bodies stay the bytes that were delivered
        return channel

    def serve(self, timeout: float) -> bool:
        """Wait for frames, or to be woken, and dispatch what came; keep the heartbeat.

        :returns: whether anything came, so that more may be at hand.
        :raises OSError: (or an error of py-amqp) the connection is to be given up.
        """
        came = False
        if self._connection.transport.pending():
            self._connection.handle_available()
            came, timeout = True, 0
        for fd, _ in self._poll.poll(timeout * 1000):
            if fd == self._waker.fd:
                self._waker.clear()
            else:
                self._connection.handle_available()
                came = True
        now = time.monotonic()
        if now >= self._next_heartbeat_check:
            self._next_heartbeat_check = now + _HEARTBEAT_CHECK_INTERVAL
            self._connection.heartbeat_tick()
        return came

    @staticmethod
    def consume(
        channel: Any, queue: str, tag: str, generation: int, receive: Callable[[Delivery], None]
    ) -> None:
        """Start a consumer whose deliveries go to ``receive``."""
        channel.basic_consume(queue, consumer_tag=tag, callback=Receiver(queue, generation, receive))

    def close(self) -> None:
        """Close the connection; a broker that is gone already is no error."""
        try:
            # Not by way of the connection: a closed one would connect anew to have a socket.
            self._sock.settimeout(_CLOSE_TIMEOUT)
            self._transport.close_connection(self._connection)
        except (*self._transport.connection_errors, *self._transport.channel_errors):
            self._connection.collect()
        finally:
            self.client.release()


class VirtualLink:
    """A connection over a transport that kombu emulates (filesystem, memory, sqlalchemy…)."""

    is_virtual = True

    def __init__(self, url: str, waker: Waker) -> None:
        self._waker = waker
        self.client = Connection(url)
        self._transport = self.client.transport
        # Not by transport_options: the sqlalchemy transport hands them all to create_engine.
        self._transport.polling_interval = _VIRTUAL_POLL
        self._connection = self._transport.establish_connection()

    def channel(self) -> VirtualChannel:
        """Open a channel."""
        channel: VirtualChannel = self._transport.create_channel(self._connection)
        return channel

    def serve(self, timeout: float) -> bool:
        """Wait for one message at most and dispatch it; return whether one came."""
        self._waker.clear()
        try:
            self._transport.drain_events(self._connection, timeout=min(timeout, _VIRTUAL_POLL))
        except TimeoutError:
            return False
        return True

    @staticmethod
    def consume(
        channel: Any, queue: str, tag: str, generation: int, receive: Callable[[Delivery], None]
    ) -> None:
        """Start a consumer whose deliveries go to ``receive``."""

        def on_message(message: Any) -> None:
            info = message.delivery_info
            body = message.body
            receive(
                Delivery(
                    body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body),
                    content_type=message.content_type,
                    content_encoding=message.content_encoding,
                    headers=message.headers,
                    exchange=info.get("exchange") or "",
                    routing_key=info.get("routing_key") or "",
                    queue=queue,
                    redelivered=bool(info.get("redelivered")),
                    tag=message.delivery_tag,
                    generation=generation,
                )
            )

        channel.basic_consume(queue, False, on_message, tag)

    def close(self) -> None:
        """Close the connection; what was not acknowledged goes back where the transport can."""
        self._transport.close_connection(self._connection)
        self.client.release()


Link = AmqpLink | VirtualLink
