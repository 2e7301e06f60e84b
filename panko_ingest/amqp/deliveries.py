"""Deliveries cut straight out of the bytes that were read ahead.

A delivery is three frames: the method, the properties, the body. py-amqp takes each through several
layers of objects, and reads anew in each what is the same in all messages of a queue. Here the three
are taken at once, and what is the same is looked up. Whatever is not the common case (a body of several
frames, none at all, a frame that is not all here, one that is not as it should be) is py-amqp's.
"""

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Any, NamedTuple, TypeVar

from amqp.serialization import decode_properties_basic, loads

from panko_ingest.delivery import Delivery

_METHOD_FRAME, _PROPERTIES_FRAME, _BODY_FRAME, _FRAME_END = 1, 2, 3, 0xCE
_BASIC, _DELIVER = 60, 60
# Each with its frame's header (type, channel, size) before it.
_METHOD = Struct(">BHIHHB")  # class, method, length of the consumer tag, which follows
_PROPERTIES = Struct(">BHIHHQ")  # class, weight, size of the body; flags and values follow
_BODY = Struct(">BHI")
_TAG = Struct(">QB")  # delivery tag, redelivered; exchange and routing key follow

T = TypeVar("T")
Route = tuple[str, str]
"""Exchange and routing key."""


class Properties(NamedTuple):
    """Those properties of a message that anybody looks at."""

    content_type: str | None
    content_encoding: str | None
    headers: Mapping[str, Any] | None

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> "Properties":
        """Return them out of py-amqp's."""
        get = properties.get
        return cls(get("content_type"), get("content_encoding"), get("application_headers"))


class _Parsed(dict[bytes, T]):
    """What bytes mean that come again and again; bounded, as a publisher may make them differ."""

    _MOST = 1000
    _LONGEST = 500

    def __init__(self, parse: Callable[[bytes], T]) -> None:
        super().__init__()
        self._parse = parse

    def __missing__(self, data: bytes) -> T:
        value = self._parse(data)
        if len(data) <= self._LONGEST:
            if len(self) >= self._MOST:
                self.clear()
            self[data] = value
        return value


def _parse_route(data: bytes) -> Route:
    exchange, routing_key = loads("ss", data, 0)[0]
    return exchange, routing_key


_routes = _Parsed(_parse_route)
_properties = _Parsed(lambda data: Properties.of(decode_properties_basic(data, 0)[0]))


class Receiver:
    """Makes deliveries of one consumer's messages, whoever read them.

    :param queue: what the consumer reads.
    :param generation: of its channel.
    :param receive: takes the deliveries.
    """

    def __init__(self, queue: str, generation: int, receive: Callable[[Delivery], None]) -> None:
        self._queue = queue
        self._generation = generation
        self._receive = receive

    def __call__(self, message: Any) -> None:
        """Take a message of py-amqp."""
        info = message.delivery_info
        self.take(
            message.body or b"",  # py-amqp gives text for none
            Properties.of(message.properties),
            (info["exchange"], info["routing_key"]),
            info["delivery_tag"],
            info["redelivered"],
        )

    def take(self, body: bytes, properties: Properties, route: Route, tag: int, redelivered: bool) -> None:
        """Take the parts of a message."""
        self._receive(
            Delivery(
                body,
                content_type=properties.content_type,
                content_encoding=properties.content_encoding,
                headers=properties.headers,
                exchange=route[0],
                routing_key=route[1],
                queue=self._queue,
                redelivered=redelivered,
                tag=tag,
                generation=self._generation,
            )
        )


class Found(NamedTuple):
    """A delivery that is all here."""

    channel: int
    consumer: str
    end: int
    """Where in the buffer what comes after it begins."""
    parts: tuple[bytes, Properties, Route, int, bool]
    """What :meth:`Receiver.take` takes."""


def find(buffer: bytes, start: int) -> Found | None:
    """Return the delivery that begins at ``start``, None where none does that can be had this way."""
    if start + _METHOD.size > len(buffer):
        return None
    kind, channel, size, cls, method, tag_length = _METHOD.unpack_from(buffer, start)
    if kind != _METHOD_FRAME or cls != _BASIC or method != _DELIVER:
        return None
    properties = start + _BODY.size + size + 1
    if properties + _PROPERTIES.size > len(buffer):
        return None
    kind, its_channel, size, _, _, body_size = _PROPERTIES.unpack_from(buffer, properties)
    body = properties + _BODY.size + size + 1
    end = body + _BODY.size + body_size + 1
    tag = start + _METHOD.size + tag_length
    if end > len(buffer) or tag + _TAG.size >= properties or kind != _PROPERTIES_FRAME:
        return None
    if (
        its_channel != channel
        or not body_size
        or _BODY.unpack_from(buffer, body) != (_BODY_FRAME, channel, body_size)
        or not buffer[properties - 1] == buffer[body - 1] == buffer[end - 1] == _FRAME_END
    ):
        return None
    delivery_tag, redelivered = _TAG.unpack_from(buffer, tag)
    return Found(
        channel,
        buffer[start + _METHOD.size : tag].decode(),
        end,
        (
            buffer[body + _BODY.size : end - 1],
            _properties[buffer[properties + _PROPERTIES.size : body - 1]],
            _routes[buffer[tag + _TAG.size : properties - 1]],
            delivery_tag,
            bool(redelivered & 1),
        ),
    )
