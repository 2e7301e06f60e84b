"""AMQP's bytes as a publisher can write them who keeps to no rule of his client."""

import struct
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

import amqp
import amqp.exceptions

_METHOD, _HEADER, _BODY = 1, 2, 3


def short_text(data: bytes) -> bytes:
    """Return a short string, of which only the length is as it should be."""
    return bytes([len(data)]) + data


def long_text(data: bytes) -> bytes:
    """Return a long string, without the letter of its type."""
    return struct.pack(">I", len(data)) + data


table = long_text
"""Return a table of such contents: it is written as a long string is."""


class RawPublisher:
    """Publishes messages with any bytes as their properties; connects anew after a refusal."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def _connect(self) -> None:
        self._connection = amqp.Connection(
            f"{self._parts.hostname}:{self._parts.port}",
            self._parts.username,
            self._parts.password,
            virtual_host=unquote(self._parts.path[1:]),
            connect_timeout=10,
            read_timeout=30,
        )
        self._connection.connect()
        self._channel = self._connection.channel()
        self._channel.confirm_select()

    def publish(self, properties: bytes, body: bytes, *, routing_key: bytes, exchange: bytes = b"") -> bool:
        """Publish a message; return whether the broker took it.

        :param properties: flags and values of its header frame.
        """
        channel = self._channel.channel_id
        method = struct.pack(">HHH", 60, 40, 0) + short_text(exchange) + short_text(routing_key) + b"\0"
        frames = [(_METHOD, method), (_HEADER, struct.pack(">HHQ", 60, 0, len(body)) + properties)]
        frames += [(_BODY, body)] if body else []
        self._connection.transport.write(
            b"".join(struct.pack(">BHI", kind, channel, len(data)) + data + b"\xce" for kind, data in frames)
        )
        try:
            self._channel.wait(amqp.spec.Basic.Ack, timeout=10)
        except (OSError, ValueError, amqp.exceptions.AMQPError):
            self._connection.collect()
            self._connect()
            return False
        return True
