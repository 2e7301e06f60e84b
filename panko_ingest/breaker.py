"""The flood breaker: when nearly everything is a dead letter, something else is wrong. No I/O here."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

WINDOW = 1000
PROBE_INTERVAL = 60.0
HOUR = 3600.0
_MOST_PUBLISHERS = 1000
# Probes that were due, of which none brought anything, after which there is no flood to speak of.
_PROBES_IN_VAIN = 5
# Of all messages: dead letters that anybody may have at any time.
_FEW = 0.01
# Messages of a batch that prove something before a probe is due, or put it off. Fewer may be but held, for
# queues to have a consumer.
_ENOUGH = 10
_LONGEST_FLOOD = 100 * WINDOW
"""Messages without a good one from which on nothing seems to wait behind them."""

Source = tuple[str, str]
"""Publisher and event type; exchange and routing key of a message that is at fault itself.

Anybody may write any publisher's name into a message that is at fault.
"""


@dataclass(slots=True)
class Tally:
    """Whose messages of a batch were good, whose became dead letters, and the bytes stored of these."""

    good: Sequence[Source]
    dead: Sequence[Source]
    dead_bytes: int = 0

    @property
    def messages(self) -> int:
        """How many there are."""
        return len(self.good) + len(self.dead)


class FloodBreaker:
    """Watches the share of dead letters among the last 1000 messages, and their bytes in an hour.

    It opens when more than the limit is dead of all sources alike, as wrong definitions make it, or when the
    dead letters of an hour are too large, no matter whose. Then only one probing batch in each probe
    interval may come in. The first one whose own share is under the limit, or the end of the hour, closes it.
    It is open no more while nothing comes for five such intervals; what comes then is judged as a probe.
    A source of good messages keeps it closed beside one that floods; so do publishers whose messages were
    good within an hour, wherever their next ones wait, while at most one of them has more than a few dead
    letters, and for 100,000 messages without a good one at most. It never opens on fewer messages.

    :param limit: share of dead letters, 0 to 1; 0 turns this off.
    :param clock: monotonic seconds.
    :param hourly_bytes: that are stored of dead letters; 0 for any.
    """

    def __init__(self, limit: float, clock: Callable[[], float], hourly_bytes: int = 0) -> None:
        self._limit = limit
        self._clock = clock
        self._hourly_bytes = hourly_bytes
        self._last: deque[Tally] = deque()
        self._messages = self._dead = 0
        self._good_at: dict[str, float] = {}
        self._since_good = 0
        self._next_probe = 0.0
        self._flooded = False
        self._hour_began = clock()
        self._bytes = 0

    @property
    def too_large(self) -> bool:
        """Whether the dead letters of this hour are larger than they may be."""
        if self._clock() - self._hour_began >= HOUR:
            self._hour_began, self._bytes = self._clock(), 0
        return 0 < self._hourly_bytes < self._bytes

    @property
    def share_of_hourly_bytes(self) -> float:
        """How much of the bytes that an hour's dead letters may have is used up."""
        return self._bytes / self._hourly_bytes if self._hourly_bytes else 0.0

    @property
    def open(self) -> bool:
        """Whether only probes may come in."""
        # Of a queue with a single active consumer another worker may have all that comes, from now on.
        is_quiet = self._clock() >= self._next_probe + _PROBES_IN_VAIN * PROBE_INTERVAL
        return self.too_large or (self._flooded and not is_quiet)

    @property
    def probe_due(self) -> bool:
        """Whether, while open, the next probing batch may come in."""
        return self._clock() >= self._next_probe

    def record(self, tally: Tally) -> None:
        """Take note of a batch, which may open or close the breaker."""
        was_open = self.open
        self._bytes += tally.dead_bytes
        if was_open and tally.messages < _ENOUGH and not self.probe_due:
            return
        if self._limit and tally.messages:
            self._judge(tally)
        if tally.dead and (self._flooded or self.too_large):
            self._next_probe = self._clock() + PROBE_INTERVAL

    def _judge(self, tally: Tally) -> None:
        if self._flooded:
            self._flooded = self._is_flood([tally], tally.messages, len(tally.dead))
            if not self._flooded:
                self._remember(tally)
            return
        self._remember(tally)
        self._last.append(tally)
        self._messages += tally.messages
        self._dead += len(tally.dead)
        while self._messages - self._last[0].messages >= WINDOW:
            gone = self._last.popleft()
            self._messages -= gone.messages
            self._dead -= len(gone.dead)
        if self._messages >= WINDOW and self._is_flood(self._last, self._messages, self._dead):
            self._flooded = True
            self._last.clear()
            self._messages = self._dead = 0
            self._good_at.clear()  # a probe is judged by itself

    def _remember(self, tally: Tally) -> None:
        """Note whose messages are good, and forget whose were an hour ago."""
        good_at, now = self._good_at, self._clock()
        self._since_good = 0 if tally.good else self._since_good + tally.messages
        for publisher in {publisher for publisher, _ in tally.good}:
            good_at.pop(publisher, None)
            good_at[publisher] = now
        while good_at:
            oldest = next(iter(good_at))
            if len(good_at) <= _MOST_PUBLISHERS and now - good_at[oldest] < HOUR:
                break
            del good_at[oldest]

    def _is_flood(self, tallies: Iterable[Tally], messages: int, dead: int) -> bool:
        """Tell whether more than the limit is dead, and so of each source: one good one keeps all going."""
        # So it is nearly always; and there may be as many sources to count as there are messages.
        if dead <= self._limit * messages:
            return False
        good_of, dead_of = Counter[Source](), Counter[Source]()
        for tally in tallies:
            good_of.update(tally.good)
            dead_of.update(tally.dead)
        return all(
            dead_of[source] > self._limit * (good + dead_of[source]) for source, good in good_of.items()
        ) and self._is_all_alike(dead_of, messages)

    def _is_all_alike(self, dead_of: Counter[Source], messages: int) -> bool:
        """Tell whether those whose messages were good lately are not waiting behind somebody's flood."""
        dead = Counter[str]()
        for (publisher, _), count in dead_of.items():
            if publisher in self._good_at:
                dead[publisher] += count
        but_one = dead.total() - max(dead.values(), default=0)
        nobody_waits = self._since_good > _LONGEST_FLOOD or len(dead) == len(self._good_at)
        return nobody_waits or but_one > _FEW * messages
