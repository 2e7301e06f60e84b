"""One notification out of the bytes of a message: oslo.messaging's envelopes, JSON only."""

import codecs
import json
from collections.abc import Mapping
from typing import Any

import orjson

from panko_ingest import compression, exact_json
from panko_ingest.errors import DecodeError
from panko_ingest.exact_json import kind
from panko_ingest.remembered import Remembered

MAX_MESSAGE_SIZE = 16 * 1024 * 1024
MAX_DEPTH = 100

_VERSION_KEY = "oslo.version"
_MESSAGE_KEY = "oslo.message"
_ENVELOPE = (_VERSION_KEY, _MESSAGE_KEY)
_CONTEXT_PREFIX = "_context_"

_NOT_JSON = {
    "application/x-python-serialize",
    "application/x-python-pickle",
    "application/x-yaml",
    "application/yaml",
    "text/yaml",
    "application/x-msgpack",
    "application/msgpack",
}
_TEXT_ENCODINGS = {
    "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be",
    "ascii", "iso8859-1", "cp1252",
}  # fmt: skip
_PLAIN_ENCODINGS = {None, "", "utf-8", "UTF-8", "utf8", "us-ascii", "ascii", "binary"}
# An empty list takes 3 bytes of text and more than 60 of memory.
_BYTES_OF_A_VALUE = 64
_LEAST_BYTES_FOR_A_VALUE = 16
_ALWAYS_PARSED = 64 * 1024


def _without_prefix(key: str) -> str:
    """Return the name behind a key of a context, an empty text for a key of anything else."""
    return key[len(_CONTEXT_PREFIX) :] if key.startswith(_CONTEXT_PREFIX) else ""


_context_name = Remembered(_without_prefix, most=4096, longest=100).__getitem__


class Notification:
    """A decoded notification.

    ``message`` is in Ceilometer's shape: ``{ctxt, publisher_id, event_type, payload, metadata:
    {message_id, timestamp}}``, values as published, None where absent. ``priority`` is in lower
    case, empty where the message has none.
    """

    __slots__ = ("_text", "message", "priority")

    def __init__(self, message: dict[str, Any], priority: str, text: bytes | str = b"") -> None:
        self.message = message
        self.priority = priority
        self._text = text

    @property
    def bytes_held(self) -> int:
        """How much memory ``message`` takes: its text, decompressed, and an object for each value in it."""
        return len(self._text) + _BYTES_OF_A_VALUE * _count_values(self._text)

    @classmethod
    def from_text(cls, text: bytes | str, *, max_size: int, max_depth: int) -> "Notification":
        """Return the notification in what ``read_text`` has returned: envelope 2.0, or 1.0, which has none.

        The bounds are those of ``parse_text``.

        :raises DecodeError: the text is no notification within these bounds; the text of the error says why.
        """
        document, inner = parse_text(text, max_size, max_depth)
        return cls.from_inner(inner, notification_text(document) or text)

    @classmethod
    def from_inner(cls, inner: dict[str, Any], text: bytes | str = b"") -> "Notification":
        """Return the notification of a document without an envelope.

        :param text: what the document was parsed from.
        """
        get = inner.get
        priority = get("priority")
        return cls(
            {
                "ctxt": {name: value for key, value in inner.items() if (name := _context_name(key))},
                "publisher_id": get("publisher_id"),
                "event_type": get("event_type"),
                "payload": get("payload"),
                "metadata": {"message_id": get("message_id"), "timestamp": get("timestamp")},
            },
            priority.lower() if priority.__class__ is str else "",
            text,
        )


def read_text(
    body: bytes,
    *,
    content_type: str | None,
    content_encoding: str | None,
    headers: Mapping[str, Any] | None,
    max_size: int,
) -> bytes | str:
    """Return the JSON text of a message's body, decompressed; bytes where it is in UTF-8.

    :param headers: the message's; a ``compression`` header is honoured.
    :param max_size: bytes of the body, and of what it inflates to.
    :raises DecodeError: it is larger than ``max_size``, damaged, or said to be anything else.
    """
    if len(body) > max_size:
        raise too_large(len(body), max_size)
    if content_type is not None and content_type.partition(";")[0].strip().lower() in _NOT_JSON:
        raise DecodeError(f"content type {content_type[:64]!r}: only JSON is read")
    if headers and (method := headers.get("compression")):
        body = compression.inflate(body, method, max_size)
    return body if content_encoding in _PLAIN_ENCODINGS else _decode_text(body, content_encoding)


def too_large(size: int, max_size: int) -> DecodeError:
    """Return the error for a body of so many bytes."""
    return DecodeError(f"the body has {size} bytes, more than max_message_size ({max_size})")


def parse_text(text: bytes | str, max_size: int, max_depth: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JSON document of a text, and the notification in it.

    The two are the same object where there is no envelope.

    :param max_size: values in the text are a sixteenth of it at most.
    :param max_depth: levels of nested lists and objects.
    :raises DecodeError: the text is no notification, has too many values or is nested too deep.
    """
    document = _parse_json(text, max_size)
    if document.__class__ is not dict:
        raise DecodeError(f"the body is {kind(document)}, not an object")
    if not is_enveloped(document):
        document = _within_bounds(document, text, max_depth)
        return document, document
    if len(document) > len(_ENVELOPE):
        document = _within_bounds(document, text, max_depth)
    return document, _open_envelope(document, max_size, max_depth)


def is_enveloped(document: dict[str, Any]) -> bool:
    """Tell whether the document is an envelope around a notification."""
    return _VERSION_KEY in document and _MESSAGE_KEY in document


def notification_text(document: dict[str, Any]) -> str | None:
    """Return the JSON text of the notification in an envelope, None where there is no envelope."""
    return document[_MESSAGE_KEY] if is_enveloped(document) else None


def around_notification(document: dict[str, Any]) -> dict[str, Any]:
    """Return what an envelope holds beside the notification, nothing where there is no envelope."""
    if not is_enveloped(document):
        return {}
    return {key: value for key, value in document.items() if key != _MESSAGE_KEY}


def wrap_again(document: dict[str, Any], inner: dict[str, Any]) -> dict[str, Any]:
    """Return the document with ``inner`` in place of the notification that it held."""
    return {**document, _MESSAGE_KEY: json.dumps(inner)} if is_enveloped(document) else inner


def _open_envelope(document: dict[str, Any], max_size: int, max_depth: int) -> dict[str, Any]:
    version, message = document[_VERSION_KEY], document[_MESSAGE_KEY]
    if version.__class__ in {dict, list} or str(version).partition(".")[0] != "2":
        shown = kind(version) if version.__class__ in {dict, list} else repr(str(version)[:32])
        raise DecodeError(f"envelope version {shown} is unknown: 2.0 and bare 1.0 are read")
    if message.__class__ is not str:
        raise DecodeError(f"{_MESSAGE_KEY} is {kind(message)}, not JSON text")
    inner = _parse_json(message, max_size)
    if inner.__class__ is not dict:
        raise DecodeError(f"{_MESSAGE_KEY} is {kind(inner)}, not an object")
    return _within_bounds(inner, message, max_depth)


def _count_values(text: bytes | str) -> int:
    """Return how many values a JSON text has at most, not counting the first."""
    if isinstance(text, bytes):
        return text.count(b",") + text.count(b"[") + text.count(b"{")
    return text.count(",") + text.count("[") + text.count("{")


def _parse_json(text: bytes | str, max_size: int) -> Any:
    """Parse fast, or else as json does: NaN, lone surrogates and integers of any size are accepted.

    :raises DecodeError: it is no JSON, or what it would become takes many times the memory of its text.
    """
    most = max_size // _LEAST_BYTES_FOR_A_VALUE
    if len(text) > _ALWAYS_PARSED and _count_values(text) > most:
        raise DecodeError(
            f"the body has more than {most} values, one for each {_LEAST_BYTES_FOR_A_VALUE} bytes of "
            f"max_message_size ({max_size})"
        )
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _parse_any_json(text)


def _parse_any_json(text: bytes | str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise DecodeError("the body is nested deeper than any parser goes") from None
    except ValueError as error:
        if not text.strip():
            raise DecodeError("the body is empty") from None
        raise DecodeError(f"the body is no JSON: {error}") from error


def _within_bounds(value: dict[str, Any], text: bytes | str, max_depth: int) -> dict[str, Any]:
    """Return the value of ``text`` with all its integers exact.

    :raises DecodeError: it is nested deeper than ``max_depth``.
    """
    outline = exact_json.outline(text)
    if exact_json.has_long_number(outline):
        value = _parse_any_json(text)
    if outline.count(b"[") > max_depth and is_deeper_than(max_depth, value):
        raise DecodeError(f"the body is nested deeper than max_depth ({max_depth} levels)")
    return value


def is_deeper_than(levels: int, value: Any) -> bool:
    """Tell whether an object or a list is nested deeper than so many levels."""
    layer = [value]
    for _ in range(levels):
        layer = [
            child
            for parent in layer
            for child in (parent.values() if parent.__class__ is dict else parent)
            if child.__class__ is dict or child.__class__ is list
        ]
        if not layer:
            return False
    return True


def text_encoding(name: Any) -> str | None:
    """Return the codec for a content encoding, None where JSON has no business to be in it."""
    if name in _PLAIN_ENCODINGS:
        return "utf-8"
    try:
        codec = codecs.lookup(name).name
    except (LookupError, TypeError, ValueError):
        return None
    return codec if codec in _TEXT_ENCODINGS else None


def _decode_text(body: bytes, encoding: Any) -> str:
    codec = text_encoding(encoding)
    if codec is None:
        raise DecodeError(f"content encoding {str(encoding)[:64]!r} is not supported")
    try:
        return body.decode(codec)
    except ValueError as error:
        raise DecodeError(f"the body is not in its content encoding: {error}") from error
