"""Regular expressions with possessive groups, ``(?:...)*+``, that mean the same on every Python.

Python before 3.11.5, which Debian 12 has, goes on behind what the last round of such a group had read
before it failed (python/cpython#106052), so that ``(?:%2*3)?+%4`` does not match ``%4``. A round that ends in
a branch that fails at once goes back to where it began.
"""

import re

_FAILS_AT_ONCE = rb"|(?!)"
# Escapes and sets of characters are read as wholes, as a bracket in them ends no group.
_END_OF_GROUP = re.compile(
    rb"""\\[\x00-\xff]|\[\^?\]?(?:\\[\x00-\xff]|[^\]\\])*\]|(?P<end>\)(?:[*+?]|\{[0-9,]+\})\+)"""
)

GOES_BACK = re.match(rb"(?:%2*3)?+%4", b"%4") is not None
"""Whether this Python goes back to where a round that failed began."""


def compiled(pattern: bytes, flags: int = 0) -> re.Pattern[bytes]:
    """Compile a pattern, in words that this Python understands as they are meant."""
    return re.compile(pattern if GOES_BACK else going_back(pattern), flags)


def going_back(pattern: bytes) -> bytes:
    """Return a pattern that means the same, and does so where a round that failed has to be led back, too."""
    return _END_OF_GROUP.sub(lambda found: (_FAILS_AT_ONCE if found["end"] else b"") + found[0], pattern)
