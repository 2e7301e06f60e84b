"""Bodies of messages as publishers write them."""

import json
import uuid


def body(event_type: str = "compute.instance.update") -> bytes:
    """Return an enveloped notification that has a message_id of its own."""
    message = {
        "message_id": str(uuid.uuid4()),
        "publisher_id": "compute.host1",
        "event_type": event_type,
        "priority": "INFO",
        "payload": {},
        "timestamp": "2026-11-23 13:16:34.317715",
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()
