"""Events as they are committed, each once.

Ids are drawn before a transaction commits, so that they show in another order than theirs. A follower keeps
in mind which numbers it has not seen yet below the highest, and looks for them until no transaction that drew
them can still be open; numbers that were given back are never seen. Where many are to be read for that, as in
a cluster, whose ids come in steps, it does so seldom, and at each poll looks for higher ones only. Where the
numbers of partitioned tables begin again, after 10^12 events, new ones are found when those with higher
numbers have expired.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from panko_ingest.storage.filters import EventFilter
from panko_ingest.storage.models import Event
from panko_ingest.storage.reading import events
from panko_ingest.storage.reading.read_access import ReadAccess
from panko_ingest.storage.schema import partitions
from panko_ingest.storage.tables import Event as EventRow

_STATEMENTS = 5
"""How many statements a transaction may have in which it waits for as long as it is let."""

_LONGEST = 3600.0
"""Seconds that a transaction is given where nothing limits its statements."""

_LOOK_BACK = 10_000
"""Numbers below the highest that may be those of transactions which are open when following begins."""

_FEW = 1000
"""Numbers above the floor up to which all of them are looked at each time."""

_SELDOM = 20.0
"""How many times as long as it took to look at more, to wait before they are looked at again."""

_NUMBERS = 1 << partitions.SEQUENCE_BITS
_DAYS_AHEAD = 31

_PLAIN = sa.select(EventRow.id, EventRow.message_id)
# One look into the index for each day: a partition is read by nothing but ranges of its ids. Ids of days far
# away are few, and all looked at.
_BY_DAY = sa.text(
    "SELECT event.id, event.message_id FROM unnest(CAST(:bases AS bigint[])) AS day CROSS JOIN LATERAL "
    "(SELECT id, message_id FROM event WHERE id >= day + :floor AND id < day + :numbers) AS event "
    "UNION ALL SELECT id, message_id FROM event WHERE (id >= :numbers AND id < :first) OR id >= :end"
).bindparams(numbers=_NUMBERS)
_TOP = sa.select(sa.func.max(EventRow.id))
_TOP_BY_DAY = sa.text(
    "SELECT max(number) FROM (SELECT newest.id - day AS number FROM unnest(CAST(:bases AS bigint[])) AS day "
    "CROSS JOIN LATERAL (SELECT id FROM event WHERE id >= day AND id < day + :numbers ORDER BY id DESC "
    "LIMIT 1) AS newest "
    "UNION ALL SELECT id % :numbers FROM event WHERE (id >= :numbers AND id < :first) OR id >= :end) AS found"
).bindparams(numbers=_NUMBERS)


class Follower:
    """Finds the events that were committed since it looked last.

    :param event_filter: which events to return.
    :param clock: monotonic seconds.
    """

    def __init__(
        self, reader: ReadAccess, event_filter: EventFilter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reader = reader
        self._filter = event_filter
        self._clock = clock
        self._patience = _STATEMENTS * reader.settings.statement_timeout or _LONGEST
        self._floor = -1  # nothing new comes up to this number
        self._known: dict[int, str] = {}  # the message_ids by the numbers from the floor on
        self._below: dict[int, str] = {}  # some below it, by the same
        self._heights: deque[tuple[float, int]] = deque()
        self._top = 0
        self._due = 0.0

    def poll(self) -> Iterator[Event]:
        """Yield what was committed since the poll before, in the order of ids; the first yields nothing.

        :raises StorageUnavailable: the store can't be read; the next poll goes on with what was not yielded.
        """
        bases = self._reader.read(_bases)
        top = self._reader.values(_TOP_BY_DAY.bindparams(**_days(bases)) if bases else _TOP)[0] or 0
        if self._floor < 0:
            self._floor = max(0, top - _LOOK_BACK)
            self._known = {row.id % _NUMBERS: row.message_id for row in self._rows(bases, self._floor)}
        if (
            top < self._floor and not bases
        ):  # the last ones were deleted, and SQLite gives their numbers to others; or a replica lags behind
            self._floor, self._known = top, {**self._below, **self._known}
            self._heights.clear()
        # Where numbers come in steps, as a cluster's, every one is behind a gap.
        began = self._clock()
        whole = len(self._known) <= _FEW or began >= self._due
        rows = self._rows(bases, self._floor if whole else min(self._top, top) + 1)
        new = [row for row in rows if self._known.get(row.id % _NUMBERS) != row.message_id]
        now = self._clock()
        new.sort(key=lambda row: row.id % _NUMBERS)
        for start in range(0, len(new), events.PAGE_SIZE):
            chunk = new[start : start + events.PAGE_SIZE]
            for number, event in self._events([row.id for row in chunk]):
                self._known[number] = event.message_id
                yield event
            self._known |= {row.id % _NUMBERS: row.message_id for row in chunk}
        self._heights.append((now, top))
        self._top = top
        if whole:
            self._due = now + _SELDOM * (now - began)
            self._raise_floor(began)

    def _rows(self, bases: Sequence[int], start: int) -> Sequence[sa.Row[*tuple[Any, ...]]]:
        """Return id and message_id of what has a number from ``start`` on."""
        if not bases:
            return self._reader.rows(_PLAIN.where(EventRow.id >= start))
        rows = self._reader.rows(_BY_DAY.bindparams(floor=start, **_days(bases)))
        return [row for row in rows if row.id % _NUMBERS >= start]

    def _events(self, ids: list[int]) -> Iterator[tuple[int, Event]]:
        """Yield number and event of those that match, as they are read: all may be too large at once."""
        statement = events.matching(self._reader, self._filter, first_day=None)
        if statement is None:
            return
        found = self._reader.rows(statement.where(EventRow.id.in_(ids)))
        rows = sorted(found, key=lambda row: row.id % _NUMBERS)
        numbers = {(row.message_id, row.generated): row.id % _NUMBERS for row in rows}
        for event in events.completed(self._reader, [rows], salvaged_only=self._filter.salvaged):
            yield numbers[event.message_id, event.generated], event

    def _raise_floor(self, looked_at: float) -> None:
        floor = self._floor
        while floor < self._top and floor + 1 in self._known:
            floor += 1
        while self._heights and self._heights[0][0] < looked_at - self._patience:
            floor = max(floor, self._heights.popleft()[1])
        if floor > self._floor:
            self._floor = floor
            passed = {number: name for number, name in self._known.items() if number < floor}
            self._known = {number: name for number, name in self._known.items() if number >= floor}
            self._below = dict(list((self._below | passed).items())[-_FEW:])


def _days(bases: Sequence[int]) -> dict[str, Any]:
    return {"bases": bases, "first": bases[1], "end": bases[-1] + _NUMBERS}


def _bases(connection: sa.Connection) -> list[int]:
    """Return what the ids of each day begin with, behind 0 for those that lead to no day; else nothing."""
    days = [day.toordinal() for one in partitions.found(connection) for day in (one.start, one.end) if day]
    if not days:
        return []
    return [0, *(day << partitions.SEQUENCE_BITS for day in range(min(days) - 1, max(days) + _DAYS_AHEAD))]
