"""Reading ahead: one system call for many frames instead of three for each.

py-amqp's transports read a frame in three steps, each a ``recv`` that gives up the GIL. These read
whatever the socket holds and cut frames out of it. A frame is taken whole or not at all, so a peer
that stops in the middle of one neither blocks the thread nor loses anything.
"""

from ssl import SSLContext
from struct import Struct
from typing import Any

from amqp.exceptions import UnexpectedFrame
from amqp.transport import SSLTransport, TCPTransport
from kombu.transport import pyamqp

from panko_ingest.amqp import deliveries

_HEADER = Struct(">BHI")
_FRAME_END = 0xCE
_READ_SIZE = 256 * 1024


class _ReadAhead:
    """Mixed into py-amqp's transports; ``_quick_recv`` is their socket's recv or read."""

    _buffer = b""
    _position = 0

    def frame_buffered(self) -> bool:
        """Whether a whole frame is here already, so that reading one can't block."""
        held = len(self._buffer) - self._position
        if held <= _HEADER.size:
            return False
        size: int = _HEADER.unpack_from(self._buffer, self._position)[2]
        return held > _HEADER.size + size

    def read_frame(self, unpack: Any = None) -> tuple[int, int, bytes]:  # noqa: ARG002
        """Return the next frame as ``(type, channel, payload)``, waiting for it if need be.

        :raises TimeoutError: no whole frame came within the socket's timeout.
        :raises OSError: the connection is gone.
        """
        while not self.frame_buffered():
            self.read_available()
        position = self._position
        frame_type, channel, size = _HEADER.unpack_from(self._buffer, position)
        start = position + _HEADER.size
        end = start + size
        if self._buffer[end] != _FRAME_END:
            raise UnexpectedFrame(f"a frame ends with {self._buffer[end]:#x} instead of 0xce")
        self._position = end + 1
        return frame_type, channel, self._buffer[start:end]

    def read_available(self) -> None:
        """Take what the socket holds; blocks only while it holds nothing.

        :raises TimeoutError: nothing came within the socket's timeout.
        :raises OSError: the connection is gone.
        """
        chunk = self._quick_recv(_READ_SIZE)  # type: ignore[attr-defined]
        if not chunk:
            self.connected = False
            raise ConnectionResetError("the broker closed the connection")
        rest = self._buffer[self._position :]
        self._buffer = rest + chunk if rest else chunk
        self._position = 0

    def find_delivery(self) -> deliveries.Found | None:
        """Return the delivery that comes next, None where something else does; it is not taken yet."""
        return deliveries.find(self._buffer, self._position)

    def skip(self, delivery: deliveries.Found) -> None:
        """Go on behind a delivery that was found."""
        self._position = delivery.end

    def pending(self) -> bool:
        """Whether something is at hand of which poll() on the socket would not tell.

        That is what came along with the answer to a request, and what TLS has decrypted already.
        """
        pending = getattr(self.sock, "pending", None)  # type: ignore[attr-defined]
        return self.frame_buffered() or bool(pending is not None and pending())


class _TcpTransport(_ReadAhead, TCPTransport):  # type: ignore[misc]
    pass


class _SslTransport(_ReadAhead, SSLTransport):  # type: ignore[misc]
    def _wrap_socket(self, sock: Any, context: SSLContext, server_hostname: str) -> Any:
        return context.wrap_socket(sock, server_hostname=server_hostname, do_handshake_on_connect=False)


class Connection(pyamqp.Connection):
    """py-amqp's connection over the transports of this module."""

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
        while transport.connected:
            if self._deliver(transport):
                continue
            if not transport.frame_buffered():
                return
            self.on_inbound_frame(transport.read_frame())

    def _deliver(self, transport: _ReadAhead) -> bool:
        """Pass on the delivery that comes next; return whether there is one, and a receiver for it."""
        delivery = transport.find_delivery()
        if delivery is None or delivery.channel not in self.channels:
            return False
        receiver = self.channels[delivery.channel].callbacks.get(delivery.consumer)
        if not isinstance(receiver, deliveries.Receiver):
            return False
        transport.skip(delivery)
        self.bytes_recv += 1
        receiver.take(*delivery.parts)
        return True


class Transport(pyamqp.Transport):
    """kombu's AMQP transport over :class:`Connection`."""

    Connection = Connection
