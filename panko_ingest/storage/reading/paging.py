"""Pages of events: the order of a list, where one goes on, and the statement of each page.

Nothing is read by OFFSET: each page goes on behind the last event of the one before (keyset paging).
On partitions a message_id may be that of several events, each of another day; a marker tells which.
"""

import contextlib
import datetime
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from panko_ingest.storage.errors import InvalidMarker, InvalidRequest
from panko_ingest.storage.far_times import FarTime
from panko_ingest.storage.models import Event, Marker
from panko_ingest.storage.reading.read_access import ReadAccess
from panko_ingest.storage.schema import partitions
from panko_ingest.storage.tables import Event as EventRow

Sort = Sequence[tuple[str, str]]
Statement = sa.Select[*tuple[Any, ...]]
Rows = Sequence[sa.Row[*tuple[Any, ...]]]

_COLUMNS = {"generated": EventRow.generated, "message_id": EventRow.message_id}


def first_day(reader: ReadAccess) -> datetime.date | None:
    """Return the day from which on ids lead to days; None where the tables are plain."""
    return reader.read(partitions.first_day) if reader.database.has_partitions else None


def ids_of_days(
    start: datetime.datetime | None, end: datetime.datetime | None, first_day: datetime.date
) -> Iterator[sa.ColumnElement[bool]]:
    """Say a range of time by ids, which is how a database knows what partitions to leave out."""
    if start and start.date() >= first_day:
        yield EventRow.id >= partitions.first_id(start.date())
    if end:
        yield EventRow.id < partitions.id_after(end.date())


def with_marker(event: Event) -> Event:
    """Give an event a message_id that is its marker."""
    event.message_id = Marker(event.message_id, event.generated)
    return event


def complete_sort(sort: Iterable[tuple[str, str]], *, by_day: bool) -> Sort:
    """Return the sort with what it lacks at its end, so that no two events are level.

    :param by_day: whether a message_id may be that of several events.
    """
    try:
        pairs = [(key, direction) for key, direction in sort]
    except (TypeError, ValueError):
        raise InvalidRequest(f"sort: {sort!r} is no list of pairs of a key and a direction") from None
    complete: dict[str, str] = {}
    for key, direction in pairs:
        if key not in tuple(_COLUMNS) or direction not in Event.SUPPORT_DIRS:
            raise InvalidRequest(
                f"sort: {key} {direction}: keys are {', '.join(_COLUMNS)}, directions "
                f"{', '.join(Event.SUPPORT_DIRS)}"
            )
        complete.setdefault(key, direction)
    direction = next(reversed(complete.values()), "asc")
    complete.setdefault("message_id", direction)
    if by_day:
        complete.setdefault("generated", direction)
        return tuple(complete.items())
    # What comes behind the message_id never decides.
    return tuple(complete.items())[: list(complete).index("message_id") + 1]


def fitting(sizes: Sequence[int], most: int) -> int:
    """Return how many rows of these sizes, in bytes, are dealt with at once: one at least."""
    return max(1, sum(total <= most for total in itertools.accumulate(sizes)))


def position(reader: ReadAccess, marker: str) -> Mapping[str, Any]:
    """Return where the event of a marker is.

    :raises InvalidMarker: none has it, or several have.
    """
    message_id, generated = str(marker), getattr(marker, "generated", None)
    found = _times(reader, message_id)
    start, _, moment = message_id.rpartition("@")
    if not found and start:
        with contextlib.suppress(ValueError):
            generated = datetime.datetime.fromisoformat(moment)
            message_id, found = start, _times(reader, start)
    if generated is not None:
        found = [time for time in found if time == generated]
    if not found:
        raise InvalidMarker(f"marker: no event with message_id {str(marker)!r} is stored")
    if len(found) > 1:
        raise InvalidMarker(
            f"marker: {len(found)} events have the message_id {message_id!r}: "
            f"write {message_id}@{found[0].isoformat()} for the one of that time"
        )
    return {"generated": found[0], "message_id": message_id}


def _times(reader: ReadAccess, message_id: str) -> list[datetime.datetime]:
    return list(reader.values(sa.select(EventRow.generated).where(EventRow.message_id == message_id)))


def _behind(
    sort: Sort, position: Mapping[str, Any], *, nulls_last: bool, nulls: bool = True
) -> sa.ColumnElement[bool]:
    """Return the condition for all that comes after a position.

    Tables that were adopted, and not rewritten yet, may have rows without an id or a time.

    :param nulls_last: whether the database puts those behind all others when it sorts upwards.
    :param nulls: whether there may be such rows, by the first column of the sort.
    """
    (key, direction), *rest = sort
    column, value = _COLUMNS[key], position[key]
    nulls_behind = nulls_last == (direction == "asc")
    beyond: sa.ColumnElement[bool]
    if value is None:
        beyond = sa.false() if nulls_behind else column.is_not(None)
        if not rest:
            return beyond
        return sa.or_(beyond, sa.and_(column.is_(None), _behind(rest, position, nulls_last=nulls_last)))
    beyond = column > value if direction == "asc" else column < value
    if rest:
        # Said twice so that every planner gets a plain range of the index from the first half.
        within = column >= value if direction == "asc" else column <= value
        beyond = sa.and_(within, sa.or_(beyond, _behind(rest, position, nulls_last=nulls_last)))
    # Nothing but a plain range of its first column is read from an index.
    return sa.or_(beyond, column.is_(None)) if nulls_behind and nulls else beyond


def _has_nulls(reader: ReadAccess, key: str) -> bool:
    return bool(list(reader.values(sa.select(sa.literal(1)).where(_COLUMNS[key].is_(None)).limit(1))))


def pages(
    reader: ReadAccess,
    statement: Statement,
    sort: Sort,
    after: Mapping[str, Any] | None,
    size: int,
    *,
    first_day: datetime.date | None,
) -> Iterator[Rows]:
    """Yield the rows that a statement finds, page by page, from behind a position on."""
    columns = [getattr(_COLUMNS[name], way)() for name, way in sort]
    ordered = statement.order_by(*columns).limit(size)
    key, direction = sort[0]
    nulls_last = reader.database.nulls_last
    # Partitions are made by us alone, and have none.
    nulls = None if nulls_last == (direction == "asc") and not first_day else False
    while size:
        page = ordered
        if after is not None:
            nulls = _has_nulls(reader, key) if nulls is None else nulls
            page = page.where(_behind(sort, after, nulls_last=nulls_last, nulls=nulls))
        # Who left a time that is none did not choose the id by its day.
        if first_day and key == "generated" and after and not isinstance(after[key], FarTime):
            start, end = (after[key], None) if direction == "asc" else (None, after[key])
            page = page.where(*ids_of_days(start, end, first_day))
        if statement.get_execution_options().get("ids_first"):
            page = _ids_first(page, columns)
        rows = reader.rows(page)
        if rows:
            yield rows
        if len(rows) < size:
            return
        after = {name: getattr(rows[-1], name) for name in _COLUMNS}
        if after["message_id"] is None:
            yield from _level(reader, statement, [_COLUMNS[name] for name, _ in sort], rows, size)


def _level(
    reader: ReadAccess, statement: Statement, columns: Sequence[Any], page: Rows, size: int
) -> Iterator[Rows]:
    """Yield the rows that no column of the sort tells from the last one of a page, and that are not in it."""
    seen = {row.id for row in page}
    last = page[-1]
    values = [getattr(last, column.key) for column in columns]
    level = statement.where(
        *(
            column.is_(None) if value is None else column == value
            for column, value in zip(columns, values, strict=True)
        )
    )
    level = level.order_by(EventRow.id).limit(size)
    rows = reader.rows(level)
    while rows:
        if new := [row for row in rows if row.id not in seen]:
            yield new
        if len(rows) < size:
            return
        rows = reader.rows(level.where(EventRow.id > rows[-1].id))


def _ids_first(page: Statement, order: Sequence[sa.ColumnElement[Any]]) -> Statement:
    """Find the ids of a page in the index alone, and the rows only of those that are in it."""
    ids = page.with_only_columns(EventRow.id).subquery()
    return sa.select(*page.selected_columns).join(ids, ids.c.id == EventRow.id).order_by(*order)
