"""Credentials that publishers leave in notifications, kept out of all that is stored or logged.

What is hidden is told by the key that names it, in contexts and payloads alike. A value becomes
``***``, and so does the password in a URL; true, false, null and what is empty stay.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from panko_ingest import compression
from panko_ingest.errors import DecodeError
from panko_ingest.notification import MAX_DEPTH, MAX_MESSAGE_SIZE, parse_body, text_encoding, wrap_again

HIDDEN = "***"

# Keys are compared in lower case, without _ - and .
_NAMES = frozenset(
    {
        # contexts: the catalog of a token, and all that Keystone said about it
        "servicecatalog", "authtokeninfo", "tokeninfo", "authorization", "awscreds",
        # servers: what a user puts into one at create and rebuild
        "adminpass", "newpass", "rootpass", "userpass", "pass", "passphrase",
        "userdata", "injectedfiles", "personality", "configdrive",
        # keys that open something: EC2, shares, VPNs, volumes, traces
        "hmackey", "psk", "presharedkey", "encryptionkey", "keyring",
    }
)  # fmt: skip
_PARTS = ("password", "passwd", "privatekey", "privkey", "authkey")
_ENDS = ("token", "secret", "secretkey", "accesskey", "apikey", "tempurlkey")
_NOT_AT_END = ("expiresat", "createdat", "changedat", "updatedat")
_SEPARATORS = str.maketrans("", "", "_-.")
_CONTEXT = "_context_"
_MOST_KNOWN = 4096

_known: dict[str, bool] = {}


def is_secret(key: str) -> bool:
    """Tell whether a key of this name holds a credential."""
    known = _known.get(key)
    if known is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        known = _known[key] = _names_a_secret(key)
    return known


def _names_a_secret(key: str) -> bool:
    name = key.lower().removeprefix(_CONTEXT).translate(_SEPARATORS)
    return (
        name in _NAMES
        or name.endswith(_ENDS)
        or (any(part in name for part in _PARTS) and not name.endswith(_NOT_AT_END))
    )


def redact(value: Any) -> Any:
    """Return ``value`` with its credentials hidden; it is left as it is, and returned if it has none."""
    clean = _CLEANERS.get(value.__class__)
    return value if clean is None else clean(value)


def _redact_object(value: dict[Any, Any]) -> dict[Any, Any]:
    changed = {}
    for key, child in value.items():
        if key.__class__ is str and is_secret(key):
            if child not in _GIVES_NOTHING_AWAY:
                changed[key] = HIDDEN
        elif (clean := _CLEANERS.get(child.__class__)) is not None:
            cleaned = clean(child)
            if cleaned is not child:
                changed[key] = cleaned
    return {**value, **changed} if changed else value


def _redact_list(value: list[Any]) -> list[Any]:
    changed = False
    result = []
    for child in value:
        clean = _CLEANERS.get(child.__class__)
        cleaned = child if clean is None else clean(child)
        changed = changed or cleaned is not child
        result.append(cleaned)
    return result if changed else value


def _redact_text(value: str) -> str:
    """Hide the password in a URL."""
    if "://" not in value:
        return value
    clean = _URL_PASSWORD.sub(rf"\1{HIDDEN}\2", value)
    return value if clean == value else clean


_GIVES_NOTHING_AWAY: tuple[Any, ...] = (None, True, False, "", HIDDEN, [], {})
_URL_PASSWORD = re.compile(r"((?:://|,)[^/\s:@,\"'\\]{0,256}:)[^/\s@,\"'\\]{1,256}(@)")
_CLEANERS: dict[type, Callable[[Any], Any]] = {
    dict: _redact_object,
    list: _redact_list,
    str: _redact_text,
}


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
    The parameters are those of ``Notification.decode``.
    """
    method = headers.get("compression") if headers else None
    try:
        document, inner = parse_body(
            body,
            content_type=content_type,
            content_encoding=content_encoding,
            headers=headers,
            max_size=max_size,
            max_depth=max_depth,
        )
    except DecodeError:
        return _redact_undecodable(body, content_encoding, method, max_size)
    clean = redact(inner)
    rest = document if document is inner else redact(document)
    if clean is inner and rest is document:
        return body, False
    text = json.dumps(wrap_again(rest, clean))
    written = text.encode(text_encoding(content_encoding) or "utf-8")
    return (compression.deflate(written, method) if method else written), True


def _redact_undecodable(body: bytes, encoding: str | None, method: Any, max_size: int) -> tuple[bytes, bool]:
    data = body
    if method:
        try:
            data = compression.inflate_what_can_be(body, method, max_size)
        except DecodeError:  # an unknown method: all that can be looked at is the body as it is
            method = None
    clean = _overwrite_in(data, encoding)
    if clean == data:
        return body, False
    return (compression.deflate(clean, method) if method else clean), True


def _overwrite_in(data: bytes, encoding: str | None) -> bytes:
    """Overwrite also in text of which ASCII is no subset."""
    codec = text_encoding(encoding) or "utf-8"
    if not codec.startswith(("utf-16", "utf-32")):
        return overwrite(data)
    text = data.decode(codec, "replace").encode("utf-8", "replace")
    clean = overwrite(text)
    return data if clean == text else clean.decode("utf-8", "replace").encode(codec, "replace")


_WORD = re.compile(rb"[A-Za-z_][A-Za-z0-9_.\-]{1,80}")
_SEPARATOR = re.compile(rb"""\\{0,15}["']?\s{0,8}(?::|=>?)\s{0,8}""")
_QUOTE = re.compile(rb"""[bBrRuU]{0,2}(\\{0,15}["'])""")
_BARE = re.compile(rb"""[^\s,}\]"'\\]+""")
_BRACKET = re.compile(rb"[\[\]{}]")
_NOTHING = {b"null", b"true", b"false", b"None", b"True", b"False", b"~"}
_URL_PASSWORD_BYTES = re.compile(rb"""(?:://|,)[^/\s:@,"'\\]{0,256}:([^/\s@,"'\\]{1,256})@""")
_BINARY = re.compile(rb"[^\x20-\x7e][\x00-\xff]{0,16}?([\x21-\x7e]{4,})", re.DOTALL)


def overwrite(data: bytes) -> bytes:
    """Return the bytes with ``*`` over each value that follows the name of a credential.

    It knows JSON and what resembles it, at any level of quoting, ``name: value`` and ``name=value``
    lines, strings that follow each other in a binary format, and passwords in URLs; a value that is
    cut off counts to the end. The length stays.
    """
    result: bytearray | None = None
    position = 0
    while (word := _WORD.search(data, position)) is not None:
        position = word.end()
        value = _value_after(data, word)
        if value is None:
            continue
        start, end = value
        if result is None:
            result = bytearray(data)
        result[start:end] = b"*" * (end - start)
        position = max(position, end)
    for url in _URL_PASSWORD_BYTES.finditer(data):
        result = bytearray(data) if result is None else result
        result[url.start(1) : url.end(1)] = b"*" * len(url[1])
    return data if result is None else bytes(result)


def _value_after(data: bytes, word: re.Match[bytes]) -> tuple[int, int] | None:
    """Return where the value of the credential that ``word`` names starts and ends."""
    name = word[0].decode("ascii")
    separator = _SEPARATOR.match(data, word.end())
    if separator is None:
        # in a pickle the letter of an opcode follows the string at once
        if is_secret(name) or is_secret(name[:-1]):
            binary = _BINARY.match(data, word.end())
            return binary.span(1) if binary else None
        return None
    if not is_secret(name):
        return None
    start = separator.end()
    if quote := _QUOTE.match(data, start):
        end = _closing_quote(data, quote)
        return (quote.end(), end) if end > quote.end() else None
    if data[start : start + 1] in (b"[", b"{"):
        return start, _closing_bracket(data, start)
    bare = _BARE.match(data, start)
    return None if bare is None or bare[0] in _NOTHING else bare.span()


def _closing_quote(data: bytes, opening: re.Match[bytes]) -> int:
    """Return where the text ends: at a quote behind just as many backslashes as the opening one."""
    closing = re.compile(rb"(?<!\\)" + re.escape(opening[1]))
    found = closing.search(data, opening.end())
    if found is None:
        # the text may be empty, which puts both quotes side by side
        return len(data)
    return found.start()


def _closing_bracket(data: bytes, start: int) -> int:
    depth = 0
    for bracket in _BRACKET.finditer(data, start):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth == 0:
            return bracket.end()
    return len(data)
