"""Tables of our names, adopted or changed by an operator, that rows of ours don't go into as they are.

A wrong type of a column is refused before anything is written: some databases would store another value
without a word, and change what is there to another one when the column is altered.
"""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

import sqlalchemy as sa

from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.tables import EVENT_TABLES, Base

# By the first word of the type that we declare.
_FITTING = {
    "postgresql": {
        "VARCHAR": r"character varying.*|text|(\w+\.)?citext",
        "TEXT": "character varying.*|text",
        "BIGINT": "smallint|integer|bigint",
        "INTEGER": "smallint|integer|bigint",
        "DOUBLE": "double precision|numeric",
        "TIMESTAMP": r"timestamp(\(\d\))? without time zone",
        "BYTEA": "bytea",
        "BOOLEAN": "boolean",
    },
    "mysql": {
        "VARCHAR": r"(var)?char\(.*|\w*text",
        "LONGTEXT": r"(var)?char\(.*|\w*text|\w*blob",
        "BIGINT": r"\w*int\b.*",
        "INTEGER": r"\w*int\b.*",
        "BOOL": r"\w*int\b.*",
        "DOUBLE": "double|float",
        "DECIMAL": r"decimal\(\d+,6\)",
        "BINARY": r"(var)?binary\(.*|\w*blob",
        "LONGBLOB": r"\w*blob",
    },
}
_LIVE = {
    "postgresql": """
SELECT relname, relkind, attname, format_type(atttypid, atttypmod), attnotnull
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
WHERE pg_class.oid IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name)
ORDER BY relname, attnum
""",
    "mysql": """
SELECT table_name, table_type, column_name, column_type, is_nullable = 'NO'
FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
WHERE table_schema = DATABASE() AND table_name IN %(tables)s ORDER BY table_name, ordinal_position
""",
}
_TABLES = {"r", "p", "BASE TABLE", "SYSTEM VERSIONED"}
# COPY passes rules over, and a statement that may meet a stored event is refused beside them.
_RULES = """
SELECT relname, rulename FROM pg_rewrite JOIN pg_class ON pg_class.oid = ev_class
WHERE ev_type = '3' AND relkind IN ('r', 'p')
AND ev_class IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name) ORDER BY 1, 2
"""
_DEFERRABLE = """
SELECT relname, quote_ident(conname), regexp_replace(pg_get_constraintdef(one.oid), ' DEFERRABLE.*', '')
FROM pg_constraint one JOIN pg_class ON pg_class.oid = conrelid WHERE condeferrable AND contype IN ('p', 'u')
AND conrelid IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name) ORDER BY 1, 2
"""


class _Live(NamedTuple):
    """A column of a table, or of what is in its place."""

    table: str
    kind: str
    column: str
    type: str
    required: bool


def unfit_tables(connection: sa.Connection) -> Iterator[str]:
    """Yield what keeps rows from being stored and read as they are, each with what mends it."""
    for name in sorted({one.table for one in _live(connection) if one.kind not in _TABLES}):
        yield f"{name} is no table, and events need one: give it another name, and put a table in its place"
    yield from unfit_columns(connection, list(Base.metadata.tables))
    if connection.dialect.name == "postgresql":
        given = {"tables": list(Base.metadata.tables)}
        for table, name, clause in connection.exec_driver_sql(_DEFERRABLE, given):
            yield (
                f"{name} of {table} is deferrable, beside which no single events can be stored: "
                f"ALTER TABLE {table} DROP CONSTRAINT {name}, ADD {clause}"
            )
        for table, rule in connection.exec_driver_sql(_RULES, {"tables": list(EVENT_TABLES)}):
            yield (
                f"the rule {rule} of {table} does not see what comes in batches, and refuses single events: "
                f"DROP RULE {rule} ON {table}, and let a trigger do its work"
            )


def unfit_columns(connection: sa.Connection, tables: Collection[str]) -> Iterator[str]:
    """Yield which columns of these tables are of a type that keeps something else than ours does."""
    for one in _live(connection):
        column = Base.metadata.tables[one.table].columns.get(one.column)
        if one.kind not in _TABLES or one.table not in tables or column is None:
            continue
        wanted = column.type.compile(connection.dialect)
        kind = wanted.split("(")[0].split()[0]
        if not re.fullmatch(_FITTING[connection.dialect.name][kind], one.type):
            mend = _mend(connection, one, wanted)
            yield f"{one.table}.{one.column} is {one.type}, which does not keep it as events are kept: {mend}"


def refuse(connection: sa.Connection) -> None:
    """Return if rows of ours go into the tables that are there.

    :raises StorageUnavailable: they don't, saying what mends it.
    """
    if found := list(unfit_tables(connection)):
        raise StorageUnavailable("\n".join(found), operator=True)


def _live(connection: sa.Connection) -> list[_Live]:
    statement = _LIVE.get(connection.dialect.name)
    if statement is None:
        return []  # SQLite's columns hold anything
    return [
        _Live(*row) for row in connection.exec_driver_sql(statement, {"tables": list(Base.metadata.tables)})
    ]


def _mend(connection: sa.Connection, one: _Live, wanted: str) -> str:
    name = connection.dialect.identifier_preparer.quote(one.column)
    if connection.dialect.name == "postgresql":
        zone = " USING {0} AT TIME ZONE 'UTC'" if one.type.endswith("with time zone") else ""
        return f"ALTER TABLE {one.table} ALTER COLUMN {name} TYPE {wanted}{zone.format(name)}"
    required = " NOT NULL" if one.required else ""
    if wanted.startswith("DECIMAL") and one.type.startswith(("datetime", "timestamp")):
        # MODIFY would make 20260301120000 of noon.
        seconds = f"TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {name}) * 0.000001"
        return (
            f"ALTER TABLE {one.table} ADD in_seconds {wanted}; UPDATE {one.table} "  # noqa: S608 - to be read
            f"SET in_seconds = {seconds}; ALTER TABLE {one.table} DROP COLUMN {name}, "
            f"CHANGE in_seconds {name} {wanted}{required}"
        )
    text = " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if "CHAR" in wanted or "TEXT" in wanted else ""
    return f"ALTER TABLE {one.table} MODIFY {name} {wanted}{text}{required}"
