"""The properties of a message as their publisher wrote them, which may be any bytes.

Only what somebody looks at is read: content type, content encoding and headers. The rest (timestamp,
app_id, type, correlation_id...) stays unread, so that nothing in it can do harm.
"""

import datetime
import struct
from collections.abc import Callable, Mapping
from decimal import Decimal
from struct import Struct
from typing import Any, NamedTuple

_MAX_DEPTH = 32
_FLAGS = Struct(">H")
_MORE_FLAGS, _CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS = 0x0001, 0x8000, 0x4000, 0x2000
_LENGTH = Struct(">I")
_SECONDS = Struct(">Q")
_DECIMAL = Struct(">Bi")
# An object takes many times its bytes here: a table of one entry has 7 and takes 190.
_MEMORY_OF_A_BYTE = 32
# RabbitMQ's letters, which differ from the specification's where brokers and clients do.
_FIXED: dict[int, Struct] = {
    ord(letter): Struct(">" + code)
    for letter, code in {
        "t": "?", "b": "b", "B": "B", "s": "h", "U": "h", "u": "H", "I": "i", "i": "I", "l": "q", "L": "q",
        "f": "f", "d": "d",
    }.items()
}  # fmt: skip


class Properties(NamedTuple):
    """Those properties of a message that anybody looks at."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, Any] | None = None
    fault: str | None = None
    """Why they can't be read; then the only header is all their bytes."""
    bytes_held: int = 0
    """How much memory the headers take at most."""


def parse(data: bytes) -> Properties:
    """Return the properties that ``data``, the flags and the values of a header frame, holds.

    It never fails; text that is not UTF-8 has escapes in it, and a time out of range is a number.
    """
    try:
        return _parse(data)
    except (struct.error, IndexError, ValueError) as error:
        fault = f"the message's properties can't be read: {error}"
        return Properties(fault=fault, headers={"unreadable_properties": data}, bytes_held=len(data))


def short_text(data: bytes, offset: int) -> tuple[str, int]:
    """Return the short string at ``offset``, and where what follows it begins.

    :raises IndexError: it is cut off.
    """
    end = offset + 1 + data[offset]
    if end > len(data):
        raise IndexError("a short string is cut off")
    return _text(data[offset + 1 : end]), end


def _parse(data: bytes) -> Properties:
    (flags,) = _FLAGS.unpack_from(data)
    more, offset = flags, _FLAGS.size
    while more & _MORE_FLAGS:
        (more,) = _FLAGS.unpack_from(data, offset)
        offset += _FLAGS.size
    content_type = content_encoding = headers = None
    if flags & _CONTENT_TYPE:
        content_type, offset = short_text(data, offset)
    if flags & _CONTENT_ENCODING:
        content_encoding, offset = short_text(data, offset)
    if flags & _HEADERS:
        headers, offset = _table(data, offset, 1)
    held = len(data) * _MEMORY_OF_A_BYTE if headers else 0
    return Properties(content_type, content_encoding, headers, bytes_held=held)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _sized(data: bytes, offset: int) -> tuple[int, int]:
    """Return where the contents of what has a length before it start and end."""
    (length,) = _LENGTH.unpack_from(data, offset)
    start = offset + _LENGTH.size
    if start + length > len(data):
        raise ValueError("a header is longer than all of them")
    return start, start + length


def _table(data: bytes, offset: int, depth: int) -> tuple[dict[str, Any], int]:
    offset, end = _sized(data, offset)
    table: dict[str, Any] = {}
    while offset < end:
        name, offset = short_text(data, offset)
        table[name], offset = _value(data, offset, depth)
    return table, end


def _array(data: bytes, offset: int, depth: int) -> tuple[list[Any], int]:
    offset, end = _sized(data, offset)
    array = []
    while offset < end:
        value, offset = _value(data, offset, depth)
        array.append(value)
    return array, end


def _long_text(data: bytes, offset: int, _depth: int) -> tuple[str, int]:
    start, end = _sized(data, offset)
    return _text(data[start:end]), end


def _moment(data: bytes, offset: int, _depth: int) -> tuple[Any, int]:
    (seconds,) = _SECONDS.unpack_from(data, offset)
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):  # milliseconds, as some publishers write them
        return seconds, offset + _SECONDS.size
    return moment, offset + _SECONDS.size


def _decimal(data: bytes, offset: int, _depth: int) -> tuple[Decimal, int]:
    places, digits = _DECIMAL.unpack_from(data, offset)
    return Decimal(digits).scaleb(-places), offset + _DECIMAL.size


_READERS: dict[int, Callable[[bytes, int, int], tuple[Any, int]]] = {
    ord("S"): _long_text,
    ord("x"): _long_text,
    ord("F"): _table,
    ord("A"): _array,
    ord("T"): _moment,
    ord("D"): _decimal,
    ord("V"): lambda _data, offset, _depth: (None, offset),
}


def _value(data: bytes, offset: int, depth: int) -> tuple[Any, int]:
    kind = data[offset]
    if (fixed := _FIXED.get(kind)) is not None:
        return fixed.unpack_from(data, offset + 1)[0], offset + 1 + fixed.size
    read = _READERS.get(kind)
    if read is None:
        raise ValueError(f"a header is of the unknown type {kind:#x}")
    if depth > _MAX_DEPTH:
        raise ValueError(f"the headers are nested deeper than {_MAX_DEPTH} levels")
    return read(data, offset + 1, depth + 1)
