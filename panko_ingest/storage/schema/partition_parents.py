"""Partitioned tables in the place of plain ones, which are set aside: whoever knew those finds these.

All that hangs on a table's name goes over: columns, constraints, indexes, owner and rights.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.schema.partitions import KEYS, PLAIN_SUFFIX, SEQUENCE, SEQUENCE_BITS
from panko_ingest.storage.tables import EVENT_TABLES

PLAIN_IDS = "panko_ingest_plain_ids"
"""Name of the constraint that proves, before the plain tables become a partition, that they fit it."""

_OWN_IDS = """
CREATE OR REPLACE FUNCTION panko_ingest_own_ids() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'these tables are partitioned by id: only panko_ingest may write to them'
        USING ERRCODE = 'PI001', HINT = 'Panko can go on reading; restart a panko_ingest that says this.';
END $$
"""

_REFERENCES = (
    "SELECT format('ALTER TABLE %%I DROP CONSTRAINT %%I', relname, conname) FROM pg_constraint "
    "JOIN pg_class c ON c.oid = conrelid WHERE contype = 'f' AND confrelid = 'event'::regclass"
)

# Unique ones would need the id in them.
_INDEXES = (
    "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s::regclass "
    "AND indisvalid AND NOT indisunique ORDER BY indexrelid"
)

_INDEX_NAMES = (
    "SELECT relname FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = %s::regclass "
    "AND (indisprimary OR NOT indisunique)"
)

_CONSTRAINTS = (
    "SELECT format('ALTER TABLE %%I ADD CONSTRAINT %%I %%s', %s::text, conname, pg_get_constraintdef(oid)) "
    "FROM pg_constraint WHERE conrelid = %s::regclass AND contype IN ('p', 'c', 'f') AND convalidated "
    "AND conname <> %s ORDER BY contype = 'f', conname"
)

# What the plain table lets others do; a new table may have been given other rights by default.
_RIGHTS = """
WITH plain AS (SELECT * FROM pg_class WHERE oid = %(plain)s::regclass),
granted AS (
    SELECT (aclexplode(coalesce(relacl, acldefault('r', relowner)))).*, '' AS columns FROM plain
    UNION ALL
    SELECT (aclexplode(attacl)).*, format('(%%I)', attname)
    FROM pg_attribute, plain WHERE attrelid = plain.oid
)
SELECT DISTINCT format('REVOKE ALL ON %%I FROM %%s', %(table)s::text,
                       CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
FROM (SELECT (aclexplode(relacl)).grantee FROM pg_class WHERE oid = %(table)s::regclass) AS by_default
UNION ALL
SELECT format('GRANT %%s %%s ON %%I TO %%s%%s', privilege_type, columns, %(table)s::text,
              CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
              CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM granted
"""


def act_as_owner(connection: sa.Connection) -> None:
    """Let all that a transaction makes belong to the tables' owner and lie beside them.

    :raises StorageUnavailable: the owner may make nothing there.
    """
    owner, schema, may = connection.exec_driver_sql(
        "SELECT quote_ident(pg_get_userbyid(relowner)), quote_ident(nspname), "
        "has_schema_privilege(relowner, relnamespace, 'CREATE') "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = 'event'::regclass"
    ).one()
    if not may:
        raise StorageUnavailable(
            f"{owner} owns the tables of events, and may not make partitions beside them: "
            f"GRANT CREATE ON SCHEMA {schema} TO {owner}",
            operator=True,
        )
    connection.exec_driver_sql(f"SET LOCAL ROLE {owner}")
    connection.exec_driver_sql(f"SET LOCAL search_path = {schema}")


def exchange(connection: sa.Connection) -> None:
    """Set the plain tables aside and put partitioned ones, without a partition yet, in their place.

    The tables must be locked. Traits refer to no event afterwards.
    """
    for statement in _all(connection, _REFERENCES):
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql(_OWN_IDS)
    _free_the_sequence(connection)
    for table in EVENT_TABLES:
        _exchange_one(connection, table)
    connection.exec_driver_sql("ALTER TABLE event ALTER id SET DEFAULT panko_ingest_own_ids()")


def _free_the_sequence(connection: sa.Connection) -> None:
    """Let the numbers of plain ids go on as those of ids by day."""
    name = connection.exec_driver_sql("SELECT pg_get_serial_sequence('event', 'id')::regclass").scalar()
    if name is None:
        raise StorageUnavailable("event.id has no sequence of its own: make it bigserial", operator=True)
    connection.exec_driver_sql(f"ALTER SEQUENCE {name} OWNED BY NONE MAXVALUE {2**SEQUENCE_BITS - 1} CYCLE")
    if name != SEQUENCE:
        connection.exec_driver_sql(f"ALTER SEQUENCE {name} RENAME TO {SEQUENCE}")
    connection.exec_driver_sql("ALTER TABLE event ALTER id DROP DEFAULT")


def _exchange_one(connection: sa.Connection, table: str) -> None:
    plain = f"{table}_{PLAIN_SUFFIX}"
    made_anew = [*_all(connection, _CONSTRAINTS, table, table, PLAIN_IDS), *_all(connection, _INDEXES, table)]
    for name in _all(connection, _INDEX_NAMES, table):
        connection.exec_driver_sql(f'ALTER INDEX "{name}" RENAME TO "{name[:57]}_{PLAIN_SUFFIX}"')
    connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {plain}")
    connection.exec_driver_sql(f"CREATE TABLE {table} (LIKE {plain}) PARTITION BY RANGE ({KEYS[table]})")
    rights = connection.exec_driver_sql(_RIGHTS, {"plain": plain, "table": table}).scalars().all()
    for statement in [*made_anew, *rights]:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _all(connection: sa.Connection, statement: str, *values: str) -> Sequence[str]:
    return connection.exec_driver_sql(statement, values or ()).scalars().all()
