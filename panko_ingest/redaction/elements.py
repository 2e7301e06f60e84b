"""Credentials in elements of XML."""

from collections.abc import Iterator

from panko_ingest.redaction import names
from panko_ingest.redaction.names import is_secret, meaning_of
from panko_ingest.redaction.patterns import compiled
from panko_ingest.redaction.steps import BLANKS, NOTHING, Steps

_ELEMENT = compiled(rb"<(?:[\w.\-]{1,80}+:)?+([A-Za-z_][\w.\-]{0,80}+)(?:\s[^<>]{0,1024}+)?+(?<!/)>")
# The text of an element, or of the first within it.
_CONTENT = compiled(
    rb"(?:%b<(?:!--[^<>]{0,256}+|[A-Za-z_][^<>]{0,256}+)>){0,3}+%b"
    rb"(?:<!\[CDATA\[([\x00-\xff]+?)(?=\]\]>|\Z)|([^<]+))" % (BLANKS, BLANKS)
)
_LABELLED_ELEMENT = compiled(
    rb"<([A-Za-z_]{1,40}+)>%b([A-Za-z_][\w.\-]{0,80}+)%b</\1>%b"
    rb"<[A-Za-z_][^<>]{0,256}+(?<!/)>(?:<!\[CDATA\[)?+([^<]+)" % (BLANKS, BLANKS, BLANKS)
)


def elements(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    """Yield the texts of elements of XML."""
    end = 0
    for element in steps.of(_ELEMENT.finditer(data)):
        if element.start() < end or not is_secret(element[1].decode("ascii")):
            continue
        if content := _CONTENT.match(data, element.end()):
            end = content.end()
            group = content.lastindex or 0
            if content[group].strip() not in NOTHING:
                yield content.span(group)
    for pair in steps.of(_LABELLED_ELEMENT.finditer(data)):
        meaning = meaning_of(pair[1].decode("ascii"))
        if meaning == names.LABEL and names.names_a_secret(pair[2].decode("ascii"), meaning):
            yield pair.span(3)
