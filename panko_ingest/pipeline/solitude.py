"""Has a worker handle what it may die of when it has nothing else in hand. No I/O here.

So it is known what it died of, if it does, and no other message comes back with that one: a quorum queue
counts how often a message does, and drops it in the end.
"""

import threading
from collections.abc import Callable
from typing import Protocol

# Others may have a batch in hand that the database does not take, and their brokers wait no longer for us.
_PATIENCE = 5.0


class Bus(Protocol):
    """One of the buses of a worker, as the others see it."""

    @property
    def idle(self) -> bool:
        """Whether it has nothing in hand."""


class Solitude:
    """What one bus of a worker has while the others do nothing; none of their threads waits for it.

    :param clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buses: list[Bus] = []
        self._free = threading.Lock()  # never waited for
        self._asked_by: Bus | None = None
        self._asked_at = 0.0
        self.had_by: Bus | None = None
        """Who is alone: what came to the others all the same is to be laid aside."""

    def join(self, bus: Bus) -> None:
        """Count a bus among those of the worker."""
        self._buses.append(bus)

    def ask(self, bus: Bus) -> bool:
        """Return whether a bus is alone now; if not, the others stop reading until it was, and left."""
        if self._asked_by is not bus:
            if not self._free.acquire(blocking=False):
                return False
            self._asked_by, self._asked_at = bus, self._clock()
        self.had_by = bus  # before looking at the others, who look at this once they have begun
        if all(other.idle for other in self._buses if other is not bus):
            return True
        if self._clock() - self._asked_at > _PATIENCE:
            return True
        self.had_by = None
        return False

    def leave(self, bus: Bus) -> None:
        """Let the others go on."""
        if self._asked_by is bus:
            self._asked_by = self.had_by = None
            self._free.release()

    def may_ask(self, bus: Bus) -> bool:
        """Whether a bus would be alone if it asked now."""
        if self._asked_by not in (None, bus):
            return False
        return all(other.idle for other in self._buses if other is not bus)

    @property
    def is_wanted(self) -> bool:
        """Whether any bus is alone, or wants to be: nothing more is to be read, by that one neither."""
        return self._asked_by is not None
