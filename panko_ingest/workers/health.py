"""Whether the daemon is alive, and whether it does its work; if not, why not."""

import datetime
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from panko_ingest.metric_files import MetricFiles, Totals
from panko_ingest.progress import Board, State
from panko_ingest.workers.rates import Rates
from panko_ingest.workers.supervisor import HANG_LIMIT

PROBE_INTERVAL = 5.0
_SILENCE = HANG_LIMIT / 3
_VACANCY = 15.0  # cotyledon may wait for 5 s before it replaces a worker


class Verdict(NamedTuple):
    """Yes or no, by subject, each with the reason in words."""

    subjects: dict[str, tuple[bool, str]]

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return all(ok for ok, _ in self.subjects.values())

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "ok": self.ok,
            "checks": {name: {"ok": ok, "text": text} for name, (ok, text) in self.subjects.items()},
        }


class Probe:
    """Asks something now and then whether it answers, and remembers what it said.

    :param ask: returns if all is well; otherwise raises an error whose text says what is not.
    :param errors: what ``ask`` raises.
    """

    def __init__(self, ask: Callable[[], None], errors: tuple[type[Exception], ...]) -> None:
        self._ask = ask
        self._errors = errors
        self._asked_at: float | None = None
        self._answered_at: float | None = None
        self._error: str | None = None

    def look(self) -> None:
        """Ask; may take as long as the other side takes."""
        self._asked_at = time.monotonic()
        try:
            self._ask()
        except self._errors as error:
            self._error = str(error)
        else:
            self._error = None
        self._answered_at = time.monotonic()

    def watch(self, stopping: threading.Event) -> None:
        """Ask until the daemon stops, in a thread of its own."""

        def run() -> None:
            while not stopping.is_set():
                self.look()
                stopping.wait(PROBE_INTERVAL)

        threading.Thread(target=run, name="probe", daemon=True).start()

    def verdict(self) -> tuple[bool, str]:
        """Return what the last answer was, or that there is none."""
        now = time.monotonic()
        waited = now - (self._answered_at or self._asked_at or now)
        if waited > 3 * PROBE_INTERVAL:
            return False, f"no answer for {waited:.0f} s"
        if self._answered_at is None:
            return False, "not asked yet"
        return self._error is None, self._error or "answers"


class Health:
    """Judges the daemon by its board, its metrics and its probes.

    :param buses: for each bus that is read, by its name, what asks its brokers.
    :param max_lag: seconds; 0 for any.
    """

    def __init__(
        self, board: Board, files: MetricFiles, database: Probe, buses: dict[str, Probe], max_lag: float
    ) -> None:
        self._board = board
        self._files = files
        self._database = database
        self._buses = buses
        self._max_lag = max_lag
        self._rates = Rates(files)

    def look(self) -> None:
        """Measure the rates since the last look."""
        self._rates.look()

    @property
    def readers(self) -> tuple[int, int]:
        """How many readers there are, and how many of them consume now."""
        slots = self._board.slots()
        return len(slots), sum(slot.state is State.CONSUMING for slot in slots)

    def alive(self) -> Verdict:
        """Tell whether every worker is there and gives signs of life."""
        subjects = {}
        for number, slot in enumerate(self._board.slots()):
            text = "gives signs of life"
            if slot.vacancy:
                text = f"no process for {slot.vacancy:.0f} s"
            elif slot.silence > _SILENCE:
                text = f"process {slot.pid} gave no sign of life for {slot.silence:.0f} s"
            subjects[f"reader {number}"] = (
                slot.vacancy <= _VACANCY and slot.silence <= _SILENCE,
                text,
            )
        return Verdict(subjects)

    def ready(self) -> Verdict:
        """Tell whether events can get from the brokers to the database now, and soon enough."""
        totals = self._files.totals()
        subjects = {"database": self._database.verdict()}
        connections = dict(totals.by_label("broker_connections"))
        for name, probe in self._buses.items():
            count = int(connections.get(name, 0))
            answers, text = probe.verdict()
            if count:
                subjects[f"broker {name}"] = True, f"{count} connections"
            else:
                subjects[f"broker {name}"] = False, f"no connection ({text})" if answers else text
        if self._buses:
            subjects["flood breaker"] = _breaker(totals)
            subjects["lag"] = self._lag(totals)
        return Verdict(subjects)

    def _lag(self, totals: Totals) -> tuple[bool, str]:
        lag = totals.largest("oldest_in_hand_seconds")
        if self._max_lag and lag > self._max_lag:
            return False, f"{lag:.1f} s, more than [monitor] max_lag ({self._max_lag:g} s)"
        return True, f"{lag:.1f} s"

    def figures(self) -> dict[str, Any]:
        """Return what the daemon did and does, as plain data."""
        totals = self._files.totals()
        readers, consuming = self.readers
        return {
            "readers": readers,
            "readers_consuming": consuming,
            "lag_seconds": totals.largest("oldest_in_hand_seconds"),
            "per_second": {name: round(rate, 3) for name, rate in self._rates.per_second.items()},
            "since_start": {
                "received": int(totals["messages_received_total"]),
                "recorded": int(totals["events_recorded_total"]),
                "duplicates": int(totals["events_duplicate_total"]),
                "dropped": int(totals["messages_dropped_total"]),
                "dead_letters": {
                    stage: int(count) for stage, count in totals.by_label("dead_letters_total") if count
                },
                "workers_lost": int(totals["workers_lost_total"]),
            },
            "last_expiry": _moment(totals["expiry_last_success_timestamp_seconds"]),
            "expiry_backlog": int(totals["expiry_backlog"]),
        }


def _breaker(totals: Totals) -> tuple[bool, str]:
    count = int(totals["breaker_open"])
    if count:
        return False, (
            f"open in {count} workers: nearly all messages are dead letters; "
            "see `panko-ingest dead-letters list`"
        )
    return True, "closed"


def _moment(timestamp: float) -> str | None:
    if not timestamp:
        return None
    return datetime.datetime.fromtimestamp(timestamp, datetime.UTC).isoformat(timespec="seconds")
