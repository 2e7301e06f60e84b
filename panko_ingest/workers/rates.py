"""How fast the daemon is now: what its counters gained between two looks."""

import time
from collections.abc import Callable

from panko_ingest.metric_files import MetricFiles, Totals

_COUNTED = {
    "received": "messages_received_total",
    "recorded": "events_recorded_total",
    "duplicates": "events_duplicate_total",
    "dead_letters": "dead_letters_total",
    "dropped": "messages_dropped_total",
}


class Rates:
    """Looks at the counters now and then.

    :param clock: monotonic seconds.
    """

    def __init__(self, files: MetricFiles, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = files
        self._clock = clock
        self.totals = files.totals()
        self.per_second = dict.fromkeys(_COUNTED, 0.0)
        self._looked_at = clock()

    def look(self) -> str:
        """Look again, and return the most important figures in words."""
        now, totals = self._clock(), self._files.totals()
        seconds = now - self._looked_at
        if seconds > 0:
            self.per_second = {
                name: (totals[metric] - self.totals[metric]) / seconds for name, metric in _COUNTED.items()
            }
        self.totals, self._looked_at = totals, now
        return _words(self.per_second, totals)


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
    return ", ".join(words)
