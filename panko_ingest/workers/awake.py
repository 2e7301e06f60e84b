"""Whether this process itself stood still: paused with its container, suspended, migrated, or stopped."""

import math
import time


class Awake:
    """Tells silence of others from a time in which nobody could be heard.

    :param longest: seconds between two looks that can't pass while this process runs.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._looked = time.monotonic()
        self._since = -math.inf

    def seconds(self) -> float:
        """Return the seconds since this process last stood still; infinity where it never did.

        Ask after what is compared with it, so that no pause can fall between the two.
        """
        now = time.monotonic()
        if now - self._looked > self._longest:
            self._since = now
        self._looked = now
        return now - self._since
