"""How fast to delete: batches that are over soon, and pauses that leave writers their rate.

What deleting costs the writers is measured, not guessed: the ids that they use up are counted while
a batch is deleted and while we pause. Both counts fade, so that what was learned follows the load.
"""

from dataclasses import dataclass

LONGEST_BATCH = 0.2
"""Seconds that one batch may take."""

FIRST_SIZE = 1000
SMALLEST_SIZE, LARGEST_SIZE = 50, 10_000

_AIM = 0.5 * LONGEST_BATCH
_GROWTH = 1.5
_TOLERATED_LOSS = 0.07
"""Share of their rate that writers may lose: the aim is a tenth, and measuring is not exact."""

_FIRST_SHARE, _SMALLEST_SHARE = 0.3, 0.05
_FADE = 0.97
_ENOUGH = 1.0  # seconds measured of each kind before we believe in a loss; fading, they must reach it


@dataclass
class _Writing:
    """How many ids writers took in how many seconds."""

    ids: float = 0.0
    seconds: float = 0.0

    def add(self, ids: int, seconds: float) -> None:
        # Ids go back where the newest events are deleted: no writer did that.
        self.ids = self.ids * _FADE + max(0, ids)
        self.seconds = self.seconds * _FADE + seconds

    @property
    def rate(self) -> float:
        return self.ids / self.seconds if self.seconds else 0.0


class Pace:
    """The size of the next batch and the pause before it.

    :param size: events in a batch; 0 to adapt it to the time that batches take.
    """

    def __init__(self, size: int = 0) -> None:
        self.size = size or FIRST_SIZE
        self._adapts = not size
        self._deleting = _Writing()
        self._pausing = _Writing()

    def deleted(self, count: int, seconds: float, ids_of_writers: int) -> None:
        """Note a batch: how many events went, in what time, and the ids that writers took meanwhile."""
        self._deleting.add(ids_of_writers, seconds)
        if not self._adapts or count < self.size:
            return
        factor = min(_GROWTH, max(1 / _GROWTH**2, _AIM / max(seconds, 1e-6)))
        self.size = int(min(LARGEST_SIZE, max(SMALLEST_SIZE, self.size * factor)))

    def paused(self, seconds: float, ids_of_writers: int) -> None:
        """Note a pause, and the ids that writers took in it."""
        self._pausing.add(ids_of_writers, seconds)

    @property
    def share(self) -> float:
        """The share of the time that may be spent on deleting."""
        deleting, pausing = self._deleting, self._pausing
        if not deleting.ids and not pausing.ids:
            return 1.0
        if min(deleting.seconds, pausing.seconds) < _ENOUGH:
            return _FIRST_SHARE
        loss = 1.0 - deleting.rate / pausing.rate if pausing.rate else 0.0
        if loss <= _TOLERATED_LOSS:
            # Some pauses, so that a loss will be noticed.
            return 0.9
        return max(_SMALLEST_SHARE, min(0.9, _TOLERATED_LOSS / loss))

    def pause(self, seconds: float) -> float:
        """Return how long to pause after a batch that took so long."""
        return seconds * (1.0 / self.share - 1.0)
