"""The flood breaker: when nearly everything is a dead letter, something else is wrong. No I/O here."""

from collections import deque
from collections.abc import Callable

WINDOW = 1000
PROBE_INTERVAL = 60.0


class FloodBreaker:
    """Watches the share of dead letters among the last 1000 messages.

    Above the limit it is open: only one probing batch in each probe interval may come in, and the
    first probe whose own share is under the limit closes it. It never opens on fewer messages.

    :param limit: share of dead letters, 0 to 1; 0 turns the breaker off.
    :param clock: monotonic seconds.
    """

    def __init__(self, limit: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._last: deque[tuple[int, int]] = deque()
        self._messages = 0
        self._dead = 0
        self._next_probe = 0.0
        self.open = False

    @property
    def probe_due(self) -> bool:
        """Whether, while open, the next probing batch may come in."""
        return self._clock() >= self._next_probe

    def record(self, messages: int, dead: int) -> bool:
        """Take note of a batch; return whether this opened or closed the breaker."""
        if not self._limit or not messages:
            return False
        if self.open:
            return self._judge_probe(messages, dead)
        self._last.append((messages, dead))
        self._messages += messages
        self._dead += dead
        while self._messages - self._last[0][0] >= WINDOW:
            gone_messages, gone_dead = self._last.popleft()
            self._messages -= gone_messages
            self._dead -= gone_dead
        if self._messages < WINDOW or self._dead <= self._limit * self._messages:
            return False
        self.open = True
        self._next_probe = self._clock() + PROBE_INTERVAL
        return True

    def _judge_probe(self, messages: int, dead: int) -> bool:
        if dead > self._limit * messages:
            self._next_probe = self._clock() + PROBE_INTERVAL
            return False
        self.open = False
        self._last.clear()
        self._messages = self._dead = 0
        return True
