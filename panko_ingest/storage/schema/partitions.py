"""The partitioned layout: which ids belong to which days, and what partitions there are.

An event's id is the day of its ``generated`` above, and a number of the sequence below. So one range
of ids is one range of days, in the table of events and in those of traits alike, and a redelivered
event, whose ``generated`` is the same, meets itself in the same partition.
"""

import datetime
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from panko_ingest.storage.database import base as databases
from panko_ingest.storage.tables import EVENT_TABLES

SEQUENCE_BITS = 40
"""Bits of an id below the day: 10^12 numbers, which begin again after years of the highest rates.

The day is counted from the year 1, which leaves ids positive up to the year 9999 and one bit free.
"""

SEQUENCE = "event_id_seq"
SEQUENCE_VALUE = "SELECT last_value FROM event_id_seq"

WIDTHS = {"day": 1, "week": 7, "month": 28}
"""Days that a partition spans at least, by the value of ``[database] partition_by``."""

MOST = 64
"""Partitions at most: a look-up of a message_id visits all of them."""

KEYS = {table: "event_id" if table.startswith("trait") else "id" for table in EVENT_TABLES}
"""The column of each table that holds an event's id."""

PLAIN_SUFFIX = "plain"
"""What the names of tables end with that were plain, and became a partition as they were."""

_AHEAD = datetime.timedelta(days=7)
_DAY = datetime.timedelta(days=1)
_ATTACHED = (
    "SELECT parent, c.oid::regclass::text, pg_get_expr(c.relpartbound, c.oid) AS bound "
    "FROM unnest(%s::text[]) WITH ORDINALITY AS of (parent, place) "
    "JOIN pg_inherits ON inhparent = to_regclass(parent) JOIN pg_class c ON c.oid = inhrelid "
    "WHERE c.relispartition AND NOT coalesce((to_jsonb(pg_inherits)->>'inhdetachpending')::bool, false) "
    "ORDER BY place, bound"
)
# As JSON, since PostgreSQL before 14 has no such column.
_DETACHING = (
    "SELECT format('ALTER TABLE %%s DETACH PARTITION %%s FINALIZE', inhparent::regclass, inhrelid::regclass) "
    "FROM pg_inherits WHERE inhparent IN (SELECT to_regclass(name) FROM unnest(%s::text[]) AS name) "
    "AND (to_jsonb(pg_inherits)->>'inhdetachpending')::bool ORDER BY 1"
)
_BOUNDS = re.compile(r"FROM \((?:'(\d+)'|MINVALUE)\) TO \((?:'(\d+)'|MAXVALUE)\)")


class Partition(NamedTuple):
    """The days from ``start`` to before ``end``; None where unbounded.

    Its tables are named after it: ``event_p20260301``, ``trait_text_p20260301``. ``plain`` are those
    that were there before partitions: ids in them need not lead to the day.
    """

    start: datetime.date | None
    end: datetime.date | None
    plain: bool = False

    @property
    def suffix(self) -> str:
        """What the names of its tables end with."""
        if self.start is None:
            return PLAIN_SUFFIX if self.plain else "first"
        return "last" if self.end is None else f"p{self.start:%Y%m%d}"

    def holds(self, event_id: int) -> bool:
        """Tell whether an event of that id is in it."""
        return (self.start is None or first_id(self.start) <= event_id) and (
            self.end is None or event_id < first_id(self.end)
        )


def first_id(day: datetime.date) -> int:
    """Return the smallest id that an event of a day can have."""
    return day.toordinal() << SEQUENCE_BITS


def id_after(day: datetime.date) -> int:
    """Return an id larger than any that an event of a day can have."""
    return first_id(day) + (1 << SEQUENCE_BITS)


def id_in_sql(number: str, generated: str = "generated") -> str:
    """Return the id of an event in SQL, by its ``generated`` and its number, as ``first_id`` has it."""
    return f"(({generated}::date - date '0001-01-01' + 1)::bigint << {SEQUENCE_BITS} | {number})"


NEW_ID = id_in_sql(f"nextval('{SEQUENCE}')")
"""The id of a new event, in SQL."""


def exist(connection: sa.Connection) -> bool:
    """Tell whether the tables are partitioned."""
    if not databases.of(connection).has_partitions:
        return False
    kind = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('event')"
    return bool(connection.exec_driver_sql(kind).scalar())


def found(connection: sa.Connection) -> list[Partition]:
    """Return the partitions that there are, the oldest first; none where the tables are plain."""
    if not databases.of(connection).has_partitions:
        return []
    partitions = [
        Partition(one.start, one.end, one.suffix == PLAIN_SUFFIX) for one in _attached(connection, ("event",))
    ]
    return sorted(partitions, key=lambda partition: partition.start or datetime.date.min)


class _Attached(NamedTuple):
    """A table that is a partition of another one."""

    parent: str
    name: str
    start: datetime.date | None
    end: datetime.date | None

    @property
    def suffix(self) -> str:
        """What its name ends with, in whatever schema."""
        return self.name.rpartition(".")[2][len(self.parent) + 1 :]


def _attached(connection: sa.Connection, tables: Sequence[str]) -> list[_Attached]:
    return [
        _Attached(parent, name, _day(match[1]), _day(match[2]))
        for parent, name, bound in connection.exec_driver_sql(_ATTACHED, (list(tables),))
        # Without bounds where it was dropped after the statement had begun.
        if (match := _BOUNDS.search(bound or ""))
    ]


def attached(connection: sa.Connection, tables: Sequence[str], of: Sequence[Partition]) -> list[str]:
    """Return the names of the partitions of tables: without those that an administrator has detached."""
    ranges = {(one.start, one.end) for one in of}
    return [one.name for one in _attached(connection, tables) if (one.start, one.end) in ranges]


def detaching(connection: sa.Connection) -> list[str]:
    """Return what ends each DETACH PARTITION ... CONCURRENTLY that was begun: it counts as detached."""
    return list(connection.exec_driver_sql(_DETACHING, (list(EVENT_TABLES),)).scalars())


class Unpaired(NamedTuple):
    """A partition that some tables have and others, ``without`` it, have not."""

    suffix: str
    end: datetime.date | None
    tables: tuple[str, ...]
    without: tuple[str, ...]


def unpaired(connection: sa.Connection) -> list[Unpaired]:
    """Return the partitions that not all tables have, such as those of traits where event's was detached."""
    having: dict[tuple[str, datetime.date | None, datetime.date | None], list[str]] = {}
    for one in _attached(connection, EVENT_TABLES):
        having.setdefault((one.suffix, one.start, one.end), []).append(one.parent)
    return [
        Unpaired(suffix, end, tuple(tables), tuple(sorted(set(EVENT_TABLES) - set(tables))))
        for (suffix, _, end), tables in having.items()
        if len(tables) < len(EVENT_TABLES)
    ]


def first_day(connection: sa.Connection) -> datetime.date | None:
    """Return the day from which on ids lead to days; None where the tables are plain."""
    there = found(connection)
    if not there:
        return None
    return next((one.end for one in there if one.plain and one.end), datetime.date.min)


def _day(number: str | None) -> datetime.date | None:
    return datetime.date.fromordinal(int(number) >> SEQUENCE_BITS) if number else None


def width_of(partitions: Sequence[Partition]) -> str:
    """Return the width of the newest bounded partition, as ``partition_by`` would say it."""
    for partition in reversed(partitions):
        if partition.start and partition.end:
            days = (partition.end - partition.start).days
            return max((name for name in WIDTHS if WIDTHS[name] <= days), key=WIDTHS.__getitem__)
    return "day"


def period_start(day: datetime.date, width: str) -> datetime.date:
    """Return the first day of the period that a day is in: itself, a Monday, the first of a month."""
    if width == "month":
        return day.replace(day=1)
    return day - _DAY * day.weekday() if width == "week" else day


def period_end(day: datetime.date, width: str) -> datetime.date:
    """Return the first day after the period that a day is in."""
    if width == "month":
        return (day.replace(day=28) + 4 * _DAY).replace(day=1)
    return period_start(day, width) + WIDTHS[width] * _DAY


def at_first(width: str, today: datetime.date) -> list[Partition]:
    """Return the partitions of a new database."""
    start = period_start(period_start(today, width) - _DAY, width)
    return [Partition(None, start), *missing(start, width, today)]


def missing(start: datetime.date, width: str, today: datetime.date) -> list[Partition]:
    """Return what the last, unbounded partition has to be split into, ahead of need.

    :param start: where it begins.
    :returns: bounded ones and a new last one; nothing where it begins far enough ahead.
    """
    enough = today + _AHEAD
    if start > enough:
        return []
    partitions = []
    yesterday = period_start(today - _DAY, width)
    if period_end(start, width) < yesterday:
        # Nobody split for a long time: one for all of it.
        partitions.append(Partition(start, yesterday))
        start = yesterday
    while start <= enough:
        end = period_end(start, width)
        partitions.append(Partition(start, end))
        start = end
    return [*partitions, Partition(start, None)]


def expired(partitions: list[Partition], limit: datetime.datetime) -> list[Partition]:
    """Return the partitions of which everything is older than ``limit``; the first one with the others."""
    old = [
        partition
        for partition in partitions
        if partition.end and datetime.datetime.combine(partition.end, datetime.time()) <= limit
    ]
    # The first one alone is not worth it, unless much is in it: what comes late is deleted row by row.
    return old if any(partition.plain or partition.start for partition in old) else []


def end_of(partitions: Sequence[Partition]) -> int:
    """Return the smallest id beyond bounded partitions, the oldest of which comes first."""
    return first_id(partitions[-1].end or datetime.date.max)


def live(width: str, ttl: float) -> float:
    """Return how many partitions there are in the long run with a time to live; infinity for none."""
    if ttl <= 0:
        return math.inf
    days = WIDTHS[width]
    # One that the limit cuts, the one of today, those ahead, the first and the last.
    return math.ceil(ttl / 86400 / days) + 1 + math.ceil(_AHEAD.days / days) + 1 + 2


def too_many(width: str, ttl: float) -> str | None:
    """Return why a width does not go with a time to live, and what to do; None where it does."""
    count = live(width, ttl)
    if count <= MOST:
        return None
    if math.isinf(count):
        return (
            f"[database] partition_by: {width} without event_time_to_live would make ever more partitions: "
            "set event_time_to_live, or partition_by = none"
        )
    wider = [name for name in WIDTHS if live(name, ttl) <= MOST]
    remedy = f"set {wider[0]}" if wider else "set none, or a shorter event_time_to_live"
    return (
        f"[database] partition_by: {width} would make {count:.0f} partitions with event_time_to_live = "
        f"{ttl / 86400:.6g}d, and more than {MOST} make every look-up of a message_id slow: {remedy}"
    )
