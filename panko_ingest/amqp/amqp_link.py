"""A connection to an AMQP broker."""

import select
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from amqp.exceptions import ChannelError, NotAllowed, ResourceError
from kombu.connection import Connection

from panko_ingest.amqp import framing, tls
from panko_ingest.amqp.channel_limit import ChannelLimit
from panko_ingest.amqp.delivery_frames import Receiver
from panko_ingest.amqp.link import CONSUMER_TIMEOUT, PRIORITY, PRODUCT, Waker
from panko_ingest.amqp.urls import Broker
from panko_ingest.delivery import Delivery

CONNECT_TIMEOUT = 10.0
# A write that can't leave for so long means a dead peer; acks are small and normally just buffered.
IO_TIMEOUT = 15.0
_CLOSE_TIMEOUT = 2.0
_HEARTBEAT_CHECK_INTERVAL = 1.0


class AmqpLink:
    """A connection to one AMQP broker. Only the thread that opened it may use it.

    :param limit: what connections before this one found out about how many channels there may be.
    :param largest_body: bytes of a message's body that are kept.
    :raises OSError: (or an error of py-amqp) the broker can't be reached or refuses us.
    """

    is_virtual = False

    def __init__(
        self,
        broker: Broker,
        client_properties: Mapping[str, str],
        waker: Waker,
        limit: ChannelLimit | None = None,
        largest_body: int = sys.maxsize,
    ) -> None:
        self._waker = waker
        self._limit = limit or ChannelLimit()
        self.client = Connection(
            **broker.parameters(),
            heartbeat=broker.heartbeat,
            connect_timeout=CONNECT_TIMEOUT,
            transport=framing.Transport,
            transport_options={
                "largest_body": largest_body,
                "client_properties": {"product": PRODUCT, **client_properties},
                "socket_settings": {socket.TCP_USER_TIMEOUT: max(broker.heartbeat, 10) * 1000},
            },
        )
        self._transport = self.client.transport
        self._connection = self._establish()
        self._sock = self._connection.sock
        self._sock.settimeout(IO_TIMEOUT)
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)
        self._poll.register(waker.fd, select.POLLIN)
        self._next_heartbeat_check = 0.0
        self._most_channels = 0

    def _establish(self) -> Any:
        try:
            return self._transport.establish_connection()
        except OSError:
            raise
        except ValueError as error:  # what can't be said to a resolver or a broker costs no other bus
            raise ConnectionError(f"can't connect with what its URL says: {error}") from error

    def channel(self, *, spare: bool = False) -> Any:
        """Open a channel.

        :param spare: only if the connection has had so many before, for one too many may end it.
        :raises ChannelError: the connection has as many as the broker lets it have.
        """
        count = len(self._connection.channels) - 1  # one is the connection itself
        if spare and count >= self._most_channels:
            raise ChannelError(f"whether there may be more than {count} channels is not known")
        self._limit.check(count)
        try:
            channel = self._transport.create_channel(self._connection)
        except NotAllowed as error:
            self._limit.closed(count, error)
            raise
        except ResourceError:
            # Of py-amqp it is one of the connection, which is as good as before.
            text = f"the broker allows {self._connection.channel_max} channels to a connection (channel_max)"
            raise ChannelError(text) from None
        self._limit.opened(count + 1)
        self._most_channels = max(self._most_channels, count + 1)
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
        self._keep_heartbeat()
        return came

    def keep_alive(self) -> None:
        """Keep the heartbeat, and read nothing.

        :raises OSError: (or an error of py-amqp) the connection is to be given up.
        """
        # The broker's heartbeats wait in the socket, and py-amqp would miss them.
        self._connection.bytes_recv += 1
        self._keep_heartbeat()

    def _keep_heartbeat(self) -> None:
        now = time.monotonic()
        if now >= self._next_heartbeat_check:
            self._next_heartbeat_check = now + _HEARTBEAT_CHECK_INTERVAL
            self._connection.heartbeat_tick()

    def consume(
        self,
        channel: Any,
        queue: str,
        tag: str,
        number: int,
        receive: Callable[[Delivery], None],
        timeout: float | None = None,
    ) -> None:
        """Start a consumer whose deliveries go to ``receive``; a stream refuses it, for its priority."""
        arguments = {PRIORITY: 0}
        if timeout is not None:
            arguments[CONSUMER_TIMEOUT] = int(timeout * 1000)
        channel.basic_consume(
            queue, consumer_tag=tag, callback=Receiver(queue, number, receive), arguments=arguments
        )

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
            tls.forget_errors()
