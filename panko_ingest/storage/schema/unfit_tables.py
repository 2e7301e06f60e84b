"""Tables of our names, adopted or changed by an operator, that rows of ours don't go into as they are.

The daemon waits where a column would hold something else than it is given, and ``db check`` tells of it.
``db sync`` makes most of them right: it refuses those whose values it would change without a word.
``db merge`` refuses what it can't read.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import sqlalchemy as sa

from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.tables import Base, DeadLetter, Event, EventType

_Types = dict[str, dict[str, str]]
"""Types of columns by the dialect and by the first word of the type that we declare."""

_FITTING: _Types = {
    "postgresql": {
        "VARCHAR": r"character varying.*|text|(.*\.)?citext",
        "TEXT": r"character varying.*|text|(.*\.)?citext",
        "BIGINT": r"smallint|integer|bigint|numeric(\(\d+,0\))?",
        "INTEGER": "smallint|integer|bigint",
        "DOUBLE": "double precision|real|numeric.*",
        "TIMESTAMP": r"timestamp(\(\d\))? without time zone",
        "BYTEA": "bytea",
        "BOOLEAN": "boolean",
    },
    "mysql": {
        "VARCHAR": r"(var)?char\(.*|\w*text.*",
        "LONGTEXT": r"(var)?char\(.*|\w*text.*|\w*blob.*|json",
        "BIGINT": r"\w*int\b.*|decimal\(\d+,0\).*",
        "INTEGER": r"\w*int\b.*",
        "BOOL": r"\w*int\b.*",
        "DOUBLE": "(double|float|decimal).*",
        "DECIMAL": r"decimal\(\d+,([6-9]|\d\d)\).*",
        "BINARY": r"(var)?binary\(.*|\w*blob.*",
        "LONGBLOB": r"\w*blob.*",
    },
}
_SPOILED_BY_SYNC: _Types = {
    "postgresql": {"BIGINT": r"double precision|real|numeric\(\d+,[1-9]\d*\)", "TEXT": "bytea"},
    "mysql": {"BIGINT": r"(double|float|decimal\(\d+,[1-9]).*", "DECIMAL": "(date|time|year).*"},
}
_UNREADABLE: _Types = {
    "postgresql": {
        "VARCHAR": r"uuid|bytea|character\(.*",
        "TEXT": "jsonb?",
        "TIMESTAMP": "(?!timestamp).*",
    },
    "mysql": {"VARCHAR": r"(var)?binary\(.*|\w*blob.*", "DECIMAL": "(?!decimal).*"},
}
# Of a domain what it is over. An old server has no to_regclass() of a text.
_LIVE = {
    "postgresql": """
SELECT relname, relkind, attname, attnotnull, CASE typtype WHEN 'd' THEN format_type(typbasetype, typtypmod)
    ELSE format_type(atttypid, atttypmod) END
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
JOIN pg_type ON pg_type.oid = atttypid
WHERE relname = ANY(%(tables)s) AND pg_table_is_visible(pg_class.oid) ORDER BY relname, attnum
""",
    # Without a name for its schema the server would open the tables of all.
    "mysql": """
SELECT tables.table_name, table_type, column_name, is_nullable = 'NO', column_type
FROM information_schema.columns JOIN information_schema.tables
    ON tables.table_schema = DATABASE() AND tables.table_name = columns.table_name
WHERE columns.table_schema = DATABASE() AND columns.table_name IN %(tables)s
ORDER BY tables.table_name, ordinal_position
""",
}
_TABLES = {"r", "p", "BASE TABLE", "SYSTEM VERSIONED"}
_MAY_MEET_STORED_ROWS = [table.__tablename__ for table in (EventType, Event, DeadLetter)]
# A statement that may meet a stored row is refused beside them.
_RULES = """
SELECT relname, quote_ident(rulename) FROM pg_rewrite JOIN pg_class ON pg_class.oid = ev_class
WHERE ev_type IN ('2', '3') AND ev_enabled IN ('O', 'A') AND relkind IN ('r', 'p')
AND relname = ANY(%(tables)s) AND pg_table_is_visible(pg_class.oid) ORDER BY 1, 2
"""
_DEFERRABLE = """
SELECT relname, quote_ident(conname), regexp_replace(pg_get_constraintdef(one.oid), ' DEFERRABLE.*', '')
FROM pg_constraint one JOIN pg_class ON pg_class.oid = conrelid WHERE condeferrable AND contype IN ('p', 'u')
AND relname = ANY(%(tables)s) AND pg_table_is_visible(pg_class.oid) ORDER BY 1, 2
"""
# What a trigger gives may be missing in one event and not in another.
_NEVER_FILLED = """
SELECT relname, attname, quote_ident(attname)
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN pg_type ON pg_type.oid = atttypid
WHERE attnum > 0 AND attnotnull AND NOT atthasdef AND attidentity = '' AND typdefault IS NULL
AND NOT attisdropped AND relkind IN ('r', 'p') AND relname = ANY(%(tables)s)
AND pg_table_is_visible(pg_class.oid) AND NOT EXISTS
    (SELECT FROM pg_trigger WHERE tgrelid = pg_class.oid AND NOT tgisinternal AND tgtype & 7 = 7)
ORDER BY relname, attnum
"""
_NUMBERED_BY_SERVER = {EventType.__tablename__, DeadLetter.__tablename__}


class _Live(NamedTuple):
    """A column of a table, or of what is in its place."""

    table: str
    kind: str
    column: str
    required: bool
    type: str


def unfit_tables(connection: sa.Connection) -> Iterator[str]:
    """Yield what keeps rows from being stored and read as they are, each with what mends it."""
    live = _live(connection)
    yield from _no_tables(live)
    for one, kind, mend in _columns(connection, live):
        if not re.fullmatch(_FITTING[connection.dialect.name][kind], one.type):
            yield _told(one, mend)
    if connection.dialect.name == "postgresql":
        given = {"tables": _MAY_MEET_STORED_ROWS}
        for table, name, clause in connection.exec_driver_sql(_DEFERRABLE, given):
            yield (
                f"{name} of {table} is deferrable, beside which no single events can be stored: "
                f"ALTER TABLE {table} DROP CONSTRAINT {name}, ADD {clause}"
            )
        for table, rule in connection.exec_driver_sql(_RULES, given):
            yield (
                f"the rule {rule} of {table} does not see what comes in batches, and refuses single events: "
                f"DROP RULE {rule} ON {table}, and let a trigger do its work"
            )
        yield from _never_filled(connection)


def refuse(connection: sa.Connection) -> None:
    """Return if rows of ours go into the tables that are there.

    :raises StorageUnavailable: they don't, saying what mends it.
    """
    _refuse(unfit_tables(connection))


def refuse_to_spoil(connection: sa.Connection) -> None:
    """Return if ``db sync`` keeps what is in the tables that are there.

    :raises StorageUnavailable: it doesn't, saying what mends it.
    """
    live = _live(connection)
    _refuse([*_no_tables(live), *_listed(connection, live, _SPOILED_BY_SYNC)])


def unreadable_columns(connection: sa.Connection, table: str) -> Iterator[str]:
    """Yield which columns of a table can't be read as ours are."""
    yield from _listed(connection, [one for one in _live(connection) if one.table == table], _UNREADABLE)


def _refuse(found: Iterable[str]) -> None:
    if text := "\n".join(found):
        raise StorageUnavailable(text, operator=True)


def _live(connection: sa.Connection) -> list[_Live]:
    statement = _LIVE.get(connection.dialect.name)
    if statement is None:
        return []  # SQLite's columns hold anything
    return [
        _Live(*row) for row in connection.exec_driver_sql(statement, {"tables": list(Base.metadata.tables)})
    ]


def _no_tables(live: Iterable[_Live]) -> Iterator[str]:
    for name in sorted({one.table for one in live if one.kind not in _TABLES}):
        yield f"{name} is no table, and events need one: give it another name, and put a table in its place"


def _never_filled(connection: sa.Connection) -> Iterator[str]:
    """Yield the columns that need a value, get none of their own, and none from rows of ours."""
    for table, column, name in connection.exec_driver_sql(
        _NEVER_FILLED, {"tables": list(Base.metadata.tables)}
    ):
        mend = f"ALTER TABLE {table} ALTER COLUMN {name}"
        if column not in Base.metadata.tables[table].columns:
            yield f"{table}.{column} must have a value, and gets none: {mend} DROP NOT NULL, or SET DEFAULT"
        elif column == "id" and table in _NUMBERED_BY_SERVER:
            numbers = f"setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"
            yield (
                f"nothing numbers the rows of {table}: {mend} ADD GENERATED BY DEFAULT AS IDENTITY; "
                f"SELECT {numbers}"
            )


def _columns(connection: sa.Connection, live: Iterable[_Live]) -> Iterator[tuple[_Live, str, str]]:
    """Yield the columns that we declare, with the first word of their type, and what gives them that type."""
    for one in live:
        column = Base.metadata.tables[one.table].columns.get(one.column)
        if one.kind in _TABLES and column is not None:
            wanted = column.type.compile(connection.dialect)
            yield one, wanted.split("(")[0].split()[0], _mend(connection, one, wanted)


def _listed(connection: sa.Connection, live: Iterable[_Live], types: _Types) -> Iterator[str]:
    for one, kind, mend in _columns(connection, live):
        if re.fullmatch(types[connection.dialect.name].get(kind, ""), one.type):
            yield _told(one, mend)


def _told(one: _Live, mend: str) -> str:
    return f"{one.table}.{one.column} is {one.type}, which does not keep it as events are kept: {mend}"


def _mend(connection: sa.Connection, one: _Live, wanted: str) -> str:
    name = connection.dialect.identifier_preparer.quote(one.column)
    if connection.dialect.name == "postgresql":
        value = f"{name}::{wanted}"
        if one.type.endswith("with time zone"):
            value = f"{name} AT TIME ZONE 'UTC'"
        elif wanted.startswith("TIMESTAMP") and re.match("double|real|numeric|.*int", one.type):
            value = f"to_timestamp({name}) AT TIME ZONE 'UTC'"
        elif one.type == "bytea":
            value = f"convert_from({name}, 'UTF8')"
        return f"ALTER TABLE {one.table} ALTER COLUMN {name} TYPE {wanted} USING {value}"
    required = " NOT NULL" if one.required else ""
    if wanted.startswith("DECIMAL") and one.type.startswith(("datetime", "timestamp")):
        # MODIFY would make 20260301120000 of noon. A timestamp is seen in the session's zone.
        seconds = f"TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {name}) * 0.000001"
        return (
            f"SET time_zone = '+00:00'; ALTER TABLE {one.table} ADD in_seconds {wanted}; "  # noqa: S608 - to be read
            f"UPDATE {one.table} SET in_seconds = {seconds}; ALTER TABLE {one.table} DROP COLUMN {name}, "
            f"CHANGE in_seconds {name} {wanted}{required}"
        )
    text = " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if "CHAR" in wanted or "TEXT" in wanted else ""
    return f"ALTER TABLE {one.table} MODIFY {name} {wanted}{text}{required}"
