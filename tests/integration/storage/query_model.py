"""What ``get_events`` must return, by plain Python over a list; and random requests for both.

How a database compares text is its own business (case, accents, blanks at the end), so the model asks it once
for the rank of each text that is ever compared: texts of one rank are equal, those of a lower one are less.
"""

import datetime
import decimal
import operator
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from panko_ingest.storage import EventFilter
from panko_ingest.storage.models import Event, Marker, Trait
from panko_ingest.storage.tables import IDENTIFIER_KEYS

START = datetime.datetime(2026, 3, 30, 23, 59, 58, 999_999)
TYPES = ("compute.instance.update", "volume.create.end", "Volume.create.end", "image.delete")
TEXTS = (
    "active", "ACTIVE", "Active", "error", "error ", "", " ", "é", "e", "É", "ß", "ss", "z", "Ä", "a_b",
    "a%b", "10", "9", "1e1", "10.0", "-5", "2026-03-31", "2026-03-31T00:00:00", "p1", "p2", "P1", "日本",
    "😀", "x" * 255,
)  # fmt: skip
KEYS = ("project_id", "user_id", "state", "State", "size", "load", "when", "nothing", "é")
NUMBERS = (0, 1, -1, 9, 10, -5, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
FLOATS = (0.0, 0.1, -0.1, 9.0, 10.0, 1e300, 5e-324, -5.0, 0.1 + 0.2)
TIMES = tuple(
    START + datetime.timedelta(microseconds=step)
    for step in (-(10**12), -(10**11), -1, 0, 1, 2, 10**6, 10**6 + 1, 10**11, 3 * 10**12)
)
ZONES = tuple(datetime.timezone(datetime.timedelta(minutes=minutes)) for minutes in (0, 330, -210, 840))
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")
}
KINDS = {
    "string": Trait.TEXT_TYPE,
    "integer": Trait.INT_TYPE,
    "float": Trait.FLOAT_TYPE,
    "datetime": Trait.DATETIME_TYPE,
}
POOLS: dict[int, tuple[Any, ...]] = {
    Trait.TEXT_TYPE: TEXTS,
    Trait.INT_TYPE: NUMBERS,
    Trait.FLOAT_TYPE: FLOATS,
    Trait.DATETIME_TYPE: TIMES,
}


def make_events(chance: random.Random, count: int, *, on_two_days: bool) -> list[Event]:
    """Return random events of few moments, with ties, absent traits and traits without a value.

    :param on_two_days: give some message_ids to a second event, of another month.
    """
    numbers = random.Random(7).sample(range(10 * count), count)
    events = []
    for number in numbers:
        message_id = f"{chance.choice(('m', 'M', 'é', 'n '))}{number}"
        event = Event(message_id, chance.choice(TYPES), chance.choice(TIMES), _traits(chance))
        if chance.random() < 0.1:
            event.raw = {"_salvaged": [{"trait": "x", "reason": "no integer"}]}
        events.append(event)
        if on_two_days and event.generated.month == START.month:
            later = event.generated + datetime.timedelta(days=13)
            events.append(Event(message_id, chance.choice(TYPES), later, _traits(chance)))
    texts = dict(enumerate((*TEXTS, *KEYS, *TYPES, "every.text")))
    traits = [Trait(f"text {number:02}", Trait.TEXT_TYPE, text) for number, text in texts.items()]
    return [*events, Event("every text", "every.text", START, traits)]


def _traits(chance: random.Random) -> list[Trait]:
    traits: dict[str, Trait] = {}
    for key in chance.sample(KEYS, chance.randint(0, len(KEYS))):
        kinds = [Trait.TEXT_TYPE] if key in IDENTIFIER_KEYS else list(POOLS)
        dtype = chance.choice(kinds)
        value = None if chance.random() < 0.1 else chance.choice(POOLS[dtype])
        # Names that differ in case only may be one to the database: an event has no two of them.
        traits[key.casefold()] = Trait(key, dtype, value)
    return sorted(traits.values())


@dataclass
class Request:
    """A filter and a pagination, as the interface takes them and as the model reads them."""

    filter: dict[str, Any] = field(default_factory=dict)
    pagination: dict[str, Any] = field(default_factory=dict)
    start: datetime.datetime | None = None
    end: datetime.datetime | None = None
    marked: Event | None = None

    @property
    def event_filter(self) -> EventFilter:
        """The filter for the interface."""
        return EventFilter(**self.filter)


def make_request(chance: random.Random, events: list[Event], *, by_day: bool) -> Request:
    """Return a random request, most of which find something."""
    request = Request()
    for name, side in (("start_timestamp", "start"), ("end_timestamp", "end")):
        if chance.random() < 0.3:
            moment = chance.choice(TIMES) + datetime.timedelta(microseconds=chance.choice((0, 0, 1, -1)))
            setattr(request, side, moment)
            request.filter[name] = _written(chance, moment)
    if chance.random() < 0.3:
        request.filter["event_type"] = chance.choice(
            [chance.choice(TYPES), "no.such.type", chance.sample(TYPES, 2), (*TYPES, "none")]
        )
    if chance.random() < 0.05:
        request.filter["message_id"] = chance.choice([chance.choice(events).message_id, "nobody"])
    if chance.random() < 0.6:
        request.filter["traits_filter"] = [_trait_filter(chance) for _ in range(chance.randint(1, 3))]
    if chance.random() < 0.15:
        request.filter["admin_proj"] = chance.choice(("p1", "P1", "", "error", "nobody"))
    if chance.random() < 0.1:
        request.filter["salvaged"] = True
    if chance.random() < 0.7:
        keys = chance.sample(Event.SUPPORT_SORT_KEYS, chance.randint(1, 2))
        request.pagination["sort"] = [(key, chance.choice(Event.SUPPORT_DIRS)) for key in keys]
    if chance.random() < 0.6:
        request.pagination["limit"] = chance.choice((0, 1, 2, 5, 20, 100_000))
    if chance.random() < 0.4:
        request.marked = marked = chance.choice(events)
        written = f"{marked.message_id}@{marked.generated.isoformat()}"
        markers = [Marker(marked.message_id, marked.generated), written] if by_day else [marked.message_id]
        request.pagination["marker"] = chance.choice(markers)
    return request


def _written(chance: random.Random, moment: datetime.datetime) -> datetime.datetime | str:
    """Write a moment in one of the ways in which a caller may."""
    aware = moment.replace(tzinfo=datetime.UTC).astimezone(chance.choice(ZONES))
    ways: list[datetime.datetime | str] = [
        moment,
        aware,
        moment.isoformat(),
        aware.isoformat(),
        moment.isoformat(" ") + "Z",
    ]
    return chance.choice(ways)


def _trait_filter(chance: random.Random) -> dict[str, Any]:
    kind = chance.choice([*KINDS, "any"])
    value = chance.choice(TEXTS if kind == "any" else POOLS[KINDS[kind]])
    if kind == "datetime":
        value = _written(chance, value)
    wanted = {"key": chance.choice(KEYS), kind: value}
    return wanted if chance.random() < 0.2 else {**wanted, "op": chance.choice(list(OPERATORS))}


class Model:
    """What a store with these events must return.

    :param ranks: the rank of each text among all, as the database compares them.
    :param by_day: whether several events may have one message_id.
    """

    def __init__(self, events: Iterable[Event], ranks: Mapping[str, int], *, by_day: bool) -> None:
        self._events = list(events)
        self._ranks = ranks
        self.by_day = by_day

    def folded(self, event: Event) -> Event:
        """Return the event with one name for all event types that are one to the database."""
        return replace(event, event_type=str(self._rank(event.event_type)))

    def expected(self, request: Request) -> list[Event]:
        """Return the events that a request must find, in their order."""
        found = [event for event in self._events if self._matches(event, request)]
        self._sort(found, request)
        if request.marked is not None:
            behind = [*self._events]
            self._sort(behind, request)
            later = {id(event) for event in behind[behind.index(request.marked) + 1 :]}
            found = [event for event in found if id(event) in later]
        return found[: request.pagination.get("limit")]

    def _sort(self, events: list[Event], request: Request) -> None:
        sort = dict(request.pagination.get("sort") or Event.DEFAULT_SORT)
        last = [*sort.values()][-1]
        sort.setdefault("message_id", last)
        if self.by_day:
            sort.setdefault("generated", last)
        for key, direction in reversed(sort.items()):
            events.sort(key=lambda event: self._rank(getattr(event, key)), reverse=direction == "desc")

    def _matches(self, event: Event, request: Request) -> bool:
        wanted = request.filter
        types = wanted.get("event_type")
        types = [types] if isinstance(types, str) else types
        return (
            (request.start is None or event.generated >= request.start)
            and (request.end is None or event.generated <= request.end)
            and (types is None or self._rank(event.event_type) in map(self._rank, types))
            and ("message_id" not in wanted or self._same(event.message_id, wanted["message_id"]))
            and (not wanted.get("admin_proj") or self._of_project(event, wanted["admin_proj"]))
            and (not wanted.get("salvaged") or "_salvaged" in event.raw)
            and all(self._has(event, one) for one in wanted.get("traits_filter", ()))
        )

    def _of_project(self, event: Event, project: str) -> bool:
        """Tell whether no project_id of another project is on the event."""
        return not any(
            self._same(trait.name, "project_id")
            and trait.value is not None
            and not self._same(trait.value, project)
            for trait in event.traits
            if trait.dtype == Trait.TEXT_TYPE
        )

    def _has(self, event: Event, wanted: Mapping[str, Any]) -> bool:
        compare = OPERATORS[wanted.get("op", "eq")]
        readings = self._readings(wanted)
        return any(
            trait.value is not None
            and trait.dtype in readings
            and self._same(trait.name, wanted["key"])
            and compare(self._rank(trait.value), self._rank(readings[trait.dtype]))
            for trait in event.traits
        )

    def _readings(self, wanted: Mapping[str, Any]) -> dict[int, Any]:
        (kind, value), *_ = [(name, wanted[name]) for name in (*KINDS, "any") if name in wanted]
        if kind == "datetime":
            moment = datetime.datetime.fromisoformat(value) if isinstance(value, str) else value
            return {Trait.DATETIME_TYPE: _naive(moment)}
        if kind != "any":
            return {KINDS[kind]: value}
        if wanted["key"] in IDENTIFIER_KEYS:
            return {Trait.TEXT_TYPE: value}
        readings: dict[int, Any] = {}
        for dtype, read in ((2, decimal.Decimal), (3, float), (4, datetime.datetime.fromisoformat)):
            try:
                readings[dtype] = read(value)
            except (ValueError, decimal.InvalidOperation):
                continue
        if not readings or wanted.get("op", "eq") in {"eq", "ne"}:
            readings[Trait.TEXT_TYPE] = value
        return readings

    def _rank(self, value: Any) -> Any:
        return self._ranks.get(value, float("nan")) if isinstance(value, str) else value

    def _same(self, first: Any, second: str) -> bool:
        return bool(self._rank(first) == self._rank(second))


def _naive(moment: datetime.datetime) -> datetime.datetime:
    return moment.astimezone(datetime.UTC).replace(tzinfo=None) if moment.tzinfo else moment
