"""Reading ahead: one system call for many frames instead of three for each.

py-amqp's transports read a frame in three steps, each a ``recv`` that gives up the GIL. These read
whatever the socket holds and cut frames out of it. A frame is taken whole or not at all, so a peer
that stops in the middle of one neither blocks the thread nor loses anything.
"""

import math
import select
import socket
import sys
import time
from collections.abc import Mapping
from ssl import SSLContext, SSLError, SSLSocket
from struct import Struct
from typing import Any

from amqp import spec
from amqp.abstract_channel import AbstractChannel
from amqp.exceptions import (
    AMQPError,
    ChannelError,
    ConnectionError,
    ConsumerCancelled,
    RecoverableConnectionError,
    UnexpectedFrame,
    error_for_code,
)
from amqp.method_framing import frame_handler
from amqp.transport import SSLTransport, TCPTransport
from kombu.transport import pyamqp

from panko_ingest.amqp import delivery_frames
from panko_ingest.amqp.delivery_frames import DeliveryAssembler, DeliveryParts

_HEADER = Struct(">BHI")
_FRAME_END = 0xCE
_READ_SIZE = 256 * 1024
_LARGEST_BEFORE_TUNING = 128 * 1024
# RabbitMQ keeps to what was agreed on in bodies alone: to headers that nearly fill a frame it adds its own
# at each return of the message.
_UNBOUND_BY_BROKERS = {1, 2}  # methods and headers
_LARGEST_UNBOUND = 16 * 1024 * 1024
# The shortest heartbeat that a broker is told. It hangs up after two that it missed, and nothing is sent
# while a message is converted: one that outlasts them would come again for ever. 30 s of it count as a hang.
_PATIENCE = 24
_CLOSES = {spec.Connection.Close, spec.Channel.Close}
_TEXT_OF_CLOSE = 7  # where it begins, behind class, method, code and its length


class _ReadAhead:
    """Mixed into py-amqp's transports; ``_quick_recv`` is their socket's recv or read."""

    _buffer = b""
    _position = 0
    sock: Any = None
    host: str
    port: int
    connect_timeout: float
    largest_frame = _LARGEST_BEFORE_TUNING
    give_up_at = math.inf
    """When, by the monotonic clock, the handshake has to be over, or an answer has to be here."""

    def frame_buffered(self) -> bool:
        """Whether a whole frame is here already, so that reading one can't block."""
        held = len(self._buffer) - self._position
        if held <= _HEADER.size:
            return False
        size: int = _HEADER.unpack_from(self._buffer, self._position)[2]
        return held > _HEADER.size + size

    def read_frame(self, unpack: Any = None) -> tuple[int, int, bytes]:  # noqa: ARG002
        """Return the next frame as ``(type, channel, payload)``, waiting for it if need be.

        :raises TimeoutError: none came within the socket's timeout, or what is waited for takes too long.
        :raises OSError: the connection is gone.
        """
        if not self.frame_buffered():
            # Not one for each of its bytes: a proxy may pass them on one by one.
            patience = self.sock.gettimeout()
            deadline = time.monotonic() + (math.inf if patience is None else patience)
            self.read_available()
            while not self.frame_buffered():
                self._expect_before(deadline)
                self.read_available()
        self._expect_before(self.give_up_at)
        position = self._position
        frame_type, channel, size = _HEADER.unpack_from(self._buffer, position)
        start = position + _HEADER.size
        end = start + size
        if self._buffer[end] != _FRAME_END:
            raise UnexpectedFrame(f"a frame ends with {self._buffer[end]:#x} instead of 0xce")
        self._position = end + 1
        return frame_type, channel, self._buffer[start:end]

    @staticmethod
    def _expect_before(deadline: float) -> None:
        if time.monotonic() > deadline:
            raise TimeoutError("the broker takes too long for what it has to say")

    def read_available(self) -> None:
        """Take what the socket holds; blocks only while it holds nothing.

        :raises TimeoutError: nothing came within the socket's timeout.
        :raises OSError: the connection is gone.
        :raises UnexpectedFrame: a frame is larger than any may be.
        """
        rest = self._buffer = self._buffer[self._position :]
        self._position = 0
        chunk = self._quick_recv(_READ_SIZE)  # type: ignore[attr-defined]
        if not chunk:
            self.connected = False
            raise ConnectionResetError("the broker closed the connection")
        self._buffer = rest + chunk if rest else chunk
        if len(self._buffer) >= _HEADER.size:
            kind, _, size = _HEADER.unpack_from(self._buffer)
            if size > self.largest_frame:
                most = _LARGEST_UNBOUND if kind in _UNBOUND_BY_BROKERS else self.largest_frame
                if size > most:
                    raise UnexpectedFrame(f"a frame of {size} bytes, of at most {most}")

    def next_delivery(self) -> delivery_frames.DeliveryFrame | None:
        """Return the delivery that comes next, None where something else does; it is not taken yet."""
        return delivery_frames.parse(self._buffer, self._position)

    def skip_to(self, end: int) -> None:
        """Go on behind a delivery that was found."""
        self._position = end

    def connect(self) -> None:
        """Connect to one of the addresses of a name at which a broker answers; they share the time.

        The system lets us in also where a broker is frozen, and gives the addresses in the same order each
        time: if that were enough, none but the first would ever be tried.
        """
        patience = self.connect_timeout
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, proto=socket.SOL_TCP)
        # Only now: a resolver may take longer than any broker.
        self.give_up_at = time.monotonic() + 2 * patience  # to connect, and to shake hands
        failure: OSError | None = None
        for left, self._address in zip(range(len(found), 0, -1), found, strict=True):
            self.connect_timeout = min(patience, max(0.1, (self.give_up_at - time.monotonic()) / left))
            try:
                super().connect()  # type: ignore[misc]
                if left > 1:
                    self._expect_greeting()
            except OSError as error:
                self._hang_up()
                # What is wrong with a certificate says more than that nobody listens elsewhere.
                failure = failure if isinstance(failure, SSLError) else error
            else:
                return
        raise failure or OSError("the name has no address")

    def _connect(self, _host: str, _port: int, timeout: float) -> None:
        family, kind, protocol, _, address = self._address
        self.sock = socket.socket(family, kind, protocol)
        self.sock.settimeout(timeout)
        self.sock.connect(address)

    def _expect_greeting(self) -> None:
        """Return when the broker has begun to speak.

        :raises OSError: it does not, or hangs up.
        """
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(self.connect_timeout * 1000):
            raise TimeoutError("the broker does not answer")
        # Who has shaken hands by TLS is there.
        if not isinstance(self.sock, SSLSocket) and not self.sock.recv(1, socket.MSG_PEEK):
            raise ConnectionResetError("the broker closed the connection")

    def _hang_up(self) -> None:
        if self.sock is not None:
            self.sock.close()
        self.sock, self.connected = None, False

    def pending(self) -> bool:
        """Whether something is at hand of which poll() on the socket would not tell.

        That is what came along with the answer to a request, and what TLS has decrypted already.
        """
        if self._position == len(self._buffer):
            # Each of many buses would keep a quarter of a megabyte until something comes.
            self._buffer, self._position = b"", 0
        pending = getattr(self.sock, "pending", None)
        return self.frame_buffered() or bool(pending is not None and pending())


class _TcpTransport(_ReadAhead, TCPTransport):  # type: ignore[misc]
    pass


class _SslTransport(_ReadAhead, SSLTransport):  # type: ignore[misc]
    def _wrap_socket(self, sock: Any, context: SSLContext, server_hostname: str) -> Any:
        sock.settimeout(self.connect_timeout)  # py-amqp 5.1 shakes hands without one
        return context.wrap_socket(sock, server_hostname=server_hostname, do_handshake_on_connect=False)


class _Bounded(AbstractChannel):  # type: ignore[misc]
    """Mixed into channels and connections: whatever else a broker sends, an answer comes in time or never."""

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for an answer.

        :raises TimeoutError: it did not come within the timeout, the socket's where none is given.
        """
        transport = self.connection.transport
        patience = kwargs.get("timeout") or transport.sock.gettimeout()
        if patience is not None:
            # Where a queue hangs, heartbeats and the deliveries of others come all the same.
            transport.give_up_at = time.monotonic() + patience
        try:
            return super().wait(*args, **kwargs)
        finally:
            transport.give_up_at = math.inf


class _Legible(AbstractChannel):  # type: ignore[misc]
    """Mixed into channels and connections: whatever text they are closed with, they are closed in words.

    RabbitMQ cuts a text at so many bytes, also within a character, and an operator may write it in Latin-1.
    """

    def dispatch_method(self, method: tuple[int, int], payload: bytes, content: Any) -> None:
        if method in _CLOSES:
            end = _TEXT_OF_CLOSE + payload[_TEXT_OF_CLOSE - 1]
            text = payload[_TEXT_OF_CLOSE:end].decode(errors="replace").replace("\ufffd", "?").encode()
            payload = b"".join((payload[: _TEXT_OF_CLOSE - 1], bytes([len(text)]), text, payload[end:]))
        super().dispatch_method(method, payload, content)


class Channel(_Bounded, _Legible, pyamqp.Channel):
    """py-amqp's channel, but one that the broker closes stays closed, and is told to nobody else.

    py-amqp opens it anew at once, under the same number, and raises the error in whatever waits on the
    connection just then, which may be another channel's business.
    """

    refusal: Exception | None = None

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for an answer.

        :raises ChannelError: the broker refused, and closed the channel.
        """
        connection = self.connection
        try:
            return super().wait(*args, **kwargs)
        except (RecoverableConnectionError, AttributeError) as error:
            # Why the whole connection was closed is nothing that this channel could tell better.
            if self.connection is None and self.refusal is not None and connection.channels is not None:
                raise self.refusal from None
            if self.connection is None and isinstance(error, AttributeError):  # py-amqp's before 5.4
                raise RecoverableConnectionError("connection already closed") from None
            raise

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close it; that the broker does so at the same moment is as good."""
        try:
            return super().close(*args, **kwargs)
        except AMQPError as error:
            if error is not self.refusal:
                raise

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        self.send_method(spec.Channel.CloseOk)
        self.refusal = error_for_code(reply_code, reply_text, (class_id, method_id), ChannelError)
        self.collect()

    def _on_basic_cancel(self, consumer_tag: str) -> None:
        self._remove_tag(consumer_tag)
        # Without its tag, which is another each time: what is told of a queue would always be news.
        self.refusal = ConsumerCancelled("the broker ended the consumer", spec.Basic.Cancel)


class Connection(_Bounded, _Legible, pyamqp.Connection):
    """py-amqp's connection over transports and channels of ours, whose deliveries go to receivers."""

    Channel = Channel
    client_heartbeat: int | None
    heartbeat: int
    callbacks: Mapping[str, Any] = {}
    """Receivers on channel 0, which this is: none, whatever a broker delivers there."""

    def __init__(self, *args: Any, largest_body: int = sys.maxsize, **kwargs: Any) -> None:
        self._largest_body = largest_body
        super().__init__(*args, frame_handler=self._frame_handler, **kwargs)

    def _frame_handler(self, connection: Any, callback: Any) -> DeliveryAssembler:
        return DeliveryAssembler(self._receive, frame_handler(connection, callback), self._largest_body)

    def _receive(self, channel: int, consumer: str, parts: DeliveryParts) -> None:
        """Pass on a delivery; one whose consumer is cancelled goes back to the broker."""
        open_channel = self.channels.get(channel)
        if open_channel is None or open_channel.is_closing:
            return
        receiver = open_channel.callbacks.get(consumer)
        if receiver is not None:
            receiver.take(*parts)
        elif open_channel is self:
            raise UnexpectedFrame("a delivery on channel 0")
        else:
            open_channel.basic_reject(parts[3], requeue=True)

    def connect(self, callback: Any = None) -> Any:
        """Connect; what was opened is closed again if that fails, however it does."""
        try:
            answer = super().connect(callback)
        except BaseException:
            self.collect()
            raise
        self.transport.give_up_at = math.inf
        self.transport.largest_frame = self.frame_max
        return answer

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        try:
            super()._on_close(reply_code, reply_text, class_id, method_id)
        except ChannelError as error:  # py-amqp knows the type by the number; it is no channel's error here
            raise ConnectionError(reply_text, (class_id, method_id), reply_code=reply_code) from error

    def _on_tune(self, channel_max: int, frame_max: int, heartbeat: int) -> None:
        # No more than we ask for, or the broker says how much of our memory its frames, and our buffer, take.
        frame_max = min(frame_max or self.frame_max, self.frame_max)
        asked = self.client_heartbeat or 0
        if asked:
            self.client_heartbeat = max(asked, _PATIENCE)
        super()._on_tune(channel_max, frame_max, heartbeat and max(heartbeat, _PATIENCE))
        if self.heartbeat == _PATIENCE:
            # A broker beats twice in the time that it was told: we need not be as patient as it is to be.
            self.heartbeat = max(min(asked, heartbeat or asked), _PATIENCE // 2)

    def Transport(  # noqa: N802 - py-amqp's name for its factory
        self,
        host: str,
        connect_timeout: float,
        ssl: Any = False,
        read_timeout: float | None = None,
        write_timeout: float | None = None,
        socket_settings: dict[int, int] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the transport for plain or TLS connections."""
        kwargs.update(
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            write_timeout=write_timeout,
            socket_settings=socket_settings,
        )
        return _SslTransport(host, ssl=ssl, **kwargs) if ssl else _TcpTransport(host, **kwargs)

    def handle_available(self) -> None:
        """Take what is at hand and dispatch every whole frame of it."""
        transport = self.transport
        if not transport.frame_buffered():
            transport.read_available()
        # py-amqp sees none of the frames of a delivery, and heartbeats wait behind those of a large one.
        self.bytes_recv += 1
        while transport.connected:
            if self._deliver(transport):
                continue
            if not transport.frame_buffered():
                return
            self.on_inbound_frame(transport.read_frame())

    def blocking_read(self, timeout: float | None = None) -> Any:
        """Read a frame for whatever waits for an answer, and take the deliveries before it at once."""
        while self._deliver(self.transport):
            pass
        answer = super().blocking_read(timeout)
        self.bytes_recv += 1
        return answer

    def _deliver(self, transport: _ReadAhead) -> bool:
        """Pass on the delivery that comes next; return whether there is one."""
        delivery = transport.next_delivery()
        if delivery is None:
            return False
        channel, consumer, parts, end = delivery
        transport.skip_to(end)
        self._receive(channel, consumer, parts)
        return True


class Transport(pyamqp.Transport):
    """kombu's AMQP transport over :class:`Connection`."""

    Connection = Connection
