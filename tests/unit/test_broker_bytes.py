"""Whatever bytes a broker sends cost the connection, or one channel of it, and never the worker."""

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from amqp import spec
from amqp.exceptions import (
    ChannelError,
    ConnectionForced,
    ConsumerCancelled,
    FrameSyntaxError,
    NotFound,
    UnexpectedFrame,
)
from amqp.serialization import dumps
from hypothesis import given, settings, strategies as st

from panko_ingest.amqp.delivery_frames import Receiver
from panko_ingest.amqp.framing import Connection
from panko_ingest.amqp.link import LINK_ERRORS
from panko_ingest.delivery import Delivery
from tests.unit.clock import Clock
from tests.unit.test_delivery_frames import CONSUMER, QUEUE, bytes_of, delivered
from tests.unit.test_framing import Wire, encoded

START = (1, 0, b"\x00\x0a\x00\x0a" + dumps("ooFSS", (0, 9, {"capabilities": {}}, "PLAIN AMQPLAIN", "en_US")))
TUNE = (1, 0, b"\x00\x0a\x00\x1e" + dumps("BlB", (2047, 131072, 60)))
BOUNDLESS = (1, 0, b"\x00\x0a\x00\x1e" + dumps("BlB", (2047, 2**32 - 1, 60)))
OPEN_OK = (1, 0, b"\x00\x0a\x00\x29\x00")
CHANNEL_OPEN_OK = (1, 1, b"\x00\x14\x00\x0b" + dumps("S", ("",)))
DECLARE_OK = (1, 1, b"\x00\x32\x00\x0b" + dumps("sll", (QUEUE, 3, 1)))
CANCEL = (1, 1, b"\x00\x3c\x00\x1e" + dumps("sb", (CONSUMER, True)))
HANDSHAKE = [START, TUNE, OPEN_OK, CHANNEL_OPEN_OK]
TALK = [
    *HANDSHAKE,
    *delivered(b"at once", {"application_headers": {"a": "b"}}),
    DECLARE_OK,
    (8, 0, b""),
    *delivered(b"in pieces", {}, pieces=2),
    CANCEL,
]


def close(channel: int, method: tuple[int, int], code: int, text: bytes) -> tuple[int, int, bytes]:
    return 1, channel, struct.pack(">HHHB", *method, code, len(text)) + text + struct.pack(">HH", 50, 10)


class Socketless(Wire):
    """What a broker sends, whatever it is sent; at the end it is gone."""

    connect_timeout = 10.0

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__(pieces, end=None)

    def connect(self) -> None:
        self.connected = True

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        self.connected = False

    @contextlib.contextmanager
    def having_timeout(self, _timeout: float | None) -> Iterator[None]:
        yield


def connect(stream: bytes, piece: int = 50, heartbeat: int = 0) -> Connection:
    """Return a connection to a broker that sends these bytes, so many at once."""
    wire = Socketless([stream[at : at + piece] for at in range(0, len(stream), piece)])
    connection = Connection(
        "localhost", login_method="PLAIN", userid="a", password="b", connect_timeout=10, heartbeat=heartbeat
    )
    connection.Transport = lambda *_args, **_more: wire  # type: ignore[method-assign]
    connection.connect()
    return connection


def talk(stream: bytes, receive: Any, piece: int = 50) -> None:
    """Connect, open a channel, ask a question, and take what comes until the stream ends.

    :raises ConnectionResetError: it did.
    """
    connection = connect(stream, piece)
    channel = connection.channel()
    channel.callbacks[CONSUMER] = Receiver(QUEUE, 7, receive)
    with contextlib.suppress(ChannelError):
        channel.queue_declare(QUEUE, passive=True)
    while True:
        connection.handle_available()


def test_a_whole_talk_is_understood() -> None:
    received: list[Delivery] = []
    with pytest.raises(ConnectionResetError):
        talk(bytes_of(TALK), received.append)
    assert [delivery.body for delivery in received] == [b"at once", b"in pieces"]


@settings(max_examples=400)
@given(st.data())
def test_a_talk_that_is_damaged_anywhere_costs_no_more_than_the_connection(data: st.DataObject) -> None:
    stream = bytearray(bytes_of([frame for frame in TALK if data.draw(st.integers(0, 20))]))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(stream)))
        size = data.draw(st.integers(0, 3))
        stream[at : at + size] = data.draw(st.binary(max_size=3) | st.just(bytes(size)))
    with pytest.raises(LINK_ERRORS):
        talk(bytes(stream), lambda _delivery: None)


def deep(levels: int) -> bytes:
    table = b""
    for _ in range(levels):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return struct.pack(">I", len(table)) + table


@pytest.mark.parametrize(
    "frame",
    [
        (1, 0, START[2].replace(b"PLAIN", b"PL\xc4IN")),
        (1, 0, b"\x00\x0a\x00\x0a\x00\x09" + deep(3000)),
        (1, 0, b"\x00\x0a\x00\x0a"),
        (1, 7, START[2]),
        (1, 0, b"\x00"),
        *delivered(b"", {})[:1],
    ],
    ids=["no UTF-8", "a deep table", "a cut method", "no such channel", "no method", "a delivery too soon"],
)
def test_a_greeting_that_is_none_is_told_in_words(frame: tuple[int, int, bytes]) -> None:
    with pytest.raises(FrameSyntaxError, match="no AMQP 0-9-1") as told:
        talk(encoded(frame) + encoded((2, 1, b"")), lambda _delivery: None)
    assert isinstance(told.value, LINK_ERRORS)


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_fault_of_ours_in_what_takes_a_delivery_does_not_pass_for_the_brokers(pieces: int) -> None:
    def stumble(_delivery: Delivery) -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        talk(bytes_of([*HANDSHAKE, *delivered(b"body", {}, pieces=pieces), DECLARE_OK]), stumble)


def test_a_channel_that_is_closed_with_a_text_that_is_cut_within_a_character_costs_no_other() -> None:
    received: list[Delivery] = []
    text = b"NOT_FOUND - no exchange '" + b"\xc3\xa9" * 20 + b"\xc3..."
    closed = close(1, (20, 40), 404, text)
    connection = Connection("localhost")
    connection.transport = Socketless([encoded(closed)])
    connection.on_inbound_frame = connection._frame_handler(connection, connection.on_inbound_method)
    connection.frame_writer = lambda *_: None
    channel = connection.Channel(connection, 1)
    channel.callbacks[CONSUMER] = Receiver(QUEUE, 7, received.append)
    connection.handle_available()
    assert isinstance(channel.refusal, NotFound)
    assert channel.refusal.reply_text.endswith("éé?...")
    assert channel.refusal.method_sig == (50, 10)
    assert connection.transport.connected


def test_a_connection_that_is_closed_with_a_reason_in_latin_1_is_told_so() -> None:
    forced = close(0, spec.Connection.Close, 320, "Wartung für heute".encode("latin-1"))
    with pytest.raises(ConnectionForced, match=r"Wartung f\?r heute"):
        talk(bytes_of([*HANDSHAKE, forced]), lambda _delivery: None)


def test_a_channel_that_both_sides_close_at_once_costs_no_connection() -> None:
    timed_out = close(1, spec.Channel.Close, 406, b"PRECONDITION_FAILED - delivery acknowledgement timed out")
    connection = connect(bytes_of([*HANDSHAKE, timed_out, CHANNEL_OPEN_OK]))
    connection.channel().close()
    assert connection.channel().channel_id == 1


def test_a_connection_that_is_closed_while_a_cancelled_channel_is_is_told_so() -> None:
    forced = close(0, spec.Connection.Close, 320, b"CONNECTION_FORCED - shutdown")
    connection = connect(bytes_of([*HANDSHAKE, CANCEL, DECLARE_OK, forced]))
    channel = connection.channel()
    channel.queue_declare(QUEUE, passive=True)
    assert isinstance(channel.refusal, ConsumerCancelled)
    with pytest.raises(ConnectionForced, match="shutdown"):
        channel.close()


@pytest.mark.parametrize(("kind", "most"), [(1, 16 << 20), (2, 16 << 20), (3, 131072), (8, 131072)])
def test_a_broker_that_would_send_frames_without_bound_is_not_let(kind: int, most: int) -> None:
    beginning = struct.pack(">BHI", kind, 1, 2**32 - 16)
    greeting = bytes_of([START, BOUNDLESS, OPEN_OK, CHANNEL_OPEN_OK, DECLARE_OK])
    with pytest.raises(UnexpectedFrame, match=f"of at most {most}"):
        talk(greeting + beginning + bytes(1000), lambda _delivery: None)


@pytest.mark.parametrize("piece", [50, 1 << 18])
def test_headers_may_be_larger_than_frames_for_the_broker_adds_its_own(piece: int) -> None:
    received: list[Delivery] = []
    large = {"application_headers": {"a": "x" * 131_072}}
    stream = bytes_of([*HANDSHAKE, DECLARE_OK, *delivered(b"{}", large), *delivered(b"next", {})])
    with pytest.raises(ConnectionResetError):
        talk(stream, received.append, piece)
    assert [delivery.body for delivery in received] == [b"{}", b"next"]


@pytest.mark.parametrize("piece", [50, 1000])
def test_a_large_message_over_a_slow_line_is_a_sign_of_life(
    monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    clock = Clock()
    monkeypatch.setattr("amqp.connection.monotonic", clock)
    received: list[Delivery] = []
    large = delivered(bytes(20_000), {}, pieces=20)
    connection = connect(bytes_of([*HANDSHAKE, *large]), piece, heartbeat=10)
    connection.channel().callbacks[CONSUMER] = Receiver(QUEUE, 7, received.append)
    connection.heartbeat_tick()
    while not received:
        connection.handle_available()
        clock.advance(9)
        connection.heartbeat_tick()
    for _ in range(2):
        clock.advance(13)
        with contextlib.suppress(ConnectionResetError):
            connection.handle_available()
    with pytest.raises(ConnectionForced, match="heartbeats missed"):
        connection.heartbeat_tick()
