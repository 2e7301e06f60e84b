"""Quotes and separators that HTML and XML write as entities, such as ``&quot;``."""

import re
from collections.abc import Iterable, Iterator

from panko_ingest.redaction.steps import Steps

_CHARACTERS = (b'"', b"'", b"=", b":")
_ENTITY = re.compile(
    rb"&(?:(quot|#0{0,3}34|#x22)|(apos|#0{0,3}39|#x27)|(#0{0,3}61|#x3d)|(#0{0,3}58|#x3a));", re.IGNORECASE
)


def written_plainly(data: bytes, steps: Steps) -> bytes | None:
    """Return text of the same length, blanks behind what was an entity; None where there is none.

    :raises TooMuchText: there are more than are looked at.
    """
    if b"&" not in data:
        return None
    steps.take(data.count(b"&"))
    plain = _ENTITY.sub(lambda found: _CHARACTERS[(found.lastindex or 1) - 1].ljust(len(found[0])), data)
    return None if plain == data else plain


def behind_entities(data: bytes, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield spans that were found in plain text, without what is left of entities before them."""
    for start, end in spans:
        opening = _ENTITY.match(data, start - 1) if start else None
        begin = opening.end() if opening else start
        if begin < end:
            yield begin, end
