"""Deliveries cut straight out of the bytes that were read ahead.

A delivery is three frames: the method, the properties, the body. py-amqp takes each through several
layers of objects, and reads anew in each what is the same in all messages of a queue. Here the three
are taken at once, and what is the same is looked up. What is not the common case (a body of several
frames, none at all, a frame that is not all here) is put together frame by frame. Nothing that a publisher
writes is parsed by py-amqp, which would end the connection over it.
"""

import hashlib
import struct
from collections.abc import Callable
from struct import Struct, pack

from amqp.exceptions import FrameSyntaxError, UnexpectedFrame

from panko_ingest.amqp.properties import Properties, parse as parse_properties, short_text
from panko_ingest.delivery import Delivery, Rest
from panko_ingest.remembered import Remembered

# py-amqp checks nothing of what it parses, and raises whatever comes of that.
_UNREADABLE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    struct.error,
    RecursionError,
)

_METHOD_FRAME, _PROPERTIES_FRAME, _BODY_FRAME, _HEARTBEAT_FRAME, _FRAME_END = 1, 2, 3, 8, 0xCE
_BASIC, _DELIVER = 60, 60
_DELIVER_METHOD = pack(">HH", _BASIC, _DELIVER)
_CONTENT = Struct(">HHQ")  # class, weight, size of the body; flags and values follow
# Each with its frame's header (type, channel, size) before it.
_METHOD = Struct(">BHIHHB")  # class, method, length of the consumer tag, which follows
_PROPERTIES = Struct(">BHIHHQ")  # class, weight, size of the body; flags and values follow
_BODY = Struct(">BHI")
_TAG = Struct(">QB")  # delivery tag, redelivered; exchange and routing key follow
# Of what is remembered, and bytes of each.
_MOST, _LONGEST = 1000, 500

Route = tuple[str, str]
"""Exchange and routing key."""
DeliveryParts = tuple[bytes, Properties, Route, int, bool, Rest | None]
"""What :meth:`Receiver.take` takes."""
DeliveryFrame = tuple[int, str, DeliveryParts, int]
"""A delivery that is all here: channel, consumer, parts, and where in the buffer what comes after begins."""
Frame = tuple[int, int, bytes]
"""Type, channel and payload."""


def _parse_route(data: bytes) -> Route:
    exchange, offset = short_text(data, 0)
    return exchange, short_text(data, offset)[0]


_consumers = Remembered(bytes.decode, _MOST, _LONGEST)
_routes = Remembered(_parse_route, _MOST, _LONGEST)
_properties = Remembered(parse_properties, _MOST, _LONGEST)


class Receiver:
    """Makes deliveries of one consumer's messages.

    :param queue: what the consumer reads.
    :param number: of its channel, as :class:`Delivery` has it.
    :param receive: takes the deliveries.
    """

    def __init__(self, queue: str, number: int, receive: Callable[[Delivery], None]) -> None:
        self._queue = queue
        self._number = number
        self._receive = receive

    def take(
        self,
        body: bytes,
        properties: Properties,
        route: Route,
        tag: int,
        redelivered: bool,
        rest: Rest | None,
    ) -> None:
        """Take the parts of a message; ``rest`` is what is cut off its body."""
        content_type, content_encoding, headers, fault, bytes_of_headers = properties
        self._receive(
            Delivery(
                body,
                content_type,
                content_encoding,
                headers,
                *route,
                self._queue,
                redelivered,
                fault,
                tag,
                self._number,
                bytes_of_headers,
                rest,
            )
        )


def parse(buffer: bytes, start: int) -> DeliveryFrame | None:
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
    try:
        return (
            channel,
            _consumers[buffer[start + _METHOD.size : tag]],
            (
                buffer[body + _BODY.size : end - 1],
                _properties[buffer[properties + _PROPERTIES.size : body - 1]],
                _routes[buffer[tag + _TAG.size : properties - 1]],
                delivery_tag,
                bool(redelivered & 1),
                None,
            ),
            end,
        )
    except (IndexError, UnicodeDecodeError) as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> FrameSyntaxError:
    return FrameSyntaxError(
        f"what the broker sends is no AMQP 0-9-1, or damaged ({type(error).__name__}: {error}): look whether "
        "host and port of its URL are a broker's"
    )


class DeliveryAssembler:
    """Puts deliveries together that come frame by frame; a handler of py-amqp's for frames.

    :param deliver: takes channel, consumer, and what :meth:`Receiver.take` takes.
    :param others: takes the frames of everything else.
    :param largest_body: bytes of a body that are kept, which is a dead letter where there are more.
    """

    def __init__(
        self,
        deliver: Callable[[int, str, DeliveryParts], None],
        others: Callable[[Frame], bool],
        largest_body: int,
    ) -> None:
        self._deliver = deliver
        self._others = others
        self._largest_body = largest_body
        self._begun: dict[int, _BegunDelivery] = {}

    def __call__(self, frame: Frame) -> bool:
        """Take the next frame; return whether something is complete by it.

        :raises AMQPError: it can't follow the one before, or is damaged.
        """
        try:
            complete, delivery = self._add(frame)
        except _UNREADABLE as error:
            # Only py-amqp works in there, and no handler of a delivery: a fault of ours there does not pass
            # for the broker's.
            raise _damaged(error) from error
        if delivery is not None:
            self._deliver(frame[1], *delivery)
        return complete

    def _add(self, frame: Frame) -> tuple[bool, tuple[str, DeliveryParts] | None]:
        kind, channel, data = frame
        begun = self._begun.get(channel)
        if kind == _METHOD_FRAME and begun is None and data[: len(_DELIVER_METHOD)] == _DELIVER_METHOD:
            self._begun[channel] = _BegunDelivery(data, self._largest_body)
            return False, None
        if begun is None or kind == _HEARTBEAT_FRAME:
            return self._others(frame), None
        if not begun.add(kind, data):
            return False, None
        del self._begun[channel]
        return True, begun.finish()


class _BegunDelivery:
    def __init__(self, method: bytes, largest_body: int) -> None:
        self._method = method
        self._room = largest_body
        self._rest = hashlib.sha256()
        self._properties: bytes | None = None
        self._pieces: list[bytes] = []
        self._missing = 0

    def add(self, kind: int, data: bytes) -> bool:
        """Add the next frame; return whether it is the last."""
        if kind != (_PROPERTIES_FRAME if self._properties is None else _BODY_FRAME):
            raise UnexpectedFrame(f"a frame of type {kind} in the middle of a delivery")
        if self._properties is None:
            self._properties = data[_CONTENT.size :]
            self._missing = _CONTENT.unpack_from(data)[2]
        else:
            # What is too much is not gathered first: a broker passes on a body of 512 MB, and many at once.
            kept = data[: max(0, self._room)]
            self._pieces.append(kept)
            self._rest.update(data[len(kept) :])
            self._room -= len(data)
            self._missing -= len(data)
        return self._missing <= 0

    def finish(self) -> tuple[str, DeliveryParts]:
        """Return the consumer, and what its receiver takes."""
        consumer, offset = short_text(self._method, len(_DELIVER_METHOD))
        tag, redelivered = _TAG.unpack_from(self._method, offset)
        route = _routes[self._method[offset + _TAG.size :]]
        properties = _properties[self._properties or b""]
        rest = Rest(-self._room, self._rest.digest()) if self._room < 0 else None
        body = b"".join(self._pieces)
        return consumer, (body, properties, route, tag, bool(redelivered & 1), rest)
