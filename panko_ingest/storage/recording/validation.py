"""Events into rows that the database will take: what does not fit is salvaged or refused here.

A trait that can't be stored as it is gets trimmed, changed or dropped, and its event's raw says so
under ``SALVAGED_KEY``; an event whose own fields don't fit is refused, alone. Almost every event is
fine, so the common way is a few cheap checks, and only what fails one of them is looked at closely.
"""

import datetime
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from panko_ingest import guarded_log, timestamps
from panko_ingest.storage.errors import StorageError
from panko_ingest.storage.models import SALVAGED_KEY, Event, Trait, TraitValue
from panko_ingest.storage.schema.column_limits import ColumnLimits
from panko_ingest.storage.tables import EPOCH, TRAIT_TABLES

LOG = guarded_log.logger_about_messages(__name__)

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_MAX_KNOWN_KEYS = 10_000
_TEXT, _INT, _FLOAT, _DATETIME = Trait.TEXT_TYPE, Trait.INT_TYPE, Trait.FLOAT_TYPE, Trait.DATETIME_TYPE


@dataclass(slots=True)
class Row:
    """One event as it is going to be written: traits by table, raw as JSON text."""

    index: int
    message_id: str
    event_type: str
    generated: datetime.datetime
    raw: str = "{}"
    changes: int = 0
    """How many of its traits were trimmed, changed or dropped."""
    texts: list[Trait] = field(default_factory=list)
    ints: list[Trait] = field(default_factory=list)
    floats: list[Trait] = field(default_factory=list)
    datetimes: list[Trait] = field(default_factory=list)


class _Unstorable(Exception):
    """Why a trait is dropped."""


class Validator:
    """Turns events into rows within the limits of one schema."""

    def __init__(self, limits: ColumnLimits) -> None:
        self.limits = limits
        self._keys: dict[str, str] = {}
        self._bad_characters = _characters_beyond(limits.charset, nul=limits.nul)
        self._bad_in_ids = _characters_beyond(limits.id_charset, nul=limits.nul)
        self._bad_in_types = _characters_beyond(limits.type_charset, nul=limits.nul)
        self._replacement = REPLACEMENT if limits.charset.startswith("utf8") else "?"

    def rows(self, events: Sequence[Event]) -> tuple[list[Row], dict[int, Exception]]:
        """Return the rows of the events that can be stored, and the errors of the others by their index."""
        rows: list[Row] = []
        failures: dict[int, Exception] = {}
        for index, event in enumerate(events):
            try:
                row = self._plain_row(index, event) or self._salvaged_row(index, event)
            except StorageError as error:
                failures[index] = error
            except Exception as error:
                LOG.exception("Unforeseen error while an event was looked at: it fails alone")
                failures[index] = error
            else:
                rows.append(row)
        return rows, failures

    def text(self, value: str, length: int) -> str:
        """Return text that a column of that length takes."""
        return self._bad_characters.sub(self._replacement, value)[:length]

    def _plain_row(self, index: int, event: Event) -> Row | None:
        """Return the row of an event in which all is as it should be; None for any other."""
        if event.traits.__class__ is not list:
            # An iterator gives them once, and they are looked at more often, also by another try.
            event.traits = list(event.traits or ())
        row = Row(index, event.message_id, event.event_type, event.generated)
        if not self._plain_event(event) or not self._plain_keys(event) or not self._sort_traits(event, row):
            return None
        if event.raw != {}:
            row.raw = self.raw_text(event.raw)
        return row if self._plain_texts(row) and self._raw_fits(row.raw) else None

    def _sort_traits(self, event: Event, row: Row) -> bool:
        """Put traits into the row by table; tell whether each is of its type and within its range."""
        max_text, smallest, largest = self.limits.text, self.limits.smallest_int, self.limits.largest_int
        add_text = row.texts.append
        value: Any
        for trait in event.traits:
            dtype, value = trait[1], trait[2]  # quicker than to unpack a named tuple
            kind = value.__class__
            if dtype == _TEXT and kind is str and len(value) <= max_text:
                add_text(trait)
            elif dtype == _INT and kind is int and smallest <= value <= largest:
                row.ints.append(trait)
            elif dtype == _DATETIME and kind is datetime.datetime and self._plain_time(value):
                row.datetimes.append(trait)
            elif dtype == _FLOAT and kind is float and math.isfinite(value):
                row.floats.append(trait)
            else:
                return False
        return True

    def _plain_keys(self, event: Event) -> bool:
        """Tell whether the names of the traits can be stored as they are, and are all different."""
        keys = self._keys
        try:
            return len({keys[trait[0]] for trait in event.traits}) == len(event.traits)
        except (KeyError, TypeError):
            return self._learn_keys(event)

    def _plain_event(self, event: Event) -> bool:
        return (
            type(event.message_id) is str
            and len(event.message_id) <= self.limits.message_id
            and event.message_id.strip() != ""
            and type(event.event_type) is str
            and len(event.event_type) <= self.limits.event_type
            and event.event_type.strip() != ""
            and type(event.generated) is datetime.datetime
            and self._plain_time(event.generated)
        )

    def _plain_time(self, moment: datetime.datetime) -> bool:
        return moment.tzinfo is None and (
            self.limits.fraction_before_1970 or moment >= EPOCH or not moment.microsecond
        )

    def _plain_texts(self, row: Row) -> bool:
        texts: Any = [trait[2] for trait in row.texts]
        joined = "".join([row.message_id, row.event_type, *texts])
        if joined.isascii():
            return self.limits.nul or "\0" not in joined
        return not (
            self._bad_in_ids.search(row.message_id)
            or self._bad_in_types.search(row.event_type)
            or self._bad_characters.search("".join(texts))
        )

    def _learn_keys(self, event: Event) -> bool:
        """Note the names that are new; tell whether all names of the event can be stored as they are."""
        names = [trait.name for trait in event.traits]
        if not all(
            type(name) is str and len(name) <= self.limits.key and self._bad_characters.search(name) is None
            for name in names
        ):
            return False
        folded = {name: self.limits.fold(name) for name in names}
        # Another thread may be reading: what it has begun with stays as it is, or gets more.
        if len(self._keys) > _MAX_KNOWN_KEYS:
            self._keys = folded
        else:
            self._keys.update(folded)
        return len(set(folded.values())) == len(names)

    def _salvaged_row(self, index: int, event: Event) -> Row:
        """Return the row of an event with whatever of its traits can be stored.

        :raises StorageError: the event itself can't be stored.
        """
        reasons: list[dict[str, str]] = []
        row = Row(
            index,
            self._name(event, "message_id", self.limits.message_id, self._bad_in_ids),
            self._name(event, "event_type", self.limits.event_type, self._bad_in_types),
            self._time("generated", self._generated(event), reasons),
        )
        taken: set[tuple[int, str]] = set()
        for trait in event.traits:
            try:
                self._add(row, *trait, taken, reasons)
            except _Unstorable as reason:
                reasons.append({"trait": self.text(str(trait[0]), self.limits.key), "reason": str(reason)})
        row.raw = self._raw_with(event.raw, reasons)
        row.changes = len(reasons)
        return row

    def _name(self, event: Event, column: str, length: int, bad: re.Pattern[str]) -> str:
        value = _exact_text(getattr(event, column))
        if value is None:
            raise StorageError(f"{column} is a {type(getattr(event, column)).__name__}, not text")
        if len(value) > length:
            raise StorageError(f"{column} has {len(value)} characters; the column takes {length}")
        if bad.search(value):
            raise StorageError(f"{column} has a character that the database can't store: {value!a}")
        if not value.strip():
            raise StorageError(f"{column} is blank, which names nothing")
        return value

    def _generated(self, event: Event) -> datetime.datetime:
        try:
            return timestamps.parse(event.generated)
        except (ValueError, TypeError, OverflowError) as error:
            raise StorageError(f"generated is no time: {event.generated!r}") from error

    def _time(self, name: str, moment: datetime.datetime, reasons: list[dict[str, str]]) -> datetime.datetime:
        if self._plain_time(moment):
            return moment
        reasons.append({"trait": name, "reason": "fraction of a second before 1970 dropped"})
        return moment.replace(microsecond=0)

    def _add(
        self,
        row: Row,
        name: Any,
        dtype: int,
        value: TraitValue,
        taken: set[tuple[int, str]],
        reasons: list[dict[str, str]],
    ) -> None:
        """Add one trait to a row, as much of it as can be stored.

        :raises _Unstorable: nothing of it can.
        """
        key = self._key(name, reasons)
        dtype = dtype or Trait.NONE_TYPE  # Panko's Trait takes None for it
        if dtype not in TRAIT_TABLES:
            raise _Unstorable(f"dropped: there is no type {dtype!r}")
        # Traits without a type live with the texts.
        place = (dtype or Trait.TEXT_TYPE, self.limits.fold(key))
        if place in taken:
            raise _Unstorable("dropped: the event has another trait of that name and type")
        if value is not None:
            value = self._value(key, dtype, value, reasons)
        taken.add(place)
        columns = {_INT: row.ints, _FLOAT: row.floats, _DATETIME: row.datetimes}
        columns.get(dtype, row.texts).append(Trait(key, dtype, value))

    def _key(self, given: Any, reasons: list[dict[str, str]]) -> str:
        name = _exact_text(given)
        if name is None:
            raise _Unstorable(f"dropped: its name is a {type(given).__name__}, not text")
        if len(name) > self.limits.key:
            raise _Unstorable(
                f"dropped: its name has {len(name)} characters; the column takes {self.limits.key}"
            )
        key = self.text(name, self.limits.key)
        if key != name:
            reasons.append({"trait": key, "reason": "name had characters that the database can't store"})
        return key

    def _value(self, key: str, dtype: int, value: Any, reasons: list[dict[str, str]]) -> TraitValue:
        if dtype in {Trait.NONE_TYPE, Trait.TEXT_TYPE}:
            return self._text_value(key, value, reasons)
        try:
            converted = Trait.convert_value(dtype, value)
        except (ValueError, TypeError, OverflowError) as error:
            raise _Unstorable(f"dropped: is no {Trait.get_name_by_type(dtype)}") from error
        if isinstance(converted, datetime.datetime):
            return self._time(key, converted, reasons)
        if isinstance(converted, float) and not math.isfinite(converted):
            raise _Unstorable(f"dropped: {converted} is not finite")
        if isinstance(converted, int):
            smallest, largest = self.limits.smallest_int, self.limits.largest_int
            if not smallest <= converted <= largest:
                raise _Unstorable(f"dropped: is not within {smallest} and {largest}")
        return converted

    def _text_value(self, key: str, value: Any, reasons: list[dict[str, str]]) -> str:
        text = _exact_text(value)
        if text is None:
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        if len(text) > self.limits.text:
            reasons.append({"trait": key, "reason": f"trimmed from {len(text)} characters"})
            text = text[: self.limits.text]
        clean = self._bad_characters.sub(self._replacement, text)
        if clean != text:
            reasons.append({"trait": key, "reason": "had characters that the database can't store"})
        return clean

    def _raw_with(self, raw: Any, reasons: list[dict[str, str]]) -> str:
        """Return raw as text that fits, with the reasons in it."""
        text = self.raw_text(_with_reasons(raw, reasons) if reasons else raw)
        if self._raw_fits(text):
            return text
        reasons.append({"trait": "raw", "reason": f"dropped: {len(text)} characters are too many"})
        text = self.raw_text({SALVAGED_KEY: reasons})
        return text if self._raw_fits(text) else self.raw_text({SALVAGED_KEY: reasons[-1:]})

    def _raw_fits(self, text: str) -> bool:
        limit = self.limits.raw_bytes
        return len(text) * 4 <= limit or len(text.encode()) <= limit

    def raw_text(self, raw: Any) -> str:
        """Return a JSON value as text that any strict parser reads."""
        if self.limits.raw_charset == "utf8mb4":
            try:
                return orjson.dumps(raw).decode()
            except TypeError:
                pass  # what JSON text can say and orjson can't: integers beyond 64 bits, lone surrogates
        return json.dumps(_clean(raw), separators=(",", ":"), default=str)


def _characters_beyond(charset: str, *, nul: bool) -> re.Pattern[str]:
    """Return what finds a character that can't be stored in a character set, as ``ColumnLimits`` calls it."""
    if charset.startswith("utf8"):
        bad = "\ud800-\udfff" + ("" if nul else "\0")
        return re.compile(f"[{bad}\U00010000-\U0010ffff]" if charset == "utf8mb3" else f"[{bad}]")
    good = bytes(range(0 if nul else 1, 256)).decode(charset, "ignore")
    return re.compile(f"[^{re.escape(good)}]")


def _exact_text(value: Any) -> str | None:
    """Return a text as what it holds, whatever a subclass shows in its place; None for what is no text."""
    return str.__str__(value) if isinstance(value, str) else None


def _with_reasons(raw: Any, reasons: list[dict[str, str]]) -> dict[str, Any]:
    """Return raw with the reasons in it; what is no object, as another program may have left it, in one."""
    whole = raw if isinstance(raw, dict) else {"raw": raw}
    before = whole.get(SALVAGED_KEY, [])
    return {**whole, SALVAGED_KEY: [*(before if isinstance(before, list) else [before]), *reasons]}


def _clean(value: Any) -> Any:
    """Return a JSON value without what strict parsers refuse: NaN, infinity, lone surrogates."""
    if isinstance(value, dict):
        return {_clean(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, str):
        return value if value.isascii() else re.sub("[\ud800-\udfff]", REPLACEMENT, value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
