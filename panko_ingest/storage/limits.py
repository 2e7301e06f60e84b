"""What the live schema can hold. An adopted database may be narrower than the one we declare."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.tables import DeadLetter, Event, EventType, TraitInt, TraitText

_INT32, _INT64 = 2**31, 2**63
_PACKET_OVERHEAD = 64 * 1024
_HUGE = 2**28


def same_name(name: str) -> str:
    """Fold nothing: names that differ at all are different."""
    return name


def _without_padding(name: str) -> str:
    return name.rstrip(" ")


def _without_case(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name)
    return "".join(char for char in decomposed if not unicodedata.combining(char)).casefold().rstrip(" ")


@dataclass(frozen=True)
class Limits:
    """Lengths are in characters, sizes in bytes.

    ``fold`` maps the names that the database takes for the same to one. ``bmp_only`` says that
    characters beyond U+FFFF can't be stored, ``nul`` that U+0000 can, ``fraction_before_1970`` that
    Panko's API can read a time before 1970 that has a fraction of a second.
    """

    message_id: int = 50
    event_type: int = 255
    key: int = 255
    text: int = 255
    smallest_int: int = -_INT64
    largest_int: int = _INT64 - 1
    raw_bytes: int = _HUGE
    body_bytes: int = _HUGE
    fold: Callable[[str], str] = same_name
    bmp_only: bool = False
    nul: bool = True
    fraction_before_1970: bool = True


def read_limits(connection: sa.Connection) -> Limits:
    """Return the limits of the schema behind a connection.

    :raises StorageUnavailable: the tables are not there.
    """
    tables = [table.__tablename__ for table in (EventType, Event, TraitText, TraitInt, DeadLetter)]
    reflected = sa.inspect(connection).get_multi_columns(filter_names=tables)
    columns: dict[tuple[str, str], Any] = {
        (table, column["name"]): column["type"]
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
        "message_id": columns["event", "message_id"].length or 50,
        "event_type": columns["event_type", "desc"].length or 255,
        "key": columns["trait_text", "key"].length or 255,
        "text": columns["trait_text", "value"].length or 255,
        "smallest_int": -int_size,
        "largest_int": int_size - 1,
        "nul": connection.dialect.name != "postgresql",
    }
    if connection.dialect.name == "mysql":
        limits |= _mysql_limits(connection)
    return Limits(**limits)


def _mysql_limits(connection: sa.Connection) -> dict[str, Any]:
    packet = connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one()
    found = connection.exec_driver_sql(
        "SELECT table_name, column_name, character_octet_length, character_set_name, collation_name "
        "FROM information_schema.columns WHERE table_schema = DATABASE() "
        "AND (table_name, column_name) IN (('event', 'raw'), ('trait_text', 'key'), ('trait_text', 'value'))"
    )
    columns = {(row[0], row[1]): row for row in found}
    # Quoting at worst doubles a value.
    sendable = (packet - _PACKET_OVERHEAD) // 2
    return {
        "raw_bytes": min(columns["event", "raw"][2], sendable),
        "body_bytes": sendable,
        "fold": _folding(columns["trait_text", "key"][4]),
        "bmp_only": columns["trait_text", "value"][3] in {"utf8", "utf8mb3"},
        "fraction_before_1970": False,
    }


def _folding(collation: str) -> Callable[[str], str]:
    if collation.endswith("_bin"):
        return same_name if "nopad" in collation or "0900" in collation else _without_padding
    return _without_case
