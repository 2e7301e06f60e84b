"""Two kinds of work measured in turns, what each took, and a table of it."""

import contextlib
import datetime
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import rich
from rich import box
from rich.table import Table

from benchmarks.filling import renamed
from benchmarks.reading import cpu
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event

NOW = datetime.datetime(2026, 3, 31, 12)
SAMPLE = 20_000
_TURNS = 4
_AT_REST = 0.02
"""Seconds of processor in half a second that a server takes that has nothing to do."""


def show(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a table, in Markdown."""
    table = Table(title=title, box=box.MARKDOWN, title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    rich.print(table)


@dataclass
class Work:
    """Events deleted or recorded, in how many seconds of the clock and of CPU; and what transactions took."""

    events: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    transactions: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu / self.events * 1e6

    @contextlib.contextmanager
    def measured(self, store: Connection) -> Iterator[None]:
        """Add what is used meanwhile."""
        started, used = time.perf_counter(), cpu(store)
        yield
        self.seconds += time.perf_counter() - started
        wait_for_rest(store)
        self.cpu += cpu(store) - used


def wait_for_rest(store: Connection) -> None:
    """Let InnoDB remove what was deleted, which it does later: whose work that is, it shall count with."""
    ends, before = time.monotonic() + 60, -1.0
    while store.engine.dialect.name == "mysql" and time.monotonic() < ends:
        now = cpu(store)
        if 0 <= before > now - _AT_REST:
            return
        before = now
        time.sleep(0.5)


def ingest(
    store: Connection, sample: Sequence[Event], seconds: float, go_on: Callable[[], bool] = lambda: True
) -> Work:
    """Record events of now for a while."""
    work, ends = Work(), time.perf_counter() + seconds
    with work.measured(store):
        while time.perf_counter() < ends and go_on():
            work.events += len(store.record_events(renamed(sample, 1000, itertools.repeat(NOW))).recorded)
    return work


def balanced(one: Callable[[], Work], other: Callable[[], Work]) -> list[tuple[Work, Work]]:
    """Do both in each turn, and each as often first, so that neither gains by it."""
    turns = []
    for turn in range(_TURNS):
        if turn % 2:
            later = other()
            turns.append((one(), later))
        else:
            turns.append((one(), other()))
    return turns
