"""One message as the broker delivered it, before anybody has looked inside."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple


class Rest(NamedTuple):
    """What was cut off a body: its bytes, and their SHA-256."""

    size: int
    digest: bytes


class Delivery:
    """The bytes and the properties of one delivered message, and what its ack needs.

    ``tag`` means something only on the channel that it came over; ``channel`` is the number of that, which
    no other channel of its consumer ever has. ``fault`` says why its properties can't be read, which makes a
    dead letter of it; its headers then hold all their bytes. ``rest`` is what is missing of a body that was
    too large, which makes one of it, too. ``source`` is who published it, and of which type, once
    that is known, or what it came by; ``is_dead`` whether it became a dead letter. ``bytes_held`` is how much
    memory it takes, with what was made of it, or took, decompressed: the figure for all bounds.
    """

    __slots__ = (
        "body",
        "bytes_held",
        "channel",
        "content_encoding",
        "content_type",
        "exchange",
        "fault",
        "headers",
        "is_dead",
        "queue",
        "redelivered",
        "rest",
        "routing_key",
        "source",
        "tag",
    )

    def __init__(
        self,
        body: bytes,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Mapping[str, Any] | None = None,
        exchange: str = "",
        routing_key: str = "",
        queue: str = "",
        redelivered: bool = False,
        fault: str | None = None,
        tag: Any = None,
        channel: int = 0,
        bytes_of_headers: int = 0,
        rest: Rest | None = None,
    ) -> None:
        self.body = body
        self.bytes_held = len(body) + bytes_of_headers
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.headers = headers or {}
        self.exchange = exchange
        self.routing_key = routing_key
        self.queue = queue
        self.redelivered = redelivered
        self.fault = fault
        self.rest = rest
        self.tag = tag
        self.channel = channel
        self.source = (exchange, routing_key)
        self.is_dead = False

    @property
    def size(self) -> int:
        """Bytes of its body as it was published."""
        return len(self.body) + (self.rest.size if self.rest else 0)

    def inflated_to(self, size: int) -> None:
        """Count the bytes of its body, decompressed, as held: they cost time at least."""
        self.bytes_held = max(self.bytes_held, size)

    @property
    def returns(self) -> int:
        """How often it came back, by the count of a quorum queue; 0 where nobody counts.

        From RabbitMQ 4.3 on one header counts every return, and the other those that count as failures.
        """
        # In a message that did not come back it is its publisher who wrote them.
        if not self.redelivered:
            return 0
        counts = (self.headers.get("x-acquired-count"), self.headers.get("x-delivery-count"))
        return max((count for count in counts if isinstance(count, int)), default=0)

    @property
    def failures(self) -> int:
        """How often it came back in a way that a delivery limit counts, which up to RabbitMQ 4.2 is any."""
        count = self.headers.get("x-delivery-count") if self.redelivered else None
        return count if isinstance(count, int) else 0

    def digest(self) -> bytes:
        """Return the SHA-256 that names this message in ``dead_letter``, the same at every redelivery."""
        digest = hashlib.sha256()
        for part in (self.queue, self.content_type or "", self.content_encoding or ""):
            digest.update(_bytes(part))
            digest.update(b"\0")
        digest.update(self.body)
        if self.rest is not None:
            digest.update(self.rest.digest)
        return digest.digest()


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair of UTF-16, which JSON of a virtual transport may have
        return text.encode("utf-8", "backslashreplace")
