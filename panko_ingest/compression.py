"""Compressed bodies, as kombu publishes them, inflated within a bound."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from panko_ingest.errors import DecodeError

_LZMA_MEMORY = 128 * 1024 * 1024
_ZLIB_OR_GZIP = 47  # kombu's application/x-gzip holds a zlib stream; others write real gzip


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


_Method = tuple[Callable[[], _Decompressor], Callable[[bytes], bytes]]

_METHODS: dict[str, _Method] = {
    "application/x-gzip": (lambda: zlib.decompressobj(_ZLIB_OR_GZIP), zlib.compress),
    "application/x-bz2": (bz2.BZ2Decompressor, bz2.compress),
    "application/x-lzma": (
        lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY),
        lambda data: lzma.compress(data, preset=0),
    ),
}
_ALIASES = {
    "gzip": "application/x-gzip",
    "zlib": "application/x-gzip",
    "bzip2": "application/x-bz2",
    "bzip": "application/x-bz2",
    "lzma": "application/x-lzma",
    "xz": "application/x-lzma",
}


def _method(name: Any) -> _Method:
    method = _METHODS.get(_ALIASES.get(name, name)) if isinstance(name, str) else None
    if method is None:
        raise DecodeError(f"compression {str(name)[:64]!r} is not supported")
    return method


def inflate(body: bytes, name: Any, max_size: int) -> bytes:
    """Return the decompressed body; ``name`` is the value of the ``compression`` header.

    :raises DecodeError: the method is unknown, the data is damaged or cut off, or there would be
        more than ``max_size`` bytes; no more than that is ever inflated.
    """
    decompressor = _method(name)[0]()
    try:
        data = decompressor.decompress(body, max_size + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DecodeError(f"the compressed body is damaged: {error}") from error
    if len(data) > max_size:
        raise DecodeError(f"the body inflates to more than max_message_size ({max_size} bytes)")
    if not decompressor.eof:
        raise DecodeError("the compressed body is cut off")
    return data


def inflate_what_can_be(body: bytes, name: Any, max_size: int) -> tuple[bytes, bool]:
    """Return what any compressed body holds, up to ``max_size`` bytes, and whether that is all of it.

    It is not where the body holds more, is damaged or cut off, or goes on behind what is compressed.

    :raises DecodeError: the method is unknown.
    """
    decompressor = _method(name)[0]()
    inflated = bytearray()
    for start in range(0, len(body), 1024):
        if decompressor.eof:
            return bytes(inflated), False
        try:
            inflated += decompressor.decompress(body[start : start + 1024], max_size + 1 - len(inflated))
        except (OSError, EOFError, zlib.error, lzma.LZMAError):
            return bytes(inflated), False
        if len(inflated) > max_size:
            return bytes(inflated[:max_size]), False
    return bytes(inflated), decompressor.eof and not decompressor.unused_data


def deflate(data: bytes, name: Any) -> bytes:
    """Return ``data`` compressed by the method of that name.

    :raises DecodeError: the method is unknown.
    """
    return _method(name)[1](data)
