"""Credentials in the bodies of messages, whether they decode or not."""

import json
from collections.abc import Mapping
from typing import Any

from panko_ingest import compression
from panko_ingest.errors import DecodeError
from panko_ingest.notification import (
    MAX_DEPTH,
    MAX_MESSAGE_SIZE,
    around_notification,
    notification_text,
    parse_text,
    read_text,
    text_encoding,
    wrap_again,
)
from panko_ingest.redaction.documents import redact, repeats_keys
from panko_ingest.redaction.text import overwrite


def redact_body(
    body: bytes,
    *,
    content_type: str | None = None,
    content_encoding: str | None = None,
    headers: Mapping[str, Any] | None = None,
    max_size: int = MAX_MESSAGE_SIZE,
    max_depth: int = MAX_DEPTH,
) -> tuple[bytes, bool]:
    """Return a message's body without credentials, and whether any had to be hidden.

    A body without any comes back byte for byte. One that decodes is written again, enveloped,
    encoded and compressed as it was; in any other the values are overwritten where they stand.
    What can't be looked at of a compressed body is left out, which counts as hidden.
    The parameters are those of ``Notification.decode``.
    """
    method, data, whole = _inflated(body, headers, max_size)
    try:
        text = read_text(
            body,
            content_type=content_type,
            content_encoding=content_encoding,
            headers=headers,
            max_size=max_size,
        )
        document, inner = parse_text(text, max_size, max_depth)
    except DecodeError:
        clean_data = _overwrite_in(data, content_encoding)
        if whole and clean_data == data:
            return body, False
        return (compression.deflate(clean_data, method) if method else clean_data), True
    around = around_notification(document)
    clean, clean_around = redact(inner), redact(around)
    if whole and clean is inner and clean_around is around and not _repeats_keys(text, document):
        return body, False
    written = json.dumps(wrap_again({**document, **clean_around}, clean))
    data = written.encode(text_encoding(content_encoding) or "utf-8")
    return (compression.deflate(data, method) if method else data), True


def _repeats_keys(text: bytes | str, document: dict[str, Any]) -> bool:
    """Tell whether an object has a key twice: what stands beside the first is in the text only."""
    message = notification_text(document)
    return repeats_keys(text) or (message is not None and repeats_keys(message))


def _inflated(body: bytes, headers: Mapping[str, Any] | None, max_size: int) -> tuple[Any, bytes, bool]:
    """Return how the body is compressed, what can be looked at, and whether that is all of it."""
    if headers and (method := headers.get("compression")):
        try:
            data, whole = compression.inflate_what_can_be(body, method, max_size)
        except DecodeError:
            return None, body, True  # the method is unknown
        if data or whole:
            return method, data, whole
    return None, body, True


def _overwrite_in(data: bytes, encoding: str | None) -> bytes:
    """Overwrite also in text of which ASCII is no subset, whether its encoding is told or seen only."""
    clean = overwrite(data)
    codec = next(filter(_is_wide, (text_encoding(encoding), json.detect_encoding(data))), None)
    if codec is None:
        return clean
    text = clean.decode(codec, "replace").encode("utf-8", "replace")
    clean_text = overwrite(text)
    return clean if clean_text == text else clean_text.decode("utf-8", "replace").encode(codec, "replace")


def _is_wide(codec: str | None) -> bool:
    return codec is not None and codec.startswith(("utf-16", "utf-32"))
