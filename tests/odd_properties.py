"""Properties of messages, as bytes, that no client writes and every broker passes on."""

import random
import struct

from tests.raw_frames import long_text, short_text, table


def nested(levels: int) -> bytes:
    value = table(b"")
    for _ in range(levels):
        value = table(short_text(b"a") + b"F" + value)
    return struct.pack(">H", 0x2000) + value


def header(name: bytes, value: bytes) -> bytes:
    return struct.pack(">H", 0x2000) + table(short_text(name) + value)


ODD = {
    "timestamp property in milliseconds": struct.pack(">HQ", 0x0040, 1_764_288_000_000),
    "timestamp header in milliseconds": header(b"t", b"T" + struct.pack(">Q", 1_764_288_000_000)),
    "timestamp header beyond all time": header(b"t", b"T" + struct.pack(">Q", 2**64 - 1)),
    "app_id": struct.pack(">H", 0x0008) + short_text(b"\xff\xfe"),
    "type": struct.pack(">H", 0x0020) + short_text(b"\xff\xfe"),
    "correlation_id": struct.pack(">H", 0x0400) + short_text(b"\xff\xfe"),
    "content_type": struct.pack(">H", 0x8000) + short_text(b"application/\xff"),
    "content_encoding": struct.pack(">H", 0x4000) + short_text(b"\xff"),
    "message_id": struct.pack(">H", 0x0080) + short_text(b"\xff"),
    "header name": header(b"\xff", b"S" + long_text(b"a")),
    "header text": header(b"a", b"S" + long_text(b"\xff\0\x1b[2J")),
    "header bytes": header(b"a", b"x" + long_text(b"\xff")),
    "header decimal": header(b"a", b"D" + struct.pack(">Bi", 255, -7)),
    "header not a number": header(b"a", b"d" + struct.pack(">d", float("nan"))),
    "compression that is no text": header(b"compression", b"I" + struct.pack(">i", 7)),
    "compression that is a table": header(b"compression", b"F" + table(b"")),
    "delivery count that is text": header(b"x-delivery-count", b"S" + long_text(b"many")),
    # As many as RabbitMQ takes, but for a few: with its count of returns they fit into no frame of 128 KiB.
    "headers that fill a frame": header(b"a", b"S" + long_text(b"x" * 131_025)),
    "headers nested": nested(40),
    "headers nested deep": nested(9000),
}


def persistent(properties: bytes) -> bytes:
    """Return properties of one field with a delivery mode, so that a restart does not cost the message."""
    (flags,) = struct.unpack_from(">H", properties)
    before, after = (properties[2:], b"") if flags > _DELIVERY_MODE else (b"", properties[2:])
    return struct.pack(">H", flags | _DELIVERY_MODE) + before + b"\x02" + after


_DELIVERY_MODE = 0x1000
_CHECKED = 0x0100 | 0x0010  # expiration and user_id, which the broker reads itself


def random_text(draw: random.Random) -> bytes:
    return short_text(draw.randbytes(draw.randrange(9)))


def random_value(draw: random.Random, depth: int = 0) -> bytes:
    letter = draw.choice("tbBsuIilLfdDSxTV" + ("FA" if depth < 4 else ""))
    if letter in "Sx":
        return letter.encode() + long_text(draw.randbytes(draw.randrange(9)))
    if letter == "F":
        items = (random_text(draw) + random_value(draw, depth + 1) for _ in range(draw.randrange(4)))
        return b"F" + table(b"".join(items))
    if letter == "A":
        return b"A" + table(b"".join(random_value(draw, depth + 1) for _ in range(draw.randrange(4))))
    sizes = {"t": 1, "b": 1, "B": 1, "s": 2, "u": 2, "I": 4, "i": 4, "f": 4, "D": 5, "V": 0}
    return letter.encode() + draw.randbytes(sizes.get(letter, 8))


def random_properties(seed: int) -> bytes:
    """Return properties of the right kinds, whose values are any bytes."""
    draw = random.Random(seed)
    flags = draw.getrandbits(14) << 2 & ~_CHECKED
    values = b""
    for bit in (0x8000 >> place for place in range(14)):
        if not flags & bit:
            continue
        if bit == 0x2000:
            values += table(
                b"".join(random_text(draw) + random_value(draw) for _ in range(draw.randrange(4)))
            )
        elif bit in {0x1000, 0x0800}:
            values += draw.randbytes(1)
        elif bit == 0x0040:
            values += draw.randbytes(8)
        else:
            values += random_text(draw)
    return struct.pack(">H", flags) + values
