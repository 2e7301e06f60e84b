"""Partitioned tables in the place of plain ones, which are set aside: what knew those finds these.

All that hangs on a table's name goes over: columns, constraints, indexes, owner and rights.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.schema.partitions import KEYS, PLAIN_SUFFIX, SEQUENCE, SEQUENCE_BITS
from panko_ingest.storage.tables import EVENT_TABLES

PLAIN_IDS = "panko_ingest_plain_ids"
"""Name of the constraint that proves, before the plain tables become a partition, that they fit it."""

_LONGEST = 63 - len(f"_{PLAIN_SUFFIX}")
"""Bytes of an index's name before the suffix: PostgreSQL cuts what is longer."""

_OWN_IDS = """
CREATE OR REPLACE FUNCTION panko_ingest_own_ids() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'these tables are partitioned by id: only panko_ingest may write to them'
        USING ERRCODE = 'PI001', HINT = 'Panko can go on reading; restart a panko_ingest that says this.';
END $$
"""

# What goes by the name or the number of a table would stay with the plain one. All that depends on it is
# asked for, of whatever kind, but what is made anew: its columns' defaults, constraints and indexes.
# Before PostgreSQL 15 a generated column itself depends on the columns that it reads.
_WOULD_STAY = """
WITH plain AS (
    SELECT * FROM pg_class WHERE oid IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name)
)
SELECT concat_ws(' ', type, identity) FROM pg_depend d
JOIN plain ON refclassid = 'pg_class'::regclass AND refobjid = plain.oid
    OR refclassid = 'pg_type'::regclass AND refobjid = plain.reltype
LEFT JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid
LEFT JOIN pg_constraint k ON classid = 'pg_constraint'::regclass AND k.oid = objid
LEFT JOIN pg_rewrite v ON classid = 'pg_rewrite'::regclass AND v.oid = objid AND rulename = '_RETURN',
LATERAL pg_identify_object(
    CASE WHEN v.oid IS NULL THEN classid ELSE 'pg_class'::regclass END, coalesce(v.ev_class, objid),
    CASE WHEN v.oid IS NULL THEN objsubid ELSE 0 END
)
WHERE deptype IN ('n', 'a') AND classid <> 'pg_attrdef'::regclass
AND NOT (classid = refclassid AND objid = refobjid)
AND coalesce(c.relkind NOT IN ('i', 'S'), true)
AND coalesce(
    conrelid NOT IN (SELECT oid FROM plain) OR contype = 'x'
    OR contype = 'c' AND NOT convalidated AND conname <> %(ours)s, true)
UNION SELECT format('row-level security of %%s', oid::regclass) FROM plain WHERE relrowsecurity
UNION SELECT format('replica identity of %%s by %%s', indrelid::regclass, indexrelid::regclass)
FROM pg_index JOIN plain ON plain.oid = indrelid AND relreplident = 'i'
WHERE indisreplident AND NOT indisprimary
UNION SELECT format('identity column %%I of %%s', attname, attrelid::regclass)
FROM pg_attribute JOIN plain ON plain.oid = attrelid WHERE attidentity <> ''
ORDER BY 1
"""

# A reference of anybody else's keeps the tables from being dropped, as it should.
_REFERENCES = (
    "SELECT format('ALTER TABLE %%I DROP CONSTRAINT %%I', relname, conname) FROM pg_constraint "
    "JOIN pg_class c ON c.oid = conrelid WHERE contype = 'f' AND confrelid = 'event'::regclass "
    "AND conrelid = ANY(%s::regclass[])"
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

# With defaults, compression and whatever else a release of PostgreSQL has of a column.
_COLUMNS = "INCLUDING ALL EXCLUDING CONSTRAINTS EXCLUDING INDEXES EXCLUDING IDENTITY EXCLUDING STATISTICS"

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

# Who may use the tables uses their parts through them, under policies that only they have.
_RIGHTS_TO_PARTS = """
SELECT DISTINCT format('REVOKE ALL ON %%I FROM %%s CASCADE', relname,
                       CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
FROM pg_class c, LATERAL (
    SELECT (aclexplode(relacl)).grantee
    UNION SELECT (aclexplode(attacl)).grantee FROM pg_attribute WHERE attrelid = c.oid
) AS granted WHERE c.oid = %s::regclass AND grantee <> relowner
"""

# They number the columns of the whole table, and would keep the part that owns them from being dropped.
_SEQUENCES_TO_WHOLE = """
SELECT format('ALTER SEQUENCE %%s OWNED BY %%I.%%I', s.oid::regclass, %s::text, attname)
FROM pg_depend d JOIN pg_class s ON classid = 'pg_class'::regclass AND s.oid = objid AND relkind = 'S'
JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
WHERE refclassid = 'pg_class'::regclass AND refobjid = %s::regclass AND deptype = 'a'
"""

_IDENTITY = (
    "SELECT CASE relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE 'DEFAULT' END "
    "FROM pg_class WHERE oid = %s::regclass"
)

_STORAGE = """
SELECT 'WITH (' || string_agg(format('%%s%%I = %%L', prefix, split_part(option, '=', 1),
                                     substr(option, strpos(option, '=') + 1)), ', ') || ')'
FROM pg_class c, LATERAL (
    SELECT '' AS prefix, unnest(reloptions) AS option
    UNION ALL SELECT 'toast.', unnest(t.reloptions) FROM pg_class t WHERE t.oid = c.reltoastrelid
) AS options WHERE c.oid = to_regclass(%s)
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
    for statement in (f"SET LOCAL ROLE {owner}", f"SET LOCAL search_path = {schema}"):
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def obstacle(connection: sa.Connection) -> str | None:
    """Return what of others' hangs on the plain tables, and what to do; None where nothing does."""
    found = connection.exec_driver_sql(_WOULD_STAY, {"tables": list(EVENT_TABLES), "ours": PLAIN_IDS})
    if not (told := ", ".join(found.scalars())):
        return None
    return (
        f"{told}: would stay with the old part of the tables: drop or disable it, and do it again afterwards"
    )


def exchange(connection: sa.Connection, command: str) -> None:
    """Set the plain tables aside and put partitioned ones, without a partition yet, in their place.

    The tables must be locked. Traits refer to no event afterwards.

    :raises StorageUnavailable: in the name of ``command``: something of others' hangs on the plain ones.
    """
    if why := obstacle(connection):
        raise StorageUnavailable(f"{command}: {why}", operator=True)
    for statement in _all(connection, _REFERENCES, list(EVENT_TABLES)):
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql(_OWN_IDS)
    _free_the_sequence(connection)
    for table in EVENT_TABLES:
        _exchange_one(connection, table)
    connection.exec_driver_sql("ALTER TABLE event ALTER id SET DEFAULT panko_ingest_own_ids()")


def identity(connection: sa.Connection, table: str) -> str:
    """Return by what logical replication knows a table's rows, as ``REPLICA IDENTITY`` takes it."""
    return str(_all(connection, _IDENTITY, table)[0])


def storage(connection: sa.Connection, table: str) -> str:
    """Return the ``WITH (...)`` of a table; nothing where it has none, or is not there."""
    return _all(connection, _STORAGE, table)[0] or ""


def of_the_whole(connection: sa.Connection, table: str, part: str) -> list[str]:
    """Return the statements that take from a part, once a plain table, what is the whole table's alone."""
    return [*_all(connection, _SEQUENCES_TO_WHOLE, table, part), *_all(connection, _RIGHTS_TO_PARTS, part)]


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
    quoted = connection.dialect.identifier_preparer.quote_identifier
    for number, name in enumerate(_all(connection, _INDEX_NAMES, table)):
        # Two long names may begin alike.
        start = name if len(name.encode()) <= _LONGEST else f"{number}_{name}"
        start = start.encode()[:_LONGEST].decode(errors="ignore")
        connection.exec_driver_sql(
            f"ALTER INDEX {quoted(name)} RENAME TO {quoted(f'{start}_{PLAIN_SUFFIX}')}"
        )
    connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {plain}")
    connection.exec_driver_sql(
        f"CREATE TABLE {table} (LIKE {plain} {_COLUMNS}) PARTITION BY RANGE ({KEYS[table]})"
    )
    connection.exec_driver_sql(f"ALTER TABLE {table} REPLICA IDENTITY {identity(connection, plain)}")
    rights = connection.exec_driver_sql(_RIGHTS, {"plain": plain, "table": table}).scalars().all()
    for statement in [*made_anew, *rights, *of_the_whole(connection, table, plain)]:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _all(connection: sa.Connection, statement: str, *values: str | list[str]) -> Sequence[str]:
    return connection.exec_driver_sql(statement, values or ()).scalars().all()
