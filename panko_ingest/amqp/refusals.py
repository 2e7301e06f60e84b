"""What a broker refuses, as it was told last."""

from collections.abc import Callable


class Refusals:
    """Tells which queues, or which exchanges, a broker refuses; outlives the sessions.

    :param tell: called with a name, and why it is refused; None when it no longer is.
    """

    def __init__(self, tell: Callable[[str, str | None], None]) -> None:
        self._tell = tell
        self._told: dict[str, str] = {}

    def note(self, name: str, reason: str | None) -> bool:
        """Tell why a name is refused, None if it is not, where that is news; return whether it is."""
        if self._told.get(name) == reason:
            return False
        if reason is None:
            del self._told[name]
        else:
            self._told[name] = reason
        self._tell(name, reason)
        return True
