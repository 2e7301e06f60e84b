"""What a database's schema is, as a value that can be compared: columns, constraints and indexes, by name."""

from typing import Any

import sqlalchemy as sa

from panko_ingest.storage import tables

OURS = tuple(tables.Base.metadata.tables)


def snapshot(engine: sa.Engine) -> dict[str, Any]:
    """Return the schema of our tables."""
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        return {name: _table(connection, inspector, name) for name in OURS if inspector.has_table(name)}


def _table(connection: sa.Connection, inspector: sa.Inspector, name: str) -> dict[str, Any]:
    columns = {
        column["name"]: (
            column["type"].compile(connection.dialect),
            getattr(column["type"], "collation", None),
            column["nullable"],
            str(column["default"]) if column["default"] is not None else None,
            column.get("autoincrement"),
        )
        for column in inspector.get_columns(name)
    }
    indexes = {
        index["name"]: (index["column_names"], bool(index["unique"]), _where(index))
        for index in inspector.get_indexes(name)
    }
    return {
        "columns": columns,
        "primary key": inspector.get_pk_constraint(name),
        "unique": {one["name"]: one["column_names"] for one in inspector.get_unique_constraints(name)},
        "references": {
            one["name"]: (one["constrained_columns"], one["referred_table"])
            for one in inspector.get_foreign_keys(name)
        },
        "indexes": indexes,
        "options": _options(connection, inspector, name),
    }


def _where(index: Any) -> dict[str, str]:
    options = index.get("dialect_options", {})
    return {key: str(value) for key, value in options.items() if key.endswith("_where")}


def _options(connection: sa.Connection, inspector: sa.Inspector, name: str) -> Any:
    if connection.dialect.name == "postgresql":
        return (
            connection.exec_driver_sql(
                "SELECT data_type::text FROM pg_sequences WHERE sequencename = %s", (f"{name}_id_seq",)
            )
            .scalars()
            .all()
        )
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("SELECT wr, strict FROM pragma_table_list WHERE name = ?", (name,))
        return [tuple(row) for row in found]
    options = {
        key: value for key, value in inspector.get_table_options(name).items() if "auto_increment" not in key
    }
    return sorted(options.items())
