"""What a round of expiry did, and what one would do: plain data."""

import datetime
from typing import NamedTuple

BACKLOG_LIMIT = 1_000_000
"""Events to count at most of those that a round had to leave."""


class ExpiryReport(NamedTuple):
    """What a round of expiry did.

    ``partitions`` are the names of those that were dropped whole, with ``events`` and ``traits``
    including an estimate of what was in them. ``backlog`` is the number of expired events that are
    left, counted up to ``BACKLOG_LIMIT``; ``oldest`` the ``generated`` of the oldest event that is
    left, naive UTC, None where there is none. ``stood_by`` tells that another expirer was at work,
    and this one did nothing.
    """

    events: int = 0
    traits: int = 0
    batches: int = 0
    seconds: float = 0.0
    backlog: int = 0
    oldest: datetime.datetime | None = None
    stood_by: bool = False
    partitions: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return one line for the log."""
        if self.stood_by:
            return "another expirer is at work"
        line = f"{self.events} events with {self.traits} traits deleted in {self.seconds:.1f} s"
        line += f", {self.batches} batches"
        if self.partitions:
            line += f" and {len(self.partitions)} partitions"
        if self.backlog:
            more = " or more" if self.backlog >= BACKLOG_LIMIT else ""
            line += f"; {self.backlog}{more} expired ones are left"
        return f"{line}; the oldest event is of {self.oldest:%Y-%m-%d %H:%M:%S} UTC" if self.oldest else line


class ExpiredByAge(NamedTuple):
    """Events that expired at least so many days ago, and are in no later line."""

    days: int
    events: int


class PartitionForecast(NamedTuple):
    """What becomes of one partition; ``start`` and ``end`` are days, None for unbounded.

    ``events`` is the planner's estimate, or their count where it has none; ``size`` the bytes of its
    tables and indexes. ``dropped`` tells that it goes as a whole; of one that the limit cuts, the expired
    events are deleted.
    """

    name: str
    start: datetime.date | None
    end: datetime.date | None
    events: int
    size: int
    dropped: bool


class ExpiryForecast(NamedTuple):
    """What a round of expiry would do.

    ``limit`` is the time before which events are expired, None where nothing ever expires;
    ``events`` how many are, ``ages`` the same by age, ``partitions`` those that hold any of them.
    ``seconds`` is how long it would take with nobody else at work, by a measured batch: of the ``tried``
    oldest, of which the database keeps ``kept``, and ``why``. ``not_dropped`` tells what keeps partitions
    that are old enough from being dropped.
    """

    limit: datetime.datetime | None = None
    events: int = 0
    oldest: datetime.datetime | None = None
    ages: tuple[ExpiredByAge, ...] = ()
    partitions: tuple[PartitionForecast, ...] = ()
    seconds: float = 0.0
    tried: int = 0
    kept: int = 0
    why: str = ""
    not_dropped: str = ""
