"""How long to wait before trying again. No I/O here."""

import random
from collections.abc import Callable, Iterator


def pauses(first: float, longest: float) -> Iterator[float]:
    """Yield seconds for ever: doubling from ``first`` to ``longest``, each shortened by up to half.

    The jitter keeps the workers of many hosts from coming back all at once.
    """
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 2, longest)


class Backoff:
    """Says when to try again something that failed, later each time until it succeeds.

    :param first: seconds of the first pause; so is ``longest``.
    :param clock: monotonic seconds.
    """

    def __init__(self, first: float, longest: float, clock: Callable[[], float]) -> None:
        self._first = first
        self._longest = longest
        self._clock = clock
        self.succeeded()

    def succeeded(self) -> None:
        """Begin anew."""
        self._pauses = pauses(self._first, self._longest)
        self._at = 0.0
        self.failed_last = False

    def failed(self) -> float:
        """Note a failure; return after how many seconds to try again."""
        pause = next(self._pauses)
        self._at = self._clock() + pause
        self.failed_last = True
        return pause

    @property
    def due_in(self) -> float:
        """Seconds until the next try; 0 for now."""
        return max(0.0, self._at - self._clock()) if self.failed_last else 0.0
