"""Deliveries are the same whether they are cut out of the bytes at once or put together frame by frame."""

import itertools
import struct
from collections.abc import Sequence
from typing import Any

import amqp
import pytest
from amqp.exceptions import UnexpectedFrame
from hypothesis import given, settings, strategies as st

from panko_ingest.amqp import delivery_frames
from panko_ingest.amqp.delivery_frames import Receiver
from panko_ingest.amqp.framing import Connection
from panko_ingest.delivery import Delivery
from tests.unit.test_framing import Wire, encoded

CHANNEL = 1
CONSUMER = "consumer-1"
QUEUE = "notifications.info"

names = st.text(max_size=20)
headers = st.dictionaries(st.text("abc", min_size=1), st.none() | st.booleans() | st.integers(0, 9) | names)
properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": names,
        "content_encoding": names,
        "application_headers": headers,
        "delivery_mode": st.sampled_from([1, 2]),
        "message_id": names,
    },
)


def short(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data


def delivered(
    body: bytes,
    properties: dict[str, Any],
    *,
    tag: int = 1,
    redelivered: bool = False,
    exchange: str = "nova",
    routing_key: str = QUEUE,
    pieces: int = 1,
    consumer: str = CONSUMER,
) -> list[tuple[int, int, bytes]]:
    """Return the frames of one delivery, its body in so many pieces."""
    method = (
        struct.pack(">HH", 60, 60)
        + short(consumer)
        + struct.pack(">QB", tag, redelivered)
        + short(exchange)
        + short(routing_key)
    )
    values = amqp.Message("", **properties)._serialize_properties()
    size = max(1, -(-len(body) // pieces))
    return [
        (1, CHANNEL, method),
        (2, CHANNEL, struct.pack(">HHQ", 60, 0, len(body)) + values),
        *((3, CHANNEL, body[at : at + size]) for at in range(0, len(body), size)),
    ]


def bytes_of(frames: Sequence[tuple[int, int, bytes]]) -> bytes:
    return b"".join(map(encoded, frames))


class Reader:
    """A connection that was never opened, with one consumer; it reads what it is given."""

    def __init__(self, pieces: Sequence[bytes], **settings: int) -> None:
        self.received: list[Delivery] = []
        self.connection = Connection("localhost", **settings)
        self.wire = self.connection.transport = Wire(pieces)
        self.connection.on_inbound_frame = self.connection._frame_handler(
            self.connection, self.connection.on_inbound_method
        )
        self.channel = self.connection.Channel(self.connection, CHANNEL)
        self.channel.auto_decode = False
        self.channel.callbacks[CONSUMER] = Receiver(QUEUE, 7, self.received.append)

    def read(self) -> list[dict[str, Any]]:
        while self.wire._pieces:
            self.connection.handle_available()
        return [{name: getattr(item, name) for name in Delivery.__slots__} for item in self.received]

    def read_frame_by_frame(self) -> list[dict[str, Any]]:
        self.wire.next_delivery = lambda: None  # type: ignore[method-assign]
        return self.read()


messages = st.lists(
    st.builds(
        delivered,
        st.binary(max_size=200),
        properties,
        tag=st.integers(1, 2**63 - 1),
        redelivered=st.booleans(),
        exchange=names,
        routing_key=names,
        pieces=st.integers(1, 3),
    ),
    max_size=6,
)


@settings(max_examples=50)
@given(messages, st.data())
def test_any_messages_in_any_chunks_are_the_same_at_once_and_frame_by_frame(
    messages: list[list[tuple[int, int, bytes]]], data: st.DataObject
) -> None:
    heartbeat = [(8, 0, b"")]
    stream = bytes_of([frame for message in messages for frame in (*message, *heartbeat)])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)]) if a < b]
    found = Reader(pieces).read()
    assert found == Reader(pieces).read_frame_by_frame()
    assert len(found) == len(messages)


def test_a_whole_message_is_taken_at_once() -> None:
    reader = Reader([bytes_of(delivered(b"body", {"content_type": "application/json"}))])
    reader.connection.on_inbound_frame = None
    assert [item["body"] for item in reader.read()] == [b"body"]
    assert reader.connection.bytes_recv, "or the connection would pass for dead"


@pytest.mark.parametrize("pieces", [2, 3, 20])
def test_of_a_body_that_is_too_large_no_more_is_gathered_than_a_dead_letter_keeps(pieces: int) -> None:
    large = [b"x" * 20, b"x" * 19 + b"y"]
    frames = [
        frame for body in large for frame in delivered(body, {"content_type": "text/plain"}, pieces=pieces)
    ]
    reader = Reader([bytes_of([*frames, *delivered(b"12345678", {})])], largest_body=8)
    *cut, whole = reader.read()
    for one in cut:
        assert one["body"] == b"x" * 8
        assert one["content_type"] == "text/plain"
        assert one["fault"] is None, "its properties are as they should be"
        assert one["rest"].size == 12
    assert (whole["body"], whole["rest"]) == (b"12345678", None)
    assert [item.size for item in reader.received] == [20, 20, 8]
    assert len({item.digest() for item in reader.received}) == 3, "or one would pass for the other again"


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_a_frame_without_its_end_mark_is_refused(frame: int) -> None:
    frames = [encoded(frame) for frame in delivered(b"body", {})]
    frames[frame] = frames[frame][:-1] + b"\0"
    with pytest.raises(UnexpectedFrame):
        Reader([b"".join(frames)]).read()


def test_a_body_of_another_channel_is_refused() -> None:
    method, values, (kind, _, body) = delivered(b"body", {})
    with pytest.raises(UnexpectedFrame):
        Reader([bytes_of([method, values, (kind, 2, body)])]).read()


def test_a_message_of_a_consumer_that_is_gone_goes_back_to_the_broker() -> None:
    reader = Reader([bytes_of(delivered(b"body", {}, tag=5, consumer="gone"))])
    rejected = []
    reader.channel.basic_reject = lambda tag, requeue: rejected.append((tag, requeue))
    assert reader.read() == []
    assert rejected == [(5, True)]


def test_header_values_that_differ_in_every_message_are_not_kept_for_ever() -> None:
    for number in range(3000):
        stream = bytes_of(delivered(b"body", {"message_id": str(number)}, routing_key=str(number)))
        assert delivery_frames.parse(stream, 0)
    for number in range(3):
        long = {"application_headers": {"trace": "x" * 10_000 + str(number)}}
        assert delivery_frames.parse(bytes_of(delivered(b"body", long)), 0)
    for known in (delivery_frames._properties, delivery_frames._routes):
        assert len(known) <= known.most
        assert all(len(data) <= known.longest for data in known)


def test_headers_count_as_memory_beside_the_body() -> None:
    messages = [
        delivered(b"{}", {}),
        delivered(b"{}", {"application_headers": {"h": [{}] * 1000}}),
        delivered(b"{}", {"application_headers": {"h": [{}] * 1000}}, pieces=2),
    ]
    found = Reader([bytes_of([frame for message in messages for frame in message])]).read()
    plain, *heavy = [delivery["bytes_held"] for delivery in found]
    assert plain == len(b"{}")
    assert all(held > 64_000 for held in heavy)
