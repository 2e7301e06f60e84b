import itertools
import struct
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from amqp.exceptions import UnexpectedFrame
from hypothesis import given, strategies as st

from panko_ingest.amqp.framing import _ReadAhead

Frame = tuple[int, int, bytes]

frames = st.lists(st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(0, 65535), st.binary(max_size=300)))


class Wire(_ReadAhead):
    """A transport whose socket gives the bytes piece by piece, and then times out."""

    sock = SimpleNamespace(gettimeout=lambda: None)

    def __init__(self, pieces: Sequence[bytes], end: type[Exception] | None = TimeoutError) -> None:
        self._pieces = list(pieces)
        self._end = end
        self.connected = True

    def _quick_recv(self, _size: int) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._end:
            raise self._end
        return b""


def encoded(frame: Frame) -> bytes:
    kind, channel, payload = frame
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


@given(frames, st.data())
def test_any_chunking_of_a_stream_gives_the_same_frames(expected: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(encoded, expected))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    edges = [0, *cuts, len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges) if a < b]
    wire = Wire(pieces)
    assert [wire.read_frame() for _ in expected] == expected
    assert not wire.pending()


@given(st.tuples(st.just(3), st.integers(0, 65535), st.binary(max_size=50)), st.data())
def test_a_frame_that_is_not_all_here_is_left_alone_and_read_later(frame: Frame, data: st.DataObject) -> None:
    stream = encoded(frame)
    cut = data.draw(st.integers(1, len(stream) - 1))
    wire = Wire([stream[:cut]])
    with pytest.raises(TimeoutError):
        wire.read_frame()
    assert not wire.frame_buffered()
    wire._pieces.append(stream[cut:])
    assert wire.read_frame() == frame


def test_the_end_of_the_stream_in_a_frame_is_a_lost_connection() -> None:
    wire = Wire([encoded((1, 0, b"method"))[:-3]], end=None)
    with pytest.raises(ConnectionResetError):
        wire.read_frame()
    assert not wire.connected


def test_a_frame_without_its_end_mark_is_refused() -> None:
    wire = Wire([encoded((1, 0, b"method"))[:-1] + b"\x00"])
    with pytest.raises(UnexpectedFrame):
        wire.read_frame()


def test_frames_that_were_read_ahead_are_pending() -> None:
    wire = Wire([encoded((1, 0, b"one")) + encoded((1, 0, b"two"))])
    assert not wire.pending()
    wire.read_frame()
    assert wire.pending()
