"""Whether the daemon is alive, and whether it does its work; if not, why not."""

import datetime
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from panko_ingest import threads
from panko_ingest.errors import PankoIngestError
from panko_ingest.shared_metrics import SharedMetrics, Totals
from panko_ingest.shared_state import DEATHS_REMEMBERED, SharedState, Slot, State
from panko_ingest.workers.awake import Awake
from panko_ingest.workers.rates import Rates
from panko_ingest.workers.readiness import Figures, Readiness, SinceStart, Verdict
from panko_ingest.workers.supervisor import HANG_LIMIT

LOG = logging.getLogger(__name__)

PROBE_INTERVAL = 5.0
_LONGEST_WITHOUT_HEARTBEAT = HANG_LIMIT / 3
_LONGEST_UNWRITTEN = 10.0
_LONGEST_VACANT = 15.0  # the master may wait for 5 s before it replaces a worker
_MOST_DEATHS = 2  # of ingest workers within a minute


class Probe:
    """Asks something now and then whether it answers, and remembers what it said.

    :param ask: returns if all is well; otherwise raises an error of ours whose text says what is not.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._asked_at: float | None = None
        self._answered_at: float | None = None
        self._error: str | None = None

    def look(self) -> None:
        """Ask; may take as long as the other side takes."""
        self._asked_at = time.monotonic()
        try:
            self._ask()
        except PankoIngestError as error:
            self._error = str(error)
        except Exception as error:
            # A fault of ours, which goes to the log; the thread that asks must not end by it.
            if self._error != repr(error):
                LOG.exception("A probe of the monitor failed")
            self._error = repr(error)
        else:
            self._error = None
        self._answered_at = time.monotonic()

    def watch(self, stopping: threading.Event) -> None:
        """Ask until the daemon stops, in a thread of its own."""

        def run() -> None:
            while not stopping.is_set():
                self.look()
                stopping.wait(PROBE_INTERVAL)

        threads.start(run, "probe")

    def verdict(self, awake: float = math.inf) -> tuple[bool, str]:
        """Return what the last answer was, or that there is none.

        :param awake: seconds since this process last stood still.
        """
        asked, answered = self._asked_at, self._answered_at
        if asked is None:
            return False, "not asked yet"
        waits = answered is None or answered < asked
        waited = min(time.monotonic() - asked, awake)
        if waited > (PROBE_INTERVAL if waits else 3 * PROBE_INTERVAL):
            return False, f"no answer for {waited:.0f} s"
        if answered is None:
            return False, "no answer yet"
        # Anybody who asks may read this: what the error names is for `status` and the log.
        if self._error is None:
            return True, "answers"
        return False, "does not answer, or not as it should: `panko-ingest status` tells why"


class WatchedBus(NamedTuple):
    """A bus that is read: what to call it before anybody, and what asks its brokers."""

    title: str
    probe: Probe


class Health:
    """Judges the daemon by its shared state, its metrics and its probes.

    :param buses: those that are read, by what the metrics call them.
    :param max_lag: seconds; 0 for any.
    :param expires: whether the daemon has an expirer.
    """

    def __init__(
        self,
        shared: SharedState,
        shared_metrics: SharedMetrics,
        database: Probe,
        buses: dict[str, WatchedBus],
        max_lag: float,
        *,
        expires: bool,
    ) -> None:
        self._shared = shared
        self._shared_metrics = shared_metrics
        self._database = database
        self._buses = buses
        self._max_lag = max_lag
        self._expires = expires
        self.rates = Rates(shared_metrics)
        self._awake = Awake(1.5 * PROBE_INTERVAL)

    def look(self) -> None:
        """Look at the rates, and at the clock; called at each interval of the probes."""
        self._awake.seconds()
        self.rates.look()

    @property
    def readers(self) -> tuple[int, int]:
        """How many readers there are, and how many of them consume now."""
        slots = self._shared.slots()
        return len(slots), sum(slot.state is State.CONSUMING for slot in slots)

    @property
    def consuming(self) -> list[int]:
        """How many readers of each bus consume now, in the order of the buses."""
        states = [slot.state for slot in self._shared.slots()]
        return [states[bus :: len(self._buses)].count(State.CONSUMING) for bus in range(len(self._buses))]

    def alive(self) -> Verdict:
        """Tell whether every worker is there and gives signs of life."""
        subjects = {}
        places = zip(self._shared.slots(), self._shared.vacancies(), strict=True)
        for number, (slot, vacant) in enumerate(places):
            if vacant_for := min(vacant, self._awake.seconds()):
                verdict = vacant_for <= _LONGEST_VACANT, f"no process for {vacant_for:.0f} s"
            else:
                verdict = self._signs_of_life(slot, _LONGEST_WITHOUT_HEARTBEAT)
            subjects[f"reader {number}"] = verdict
        if self._expires and (gone_for := self._expirer_gone_for()):
            subjects["expirer"] = gone_for <= _LONGEST_VACANT, f"no process for {gone_for:.0f} s"
        for name, slot in self._shared.occupied():
            if not name.startswith("reader"):
                subjects[name] = self._signs_of_life(slot, slot.hang_limit or _LONGEST_WITHOUT_HEARTBEAT)
        return Verdict.of(subjects)

    def _signs_of_life(self, slot: Slot, limit: float) -> tuple[bool, str]:
        silent_for, text = min(slot.seconds_since_heartbeat, self._awake.seconds()), "gives signs of life"
        if silent_for > _LONGEST_WITHOUT_HEARTBEAT:
            text = f"process {slot.pid} gave no sign of life for {silent_for:.0f} s"
        return silent_for <= limit, text

    def ready(self) -> Verdict:
        """Tell whether events can get from the brokers to the database now, and soon enough."""
        totals = self._shared_metrics.totals()
        awake = self._awake.seconds()
        takes_none = _takes_no_rows(totals)
        subjects = {"database": _database(self._database.verdict(awake), takes_none)}
        for number, (name, bus) in enumerate(self._buses.items(), 1):
            ok, text = _bus(totals, name, bus.probe.verdict(awake), takes_none)
            subjects[f"broker {number}"] = ok, f"{bus.title}: {text}"
        if self._buses:
            subjects["workers"] = self._workers()
            subjects["recording"] = _recording(totals)
            subjects["flood breaker"] = self._breaker(totals)
            subjects["lag"] = self._lag(totals)
        if self._expires:
            subjects["expirer"] = self._expirer()
        return Verdict.of(subjects)

    def _workers(self) -> tuple[bool, str]:
        # Each is replaced within seconds, so that nobody would miss one in a loop.
        deaths = self._shared.deaths_within(60)
        text = f"{deaths}{' or more' * (deaths == DEATHS_REMEMBERED)} died within a minute"
        return (False, f"{text}: the log tells how") if deaths > _MOST_DEATHS else (True, text)

    def _expirer(self) -> tuple[bool, str]:
        if (gone_for := self._expirer_gone_for()) > _LONGEST_VACANT:
            return False, f"no process for {gone_for:.0f} s: the log tells why"
        if self._shared.service_slot("expirer").state is State.WAITING:
            return False, "its last round failed: `panko-ingest status` and the log tell why"
        return True, "works"

    def _expirer_gone_for(self) -> float:
        return min(self._shared.service_slot("expirer").seconds_since_cleared, self._awake.seconds())

    def _lag(self, totals: Totals) -> tuple[bool, str]:
        lag = totals.largest("oldest_in_hand_seconds")
        late = self._titles(totals, "oldest_in_hand_seconds", self._max_lag)
        if self._max_lag and late:
            return False, f"{lag:.1f} s, more than [monitor] max_lag ({self._max_lag:g} s): {late}"
        return True, f"{lag:.1f} s"

    def _breaker(self, totals: Totals) -> tuple[bool, str]:
        if opened := self._titles(totals, "breaker_open"):
            return False, (
                f"open in {totals['breaker_open']:.0f} workers: nearly all messages are dead letters; "
                f"see `panko-ingest dead-letters list`: {opened}"
            )
        return True, "closed"

    def _absent_queues(self, totals: Totals) -> list[str]:
        """Return the queues that are waited for, with what their bus is called where there are several."""
        return [
            f"{name} of {self._buses[bus].title}" if len(self._buses) > 1 else name
            for bus, name in totals.absent_queues()
            if bus in self._buses
        ]

    def _titles(self, totals: Totals, metric: str, limit: float = 0.0) -> str:
        """Return what those buses are called of which a metric is over a limit."""
        values = totals.by_label(metric)
        return ", ".join(bus.title for name, bus in self._buses.items() if values.get(name, 0.0) > limit)

    def readiness(self) -> Readiness:
        """Return what /readyz says."""
        verdict = self.ready()
        return Readiness(verdict.ok, verdict.checks, self.figures())

    def figures(self) -> Figures:
        """Return what the daemon did and does."""
        totals = self._shared_metrics.totals()
        readers, consuming = self.readers
        return Figures(
            readers=readers,
            readers_consuming=consuming,
            consuming=self.consuming,
            absent_queues=self._absent_queues(totals),
            lag_seconds=totals.largest("oldest_in_hand_seconds"),
            in_hand=list(map(int, totals.by_label("messages_in_flight").values())),
            unwritten_seconds=round(totals.largest("unwritten_seconds"), 1),
            per_second={name: round(rate, 3) for name, rate in self.rates.per_second.items()},
            since_start=SinceStart(
                received=int(totals["messages_received_total"]),
                recorded=int(totals["events_recorded_total"]),
                duplicates=int(totals["events_duplicate_total"]),
                dropped=int(totals["messages_dropped_total"]),
                dead_letters={
                    stage: int(count)
                    for stage, count in totals.by_label("dead_letters_total").items()
                    if count
                },
                workers_lost=int(totals["workers_lost_total"]),
            ),
            last_expiry=_moment(totals["expiry_last_success_timestamp_seconds"]),
            expiry_backlog=int(totals["expiry_backlog"]),
        )


def _takes_no_rows(totals: Totals) -> bool:
    """Tell whether the database refuses workers all rows; who waits for one batch alone is told by bus."""
    return totals["store_away"] > sum(totals.by_label("batches_not_stored").values())


def _database(probed: tuple[bool, str], takes_no_rows: bool) -> tuple[bool, str]:
    """Return whether the database answers, which the probe tells, and takes rows, which the workers do."""
    answers, text = probed
    if answers and takes_no_rows:
        return False, f"{text}, but takes no rows: `panko-ingest status` tells why"
    return probed


def _bus(totals: Totals, name: str, probed: tuple[bool, str], store_takes_no_rows: bool) -> tuple[bool, str]:
    """Return whether all of a bus is read and stored; if not, what isn't, by names that are no secret."""
    count = int(totals.by_label("broker_connections").get(name, 0))
    if not count:
        answers, text = probed
        if answers and store_takes_no_rows:
            return False, "not read while the database takes no rows"
        return False, "the broker answers, but no worker is connected to it" if answers else text
    in_hand = int(totals.by_label("messages_in_flight").get(name, 0))
    refused = [
        what for (bus, what), workers in totals.by_labels("broker_refusals") if workers and bus == name
    ]
    text, ok = f"{count} connections, {in_hand} messages in hand", True
    if refused:
        text, ok = f"{text}; the broker refuses {', '.join(refused)}: the log tells why", False
    if totals.by_label("unbound_pools").get(name):
        text, ok = (
            f"{text}; nothing gets into the pool's queue: none of its control exchanges is there",
            False,
        )
    if totals.by_label("batches_not_stored").get(name):
        text, ok = f"{text}; the database takes other batches, but not its last one: the log tells why", False
    return ok, text


def _recording(totals: Totals) -> tuple[bool, str]:
    silent, in_hand = totals.largest("unwritten_seconds"), int(totals["messages_in_flight"])
    if silent > _LONGEST_UNWRITTEN:
        return False, f"nothing written for {silent:.0f} s, {in_hand} messages in hand"
    return True, f"{in_hand} messages in hand"


def _moment(timestamp: float) -> str | None:
    if not timestamp:
        return None
    return datetime.datetime.fromtimestamp(timestamp, datetime.UTC).isoformat(timespec="seconds")
