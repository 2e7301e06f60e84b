"""Tables that Panko or Ceilometer made become what the revision before makes in an empty database.

64-bit ids, utf8mb4 with a binary collation on MySQL, no missing values where there must be one, no
index that another one covers, our names. That writes big tables anew, so it may wait: this release
also works with the revision before. Each statement stands for itself and is left out where its
work is done, so that a killed run is taken up by the next.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError, load_python_file

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LOG = logging.getLogger("panko_ingest.migrations")

_HERE, _BEFORE = str(Path(__file__).parent), "0001_plain_layout.py"
_MYSQL_CHARSET = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_MYSQL_TYPES = {
    sa.BigInteger: "bigint",
    sa.String: "varchar",
    sa.Double: "double",
    sa.DateTime: "decimal",
    sa.Text: "longtext",
}
# Of what is written anew, by two busy processors.
_MB_A_SECOND, _ROWS_A_SECOND = 12, 200_000
# What is counted in about a second.
_MB_TO_COUNT = 200
_PANKOS_INDEXES = {
    "ix_event_message_id", "idx_event_message_id", "ix_event_type_id", "ix_event_generated",
    "ix_trait_text_event_id_key", "ix_trait_int_event_id_key", "ix_trait_float_event_id_key",
    "ix_trait_datetime_event_id_key",
}  # fmt: skip
_ADOPTED = ("event_type", "event", "trait_text", "trait_int", "trait_float", "trait_datetime")


def upgrade() -> None:
    connection = op.get_bind()
    tables = _tables(connection)
    if found := list(obstacles(connection)):
        raise CommandError("\n".join(found))
    if connection.dialect.name == "sqlite":
        for table in tables:
            if _differs_on_sqlite(connection, table):
                LOG.info("writing %s anew", table.name)
                _make_anew(connection, table)
            for statement in _missing_indexes(connection, table):
                op.execute(statement)
    elif connection.dialect.name in {"postgresql", "mysql"}:
        with op.get_context().autocommit_block():
            for statement in _statements(op.get_bind(), tables):
                LOG.info("%s", statement)
                op.execute(statement)


def downgrade() -> None:
    """Change nothing: the revision before goes with wide columns too, and to narrow them may lose data."""


def rewrites(connection: sa.Connection) -> dict[str, str]:
    """Return the tables that this revision would write anew or index, and how big they are."""
    differs: Callable[[sa.Connection, sa.Table], bool] | None = {
        "sqlite": _differs_on_sqlite,
        "postgresql": _differs_on_postgresql,
        "mysql": _differs_on_mysql,
    }.get(connection.dialect.name)
    if differs is None:
        return {}
    return {
        table.name: _size(connection, table.name)
        for table in _tables(connection)
        if differs(connection, table) or next(_missing_indexes(connection, table), None) is not None
    }


def statements(connection: sa.Connection) -> Iterator[str]:
    """Yield what this revision would do, for whoever does it by hand."""
    for statement in _statements(connection, _tables(connection)):
        literal = {"literal_binds": True} if isinstance(statement, sa.Update) else {}
        yield (
            statement
            if isinstance(statement, str)
            else str(statement.compile(dialect=connection.dialect, compile_kwargs=literal))
        )


def _tables(connection: sa.Connection) -> list[sa.Table]:
    """Return the tables that are there, as all are when the revision before is made, and plain."""
    before = load_python_file(_HERE, _BEFORE)
    metadata: sa.MetaData = before.layout(connection.dialect.name)
    present = sa.inspect(connection).has_table
    # Partitioned ones were made of such as this revision makes: a restore may have left out which one it was.
    partitioned = _partitioned(connection)
    return [metadata.tables[name] for name in _ADOPTED if present(name) and name not in partitioned]


def _partitioned(connection: sa.Connection) -> set[str]:
    if connection.dialect.name != "postgresql":
        return set()
    statement = sa.text("SELECT relname FROM pg_class WHERE relkind = 'p' AND pg_table_is_visible(oid)")
    return set(connection.scalars(statement))


def obstacles(connection: sa.Connection) -> Iterator[str]:
    """Yield what keeps this revision from being made, and the statements that mend it."""
    inspector = sa.inspect(connection)
    for table in _tables(connection):
        nullable = {column["name"] for column in inspector.get_columns(table.name) if column["nullable"]}
        for column in table.columns:
            if column.nullable or column.name not in nullable or column.name == "raw":
                continue
            if count := connection.scalar(sa.select(sa.func.count()).where(column.is_(None))):
                yield (
                    f"{count} rows of {table.name} have no {column.name}, and nothing could read them: "
                    f"{_mend(connection, table, column.name)}"
                )
        if connection.dialect.name == "sqlite" and _differs_on_sqlite(connection, table):
            yield from _lost_on_sqlite(connection, table)


def _mend(connection: sa.Connection, table: sa.Table, name: str) -> str:
    column = _quote(connection, name)
    if name in {"message_id", "desc"}:
        mysql = connection.dialect.name == "mysql"
        made = f"concat('no-{name}-', id)" if mysql else f"'no-{name}-' || id"
        return f"UPDATE {table.name} SET {column} = {made} WHERE {column} IS NULL"  # noqa: S608 - to be read
    missing = f"FROM {table.name} WHERE {column} IS NULL"
    traits = [one for one in _ADOPTED if one.startswith("trait_") and table.name == "event"]
    deletes = [f"DELETE FROM {one} WHERE event_id IN (SELECT id {missing})" for one in traits]  # noqa: S608
    return "; ".join([*deletes, f"DELETE {missing}"])


def _statements(connection: sa.Connection, tables: list[sa.Table]) -> Iterator[Any]:
    """Yield what is left to do, each looked for when the one before is done."""
    postgresql = connection.dialect.name == "postgresql"
    for table in tables:
        yield from _drop_references(connection, table)
    for table in tables:
        yield from _drop_covered_indexes(connection, table)
        yield from (_alter_on_postgresql if postgresql else _alter_on_mysql)(connection, table)
        if postgresql:  # while the primary key that goes serves who reads
            yield from _missing_indexes(connection, table)
        yield from (_rename_on_postgresql if postgresql else _rename_on_mysql)(connection, table)
        yield from _missing_indexes(connection, table)
    for table in tables:
        yield from (_refer_on_postgresql if postgresql else _refer_on_mysql)(connection, table)


def _drop_references(connection: sa.Connection, table: sa.Table) -> Iterator[str]:
    """Drop references of columns that change: a type can't change beneath them, or each is checked twice."""
    declared = _reference(table)
    for live in sa.inspect(connection).get_foreign_keys(table.name):
        if declared is None or live["name"] != declared.name:
            kind = "CONSTRAINT" if connection.dialect.name == "postgresql" else "FOREIGN KEY"
            name = _quote(connection, live["name"])
            yield f"ALTER TABLE {_quote(connection, table.name)} DROP {kind} {name}"


def _reference(table: sa.Table) -> sa.ForeignKeyConstraint | None:
    return next(iter(table.foreign_key_constraints), None)


def _drop_covered_indexes(connection: sa.Connection, table: sa.Table) -> Iterator[str]:
    """Drop each index that is the beginning of one of ours; others are the operator's own."""
    ours = {str(index.name): [column.name for column in index.columns] for index in table.indexes}
    constraints = (sa.PrimaryKeyConstraint, sa.UniqueConstraint)
    covering = [
        *ours.values(),
        *([c.name for c in one.columns] for one in table.constraints if isinstance(one, constraints)),
        # Panko's second index on what its primary key has.
        ["event_id", "key"],
    ]
    for live in sa.inspect(connection).get_indexes(table.name):
        columns, name = live["column_names"], str(live["name"])
        if name in ours or live["unique"] or live.get("dialect_options", {}).get("postgresql_where"):
            continue
        if any(columns == names[: len(columns)] for names in covering):
            on = "" if connection.dialect.name == "postgresql" else f" ON {_quote(connection, table.name)}"
            yield f"DROP INDEX {_quote(connection, name)}{on}"


def _missing_indexes(connection: sa.Connection, table: sa.Table) -> Iterator[Any]:
    """Yield the indexes that a table lacks, and before them what a killed run left of one on PostgreSQL."""
    postgresql = connection.dialect.name == "postgresql"
    if postgresql:
        unfinished = sa.text(
            "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "WHERE NOT indisvalid AND indrelid = to_regclass(:table) AND relname = ANY(:ours) AND NOT EXISTS "
            "(SELECT FROM pg_stat_progress_create_index AS building WHERE building.index_relid = indexrelid)"
        )
        ours = [str(index.name) for index in table.indexes]
        for name in connection.scalars(unfinished, {"table": table.name, "ours": ours}).all():
            yield f"DROP INDEX {name}"
    if connection.dialect.name == "sqlite":
        # SQLAlchemy warns of an operator's index of an expression there.
        statement = sa.text("SELECT name FROM sqlite_master WHERE type = 'index'")
        present = set(connection.scalars(statement))
    else:
        present = {index["name"] for index in sa.inspect(connection).get_indexes(table.name)}
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        if index.name not in present:
            # It keeps no writer out.
            index.dialect_options["postgresql"]["concurrently"] = postgresql
            yield sa.schema.CreateIndex(index)


def _differs_on_postgresql(connection: sa.Connection, table: sa.Table) -> bool:
    return any(_postgresql_types(connection, table))


def _postgresql_types(connection: sa.Connection, table: sa.Table) -> Iterator[str]:
    live = {column["name"]: column["type"] for column in sa.inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if isinstance(column.type, sa.BigInteger) and not isinstance(live[column.name], sa.BigInteger):
            yield f"ALTER COLUMN {_quote(connection, column.name)} TYPE BIGINT"


def _alter_on_postgresql(connection: sa.Connection, table: sa.Table) -> Iterator[Any]:
    changes = list(_postgresql_types(connection, table))
    widened = bool(changes)
    live = {column["name"]: column for column in sa.inspect(connection).get_columns(table.name)}
    for column in table.columns:
        name = _quote(connection, column.name)
        if live[column.name]["nullable"] and not column.nullable:
            if column.name == "raw":
                changes.append(f"ALTER COLUMN {name} TYPE TEXT USING COALESCE({name}, '{{}}')")
            changes.append(f"ALTER COLUMN {name} SET NOT NULL")
        elif column.nullable and not live[column.name]["nullable"]:
            changes.append(f"ALTER COLUMN {name} DROP NOT NULL")
    if changes:
        yield f"ALTER TABLE {_quote(connection, table.name)} {', '.join(changes)}"
    if widened:
        yield f"ANALYZE {_quote(connection, table.name)}"
    if "id" in table.columns:
        narrow = sa.text(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(sequencename) FROM pg_sequences "
            "WHERE data_type <> 'bigint'::regtype "
            "AND to_regclass(quote_ident(schemaname) || '.' || quote_ident(sequencename))::text "
            "= pg_get_serial_sequence(:table, 'id')::regclass::text"
        )
        for sequence in connection.scalars(narrow, {"table": table.name}).all():
            yield f"ALTER SEQUENCE {sequence} AS BIGINT"


def _rename_on_postgresql(connection: sa.Connection, table: sa.Table) -> Iterator[str]:
    inspector = sa.inspect(connection)
    name = _quote(connection, table.name)
    primary = inspector.get_pk_constraint(table.name)["name"]
    if primary and not table.primary_key.columns:
        yield f"ALTER TABLE {name} DROP CONSTRAINT {_quote(connection, primary)}"
    elif primary is None and table.primary_key.columns:  # as after a restore that did not come to its end
        yield f"ALTER TABLE {name} ADD CONSTRAINT {table.primary_key.name} PRIMARY KEY (id)"
    elif primary != table.primary_key.name:
        old = _quote(connection, primary)
        yield f"ALTER TABLE {name} RENAME CONSTRAINT {old} TO {table.primary_key.name}"
    live = {tuple(one["column_names"]): one["name"] for one in inspector.get_unique_constraints(table.name)}
    for unique, columns in _unique(table):
        if columns not in live:
            yield f"ALTER TABLE {name} ADD CONSTRAINT {unique} UNIQUE ({_list(connection, columns)})"
        elif live[columns] != unique:
            old = _quote(connection, live[columns])
            yield f"ALTER TABLE {name} RENAME CONSTRAINT {old} TO {unique}"


def _refer_on_postgresql(connection: sa.Connection, table: sa.Table) -> Iterator[str]:
    reference = _reference(table)
    if reference is None:
        return
    name = _quote(connection, table.name)
    # Checked in a second step, which keeps no writer out.
    if not sa.inspect(connection).get_foreign_keys(table.name):
        yield f"ALTER TABLE {name} ADD {_clause(connection, reference)} NOT VALID"
    unchecked = sa.text(
        "SELECT NOT convalidated FROM pg_constraint WHERE conname = :name AND conrelid = to_regclass(:table)"
    )
    if connection.scalar(unchecked, {"name": reference.name, "table": table.name}):
        yield f"ALTER TABLE {name} VALIDATE CONSTRAINT {reference.name}"


def _differs_on_mysql(connection: sa.Connection, table: sa.Table) -> bool:
    return any(_mysql_columns(connection, table))


def _mysql_columns(connection: sa.Connection, table: sa.Table) -> Iterator[str]:
    """Yield the definition of each column that is not as it should be."""
    rows = connection.execute(
        sa.text(
            "SELECT column_name, data_type, collation_name, is_nullable FROM information_schema.columns "
            "WHERE table_schema = DATABASE() AND table_name = :table"
        ),
        {"table": table.name},
    )
    live = {row[0]: (row[1].lower(), row[2], row[3] == "YES") for row in rows}
    for column in table.columns:
        kind = column.type.compile(connection.dialect)
        is_text = isinstance(column.type, sa.String)
        wanted = (_mysql_type(column), "utf8mb4_bin" if is_text else None, bool(column.nullable))
        if live[column.name] == wanted:
            continue
        yield " ".join(
            word
            for word in (
                _quote(connection, column.name),
                kind,
                _MYSQL_CHARSET if is_text else "",
                "NULL" if column.nullable else "NOT NULL",
                "AUTO_INCREMENT" if column.name == "id" else "",
            )
            if word
        )


def _mysql_type(column: sa.Column[Any]) -> str:
    kinds = (kind for base, kind in _MYSQL_TYPES.items() if type(column.type) is base)
    return next(kinds)


def _alter_on_mysql(connection: sa.Connection, table: sa.Table) -> Iterator[Any]:
    name = _quote(connection, table.name)
    changes = [f"MODIFY {definition}" for definition in _mysql_columns(connection, table)]
    if not changes:
        return
    if "raw" in table.columns:
        yield sa.update(table).where(table.c.raw.is_(None)).values(raw="{}")
    yield f"ALTER TABLE {name} {', '.join(changes)}, DEFAULT {_MYSQL_CHARSET}, ROW_FORMAT=DYNAMIC"


def _rename_on_mysql(connection: sa.Connection, table: sa.Table) -> Iterator[str]:
    name = _quote(connection, table.name)
    live = {
        tuple(index["column_names"]): index["name"]
        for index in sa.inspect(connection).get_indexes(table.name)
        if index["unique"]
    }
    for unique, columns in _unique(table):
        if columns not in live:
            yield f"ALTER TABLE {name} ADD UNIQUE INDEX {unique} ({_list(connection, columns)})"
        elif live[columns] != unique:
            yield f"ALTER TABLE {name} RENAME INDEX {_quote(connection, str(live[columns]))} TO {unique}"


def _refer_on_mysql(connection: sa.Connection, table: sa.Table) -> Iterator[str]:
    reference = _reference(table)
    live = {one["name"] for one in sa.inspect(connection).get_foreign_keys(table.name)}
    if reference is None or reference.name in live:
        return
    # With checks on, MySQL would write the whole table anew only to add the reference.
    yield "SET SESSION foreign_key_checks = 0"
    yield f"ALTER TABLE {_quote(connection, table.name)} ADD {_clause(connection, reference)}"
    yield "SET SESSION foreign_key_checks = 1"


def _unique(table: sa.Table) -> Iterator[tuple[str, tuple[str, ...]]]:
    for constraint in table.constraints:
        if isinstance(constraint, sa.UniqueConstraint):
            yield str(constraint.name), tuple(column.name for column in constraint.columns)


def _clause(connection: sa.Connection, reference: sa.ForeignKeyConstraint) -> str:
    columns = _list(connection, tuple(reference.column_keys))
    return (
        f"CONSTRAINT {reference.name} FOREIGN KEY ({columns}) "
        f"REFERENCES {_quote(connection, reference.referred_table.name)} (id)"
        + (f" ON DELETE {reference.ondelete}" if reference.ondelete else "")
    )


def _differs_on_sqlite(connection: sa.Connection, table: sa.Table) -> bool:
    live = connection.scalar(
        sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :name"), {"name": table.name}
    )
    wanted = str(sa.schema.CreateTable(table).compile(dialect=connection.dialect))
    return str(live).replace('"', "").split() != wanted.replace('"', "").split()


def _lost_on_sqlite(connection: sa.Connection, table: sa.Table) -> Iterator[str]:
    """Yield what is an operator's own in a table, and no table that is made anew could have."""
    inspector = sa.inspect(connection)
    for column in inspector.get_columns(table.name):
        if column["name"] not in table.columns:
            name = _quote(connection, column["name"])
            yield (
                f"the column {name} of {table.name} is none of ours and would be lost: keep it in a table of "
                f"your own, then ALTER TABLE {table.name} DROP COLUMN {name}"
            )
    for check in inspector.get_check_constraints(table.name):
        yield (
            f"the table {table.name} has a check that is none of ours and would be lost, "
            f"{check['sqltext']}: make the table without it, and a trigger in its place"
        )


def _own_on_sqlite(connection: sa.Connection, table: sa.Table) -> list[str]:
    """Return the statements that make the operator's own indexes and triggers of a table."""
    # The name of a trigger's table is kept as it was written.
    statement = sa.text(
        "SELECT name, sql FROM sqlite_master WHERE tbl_name = :name COLLATE NOCASE "
        "AND type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY rowid"
    )
    others = _PANKOS_INDEXES | {str(index.name) for index in table.indexes}
    return [sql for name, sql in connection.execute(statement, {"name": table.name}) if name not in others]


def _make_anew(connection: sa.Connection, table: sa.Table) -> None:
    """Copy a table into one of the right shape, in the order of steps that SQLite documents."""
    own = _own_on_sqlite(connection, table)
    new = table.to_metadata(table.metadata, name=f"new_{table.name}")
    names = [column.name for column in table.columns]
    op.execute(sa.schema.CreateTable(new))
    source = [sa.func.coalesce(table.c.raw, "{}") if name == "raw" else table.c[name] for name in names]
    connection.execute(new.insert().from_select(names, sa.select(*source)))
    op.execute(sa.schema.DropTable(table))
    # Else a view or a trigger that names the table, which is not there at this moment, is an error.
    connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    op.rename_table(new.name, table.name)
    connection.exec_driver_sql("PRAGMA legacy_alter_table = OFF")
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        op.execute(sa.schema.CreateIndex(index))
    for statement in own:
        connection.exec_driver_sql(statement)


def _size(connection: sa.Connection, table: str) -> str:
    statement = {
        "postgresql": "SELECT reltuples, pg_total_relation_size(oid) FROM pg_class "
        "WHERE oid = to_regclass(:table)",
        "mysql": "SELECT table_rows, data_length + index_length FROM information_schema.tables "
        "WHERE table_schema = DATABASE() AND table_name = :table",
    }.get(connection.dialect.name)
    count = sa.select(sa.func.count()).select_from(sa.table(table))
    if statement is None:
        rows = connection.scalar(count) or 0
        return f"{rows:,} rows, about {rows / _ROWS_A_SECOND:,.0f} s"
    estimate, size = connection.execute(sa.text(statement), {"table": table}).one()
    megabytes = int(size or 0) / 1e6
    # Without statistics, as after a restore, the server's estimate says nothing.
    if estimate and estimate > 0:
        told = f"about {int(estimate):,} rows"
    elif megabytes < _MB_TO_COUNT:
        told = f"{connection.scalar(count):,} rows"
    else:
        told = "an unknown number of rows"
    return f"{told}, {megabytes:,.0f} MB, {megabytes / _MB_A_SECOND:,.0f} s"


def _quote(connection: sa.Connection, name: str | None) -> str:
    return connection.dialect.identifier_preparer.quote(str(name))


def _list(connection: sa.Connection, names: tuple[str, ...]) -> str:
    return ", ".join(_quote(connection, name) for name in names)
