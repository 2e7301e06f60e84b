"""How fast the daemon is now: what its counters gained between two looks."""

import time
from collections import deque

from panko_ingest.shared_metrics import SharedMetrics, Totals

_COUNTED = {
    "received": "messages_received_total",
    "recorded": "events_recorded_total",
    "duplicates": "events_duplicate_total",
    "dead_letters": "dead_letters_total",
    "dropped": "messages_dropped_total",
}


MINUTES = (1, 5)
"""Over how long rates are told beside those of now."""


class Rates:
    """Looks at the counters now and then, and keeps what it saw in the last minutes."""

    def __init__(self, shared_metrics: SharedMetrics) -> None:
        self._shared_metrics = shared_metrics
        self.per_second = dict.fromkeys(_COUNTED, 0.0)
        self._seen = deque([(time.monotonic(), _counts(shared_metrics.totals()))])

    def look(self) -> str:
        """Look again, and return the most important figures in words."""
        now, totals = time.monotonic(), self._shared_metrics.totals()
        counts = _counts(totals)
        then, before = self._seen[-1]
        if now > then:
            self.per_second = {name: (counts[name] - before[name]) / (now - then) for name in _COUNTED}
        self._seen.append((now, counts))
        while len(self._seen) > 1 and self._seen[1][0] <= now - 60.0 * max(MINUTES):
            self._seen.popleft()
        return _words(self.per_second, totals)

    @property
    def absent_queues(self) -> str:
        """In words, which queues are waited for now."""
        return _absent_queues(self._shared_metrics.totals())

    def over(self, seconds: float) -> dict[str, float]:
        """Return the rates of the last so many seconds, or since the start if that is less."""
        now, counts = self._seen[-1]
        then, before = next(
            (seen for seen in reversed(self._seen) if seen[0] <= now - seconds), self._seen[0]
        )
        return {name: (counts[name] - before[name]) / max(now - then, 1e-9) for name in _COUNTED}


def _counts(totals: Totals) -> dict[str, float]:
    return {name: totals[metric] for name, metric in _COUNTED.items()}


def _words(rates: dict[str, float], totals: Totals) -> str:
    words = [f"{rates['recorded']:.1f} events/s", f"lag {totals.largest('oldest_in_hand_seconds'):.1f} s"]
    words += [
        f"{rates[name]:.1f} {name.replace('_', ' ')}/s"
        for name in ("duplicates", "dead_letters")
        if rates[name]
    ]
    if totals["store_away"]:
        words.append("waiting for the database")
    if totals["breaker_open"]:
        words.append("flood breaker open")
    if absent := _absent_queues(totals):
        words.append(f"waits for queues: {absent}")
    return ", ".join(words)


def _absent_queues(totals: Totals) -> str:
    found = totals.absent_queues()
    several = len({bus for bus, _ in found}) > 1
    return ", ".join(f"{name} at {bus}" if several else name for bus, name in found)
