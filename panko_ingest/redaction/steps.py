"""What all who look for credentials in text share: the steps they may take, what no value is, and spans."""

import re
from collections.abc import Iterator

_MOST_STEPS = 500_000
_STEPS_OF_A_TEXT = 10
_STEPS_OF_A_NAME = 2

# Blanks, also as text of JSON writes them.
BLANKS = rb"(?:\s|\\{1,15}+[nrt]){0,64}+"
NOTHING = {b"null", b"true", b"false", b"None", b"True", b"False", b"~"}


class TooMuchText(Exception):
    """There are more names in a text than are looked at."""


class Steps:
    """The work that is left for a document or a body, shared by all who look into it."""

    def __init__(self) -> None:
        self._left = _MOST_STEPS

    def begin_text(self, names: int = 0) -> bool:
        """Count one more text, however short, and names in it; tell whether there are steps left for them."""
        self._left -= _STEPS_OF_A_TEXT + names * _STEPS_OF_A_NAME
        return self._left >= 0

    def take(self, count: int = 1) -> None:
        """Use up so many steps.

        :raises TooMuchText: there are not so many left.
        """
        self._left -= count
        if self._left < 0:
            raise TooMuchText

    def of(self, found: Iterator[re.Match[bytes]]) -> Iterator[re.Match[bytes]]:
        """Yield the matches, a step for each."""
        for match in found:
            self.take()
            yield match


def apart(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans in order and apart from each other."""
    result: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result
