"""Credentials in the bodies of messages, whether they decode or not."""

import json
import zlib
from collections.abc import Callable, Mapping
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

# What compressed data begins with: zlib, gzip and compress, bzip2, xz, lzma, zstd, LZ4, Snappy, zip.
_COMPRESSED = (
    b"x\x01", b"x^", b"x\x9c", b"x\xda", b"\x1f\x8b", b"\x1f\x9d", b"BZh", b"\xfd7zXZ", b"\x5d\0\0",
    b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\xff\x06\0\0sNaPpY", b"PK\x03\x04",
)  # fmt: skip
_BYTES_OF_WIDE = {"utf-16": 2, "utf-32": 4}
_MOST_DEFLATED = 1024 * 1024
_CONTROL_CHARACTERS = bytes({*range(32), 127} - set(b"\t\n\r\f\v\x1b"))


class NotText(Exception):
    """A body can't be looked through for credentials, as it is compressed or no text."""


def redact_body(
    body: bytes,
    *,
    content_type: str | None = None,
    content_encoding: str | None = None,
    headers: Mapping[str, Any] | None = None,
    max_size: int = MAX_MESSAGE_SIZE,
    max_depth: int = MAX_DEPTH,
    look_at: Callable[[int], None] = lambda _size: None,
) -> tuple[bytes, bool]:
    """Return a message's body without credentials, and whether any had to be hidden.

    A body without any comes back byte for byte. One that decodes is written again, enveloped,
    encoded and compressed as it was; in any other the values are overwritten where they stand.
    What can't be looked at of a compressed body is left out, which counts as hidden.
    The parameters are those of ``notification.read_text`` and ``parse_text``.

    :param look_at: told how many bytes are looked at, decompressed.
    :raises NotText: the body does not decode, and is no text, or compressed in a way that is not known.
    :raises TooMuchText: it has more names than are looked at.
    """
    method, data, whole = _inflated(body, headers, max_size)
    look_at(len(data))
    is_inflated = method is not None and whole  # which can take as long as all the rest
    try:
        text = read_text(
            data if is_inflated else body,
            content_type=content_type,
            content_encoding=content_encoding,
            headers=None if is_inflated else headers,
            max_size=max_size,
        )
        document, inner = parse_text(text, max_size, max_depth)
    except DecodeError:
        is_encoded = text_encoding(content_encoding) is None or bool(headers and headers.get("compression"))
        if not _is_text(data, content_encoding, strictly=is_encoded and method is None):
            raise NotText from None
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
    if (codec := _wide_codec(data, encoding)) is None:
        return clean
    text = clean.decode(codec, "replace").encode("utf-8", "replace")
    clean_text = overwrite(text)
    return clean if clean_text == text else clean_text.decode("utf-8", "replace").encode(codec, "replace")


def _is_text(data: bytes, encoding: str | None, *, strictly: bool) -> bool:
    """Tell whether what is looked for in text can be found in the data.

    :param strictly: all but a twentieth must look like text, as it is said to be encoded in some way that
        may leave words of it; else three fifths do, as in a pickle, or in text that is damaged or in
        another encoding. Of what zlib and the like compress, less than a half does.
    """
    text = data.decode("utf-8", "ignore").encode().translate(None, _CONTROL_CHARACTERS)
    if text == data:
        return True
    if data.startswith(_COMPRESSED):
        return False
    if (codec := _wide_codec(data, encoding)) is not None:
        # Nearly all data can be read so, but as characters of Chinese.
        in_ascii = data.decode(codec, "ignore").encode("ascii", "ignore").translate(None, _CONTROL_CHARACTERS)
        if len(in_ascii) * _BYTES_OF_WIDE[codec[:6]] * 4 >= len(data):
            return True
    least = 0.95 if strictly else 0.6
    return len(text) >= least * len(data) and not _is_deflated(data)


def _is_deflated(data: bytes) -> bool:
    """Tell whether data is compressed without a header; little of it may look like a lot of text."""
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        decompressor.decompress(data, _MOST_DEFLATED)
    except zlib.error:
        return False
    return decompressor.eof and not decompressor.unused_data


def _wide_codec(data: bytes, encoding: str | None) -> str | None:
    return next(filter(_is_wide, (text_encoding(encoding), json.detect_encoding(data))), None)


def _is_wide(codec: str | None) -> bool:
    return codec is not None and codec.startswith(("utf-16", "utf-32"))
