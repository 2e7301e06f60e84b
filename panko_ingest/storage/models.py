"""What is stored, as plain values: events, their traits, and dead letters.

``Event`` and ``Trait`` follow ``panko.storage.models``: the same names, fields and type numbers.
"""

import datetime
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from panko_ingest import timestamps

TraitValue = str | int | float | datetime.datetime | None

DEFINITION_TYPES = {"text": 1, "int": 2, "float": 3, "datetime": 4}
"""The numbers of traits' types by their names in event definitions."""

_TYPE_NAMES = {0: "none", 1: "string", 2: "integer", 3: "float", 4: "datetime"}
_TYPE_NUMBERS = {name: number for number, name in _TYPE_NAMES.items()} | DEFINITION_TYPES

MAX_MESSAGE_ID = 50
"""Characters of a message_id."""

MAX_NAME = 255
"""Characters of the name of an event type or a trait."""

MOST_KNOWN_TYPES = 10_000
"""Event types whose ids are kept in memory; with more, a worker begins to learn them anew."""

UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""What not every database stores in a text: NUL, and halves of surrogate pairs."""

SALVAGED_KEY = "_salvaged"
"""Reserved key of ``Event.raw``: a list of ``{"trait": name, "reason": text}``, one for each trait
that had to be trimmed, changed or dropped so that its event could be stored."""


def _serialized(value: TraitValue) -> str | int | float | None:
    return value.isoformat() if isinstance(value, datetime.datetime) else value


class _TraitFields(NamedTuple):
    name: str
    dtype: int
    value: TraitValue


class Trait(_TraitFields):
    """One named, typed value of an event. Datetimes are naive UTC."""

    __slots__ = ()

    NONE_TYPE = 0
    TEXT_TYPE = 1
    INT_TYPE = 2
    FLOAT_TYPE = 3
    DATETIME_TYPE = 4

    MAX_TEXT = 255
    """Characters of a text; what is longer is cut."""

    @staticmethod
    def get_type_by_name(type_name: str) -> int | None:
        """Return the number of a type by the name of definitions or of ``get_type_names``, else None."""
        return _TYPE_NUMBERS.get(type_name.lower())

    @staticmethod
    def get_type_names() -> list[str]:
        """Return the names of all types, in the order of their numbers."""
        return list(_TYPE_NAMES.values())

    @staticmethod
    def get_name_by_type(type_id: int) -> str:
        """Return the name of a type number; ``none`` for an unknown one, as Panko does."""
        return _TYPE_NAMES.get(type_id, "none")

    @classmethod
    def convert_value(cls, dtype: int, value: Any) -> TraitValue:
        """Return ``value`` as the Python type of ``dtype``, as ``panko.storage.models`` does.

        :raises ValueError: (or TypeError, OverflowError) when it can't be converted.
        """
        if dtype == cls.INT_TYPE:
            return int(value)
        if dtype == cls.FLOAT_TYPE:
            return float(value)
        if dtype == cls.DATETIME_TYPE:
            return timestamps.parse(value)
        text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
        return text[: cls.MAX_TEXT]

    def serialize(self) -> tuple[str, int, str | int | float | None]:
        """Return ``(name, dtype, value)`` with a datetime as ISO text."""
        return self.name, self.dtype, _serialized(self.value)


class Marker(str):
    """A message_id that tells the event that it is of, also where several days have an event of that id."""

    __slots__ = ("generated",)

    def __new__(cls, message_id: str, generated: datetime.datetime) -> "Marker":
        """Make one of an event's message_id and time."""
        marker = super().__new__(cls, message_id)
        marker.generated = generated
        return marker

    generated: datetime.datetime

    def __getnewargs__(self) -> tuple[str, datetime.datetime]:  # type: ignore[override]
        """Return what a copy is made of."""
        return str(self), self.generated


@dataclass(slots=True)
class Event:
    """One thing that happened in the cloud.

    ``generated`` is naive UTC; ``raw`` is ``{}`` or the notification in Ceilometer's shape.
    Any iterable of traits may be given, and None for none of them and for no raw, as to Panko's.
    """

    message_id: str
    event_type: str
    generated: datetime.datetime
    traits: list[Trait] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    SUPPORT_DIRS = ("asc", "desc")
    SUPPORT_SORT_KEYS = ("message_id", "generated")
    DEFAULT_SORT = (("generated", "asc"), ("message_id", "asc"))
    PRIMARY_KEY = "message_id"

    def __post_init__(self) -> None:
        """Put what is empty in the place of None, and a list in that of an iterator."""
        if self.traits.__class__ is not list:
            self.traits = list(self.traits or ())
        if self.raw is None:
            self.raw = {}

    @property
    def marker(self) -> str:
        """What a list goes on behind, as text: the message_id, and the time where several may have it."""
        return (
            f"{self.message_id}@{self.generated.isoformat()}"
            if isinstance(self.message_id, Marker)
            else self.message_id
        )

    def append_trait(self, trait: Trait) -> None:
        """Add one trait."""
        self.traits.append(trait)

    def serialize(self) -> dict[str, Any]:
        """Return the event as a JSON-ready dict, as Ceilometer's publisher sends it."""
        return {
            "message_id": self.message_id,
            "event_type": self.event_type,
            # None in adopted tables whose writer left it out
            "generated": _serialized(self.generated),
            "traits": [trait.serialize() for trait in self.traits],
            "raw": self.raw,
        }


@dataclass(slots=True)
class DeadLetter:
    """A delivered message that can never become a stored event, and why.

    ``body`` is the delivered bytes, never decompressed; ``digest`` identifies the message:
    SHA-256 over queue, content_type, content_encoding and the original body. ``stage`` is one of
    ``errors.STAGES``.
    """

    digest: bytes
    body: bytes
    stage: str
    error_class: str
    error: str
    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    exchange: str = ""
    routing_key: str = ""
    queue: str = ""
    message_id: str | None = None
    event_type: str | None = None
    redacted: bool = False


@dataclass(frozen=True)
class DeadLetterSummary:
    """What a list shows of a dead letter: all but its body and headers; times in naive UTC, size in bytes."""

    id: int
    first_at: datetime.datetime
    last_at: datetime.datetime
    attempts: int
    stage: str
    error_class: str
    error: str
    message_id: str | None
    event_type: str | None
    queue: str
    size: int


@dataclass(frozen=True)
class StoredDeadLetter:
    """A dead letter as it is stored: how often it came, and when first and last (naive UTC)."""

    id: int
    first_at: datetime.datetime
    last_at: datetime.datetime
    attempts: int
    letter: DeadLetter


class LockWait(NamedTuple):
    """Something that our sessions wait for: who holds it, as far as our role may see."""

    holder: str
    seconds: float | None
    """How long the holder's transaction has lasted; None where that can't be seen."""

    def __str__(self) -> str:
        since = "" if self.seconds is None else f", in a transaction that began {self.seconds:.0f} s ago"
        return f"{self.holder}{since}"
