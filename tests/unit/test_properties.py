"""Properties of messages: those that anybody looks at, out of whatever bytes a publisher wrote."""

import datetime
import struct
import tracemalloc
from decimal import Decimal
from typing import Any

import amqp
import pytest
from hypothesis import example, given, strategies as st

from panko_ingest.amqp import properties
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.delivery import Delivery
from panko_ingest.pipeline import MessageProcessor
from panko_ingest.storage.models import DeadLetter
from tests.raw_frames import long_text, short_text, table

texts = st.text(max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31) + 1, 2**31 - 1)
    | st.integers(2**32, 2**63 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(9999, 1, 1)).map(
        lambda moment: moment.replace(microsecond=0)
    ),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=8,
)
written = st.fixed_dictionaries(
    {},
    optional={
        "content_type": texts,
        "content_encoding": texts,
        "application_headers": st.dictionaries(texts, values, max_size=4),
        "delivery_mode": st.sampled_from([1, 2]),
        "correlation_id": texts,
        "message_id": texts,
        "timestamp": st.integers(0, 2**63),
        "type": texts,
        "app_id": texts,
    },
)


@given(written)
def test_what_py_amqp_writes_is_read_as_it_was(given_properties: dict[str, Any]) -> None:
    read = properties.parse(amqp.Message("", **given_properties)._serialize_properties())
    assert read.fault is None
    assert read.content_type == given_properties.get("content_type")
    assert read.content_encoding == given_properties.get("content_encoding")
    assert read.headers == given_properties.get("application_headers")


@given(st.binary(max_size=300))
@example(struct.pack(">H", 0xFFFF))
@example(struct.pack(">H", 0x2000) + table(b"\x01a" + b"F\0\0\0\x05\x01aF" * 3))
def test_any_bytes_are_properties_or_a_fault_that_names_them(data: bytes) -> None:
    read = properties.parse(data)
    assert (read.fault is None) or read.headers == {"unreadable_properties": data}


def header(kind: str, value: bytes) -> bytes:
    return struct.pack(">H", 0x2000) + table(short_text(b"h") + kind.encode() + value)


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        ("T", struct.pack(">Q", 1_764_288_000), datetime.datetime(2025, 11, 28)),
        ("T", struct.pack(">Q", 1_764_288_000_000), 1_764_288_000_000),
        ("T", struct.pack(">Q", 2**64 - 1), 2**64 - 1),
        ("S", long_text(b"gr\xc3\xb6\xc3\x9fe"), "größe"),
        ("S", long_text(b"\xff\x1b[2J"), "\\xff\x1b[2J"),
        ("x", long_text(b"\x00\xff"), "\x00\\xff"),
        ("D", struct.pack(">Bi", 2, 314), Decimal("3.14")),
        ("D", struct.pack(">Bi", 255, -1), Decimal("-1e-255")),
        ("l", struct.pack(">q", -1), -1),
        ("u", struct.pack(">H", 65535), 65535),
        ("V", b"", None),
    ],
)
def test_a_header_of_any_type_is_read(kind: str, value: bytes, read: Any) -> None:
    assert properties.parse(header(kind, value)).headers == {"h": read}


def nested(levels: int) -> bytes:
    value = table(b"")
    for _ in range(levels):
        value = table(short_text(b"a") + b"F" + value)
    return struct.pack(">H", 0x2000) + value


@pytest.mark.parametrize(
    "data",
    [nested(40), nested(9000), header("z", b""), header("S", b"\x7f\xff\xff\xff"), struct.pack(">H", 0x8000)],
    ids=["nested", "nested deep", "unknown type", "too long", "absent"],
)
def test_properties_that_cannot_be_read_become_a_dead_letter_that_keeps_them(data: bytes) -> None:
    read = properties.parse(data)
    processor = MessageProcessor(
        EventConverter([], log=False), TypeFilter(["*"]), max_size=10**6, max_depth=50
    )
    outcome = processor.process(Delivery(b"{}", headers=read.headers, fault=read.fault))
    assert isinstance(outcome, DeadLetter)
    assert outcome.stage == "decode"
    assert outcome.error.startswith("the message's properties can't be read: ")
    assert outcome.headers == {"unreadable_properties": data}


@pytest.mark.parametrize(
    "values",
    [
        b"V" * 20_000,
        (b"F" + table(b"")) * 4000,
        (b"F" + table(b"\0V")) * 3000,
        (b"F" + table(b"\x01aA" + table(b""))) * 2000,
        (b"A" + table(b"V")) * 3000,
        (b"A" + table(b"A" + table(b"A" + table(b"V")))) * 1500,
        b"".join(b"F" + table(struct.pack(">BH", 2, number) + b"V") for number in range(2000)),
        struct.pack(">cBi", b"D", 0, 9) * 3000,
        struct.pack(">cQ", b"T", 9) * 2000,
        struct.pack(">cH", b"u", 65535) * 6000,
        b"S" + long_text(b"\xff" * 20_000),
        b"S" + long_text("a𝄞".encode() * 4000),
        (b"S" + long_text("𝄞".encode())) * 2000,
    ],
)
def test_what_headers_take_in_memory_is_counted(values: bytes) -> None:
    data = struct.pack(">H", 0x2000) + table(short_text(b"h") + b"A" + table(values))
    tracemalloc.start()
    read = properties.parse(data)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read.fault is None
    assert taken <= read.bytes_held + 2000
    assert read.bytes_held <= 50 * len(data)


def test_what_is_in_no_header_takes_nothing() -> None:
    read = properties.parse(amqp.Message("", content_type="application/json")._serialize_properties())
    assert read.bytes_held == 0
