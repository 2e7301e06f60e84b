"""Dead letters made of the messages that can't become events."""

from typing import Any

from panko_ingest import exact_json
from panko_ingest.delivery import Delivery
from panko_ingest.notification import MAX_DEPTH, MAX_MESSAGE_SIZE, is_deeper_than
from panko_ingest.redaction import NotText, overwrite, redact, redact_body
from panko_ingest.storage.models import DeadLetter

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a body above which it is cut, which the error then says; a database may take less."""

_BYTES_OF_A_ROW = 512
"""What a row takes beside body, headers and error, with its part of three indexes."""
_MOST_COUNTED = 1000
_MAX_ERROR = 2000
_MAX_HEADER_DEPTH = 50  # what can be written as JSON by any library


def from_delivery(
    delivery: Delivery,
    error: BaseException,
    *,
    stage: str,
    message_id: str | None = None,
    event_type: str | None = None,
    max_size: int = MAX_MESSAGE_SIZE,
    max_depth: int = MAX_DEPTH,
    unread: bool = False,
) -> DeadLetter:
    """Return the dead letter of a delivered message: its body without credentials, and the reason.

    This never fails: where credentials can't be told apart, the body is withheld, and the reason says so.

    :param stage: where it failed, one of ``STAGES``.
    :param message_id: of the notification, where it is known; so is ``event_type``.
    :param max_size: the bounds within which the message was decoded; so is ``max_depth``.
    :param unread: nothing in the message is looked at, and so none of it kept.
    """
    body, reason = delivery.body, _text(error)
    if unread:
        reason += f" (the body of {delivery.size} bytes is withheld: what ended them may be in it)"
        body, redacted = b"", True
        headers, headers_redacted = {"withheld": "with the body"}, True
    else:
        if delivery.size > max_size:  # nobody reads more of it than is kept
            body = body[:MAX_BODY]
        body, redacted, withheld = clean_body(delivery, body, max_size, max_depth)
        reason += withheld
        if (delivery.rest or delivery.size > MAX_BODY) and not withheld:
            body = body[:MAX_BODY]
            reason += f" (the body is cut: {len(body)} of {delivery.size} bytes are kept)"
        headers, headers_redacted = clean_headers(delivery)
    return DeadLetter(
        digest=delivery.digest(),
        body=body,
        stage=stage,
        error_class=type(error).__name__,
        error=overwrite(reason.encode("utf-8", "replace")[:_MAX_ERROR]).decode("utf-8", "replace"),
        content_type=delivery.content_type,
        content_encoding=delivery.content_encoding,
        headers=headers,
        exchange=delivery.exchange,
        routing_key=delivery.routing_key,
        queue=delivery.queue,
        message_id=_known(message_id),
        event_type=_known(event_type),
        redacted=redacted or headers_redacted,
    )


def clean_body(delivery: Delivery, body: bytes, max_size: int, max_depth: int) -> tuple[bytes, bool, str]:
    """Return the body to keep, whether something is missing from it, and what to say where all is."""
    try:
        clean, redacted = redact_body(
            body,
            content_type=delivery.content_type,
            content_encoding=delivery.content_encoding,
            headers=delivery.headers,
            max_size=max_size,
            max_depth=max_depth,
            look_at=delivery.inflated_to,
        )
    # Whatever it is, the message must not come back for ever, and its credentials not be stored.
    except Exception as error:  # noqa: BLE001
        why = (
            "it is no text, or compressed in a way that is not read"
            if isinstance(error, NotText)
            else f"its credentials can't be told apart, {type(error).__name__}"
        )
        return b"", True, f" (the body of {delivery.size} bytes is withheld: {why})"
    return clean, redacted, ""


def clean_headers(delivery: Delivery) -> tuple[dict[str, Any], bool]:
    """Return the headers to show, and whether something is missing from them; it never fails."""
    headers = dict(delivery.headers)
    try:
        if is_deeper_than(_MAX_HEADER_DEPTH, [headers]):
            return {"withheld": "headers nested deep"}, True
        clean = redact(headers)
    except Exception as error:  # noqa: BLE001
        return {"withheld": f"credentials in the headers can't be told apart: {type(error).__name__}"}, True
    return clean, clean != headers


class KeptBytes:
    """Counts the bytes that dead letters take in the database; one of the last 1000 again takes none."""

    def __init__(self) -> None:
        self._counted: dict[bytes, None] = {}

    def of(self, letter: DeadLetter) -> int:
        """Return how many more bytes the database takes for a dead letter that was stored."""
        known = self._counted
        if letter.digest in known:
            return 0
        if len(known) >= _MOST_COUNTED:
            del known[next(iter(known))]
        known[letter.digest] = None
        # Characters of JSON and of an error are bytes, mostly.
        return _BYTES_OF_A_ROW + len(letter.body) + len(letter.error) + len(exact_json.dumps(letter.headers))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as another:  # noqa: BLE001 - the error of a plugin, or of a library that it uses
        return f"its text can't be had: {type(another).__name__}"


def _known(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
