"""Bodies of messages as publishers write them."""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from panko_ingest.notification import MAX_DEPTH, MAX_MESSAGE_SIZE, Notification, read_text


def notification(event_type: object = "compute.instance.update", **fields: object) -> dict[str, object]:
    """Return a notification that has a message_id of its own."""
    return {
        "message_id": str(uuid.uuid4()),
        "publisher_id": "compute.host1",
        "event_type": event_type,
        "priority": "INFO",
        "payload": {},
        "timestamp": "2026-11-23 13:16:34.317715",
        **fields,
    }


def envelope(message: Mapping[str, object]) -> bytes:
    """Return a notification as the body of a message."""
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def body(event_type: object = "compute.instance.update", **fields: object) -> bytes:
    """Return an enveloped notification that has a message_id of its own."""
    return envelope(notification(event_type, **fields))


def decode(
    body: bytes,
    *,
    content_type: str | None = None,
    content_encoding: str | None = None,
    headers: Mapping[str, Any] | None = None,
    max_size: int = MAX_MESSAGE_SIZE,
    max_depth: int = MAX_DEPTH,
) -> Notification:
    """Return the notification in a body, as the pipeline decodes it."""
    text = read_text(
        body,
        content_type=content_type,
        content_encoding=content_encoding,
        headers=headers,
        max_size=max_size,
    )
    return Notification.from_text(text, max_size=max_size, max_depth=max_depth)
