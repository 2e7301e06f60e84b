"""Text that others wrote, such as tenants' names, shown so that it does nothing to terminals."""

import codecs
import io
import re
from typing import TextIO

_AS_IN_JSON = "panko_ingest.as_in_json"
# Of what is valid in JSON text: the second set of control characters, and what turns the direction round.
_ACTIVE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str, keep: str = "") -> str:
    r"""Return text with escapes, as ``\x1b``, in place of all that is not printed as a character.

    :param keep: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape").decode()
        for character in text
    )


def escaped_error(error: object) -> str:
    """Return the text of an error, which may quote a server that need not be the right one."""
    return escaped(str(error), keep="\n")


def escaped_json(text: str) -> str:
    """Return JSON text that means the same, with escapes for what a terminal would obey."""
    return _ACTIVE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def escape_what_it_lacks(stream: TextIO) -> None:
    r"""Have a stream write what its encoding has no characters for as JSON does: an é as ``\u00e9``."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=_AS_IN_JSON)


def _as_in_json(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4)), error.end


codecs.register_error(_AS_IN_JSON, _as_in_json)
