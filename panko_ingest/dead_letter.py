"""Dead letters made of the messages that can't become events."""

from panko_ingest.delivery import Delivery
from panko_ingest.errors import MessageError
from panko_ingest.notification import MAX_DEPTH, MAX_MESSAGE_SIZE
from panko_ingest.redaction import overwrite, redact, redact_body
from panko_ingest.storage.models import DeadLetter

MAX_BODY = 7 * 1024 * 1024
"""Bytes of a body that are kept: escaped in a statement, they must pass MariaDB's default packet."""

_MAX_ERROR = 2000


def from_delivery(
    delivery: Delivery,
    error: BaseException,
    *,
    stage: str | None = None,
    message_id: str | None = None,
    event_type: str | None = None,
    max_size: int = MAX_MESSAGE_SIZE,
    max_depth: int = MAX_DEPTH,
    max_body: int = MAX_BODY,
) -> DeadLetter:
    """Return the dead letter of a delivered message: its body without credentials, and the reason.

    :param stage: where it failed; that of the error, or ``crash`` for one that nobody foresaw.
    :param message_id: of the notification, where it is known; so is ``event_type``.
    :param max_size: the bounds within which the message was decoded; so is ``max_depth``.
    :param max_body: bytes above which the body is cut, which the error then says.
    """
    body, reason = delivery.body, str(error)
    if len(body) > max_size:  # nobody reads more of it than is kept
        body = body[:max_body]
    body, redacted = redact_body(
        body,
        content_type=delivery.content_type,
        content_encoding=delivery.content_encoding,
        headers=delivery.headers,
        max_size=max_size,
        max_depth=max_depth,
    )
    if len(delivery.body) > max_body:
        body = body[:max_body]
        reason += f" (the body is cut: {len(body)} of {len(delivery.body)} bytes are kept)"
    clean_headers = redact(dict(delivery.headers))
    return DeadLetter(
        digest=delivery.digest(),
        body=body,
        stage=stage or (error.stage if isinstance(error, MessageError) else "crash"),
        error_class=type(error).__name__,
        error=overwrite(reason.encode("utf-8", "replace")[:_MAX_ERROR]).decode("utf-8", "replace"),
        content_type=delivery.content_type,
        content_encoding=delivery.content_encoding,
        headers=clean_headers,
        exchange=delivery.exchange,
        routing_key=delivery.routing_key,
        queue=delivery.queue,
        message_id=_known(message_id),
        event_type=_known(event_type),
        redacted=redacted or clean_headers != delivery.headers,
    )


def _known(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
