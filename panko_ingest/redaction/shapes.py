"""Credentials that are known by how they look, whatever stands beside them: private keys and tokens."""

import re
from collections.abc import Iterator

from panko_ingest.redaction.patterns import compiled
from panko_ingest.redaction.steps import Steps

SHORTEST_TOKEN = 60
"""Characters that a token has at least."""

_PRIVATE_KEY = compiled(
    rb"-{4,5} ?BEGIN [A-Za-z0-9 ]{0,40}(?:PRIVATE KEY(?: BLOCK)?|Static key V1) ?-{4,5}"
    rb"([^\"'<]*?)(?=-{4,5} ?END|[\"'<]|\Z)"
)
# Keystone's Fernet tokens, and JSON web tokens; also behind a character that is quoted for a URL or by JSON.
_TOKEN = compiled(
    rb"(?:(?<![\w\-])|(?<=%[0-9A-Fa-f][0-9A-Fa-f])|(?<=\\[nrt]))(?:gAAAAA[\w\-]{54,}+={0,2}|eyJ[\w\-]{8,}+\.[\w\-]{8,}+(?:\.[\w\-]*+)?)",
    re.ASCII,
)


def private_keys(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    """Yield what stands between the lines around private keys."""
    for key in steps.of(_PRIVATE_KEY.finditer(data)):
        if key.end(1) > key.start(1):
            yield key.span(1)


def tokens(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    """Yield tokens of Keystone and JSON web tokens."""
    for token in steps.of(_TOKEN.finditer(data)):
        yield token.span()
