"""What is stored under a message_id, and whether that is the event which comes with it once more.

A redelivery has the type and the time of what is stored: no event definition changes either on its way from
the notification into the table. Nothing else is compared, for traits and raw are made anew each time.
"""

import datetime
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import sqlalchemy as sa

from panko_ingest.storage.errors import MessageIdTaken
from panko_ingest.storage.far_times import FarTime
from panko_ingest.storage.tables import EPOCH, Event, EventType, PreciseTimestamp

_IDS_PER_STATEMENT = 500
_SECOND = 1_000_000  # microseconds


class StoredEvent(NamedTuple):
    """What tells one stored event from another; None for what is missing, or no time of Python's."""

    id: int
    event_type_id: int | None
    event_type: str | None
    generated: datetime.datetime | None


class _ReadableTime(PreciseTimestamp):
    """A time that can be compared, else None: a row that others have left unreadable stops no batch."""

    cache_ok = True

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Return what makes the driver's value one of ours."""
        read = super().result_processor(dialect, coltype)

        def process(value: Any) -> datetime.datetime | None:
            try:
                time = read(value) if read else value
            except Exception:  # noqa: BLE001 - as from a column of another type
                return None
            is_ours = isinstance(time, datetime.datetime) and not isinstance(time, FarTime)
            return time if is_ours and time.tzinfo is None else None

        return process


_COLUMNS = (
    Event.message_id,
    Event.id,
    Event.event_type_id,
    EventType.desc,
    sa.type_coerce(Event.generated, _ReadableTime),
)


def look_up(connection: sa.Connection, message_ids: Collection[str]) -> dict[str, list[StoredEvent]]:
    """Return what is stored under message_ids: one event each, or one in each partition."""
    found: dict[str, list[StoredEvent]] = {}
    wanted = sorted(message_ids)
    for start in range(0, len(wanted), _IDS_PER_STATEMENT):
        part = wanted[start : start + _IDS_PER_STATEMENT]
        statement = sa.select(*_COLUMNS).outerjoin_from(Event, EventType).where(Event.message_id.in_(part))
        for message_id, *columns in connection.execute(statement):
            found.setdefault(message_id, []).append(StoredEvent._make(columns))
    return found


def is_same(
    stored: StoredEvent, event_type: str, generated: datetime.datetime, type_id: int | None = None
) -> bool:
    """Tell whether a stored event is one of that type and time; what is missing proves no difference.

    :param type_id: what the database calls the type, which may be that of a name spelt otherwise.
    """
    return _has_type(stored, event_type, type_id) and _has_time(stored, generated)


def taken_by(stored: StoredEvent) -> MessageIdTaken:
    """Return why an event can't be stored whose message_id is that of a stored one."""
    what = stored.event_type or "an event without a type"
    when = "" if stored.generated is None else f" of {stored.generated}"
    return MessageIdTaken(f"the message_id is another event's: {what}{when} is stored under it")


def _has_type(stored: StoredEvent, event_type: str, type_id: int | None) -> bool:
    # Not by the id alone: a restore may have given the name another one since we learned it.
    return (
        not (event_type and stored.event_type)
        or stored.event_type == event_type
        or stored.event_type_id == type_id
    )


def _has_time(stored: StoredEvent, generated: datetime.datetime) -> bool:
    kept = stored.generated
    return kept is None or kept == generated or abs(kept - generated) < _precision(kept)


def _precision(kept: datetime.datetime) -> datetime.timedelta:
    """Return the unit to which a column may have rounded a time, as its own digits show."""
    unit = 1
    # Of a time before 1970 we leave out the fraction of a second where Panko's API could not read it.
    if kept.microsecond == 0 or kept < EPOCH:
        unit = _SECOND
    else:
        while kept.microsecond % (10 * unit) == 0:
            unit *= 10
    return datetime.timedelta(microseconds=unit)
