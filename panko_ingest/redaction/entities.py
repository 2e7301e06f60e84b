"""Quotes, brackets and separators that HTML and XML write as entities, such as ``&quot;``."""

import re
from collections.abc import Iterable, Iterator

from panko_ingest.redaction.steps import Steps

_CHARACTERS = (b'"', b"'", b"=", b":", b">", b"<")
_LONGEST = 8
_ENTITY = re.compile(
    rb"&(?:(quot|#0{0,3}34|#x22)|(apos|#0{0,3}39|#x27)|(#0{0,3}61|#x3d)|(#0{0,3}58|#x3a)|(gt|#0{0,3}62|#x3e)"
    rb"|(lt|#0{0,3}60|#x3c));",
    re.IGNORECASE,
)


def written_plainly(data: bytes, steps: Steps) -> bytes | None:
    """Return text of the same length, with blanks behind what was an entity; None where there is none.

    For what opens an element they stand before it, as its name has to follow at once.

    :raises TooMuchText: there are more than are looked at.
    """
    if b"&" not in data:
        return None
    steps.take(data.count(b"&"))
    plain = _ENTITY.sub(_written_plainly, data)
    return None if plain == data else plain


def _written_plainly(found: re.Match[bytes]) -> bytes:
    character = _CHARACTERS[(found.lastindex or 1) - 1]
    return character.rjust(len(found[0])) if character == b"<" else character.ljust(len(found[0]))


def behind_entities(data: bytes, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield spans that were found in plain text, without the parts of entities at their ends."""
    for start, found_end in spans:
        opening = _ENTITY.match(data, start - 1) if start else None
        begin = opening.end() if opening else start
        end = found_end
        if (closing := data.rfind(b"&", begin, end)) >= max(begin, end - _LONGEST) and (
            (entity := _ENTITY.match(data, closing)) and entity.end() > end
        ):
            end = closing
        if begin < end:
            yield begin, end
