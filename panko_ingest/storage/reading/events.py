"""Reading events: a page of events is one statement, the traits of a page one a trait table.

Memory is bounded by a page, and by the bytes of its raw notifications, which are read in parts. A reader may
take its time: no cursor and no transaction stays open between pages.
"""

import contextlib
import datetime
import decimal
import functools
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from panko_ingest.storage import request_values
from panko_ingest.storage.errors import InvalidRequest
from panko_ingest.storage.filters import EventFilter
from panko_ingest.storage.models import SALVAGED_KEY, Event, Trait, TraitValue
from panko_ingest.storage.reading import paging
from panko_ingest.storage.reading.paging import Rows, Statement
from panko_ingest.storage.reading.read_access import ReadAccess
from panko_ingest.storage.tables import (
    IDENTIFIER_KEYS,
    STORED_TYPES,
    TRAIT_TABLES,
    Event as EventRow,
    EventType,
)

PAGE_SIZE = 500

_MOST_BYTES = 4 * 1024 * 1024
"""Of raw notifications that are read at once; as objects they take ten times as much."""

_FEW = 6_000
"""Matches up to which it costs less to look up and sort all their events than to walk through other
events in the order of the page; where the two meet grows with the square root of the table only."""

_Compare = Callable[[Any, Any], Any]
_OPERATORS: dict[str, _Compare] = {
    name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")
}

_LOOKS_LIKE = {
    Trait.FLOAT_TYPE: re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"),
    Trait.DATETIME_TYPE: re.compile(r"\d{4}-\d\d-\d\d.*"),
}

_MOST_FILTERS = 59
"""MariaDB joins 61 tables at most: that of events, one for each of these, and one for ``admin_proj``."""

_TYPES_AT_ONCE = 100
_NAMES_AT_ONCE = 1000

_Counted = sa.Select[int, int]
_Reading = tuple[int, _Compare, TraitValue]
_TraitFilter = tuple[str, list[_Reading]]


def get_events(
    reader: ReadAccess, event_filter: EventFilter, pagination: Mapping[str, Any] | None = None
) -> Iterator[Event]:
    """Return the matching events with their traits, sorted. The request is checked at once, before the first.

    :raises InvalidMarker: no event has the marker's message_id.
    :raises InvalidRequest: the filter or the pagination makes no sense.
    """
    pagination = request_values.mapping(pagination or {}, "pagination")
    first_day = paging.first_day(reader)
    sort = paging.complete_sort(pagination.get("sort") or Event.DEFAULT_SORT, by_day=first_day is not None)
    limit = pagination.get("limit")
    if limit is not None:
        limit = request_values.count(limit, "limit")
    statement = matching(reader, event_filter, first_day=first_day)
    marker = pagination.get("marker")
    after = paging.position(reader, request_values.text(marker, "marker")) if marker else None
    if statement is None:
        return iter(())
    size = PAGE_SIZE if limit is None or event_filter.salvaged else min(limit, PAGE_SIZE)
    pages = paging.pages(reader, statement, sort, after, size, first_day=first_day)
    events = itertools.islice(completed(reader, pages, salvaged_only=event_filter.salvaged), limit)
    return map(paging.with_marker, events) if first_day else events


def get_event_types(reader: ReadAccess) -> Iterator[str]:
    """Return the names of all event types, in the order of their characters' codes on every database."""
    return iter(sorted(reader.values(sa.select(EventType.desc).where(EventType.desc.is_not(None)))))


def count_by_type(
    reader: ReadAccess, start: datetime.datetime | None, end: datetime.datetime | None
) -> dict[str, int]:
    """Return how many events of each type there are within a time."""
    start = request_values.moment(start, "start") if start else None
    end = request_values.moment(end, "end") if end else None
    types = sa.select(EventType.id, EventType.desc).where(EventType.desc.is_not(None))
    names = {row.id: row.desc for row in reader.rows(types)}
    counts: dict[str, int] = {}
    known = list(names)
    for first in range(0, len(known), _TYPES_AT_ONCE):
        # Each by itself: the index by type and time has all that it takes, where GROUP BY would read events.
        statement = sa.union_all(
            *(_count_of(type_id, start, end) for type_id in known[first : first + _TYPES_AT_ONCE])
        )
        counts |= {names[row.type_id]: row.number for row in reader.rows(statement) if row.number}
    return dict(sorted(counts.items()))


def _count_of(type_id: int, start: datetime.datetime | None, end: datetime.datetime | None) -> _Counted:
    statement = sa.select(sa.literal(type_id).label("type_id"), sa.func.count().label("number")).where(
        EventRow.event_type_id == type_id
    )
    if start:
        statement = statement.where(EventRow.generated >= start)
    return statement.where(EventRow.generated <= end) if end else statement


def get_trait_types(reader: ReadAccess, event_type: str) -> Iterator[dict[str, Any]]:
    """Yield the name and data_type of each trait that events of the type have."""
    event_type = request_values.text(event_type, "event_type")
    for dtype in STORED_TYPES:
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


def get_traits(reader: ReadAccess, event_type: str, trait_type: str | None = None) -> Iterator[Trait]:
    """Yield the traits of all events of a type, the oldest event's first, optionally of one name only."""
    if trait_type is not None:
        trait_type = request_values.text(trait_type, "trait_type")
    first_day = paging.first_day(reader)
    statement = matching(reader, EventFilter(event_type=[event_type]), first_day=first_day)
    if statement is None:
        return
    narrow: Statement = statement.with_only_columns(EventRow.id, EventRow.generated, EventRow.message_id)
    for rows in paging.pages(reader, narrow, Event.DEFAULT_SORT, None, PAGE_SIZE, first_day=first_day):
        for _, trait in reader.read(functools.partial(_traits, [row.id for row in rows], trait_type)):
            yield trait


def matching(
    reader: ReadAccess, event_filter: EventFilter, *, first_day: datetime.date | None
) -> Statement | None:
    """Return the statement for all events that match; None where their event type is not even known."""
    statement = sa.select(
        EventRow.id,
        EventRow.generated,
        EventRow.message_id,
        EventRow.event_type_id,
        reader.database.bytes_of(EventRow.raw).label("size"),
    )
    if event_filter.event_type not in (None, ""):
        # Not by a join: MariaDB would begin with the small table and sort all events of the type.
        names = request_values.texts(event_filter.event_type, "event_type")
        ids = [
            type_id
            for first in range(0, len(names), _NAMES_AT_ONCE)
            for type_id in reader.values(
                sa.select(EventType.id).where(EventType.desc.in_(names[first : first + _NAMES_AT_ONCE]))
            )
        ]
        if not ids:
            return None
        # As text: a statement has 65,535 parameters at most, and a publisher may make up more types.
        several = sa.bindparam("types", ids, sa.BigInteger, expanding=True, literal_execute=True)
        statement = statement.where(
            EventRow.event_type_id == ids[0] if len(ids) == 1 else EventRow.event_type_id.in_(several)
        )
    if event_filter.message_id is not None:
        statement = statement.where(
            EventRow.message_id == request_values.text(event_filter.message_id, "message_id")
        )
    if event_filter.start_timestamp:
        statement = statement.where(EventRow.generated >= event_filter.start_timestamp)
    if event_filter.end_timestamp:
        statement = statement.where(EventRow.generated <= event_filter.end_timestamp)
    if first_day:
        start, end = event_filter.start_timestamp, event_filter.end_timestamp
        statement = statement.where(*paging.ids_of_days(start, end, first_day))
    statement = _having_traits(reader, statement, event_filter.traits_filter)
    if event_filter.admin_proj:
        statement = _of_no_other_project(statement, event_filter.admin_proj)
    if event_filter.salvaged:
        statement = statement.where(
            sa.type_coerce(EventRow.raw, sa.Text).contains(f'"{SALVAGED_KEY}"', autoescape=True)
        )
    return statement


def _having_traits(
    reader: ReadAccess, statement: Statement, traits_filter: Sequence[Mapping[str, Any]]
) -> Statement:
    if len(traits_filter) > _MOST_FILTERS:
        raise InvalidRequest(f"traits_filter: {len(traits_filter)} are more than {_MOST_FILTERS}")
    parsed = [_parse_trait_filter(trait_filter) for trait_filter in traits_filter]
    sorts = reader.database.sorts_before_it_limits
    walk = bool(parsed) and sorts and not any(_is_rare(reader, one) for one in parsed)
    for one in parsed:
        statement = _having_trait(statement, one, walk=walk)
    return statement.execution_options(ids_first=walk)


def _is_rare(reader: ReadAccess, parsed: _TraitFilter) -> bool:
    """Tell whether MySQL's index finds so few traits that it is best to begin with them."""
    key, readings = parsed
    table = TRAIT_TABLES[Trait.TEXT_TYPE]
    dtype, compare, value = readings[0]
    if len(readings) > 1 or dtype != Trait.TEXT_TYPE or compare is not operator.eq:
        return False
    some = sa.select(table.event_id).where(table.key == key, table.value == value).limit(_FEW)
    (found,) = reader.values(sa.select(sa.func.count()).select_from(some.subquery()))
    return int(found) < _FEW


def _having_trait(statement: Statement, parsed: _TraitFilter, *, walk: bool) -> Statement:
    """Narrow a statement to the events that have a trait.

    :param walk: look at each event in the order of the page, rather than begin with the trait.
    """
    key, readings = parsed
    # A partial index serves these keys, and a planner sees that only where the key is no parameter.
    literal = key in IDENTIFIER_KEYS
    matches = []
    for dtype, compare, value in readings:
        trait = aliased(TRAIT_TABLES[dtype])
        condition = sa.and_(
            trait.event_id == EventRow.id,
            trait.key == sa.bindparam(None, key, sa.String, unique=True, literal_execute=literal),
            compare(trait.value, value),
        )
        if len(readings) == 1 and walk:
            # A value that is looked up is what no optimizer turns into a join, in an order of its own.
            return statement.where(sa.select(sa.literal(1)).where(condition).limit(1).scalar_subquery() == 1)
        if len(readings) == 1:
            return statement.join(trait, condition)
        matches.append(sa.exists().where(condition))
    return statement.where(sa.or_(*matches))


def _parse_trait_filter(trait_filter: Mapping[str, Any]) -> _TraitFilter:
    given = dict(trait_filter)
    key, name = given.pop("key", None), given.pop("op", None) or "eq"
    if not key or len(given) != 1 or name not in tuple(_OPERATORS):
        raise InvalidRequest(
            f"traits_filter: {dict(trait_filter)} needs a key, one of string, integer, float, datetime "
            f"and any with its value, and an op of {', '.join(_OPERATORS)}"
        )
    key = request_values.text(key, "traits_filter: key")
    type_name, value = given.popitem()
    if type_name == "any":
        return key, _readings(key, str(value), name)
    dtype = Trait.get_type_by_name(str(type_name))
    if dtype not in STORED_TYPES:
        raise InvalidRequest(f"traits_filter: {key}: {type_name!r} is no type of a trait")
    if dtype == Trait.INT_TYPE and isinstance(value, float) and math.isfinite(value):
        # No integer is less than the least, which is what equals a fraction.
        return key, _as_integer(decimal.Decimal(value), name) or [(dtype, operator.lt, -(2**63))]
    return key, [(dtype, _OPERATORS[name], _convert(dtype, value, key))]


def _readings(key: str, text: str, name: str) -> list[_Reading]:
    """Return a value as each type that its text can be; identifiers are only ever text."""
    compare = _OPERATORS[name]
    as_text = (Trait.TEXT_TYPE, compare, _convert(Trait.TEXT_TYPE, text, key))
    if key in IDENTIFIER_KEYS:
        return [as_text]
    readings: list[_Reading] = []
    for dtype, looks_like in _LOOKS_LIKE.items():
        if looks_like.fullmatch(text.strip()):
            with contextlib.suppress(InvalidRequest):
                readings.append((dtype, compare, _convert(dtype, text.strip(), key)))
    if _LOOKS_LIKE[Trait.FLOAT_TYPE].fullmatch(text.strip()):
        with contextlib.suppress(decimal.InvalidOperation):  # an exponent of 19 digits
            readings += _as_integer(decimal.Decimal(text.strip()), name)
    # "9" is less than "10" as a number, and that is what is meant where there is an order.
    if not (readings and name not in {"eq", "ne"}):
        readings.append(as_text)
    return readings


def _as_integer(number: decimal.Decimal, name: str) -> list[_Reading]:
    """Return what compares integer traits with a number, which may have a fraction or be beyond 64 bits."""
    lowest, highest = -(2**63), 2**63 - 1
    floor = math.floor(max(decimal.Decimal(lowest - 1), min(decimal.Decimal(highest), number)))
    exact = floor == number
    if name in {"eq", "ne"}:
        if exact and floor >= lowest:
            return [(Trait.INT_TYPE, _OPERATORS[name], floor)]
        return [] if name == "eq" else [(Trait.INT_TYPE, operator.ge, lowest)]
    if name in {"lt", "le"}:
        last = floor - (exact and name == "lt")
        return [(Trait.INT_TYPE, operator.le, last)] if last >= lowest else []
    first = max(lowest, floor + (not (exact and name == "ge")))
    return [(Trait.INT_TYPE, operator.ge, first)] if first <= highest else []


def _convert(dtype: int, value: Any, key: str) -> TraitValue:
    return request_values.trait_value(dtype, value, f"traits_filter: {key}")


def _of_no_other_project(statement: Statement, project: str) -> Statement:
    other = aliased(TRAIT_TABLES[Trait.TEXT_TYPE])
    condition = sa.and_(
        other.event_id == EventRow.id,
        other.key == "project_id",
        other.value != request_values.text(project, "admin_proj"),
    )
    # Not by NOT EXISTS, for which MariaDB would collect all other projects' traits first.
    return statement.outerjoin(other, condition).where(other.event_id.is_(None))


def completed(reader: ReadAccess, pages: Iterable[Rows], *, salvaged_only: bool) -> Iterator[Event]:
    """Yield the events of pages of rows, with their traits, except those that expired meanwhile."""
    for page in pages:
        pending = page
        while pending:
            number = paging.fitting([row.size for row in pending], _MOST_BYTES)
            for event in reader.read(functools.partial(_complete_events, pending[:number])):
                if not salvaged_only or SALVAGED_KEY in event.raw:
                    yield event
            pending = pending[number:]


def _complete_events(rows: Rows, connection: sa.Connection) -> list[Event]:
    """Return the events of these rows with their traits and raw, except those that expired meanwhile."""
    names = _type_names(connection, {row.event_type_id for row in rows})
    events = {
        row.id: Event(row.message_id, names[row.event_type_id], row.generated)
        for row in rows
        if row.event_type_id in names  # else it was cleared, like its type
    }
    for event_id, trait in _traits(list(events), None, connection):
        events[event_id].traits.append(trait)
    # Last, as of an event that expired meanwhile, some traits may be missing.
    there = sa.select(EventRow.id, EventRow.raw).where(EventRow.id.in_(list(events)))
    raws = {row.id: row.raw for row in connection.execute(there)}
    for event_id, event in events.items():
        event.raw = raws.get(event_id, {})
        event.traits.sort(key=operator.attrgetter("name"))
    return [event for event_id, event in events.items() if event_id in raws]


def _type_names(connection: sa.Connection, type_ids: Iterable[int]) -> dict[int, str]:
    statement = sa.select(EventType.id, EventType.desc).where(EventType.id.in_(list(type_ids)))
    return {row.id: row.desc for row in connection.execute(statement)}


def _traits(event_ids: Sequence[int], name: str | None, connection: sa.Connection) -> list[tuple[int, Trait]]:
    found = []
    for dtype in STORED_TYPES:
        table = TRAIT_TABLES[dtype]
        statement = sa.select(table.event_id, table.key, table.value).where(table.event_id.in_(event_ids))
        if name is not None:
            statement = statement.where(table.key == name)
        found += [
            (event_id, Trait(key, dtype, value)) for event_id, key, value in connection.execute(statement)
        ]
    return found
