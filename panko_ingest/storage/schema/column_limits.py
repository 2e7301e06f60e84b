"""What the live schema can hold. An adopted database may be narrower than the one we declare."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from panko_ingest.storage.database import base as databases
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.models import MAX_MESSAGE_ID, MAX_NAME, Trait
from panko_ingest.storage.schema import unfit_tables
from panko_ingest.storage.tables import DeadLetter, Event, EventType, TraitInt, TraitText

_INT32, _INT64 = 2**31, 2**63
_HUGE = 2**28


@dataclass(frozen=True)
class ColumnLimits:
    """Lengths are in characters, sizes in bytes.

    ``fold`` maps the names that the database takes for the same to one. The charsets tell what of Unicode
    columns can hold, ``charset`` those of traits: all, what is before U+10000, or as little as cp1252 or
    ASCII has. ``nul`` says that U+0000 can be stored, ``fraction_before_1970`` that Panko's API can read a
    time before 1970 that has a fraction of a second. ``packet_bytes`` is the most that one statement may
    have, values included.
    """

    message_id: int = MAX_MESSAGE_ID
    event_type: int = MAX_NAME
    key: int = MAX_NAME
    text: int = Trait.MAX_TEXT
    smallest_int: int = -_INT64
    largest_int: int = _INT64 - 1
    raw_bytes: int = _HUGE
    packet_bytes: int = _HUGE
    fold: Callable[[str], str] = str
    charset: str = "utf8mb4"
    id_charset: str = "utf8mb4"
    type_charset: str = "utf8mb4"
    raw_charset: str = "utf8mb4"
    nul: bool = True
    fraction_before_1970: bool = True


def read_limits(connection: sa.Connection) -> ColumnLimits:
    """Return the limits of the schema behind a connection.

    :raises StorageUnavailable: the tables are not there, or rows of ours don't go into them.
    """
    unfit_tables.refuse(connection)
    tables = [table.__tablename__ for table in (EventType, Event, TraitText, TraitInt, DeadLetter)]
    reflected = sa.inspect(connection).get_multi_columns(filter_names=tables)
    columns: dict[tuple[str, str], Any] = {
        (table, column["name"]): getattr(column["type"], "data_type", column["type"])  # of a domain
        for (_, table), table_columns in reflected.items()
        for column in table_columns
    }
    missing = sorted(set(tables) - {table for table, _ in columns})
    if missing:
        raise StorageUnavailable(
            f"the database has no table {', '.join(missing)}: run `panko-ingest db sync`", operator=True
        )
    int_size = _INT64 if isinstance(columns["trait_int", "value"], sa.BigInteger) else _INT32
    limits: dict[str, Any] = {
        "message_id": _length(columns["event", "message_id"]) or MAX_MESSAGE_ID,
        "event_type": _length(columns["event_type", "desc"]) or MAX_NAME,
        "key": _length(columns["trait_text", "key"]) or MAX_NAME,
        "text": _length(columns["trait_text", "value"]) or Trait.MAX_TEXT,
        "smallest_int": -int_size,
        "largest_int": int_size - 1,
        **databases.of(connection).limits(connection),
    }
    return ColumnLimits(**limits)


def _length(kind: Any) -> int | None:
    """Return the most characters of a type; None where it sets no bound, or SQLAlchemy does not know it."""
    return getattr(kind, "length", None)
