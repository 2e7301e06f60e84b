"""Patterns of event types: globs, and after a ``!`` those to leave out."""

import fnmatch
import re
from collections.abc import Iterable

from panko_ingest.remembered import Remembered

_NOTHING = r"(?!)"
_MOST_CACHED, _LONGEST_CACHED = 8192, 255


class TypePatterns:
    """Event types that match one of the globs and none of those after a ``!``.

    Without a glob to include, all that are not left out match. Case counts.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = list(patterns)
        excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
        included = [pattern for pattern in patterns if not pattern.startswith("!")]
        if excluded and not included:
            included = ["*"]
        self.matches_everything = "*" in included and not excluded
        self._included = _compile(included)
        self._excluded = _compile(excluded)

    def match(self, event_type: str) -> bool:
        """Tell whether the event type is one of them."""
        return self._included.match(event_type) is not None and self._excluded.match(event_type) is None


class TypeFilter:
    """The ``[event] types`` option."""

    def __init__(self, patterns: Iterable[str]) -> None:
        types = TypePatterns(patterns)
        self._stores_all = types.matches_everything
        self._known = Remembered(types.match, _MOST_CACHED, _LONGEST_CACHED)

    def __call__(self, event_type: object) -> bool:
        """Tell whether to store events of a type; what is no text passes, for the converter to refuse."""
        return self._stores_all or not isinstance(event_type, str) or self._known[event_type]


def _compile(globs: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs) or _NOTHING)
