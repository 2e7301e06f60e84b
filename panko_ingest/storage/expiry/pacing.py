"""How fast to delete: batches that are over soon, and pauses that leave writers their rate.

What deleting costs the writers is measured, not guessed: the ids that they use up are counted while
a batch is deleted and while we pause. Both counts fade, so that what was learned follows the load.
"""

import math
from dataclasses import dataclass

LONGEST_BATCH = 0.2
"""Seconds that one batch may take."""

FIRST_SIZE = 1000
SMALLEST_SIZE, LARGEST_SIZE = 50, 10_000

_AIM = 0.5 * LONGEST_BATCH
_GROWTH = 1.5
_TOLERATED_LOSS = 0.06
"""Share of their rate that writers may lose: the aim is a tenth, and measuring is not exact."""

_SMALLEST_SHARE = 0.05
_LARGEST_SHARE = 0.9
"""Of the time that may be spent on deleting while others write, so that a loss is noticed."""

_FIRST_SHARE = 0.1
"""As long as nobody knows what they lose: the tenth at most, even if they can't write at all meanwhile."""

_SHARE_ALONE = 0.95
"""While nobody seems to write: in the pauses it shows who only waits for us, as SQLite's writers do."""

_SHORTEST_PAUSE = 0.1
"""Seconds; shorter ones are saved up. A writer that waits for SQLite looks every tenth of a second."""

_MEMORY = 20.0
"""Seconds after which a measurement counts for a third: writers commit hundreds of events at a time."""

_ENOUGH = 1.0
"""Seconds to measure of each kind before we believe in a loss."""

_QUIET = 2.0
"""Seconds without a new event after which nobody writes."""


@dataclass
class _Writing:
    """How many ids writers took in how many seconds."""

    ids: float = 0.0
    seconds: float = 0.0

    def add(self, ids: int, seconds: float) -> None:
        kept = math.exp(-seconds / _MEMORY)
        self.ids = self.ids * kept + ids
        self.seconds = self.seconds * kept + seconds

    @property
    def rate(self) -> float:
        return self.ids / self.seconds if self.seconds else 0.0


class Pace:
    """The size of the next batch and the pause before it.

    :param size: events in a batch; 0 to adapt it to the time that batches take.
    :param first: events in the first one at most, where more are known to take too long; 0 for no such limit.
    """

    def __init__(self, size: int = 0, first: int = 0) -> None:
        self._most = size or LARGEST_SIZE
        self.size = min(size or FIRST_SIZE, first or LARGEST_SIZE)
        self._adapts = not size or self.size < size
        self._owed = _SHORTEST_PAUSE
        self._quiet = 0.0
        self._forget()

    def deleted(self, count: int, seconds: float, ids_of_writers: int) -> None:
        """Note a batch: how many events went, in what time, and the ids that writers took meanwhile."""
        self._note(self._deleting, ids_of_writers, seconds)
        if not self._adapts or count < self.size:
            return
        factor = min(_GROWTH, max(1 / _GROWTH**2, _AIM / max(seconds, 1e-6)))
        self.size = int(min(self._most, max(SMALLEST_SIZE, self.size * factor)))

    def shrink(self) -> bool:
        """Make batches much smaller, as one did not end in time; tell whether that can be."""
        if self.size <= SMALLEST_SIZE:
            return False
        self.size = max(SMALLEST_SIZE, self.size // 4)
        self._adapts = True
        return True

    def paused(self, seconds: float, ids_of_writers: int) -> None:
        """Note a pause, and the ids that writers took in it."""
        self._note(self._pausing, ids_of_writers, seconds)

    def _note(self, what: _Writing, ids: int, seconds: float) -> None:
        # Ids go back where the newest events are deleted: no writer did that.
        what.add(max(0, ids), seconds)
        self._quiet = 0.0 if ids > 0 else self._quiet + seconds
        if self._quiet > _QUIET:
            self._forget()

    def _forget(self) -> None:
        self._deleting = _Writing()
        self._pausing = _Writing()

    @property
    def share(self) -> float:
        """The share of the time that may be spent on deleting."""
        deleting, pausing = self._deleting, self._pausing
        if not deleting.ids and not pausing.ids:
            return _SHARE_ALONE
        if min(deleting.seconds, pausing.seconds) < _ENOUGH:
            return _FIRST_SHARE
        loss = 1.0 - deleting.rate / pausing.rate if pausing.rate else 0.0
        if loss <= _TOLERATED_LOSS:
            return _LARGEST_SHARE
        return max(_SMALLEST_SHARE, min(_LARGEST_SHARE, _TOLERATED_LOSS / loss))

    def pause(self, seconds: float) -> float:
        """Return how long to pause after a batch that took so long; 0 for not yet."""
        self._owed += seconds * (1.0 / self.share - 1.0)
        if self._owed < _SHORTEST_PAUSE:
            return 0.0
        owed, self._owed = self._owed, 0.0
        return owed
