"""Passwords and signatures in URLs, and in what is encoded for them."""

import re
from collections.abc import Iterator

from panko_ingest.redaction.names import is_secret_in_a_query
from panko_ingest.redaction.patterns import compiled
from panko_ingest.redaction.steps import Steps

_REACH = 1024  # bytes that a URL's account can have

_ENCODED = compiled(
    rb"""(?:(?<![A-Z0-9_.\-])|(?<=%[0-9A-F]{2})|(?<=%25[0-9A-F]{2})|(?<=%2525[0-9A-F]{2}))"""
    rb"""-{0,2}+([A-Z_][A-Z0-9_.\-]{0,80}+)(?:%(?:25){0,2}+2[27])?+
    (?:%(?:25){0,2}+3[AD]|(?:%(?:25){0,2}+5D|\])(?:=|%(?:25){0,2}+3D))
    (?:\+|%(?:25){0,2}+20){0,8}+(?:%(?:25){0,2}+2[27])?+""",
    re.IGNORECASE | re.VERBOSE,
)
_ENCODED_VALUE = compiled(rb"""(?:[^\s"'\\&;<>%]|%(?!(?:25){0,2}+(?:26|22|27)))++""")
_ENCODED_ACCOUNT = compiled(
    rb"""%(?:25){0,2}+3A(?:%(?:25){0,2}+2F){2}[A-Z0-9_.\-]{0,80}+%(?:25){0,2}+3A"""
    rb"""((?:[^\s"'\\&;<>%]|%(?!(?:25){0,2}+(?:26|22|27|2F|40)))++)(?=%(?:25){0,2}+40)""",
    re.IGNORECASE,
)
_ACCOUNT = compiled(
    rb""":(?://|\\{1,15}+/\\{1,15}+/)(?!\[[0-9A-Fa-f:.]{2,64}+\])[^/\s:@?#"'\\<>]{0,256}+:(?=[^\s"'\\<>])"""
)
# What is no password: a port, of which only services of the web have an @ behind the path.
_PORT = compiled(rb"""\d{1,5}(?:[?#,\s"'\\<>]|\Z|/(?![^\s@?#,"'\\<>]{1,256}+@))""")
_PORT_OF_WEB = compiled(rb"""\d{1,5}(?:[/?#,\s"'\\<>]|\Z)""")
_WEB = (b"http", b"https", b"ws", b"wss", b"docker", b"oci", b"git", b"svn", b"ssh", b"ftp")
_IMAGES = (b"docker", b"oci")
# A name of a user is shorter, mostly; behind that of an account there would be a password.
_ACCOUNT_ALONE = compiled(
    rb"""https?:(?://|\\{1,15}+/\\{1,15}+/)([^\s/:@?#,;|="'\\<>]{12,1024}+)(?::(?:x-oauth-basic)?)?@""",
    re.IGNORECASE,
)
_URL_END = compiled(rb"""[\s"'\\<>]""")
_NEXT_ACCOUNT = compiled(rb"@[A-Za-z0-9.\-_\[\]:%]{1,256}+,(?=([^\s:@/,]{0,256}+:)[^\s,@]{1,256}+@)")


def encoded(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    """Yield the values behind names in a query that is itself a value of one, and passwords in such URLs."""
    if b"%" not in data and b"]=" not in data:
        return
    end = 0
    for word in steps.of(_ENCODED.finditer(data)):
        if (
            word.start() >= end
            and is_secret_in_a_query(word[1].decode("ascii"))
            and (value := _ENCODED_VALUE.match(data, word.end()))
        ):
            yield value.span()
            end = value.end()
    for account in steps.of(_ENCODED_ACCOUNT.finditer(data)):
        yield account.span(1)


def in_urls(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    """Yield the passwords in URLs, raw ``/``, ``,`` and ``@`` in them included."""
    end = 0
    for account in steps.of(_ACCOUNT.finditer(data)):
        start = account.end()
        is_web = data.endswith(_WEB, 0, account.start())
        if start < end or (_PORT_OF_WEB if is_web else _PORT).match(data, start):
            continue  # within a URL that was looked at, or a port
        window = start + _REACH
        url_end = _URL_END.search(data, start, window)
        end = url_end.start() if url_end else min(window, len(data))
        while (following := _NEXT_ACCOUNT.search(data, start, end)) is not None:
            yield start, following.start()
            start = following.end(1)
        at = data.rfind(b"@", start, end)
        if at >= start:
            if at > start:
                yield start, at
        elif start < end == len(data) and not data.endswith(_IMAGES, 0, account.start()):
            yield start, end  # cut off before its host


def accounts_alone(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    """Yield what stands before the host of a URL of the web without a password: a token, if it is long."""
    for account in steps.of(_ACCOUNT_ALONE.finditer(data)):
        yield account.span(1)
