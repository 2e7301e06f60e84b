"""The page for people: how the daemon does, as HTML. No script, and nothing from elsewhere."""

import datetime
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from html import escape

from panko_ingest import amqp
from panko_ingest.deadline import Asked
from panko_ingest.storage import Connection, DeadLetterFilter
from panko_ingest.timestamps import utc_now
from panko_ingest.workers.health import Health
from panko_ingest.workers.rates import MINUTES
from panko_ingest.workers.readiness import Check

_PATIENCE = 3.0
_FRESH = 10.0
_LETTER_HOURS = 24
_MOST_LETTERS = 10_000
# Anybody who asks may read the page: host, role and error are for `status` and the log.
_NO_ANSWER = "<p class=bad>does not answer: <code>panko-ingest status</code> tells why</p>"

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>panko-ingest: {title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<style>
:root {{ --ink: #1b1f24; --soft: #59636e; --paper: #fff; --line: #d1d9e0; --good: #1a7f37; --bad: #cf222e }}
@media (prefers-color-scheme: dark) {{ :root {{
--ink: #e6edf3; --soft: #9198a1; --paper: #0d1117; --line: #3d444d; --good: #3fb950; --bad: #f85149 }} }}
body {{ font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
margin: 1.5rem auto; padding: 0 1rem; overflow-wrap: anywhere }}
h1 {{ font-size: 1.4rem; border-left: .5rem solid var(--{colour}); padding-left: .7rem }}
h2 {{ font-size: 1.05rem; margin: 1.6rem 0 .3rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; vertical-align: top; padding: .25rem .7rem .25rem 0 }}
th, td {{ border-top: 1px solid var(--line) }}
th {{ color: var(--soft); font-weight: 600 }}
.good {{ color: var(--good) }} .bad {{ color: var(--bad); font-weight: 600 }} .soft {{ color: var(--soft) }}
a {{ color: inherit }}
</style></head><body>
"""


class StatusPage:
    """Makes the page; brokers and database are asked at most every ten seconds, for three seconds at most.

    :param connection: of an account that may read dead letters.
    :param queues: names of the queues that are to be read.
    """

    def __init__(
        self, health: Health, connection: Connection, buses: Sequence[amqp.Bus], queues: Sequence[str]
    ) -> None:
        self._health = health
        self._connection = connection
        self._buses = buses
        self._queues = queues
        self._lock = threading.Lock()
        self._asked_at = -_FRESH
        self._states: list[Asked[list[amqp.QueueState]]] = []
        self._letters: Asked[Counter[tuple[str, str]]] | None = None

    def html(self) -> str:
        """Return the page."""
        with self._lock:
            if time.monotonic() - self._asked_at >= _FRESH:
                self._ask()
                self._asked_at = time.monotonic()
        ready, alive = self._health.ready(), self._health.alive()
        title = "ready" if ready.ok and alive.ok else "not ready"
        body = [
            _HEAD.format(title=title, colour="bad" if title != "ready" else "good"),
            f"<h1>panko-ingest is {title}</h1>",
            f"<p class=soft>{utc_now():%Y-%m-%d %H:%M:%S} UTC",
            *(f" · <a href=/{name}>{name}</a>" for name in ("metrics", "healthz", "readyz")),
            "</p>",
            *self._state({**{n: c for n, c in alive.checks.items() if not c.ok}, **ready.checks}),
            *self._rates(),
            *self._bus_tables(),
            *self._letter_table(),
            *self._expiry(),
            "</body></html>\n",
        ]
        return "\n".join(body)

    def _ask(self) -> None:
        self._states = [
            Asked(bus.title, partial(amqp.queue_states, bus, self._queues), _PATIENCE) for bus in self._buses
        ]
        self._letters = Asked("database", self._count_letters, _PATIENCE)

    def _count_letters(self) -> Counter[tuple[str, str]]:
        since = utc_now() - datetime.timedelta(hours=_LETTER_HOURS)
        letters = self._connection.get_dead_letters(DeadLetterFilter(seen_since=since), _MOST_LETTERS)
        return Counter((letter.stage, letter.error_class) for letter in letters)

    @staticmethod
    def _state(checks: dict[str, Check]) -> Iterator[str]:
        yield "<h2>State</h2>"
        yield from _table(
            ("", "", ""),
            ((_mark(check.ok), escape(name), escape(check.text)) for name, check in checks.items()),
        )

    def _rates(self) -> Iterator[str]:
        figures = self._health.figures()
        rates = [self._health.rates.over(60.0 * minutes) for minutes in MINUTES]
        yield f"<h2>Messages a second</h2><p>Lag {figures.lag_seconds:.1f} s</p>"
        yield from _table(
            ("", *(f"last {minutes} min" for minutes in MINUTES)),
            ((name.replace("_", " "), *(f"{rate[name]:.1f}" for rate in rates)) for name in rates[0]),
        )

    def _bus_tables(self) -> Iterator[str]:
        found = zip(self._buses, self._states, self._health.consuming, strict=True)
        for number, (bus, asked, ours) in enumerate(found, 1):
            yield f"<h2>Broker {number}: {escape(bus.title)}</h2>"
            states = asked.answer()
            if states is None:
                yield _NO_ANSWER
                continue
            if not states and bus.virtual_url is None:
                yield f"<p class=bad>None of its queues is there: {escape(', '.join(self._queues))}</p>"
                continue
            yield from _table(
                ("queue", "waiting", "read by us", "by others"),
                (
                    (escape(s.name), s.messages, min(s.consumers, ours), _warn(max(0, s.consumers - ours)))
                    for s in states
                ),
            )

    def _letter_table(self) -> Iterator[str]:
        yield f"<h2>Dead letters of the last {_LETTER_HOURS} hours</h2>"
        counts = self._letters.answer() if self._letters else None
        if counts is None:
            yield _NO_ANSWER
        elif not counts:
            yield "<p>None</p>"
        else:
            rows = ((escape(s), escape(e), n) for (s, e), n in counts.most_common(20))
            yield from _table(("stage", "error", "messages"), rows)

    def _expiry(self) -> Iterator[str]:
        figures = self._health.figures()
        last = figures.last_expiry or "no round has ended since the start"
        yield f"<h2>Expiry</h2><p>Last round: {last}; {figures.expiry_backlog} expired events are left</p>"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield "<table>"
    if any(head):
        yield f"<tr>{''.join(f'<th>{column}</th>' for column in head)}</tr>"
    for row in rows:
        yield f"<tr>{''.join(f'<td>{value}</td>' for value in row)}</tr>"
    yield "</table>"


def _mark(ok: bool) -> str:
    return "<span class=good>✓</span>" if ok else "<span class=bad>✗</span>"


def _warn(count: int) -> object:
    return f"<span class=bad>{count}</span>" if count else 0
