"""Reading events: a page of events is one statement, the traits of a page one a trait table.

Nothing is read by OFFSET and nothing by event: each page goes on behind the last event of the one
before (keyset paging). So memory is bounded by a page, and a reader may take its time: no cursor
and no transaction stays open between pages.
"""

import contextlib
import datetime
import functools
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from panko_ingest.storage import partitions
from panko_ingest.storage.base import EventFilter
from panko_ingest.storage.errors import InvalidMarker, StorageError
from panko_ingest.storage.models import SALVAGED_KEY, Event, Trait, TraitValue
from panko_ingest.storage.reading import Reader
from panko_ingest.storage.tables import (
    IDENTIFIER_KEYS,
    TRAIT_TABLES,
    Event as EventRow,
    EventType,
)

PAGE_SIZE = 500

_FEW = 6_000
"""Matches up to which it costs less to look up and sort all their events than to walk through other
events in the order of the page; where the two meet grows with the square root of the table only."""

_Compare = Callable[[Any, Any], Any]
_OPERATORS: dict[str, _Compare] = {
    name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")
}
_COLUMNS = {"generated": EventRow.generated, "message_id": EventRow.message_id}
_STORED_TYPES = (Trait.TEXT_TYPE, Trait.INT_TYPE, Trait.FLOAT_TYPE, Trait.DATETIME_TYPE)

_LOOKS_LIKE = {
    Trait.INT_TYPE: re.compile(r"[-+]?\d+"),
    Trait.FLOAT_TYPE: re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"),
    Trait.DATETIME_TYPE: re.compile(r"\d{4}-\d\d-\d\d.*"),
}
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

_TraitFilter = tuple[str, _Compare, list[tuple[int, TraitValue]]]
_Sort = Sequence[tuple[str, str]]
_Statement = sa.Select[*tuple[Any, ...]]
_Rows = Sequence[sa.Row[*tuple[Any, ...]]]


def get_events(
    reader: Reader, event_filter: EventFilter, pagination: Mapping[str, Any] | None = None
) -> Iterator[Event]:
    """Return the matching events with their traits, sorted. The request is checked at once, before the first.

    :raises InvalidMarker: no event has the marker's message_id.
    :raises StorageError: the filter or the pagination makes no sense.
    """
    pagination = pagination or {}
    sort = _complete(pagination.get("sort") or Event.DEFAULT_SORT)
    limit = pagination.get("limit")
    if limit is not None and limit < 0:
        raise StorageError(f"limit: {limit} is negative")
    statement = _matching(reader, event_filter)
    after = _position(reader, pagination["marker"]) if pagination.get("marker") else None
    if statement is None:
        return iter(())
    size = PAGE_SIZE if limit is None or event_filter.salvaged else min(limit, PAGE_SIZE)
    pages = _pages(reader, statement, sort, after, size)
    return itertools.islice(_events(reader, pages, salvaged_only=event_filter.salvaged), limit)


def get_event_types(reader: Reader) -> Iterator[str]:
    """Return the names of all event types, in the order of their characters' codes on every database."""
    return iter(sorted(reader.values(sa.select(EventType.desc))))


def get_trait_types(reader: Reader, event_type: str) -> Iterator[dict[str, Any]]:
    """Yield the name and data_type of each trait that events of the type have."""
    for dtype in _STORED_TYPES:
        table = TRAIT_TABLES[dtype]
        keys = (
            sa.select(table.key)
            .join(EventRow, EventRow.id == table.event_id)
            .join(EventType, EventType.id == EventRow.event_type_id)
            .where(EventType.desc == event_type)
            .distinct()
        )
        for name in sorted(reader.values(keys)):
            yield {"name": name, "data_type": dtype}


def get_traits(reader: Reader, event_type: str, trait_type: str | None = None) -> Iterator[Trait]:
    """Yield the traits of all events of a type, the oldest event's first, optionally of one name only."""
    statement = _matching(reader, EventFilter(event_type=event_type))
    if statement is None:
        return
    narrow: _Statement = statement.with_only_columns(EventRow.id, EventRow.generated, EventRow.message_id)
    for rows in _pages(reader, narrow, Event.DEFAULT_SORT, None, PAGE_SIZE):
        for _, trait in reader.read(functools.partial(_traits, [row.id for row in rows], trait_type)):
            yield trait


def _matching(reader: Reader, event_filter: EventFilter) -> _Statement | None:
    """Return the statement for all events that match; None where their event type is not even known."""
    statement = sa.select(
        EventRow.id, EventRow.generated, EventRow.message_id, EventRow.event_type_id, EventRow.raw
    )
    if event_filter.event_type:
        # Not by a join: MariaDB would begin with the small table and sort all events of the type.
        ids = reader.values(_type_ids(event_filter.event_type))
        if not ids:
            return None
        statement = statement.where(
            EventRow.event_type_id == ids[0] if len(ids) == 1 else EventRow.event_type_id.in_(ids)
        )
    if event_filter.message_id:
        statement = statement.where(EventRow.message_id == _storable(event_filter.message_id, "message_id"))
    if event_filter.start_timestamp:
        statement = statement.where(EventRow.generated >= event_filter.start_timestamp)
    if event_filter.end_timestamp:
        statement = statement.where(EventRow.generated <= event_filter.end_timestamp)
    if _partitioned(reader):
        statement = statement.where(*_ids_of_days(event_filter.start_timestamp, event_filter.end_timestamp))
    statement = _having_traits(reader, statement, event_filter.traits_filter)
    if event_filter.admin_proj:
        statement = _of_no_other_project(statement, event_filter.admin_proj)
    if event_filter.salvaged:
        statement = statement.where(
            sa.type_coerce(EventRow.raw, sa.Text).contains(f'"{SALVAGED_KEY}"', autoescape=True)
        )
    return statement


def _partitioned(reader: Reader) -> bool:
    if reader.dialect != "postgresql":
        return False
    return reader.read(partitions.exist)


def _ids_of_days(
    start: datetime.datetime | None, end: datetime.datetime | None
) -> Iterator[sa.ColumnElement[bool]]:
    """Say a range of time by ids, which is how a database knows what partitions to leave out."""
    if start:
        yield EventRow.id >= partitions.first_id(start.date())
    if end:
        yield EventRow.id < partitions.id_after(end.date())


def _type_ids(names: str | Iterable[str]) -> sa.Select[int]:
    wanted = [names] if isinstance(names, str) else list(names)
    wanted = [_storable(name, "event_type") for name in wanted]
    return sa.select(EventType.id).where(EventType.desc.in_(wanted))


def _having_traits(
    reader: Reader, statement: _Statement, traits_filter: Sequence[Mapping[str, Any]]
) -> _Statement:
    parsed = [_parse_trait_filter(trait_filter) for trait_filter in traits_filter]
    # Left alone, MariaDB collects and sorts every event that has the trait, for a page of few.
    walk = bool(parsed) and reader.dialect == "mysql" and not any(_is_rare(reader, one) for one in parsed)
    for one in parsed:
        statement = _having_trait(statement, one, walk=walk)
    return statement.execution_options(ids_first=walk)


def _is_rare(reader: Reader, parsed: _TraitFilter) -> bool:
    """Tell whether MySQL's index finds so few traits that it is best to begin with them."""
    key, compare, values = parsed
    table = TRAIT_TABLES[Trait.TEXT_TYPE]
    if compare is not operator.eq or [dtype for dtype, _ in values] != [Trait.TEXT_TYPE]:
        return False
    some = sa.select(table.event_id).where(table.key == key, table.value == values[0][1]).limit(_FEW)
    (found,) = reader.values(sa.select(sa.func.count()).select_from(some.subquery()))
    return int(found) < _FEW


def _having_trait(statement: _Statement, parsed: _TraitFilter, *, walk: bool) -> _Statement:
    """Narrow a statement to the events that have a trait.

    :param walk: look at each event in the order of the page, rather than begin with the trait.
    """
    key, compare, values = parsed
    # A partial index serves these keys, and a planner sees that only where the key is no parameter.
    literal = key in IDENTIFIER_KEYS
    matches = []
    for dtype, value in values:
        trait = aliased(TRAIT_TABLES[dtype])
        condition = sa.and_(
            trait.event_id == EventRow.id,
            trait.key == sa.bindparam(None, key, sa.String, unique=True, literal_execute=literal),
            compare(trait.value, value),
        )
        if len(values) == 1 and walk:
            # A value that is looked up is what no optimizer turns into a join, in an order of its own.
            return statement.where(sa.select(sa.literal(1)).where(condition).limit(1).scalar_subquery() == 1)
        if len(values) == 1:
            return statement.join(trait, condition)
        matches.append(sa.exists().where(condition))
    return statement.where(sa.or_(*matches))


def _parse_trait_filter(trait_filter: Mapping[str, Any]) -> _TraitFilter:
    given = dict(trait_filter)
    key, name = given.pop("key", None), given.pop("op", None) or "eq"
    if not key or len(given) != 1 or name not in _OPERATORS:
        raise StorageError(
            f"traits_filter: {dict(trait_filter)} needs a key, one of string, integer, float, datetime "
            f"and any with its value, and an op of {', '.join(_OPERATORS)}"
        )
    type_name, value = given.popitem()
    if type_name == "any":
        values = _readings(key, str(value), ordered=name not in {"eq", "ne"})
    else:
        dtype = Trait.get_type_by_name(type_name)
        if dtype not in _STORED_TYPES:
            raise StorageError(f"traits_filter: {key}: {type_name!r} is no type of a trait")
        values = [(dtype, _convert(dtype, value, key))]
    return _storable(key, "traits_filter"), _OPERATORS[name], values


def _readings(key: str, text: str, *, ordered: bool) -> list[tuple[int, TraitValue]]:
    """Return a value as each type that its text can be; identifiers are only ever text."""
    if key in IDENTIFIER_KEYS:
        return [(Trait.TEXT_TYPE, _convert(Trait.TEXT_TYPE, text, key))]
    readings = []
    for dtype, looks_like in _LOOKS_LIKE.items():
        if looks_like.fullmatch(text.strip()):
            with contextlib.suppress(StorageError):
                readings.append((dtype, _convert(dtype, text.strip(), key)))
    # "9" is less than "10" as a number, and that is what is meant where there is an order.
    if not (readings and ordered):
        readings.append((Trait.TEXT_TYPE, _convert(Trait.TEXT_TYPE, text, key)))
    return readings


def _convert(dtype: int, value: Any, key: str) -> TraitValue:
    try:
        converted = Trait.convert_value(dtype, value)
    except (ValueError, TypeError, OverflowError) as error:
        name = Trait.get_name_by_type(dtype)
        raise StorageError(f"traits_filter: {key}: {value!r} is no {name}") from error
    return cast(TraitValue, _storable(converted, key))


def _storable(value: Any, name: str) -> Any:
    """Refuse what no database could even compare with: an error here names the field.

    :raises StorageError: the value can be stored nowhere.
    """
    if isinstance(value, str) and _UNSTORABLE.search(value):
        raise StorageError(f"{name}: {value!r} has characters that can't be stored")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise StorageError(f"{name}: {value} is beyond 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise StorageError(f"{name}: {value} is no finite number")
    return value


def _of_no_other_project(statement: _Statement, project: str) -> _Statement:
    other = aliased(TRAIT_TABLES[Trait.TEXT_TYPE])
    condition = sa.and_(
        other.event_id == EventRow.id,
        other.key == "project_id",
        other.value != _storable(project, "admin_proj"),
    )
    # Not by NOT EXISTS, for which MariaDB would collect all other projects' traits first.
    return statement.outerjoin(other, condition).where(other.event_id.is_(None))


def _complete(sort: Iterable[tuple[str, str]]) -> _Sort:
    """Return the sort with the message_id at its end, so that no two events are level."""
    complete: dict[str, str] = {}
    for key, direction in sort:
        if key not in _COLUMNS or direction not in Event.SUPPORT_DIRS:
            raise StorageError(
                f"sort: {key} {direction}: keys are {', '.join(_COLUMNS)}, directions "
                f"{', '.join(Event.SUPPORT_DIRS)}"
            )
        complete.setdefault(key, direction)
    complete.setdefault("message_id", next(reversed(complete.values()), "asc"))
    return tuple(complete.items())


def _position(reader: Reader, message_id: str) -> Mapping[str, Any]:
    statement = sa.select(EventRow.generated, EventRow.message_id).where(
        EventRow.message_id == _storable(message_id, "marker")
    )
    for row in reader.rows(statement):
        return {"generated": row.generated, "message_id": row.message_id}
    raise InvalidMarker(f"marker: no event with message_id {message_id!r} is stored")


def _behind(sort: _Sort, position: Mapping[str, Any]) -> sa.ColumnElement[bool]:
    """Return the condition for all that comes after a position."""
    (key, direction), *rest = sort
    column, value = _COLUMNS[key], position[key]
    beyond: sa.ColumnElement[bool] = column > value if direction == "asc" else column < value
    if key == "message_id":
        return beyond
    # Said twice so that every planner gets a plain range of the index from the first half.
    within = column >= value if direction == "asc" else column <= value
    return sa.and_(within, sa.or_(beyond, _behind(rest, position)))


def _pages(
    reader: Reader,
    statement: _Statement,
    sort: _Sort,
    after: Mapping[str, Any] | None,
    size: int,
) -> Iterator[_Rows]:
    columns = [getattr(_COLUMNS[key], direction)() for key, direction in sort]
    ordered = statement.order_by(*columns).limit(size)
    by_day = sort[0] if sort[0][0] == "generated" and _partitioned(reader) else None
    while size:
        page = ordered if after is None else ordered.where(_behind(sort, after))
        if by_day and after is not None:
            start, end = (after["generated"], None) if by_day[1] == "asc" else (None, after["generated"])
            page = page.where(*_ids_of_days(start, end))
        if statement.get_execution_options().get("ids_first"):
            page = _ids_first(page, columns)
        rows = reader.rows(page)
        if rows:
            yield rows
        if len(rows) < size:
            return
        after = {key: getattr(rows[-1], key) for key in _COLUMNS}


def _ids_first(page: _Statement, order: Sequence[sa.ColumnElement[Any]]) -> _Statement:
    """Find the ids of a page in the index alone, and the rows only of those that are in it."""
    ids = page.with_only_columns(EventRow.id).subquery()
    return sa.select(*page.selected_columns).join(ids, ids.c.id == EventRow.id).order_by(*order)


def _events(reader: Reader, pages: Iterable[_Rows], *, salvaged_only: bool) -> Iterator[Event]:
    for page in pages:
        rows = [row for row in page if SALVAGED_KEY in row.raw] if salvaged_only else page
        if not rows:
            continue
        yield from reader.read(functools.partial(_complete_events, rows))


def _complete_events(rows: _Rows, connection: sa.Connection) -> list[Event]:
    """Return the events of these rows with their traits, but for those that expired meanwhile."""
    names = _type_names(connection, {row.event_type_id for row in rows})
    events = {
        row.id: Event(row.message_id, names[row.event_type_id], row.generated, [], row.raw) for row in rows
    }
    for event_id, trait in _traits(list(events), None, connection):
        events[event_id].traits.append(trait)
    # Of an event that expired meanwhile, some traits may be missing.
    there = set(connection.scalars(sa.select(EventRow.id).where(EventRow.id.in_(list(events)))))
    for event in events.values():
        event.traits.sort(key=operator.attrgetter("name"))
    return [event for event_id, event in events.items() if event_id in there]


def _type_names(connection: sa.Connection, type_ids: Iterable[int]) -> dict[int, str]:
    statement = sa.select(EventType.id, EventType.desc).where(EventType.id.in_(list(type_ids)))
    return {row.id: row.desc for row in connection.execute(statement)}


def _traits(event_ids: Sequence[int], name: str | None, connection: sa.Connection) -> list[tuple[int, Trait]]:
    found = []
    for dtype in _STORED_TYPES:
        table = TRAIT_TABLES[dtype]
        statement = sa.select(table.event_id, table.key, table.value).where(table.event_id.in_(event_ids))
        if name is not None:
            statement = statement.where(table.key == name)
        found += [
            (event_id, Trait(key, dtype, value)) for event_id, key, value in connection.execute(statement)
        ]
    return found
