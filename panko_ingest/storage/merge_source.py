"""What is in another event database: Panko's, Ceilometer's or one of ours.

All of them keep the same columns under the same names, so one reader serves them all, whatever their
layout and revision. A page is looked at first: ids, names, times and sizes. Only what is asked for then is
read as a whole, a few MB at a time.
"""

import datetime
import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.models import DeadLetter as Letter, Event, Trait
from panko_ingest.storage.source_connection import SourceConnection, TooMany, parts
from panko_ingest.storage.tables import (
    EVENT_TABLES,
    STORED_TYPES,
    TRAIT_TABLES,
    AnyJSONText,
    DeadLetter,
    Event as EventRow,
    EventType,
)

_TRAITS = 20_000
_MOST_TYPES = 10_000
_NAMESPACE = uuid.UUID("5d0b6bd2-6b0c-5f6e-9d1e-2f4f0f6a7c11")
_LETTER_FIELDS = [name for name in Letter.__dataclass_fields__ if name in DeadLetter.__table__.columns]
_DIGEST_SIZE = 32
_UNREADABLE = "it can't be read: "


class Head(NamedTuple):
    """What tells an event apart, and how much there is to read of it."""

    id: int
    size: int
    """Bytes of its raw."""
    message_id: str | None
    generated: datetime.datetime | None
    event_type_id: int | None = None
    fault: str = ""
    """Why its row can't be read, where that is so."""

    @property
    def nameless(self) -> bool:
        """Whether it has no message_id, or a blank one."""
        return not (self.message_id and self.message_id.strip())

    @property
    def name(self) -> str:
        """What a person finds it by."""
        return f"row {self.id} of event" if self.nameless else str(self.message_id)


class FoundEvent(NamedTuple):
    """An event as a whole, or why there is none."""

    head: Head
    event: Event | None
    fault: str = ""


class LetterHead(NamedTuple):
    """What tells a dead letter apart, and how much there is to read of it."""

    id: int
    size: int
    digest: bytes
    fault: str = ""
    """Why its row can't be read, where that is so."""

    @property
    def name(self) -> str:
        """What a person finds it by."""
        return f"row {self.id} of dead_letter"


class FoundLetter(NamedTuple):
    """A dead letter as a whole, or why there is none."""

    head: LetterHead
    letter: Letter | None = None
    times: dict[str, Any] | None = None
    """Columns that a letter gets when it is stored: ``first_at``, ``last_at``, ``attempts``."""
    fault: str = ""


class Source:
    """Another event database, by a connection that only reads.

    All of its methods raise ``StorageUnavailable`` where that database is away, or is not as it should be.
    """

    def __init__(self, connection: SourceConnection) -> None:
        """Look for the tables of events.

        :raises StorageUnavailable: one is not there, or is another service's.
        """
        self._connection = connection
        self._type_names: dict[int | None, str] = {}
        if not connection.has(EventRow.__tablename__):
            raise StorageUnavailable("db merge: --from: it has no tables of events", operator=True)
        for table in (EventType.__tablename__, *EVENT_TABLES):
            connection.refuse_unless_whole(table)

    def count(self) -> int:
        """Return how many events there are."""
        ((number,),) = self._connection.rows(sa.select(sa.func.count()).select_from(EventRow))
        return int(number)

    def pages(self) -> Iterator[list[Head]]:
        """Yield the events that there are, by pages in the order of their ids."""
        last: int | None = None
        while rows := self._connection.page(EventRow, self._connection.size(EventRow.raw), last):
            sizes = {row.id: row.size for row in rows}
            last = rows[-1].id
            read = self._connection.by_halves(list(sizes), self._heads, self._unreadable_head)
            yield [head._replace(size=sizes[head.id]) for part in read for head in part if head.id in sizes]

    def events(self, heads: Sequence[Head]) -> Iterator[list[FoundEvent]]:
        """Yield events with all that is in them, a few MB at a time; those that are gone are left out."""
        for part in parts(heads):
            yield from self._connection.by_halves(
                part, self._events, lambda head, fault: FoundEvent(head, None, _UNREADABLE + fault)
            )

    def pages_of_letters(self) -> Iterator[list[LetterHead]]:
        """Yield the dead letters that there are, by pages in the order of their ids."""
        table = DeadLetter
        if not self._connection.has(table.__tablename__):
            return
        self._connection.refuse_unless_whole(table.__tablename__)
        size = (
            self._connection.size(table.body)
            + self._connection.size(table.headers)
            + self._connection.size(table.error)
        )
        last: int | None = None
        while rows := self._connection.page(table, size, last):
            sizes = {row.id: row.size for row in rows}
            last = rows[-1].id
            read = self._connection.by_halves(
                list(sizes),
                self._letter_heads,
                lambda number, fault: LetterHead(number, 0, b"", _UNREADABLE + fault),
            )
            yield [head._replace(size=sizes[head.id]) for part in read for head in part if head.id in sizes]

    def letters(self, heads: Sequence[LetterHead]) -> Iterator[list[FoundLetter]]:
        """Yield dead letters with all that is in them, likewise."""
        for part in parts(heads):
            yield from self._connection.by_halves(
                part, self._letters, lambda head, fault: FoundLetter(head, fault=_UNREADABLE + fault)
            )

    def type_names(self, numbers: Collection[int | None]) -> dict[int | None, str]:
        """Return the names of event types; an empty one where there is none."""
        known = self._type_names
        names = {number: known.get(number, "") for number in numbers}
        if unknown := names.keys() - known.keys() - {None}:
            statement = sa.select(EventType.id, EventType.desc).where(EventType.id.in_(unknown))
            found = {row.id: row.desc or "" for row in self._connection.rows(statement)}
            self._type_names = {**known, **found} if len(known) < _MOST_TYPES else found
            names |= found
        return names

    def _heads(self, ids: Sequence[int]) -> list[Head]:
        row = EventRow
        statement = sa.select(row.id, row.message_id, row.generated, row.event_type_id)
        rows = self._connection.rows(statement.where(row.id.between(ids[0], ids[-1])).order_by(row.id))
        return [Head(one.id, 0, one.message_id, one.generated, one.event_type_id) for one in rows]

    def _unreadable_head(self, number: int, fault: str) -> Head:
        statement = sa.select(EventRow.message_id).where(EventRow.id == number)
        try:
            message_id = self._connection.rows(statement)[0].message_id
        except StorageUnavailable:
            raise
        except Exception:  # noqa: BLE001 - it is told by its number then
            message_id = None
        return Head(number, 0, message_id, None, None, _UNREADABLE + fault)

    def _events(self, heads: Sequence[Head]) -> list[FoundEvent]:
        names = self.type_names({head.event_type_id for head in heads})
        traits = self._traits(heads)
        raw = sa.type_coerce(EventRow.raw, AnyJSONText).label("raw")
        statement = sa.select(EventRow.id, raw).where(EventRow.id.in_([one.id for one in heads]))
        raws = {row.id: row.raw for row in self._connection.rows(statement)}
        found = []
        for head in heads:
            if head.id not in raws:
                continue
            if head.generated is None:
                found.append(FoundEvent(head, None, "it has no time"))
                continue
            its, name = traits[head.id], names[head.event_type_id]
            message_id = str(head.message_id)
            if head.nameless:
                # The same each time, or a second run would store it again.
                content = f"{head.id} {name} {head.generated} {sorted(map(str, its))}"
                message_id = str(uuid.uuid5(_NAMESPACE, content))
            found.append(FoundEvent(head, Event(message_id, name, head.generated, its, raws[head.id])))
        return found

    def _traits(self, heads: Sequence[Head]) -> dict[int, list[Trait]]:
        traits: dict[int, list[Trait]] = {head.id: [] for head in heads}
        for dtype in STORED_TYPES:
            table = TRAIT_TABLES[dtype]
            # Their ids lie side by side: a range of them is found at once, however many there are.
            statement = sa.select(table.event_id, table.key, table.value).where(
                table.event_id.between(heads[0].id, heads[-1].id)
            )
            rows = self._connection.rows(statement.limit(_TRAITS) if len(heads) > 1 else statement)
            if len(rows) == _TRAITS and len(heads) > 1:
                raise TooMany
            for event_id, key, value in rows:
                if event_id in traits:
                    traits[event_id].append(Trait(key, dtype, value))
        return traits

    def _letter_heads(self, ids: Sequence[int]) -> list[LetterHead]:
        row = DeadLetter
        statement = sa.select(row.id, row.digest).where(row.id.between(ids[0], ids[-1])).order_by(row.id)
        # As MySQL gives them: other databases also keep shorter ones, which it would never find again.
        return [
            LetterHead(one.id, 0, bytes(one.digest).ljust(_DIGEST_SIZE, b"\0"))
            for one in self._connection.rows(statement)
        ]

    def _letters(self, heads: Sequence[LetterHead]) -> list[FoundLetter]:
        statement = sa.select(*DeadLetter.__table__.columns).where(DeadLetter.id.in_([h.id for h in heads]))
        rows = {row.id: row._mapping for row in self._connection.rows(statement)}
        found = []
        for head in heads:
            if row := rows.get(head.id):
                letter = Letter(**{name: row[name] for name in _LETTER_FIELDS} | {"digest": head.digest})
                times = {name: row[name] for name in ("first_at", "last_at", "attempts")}
                found.append(FoundLetter(head, letter, times))
        return found
