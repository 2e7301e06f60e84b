"""One message as the broker delivered it, before anybody has looked inside."""

import hashlib
from collections.abc import Mapping
from typing import Any


class Delivery:
    """The bytes and the properties of one delivered message, and what its ack needs.

    ``tag`` and ``generation`` belong to the consumer that received it: a tag means something only
    on the channel of that generation. ``received_at`` is monotonic seconds.
    """

    __slots__ = (
        "body",
        "content_encoding",
        "content_type",
        "exchange",
        "generation",
        "headers",
        "queue",
        "received_at",
        "redelivered",
        "routing_key",
        "tag",
    )

    def __init__(
        self,
        body: bytes,
        *,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Mapping[str, Any] | None = None,
        exchange: str = "",
        routing_key: str = "",
        queue: str = "",
        redelivered: bool = False,
        tag: Any = None,
        generation: int = 0,
        received_at: float = 0.0,
    ) -> None:
        self.body = body
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.headers = headers or {}
        self.exchange = exchange
        self.routing_key = routing_key
        self.queue = queue
        self.redelivered = redelivered
        self.tag = tag
        self.generation = generation
        self.received_at = received_at

    @property
    def returns(self) -> int:
        """How often it came back, by the count of a quorum queue; 0 where nobody counts."""
        count = self.headers.get("x-delivery-count")
        return count if isinstance(count, int) else 0

    def digest(self) -> bytes:
        """Return the SHA-256 that names this message in ``dead_letter``, the same at every redelivery."""
        digest = hashlib.sha256()
        for part in (self.queue, self.content_type or "", self.content_encoding or ""):
            digest.update(part.encode("utf-8", "surrogateescape"))
            digest.update(b"\0")
        digest.update(self.body)
        return digest.digest()
