"""The plain layout: all tables, or, in a database of Panko's, what it lacks.

Nothing that exists is changed or indexed here, so that an adopted database serves its old readers and
writers and ours alike; the next revision rewrites what differs.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLE: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mysql_row_format": "DYNAMIC",
    "sqlite_with_rowid": False,
}
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIMESTAMP = sa.DateTime().with_variant(mysql.DECIMAL(20, 6), "mysql")
_LONG_TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql")
_DIGEST = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql")
_LONG_BINARY = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql")
_IDENTIFIERS = sa.text("key IN ('project_id', 'user_id', 'resource_id', 'instance_id', 'request_id')")
_IDENTIFIERS_ON_SQLITE = sa.text(
    "key = 'project_id' OR key = 'user_id' OR key = 'resource_id' OR key = 'instance_id' "
    "OR key = 'request_id'"
)


def layout(dialect: str) -> sa.MetaData:
    """Return the tables as this revision makes them; frozen, while tables.py is what they are today."""
    metadata = sa.MetaData()
    _event_tables(metadata, dialect)
    identifiers = sa.Index(
        "ix_trait_text_identifiers",
        "value",
        postgresql_where=_IDENTIFIERS,
        sqlite_where=_IDENTIFIERS_ON_SQLITE,
    )
    # MySQL has no partial indexes.
    by_value = sa.Index("ix_trait_text_key_value", "key", "value") if dialect == "mysql" else identifiers
    _trait_table(metadata, dialect, "trait_text", sa.String(255), by_value)
    _trait_table(metadata, dialect, "trait_int", sa.BigInteger())
    _trait_table(metadata, dialect, "trait_float", sa.Double())
    _trait_table(metadata, dialect, "trait_datetime", _TIMESTAMP)
    _dead_letter_table(metadata)
    return metadata


def _event_tables(metadata: sa.MetaData, dialect: str) -> None:
    # PostgreSQL sorts the few events of one moment itself.
    suffix, last = ("", []) if dialect == "postgresql" else ("_message_id", ["message_id"])
    options: dict[str, Any] = {**_TABLE, "sqlite_with_rowid": True}
    sa.Table(
        "event_type",
        metadata,
        sa.Column("id", _ID),
        sa.Column("desc", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event_type"),
        sa.UniqueConstraint("desc", name="uq_event_type_desc"),
        # Workers keep ids in memory: SQLite must not give a deleted one to another name.
        sqlite_autoincrement=True,
        **options,
    )
    sa.Table(
        "event",
        metadata,
        sa.Column("id", _ID),
        sa.Column("message_id", sa.String(50), nullable=False),
        sa.Column("generated", _TIMESTAMP, nullable=False),
        sa.Column("raw", _LONG_TEXT, nullable=False),
        sa.Column("event_type_id", _ID, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event"),
        sa.UniqueConstraint("message_id", name="uq_event_message_id"),
        sa.ForeignKeyConstraint(
            ["event_type_id"], ["event_type.id"], name="fk_event_event_type_id_event_type"
        ),
        sa.Index(f"ix_event_generated{suffix}", "generated", *last),
        sa.Index(f"ix_event_type_generated{suffix}", "event_type_id", "generated", *last),
        **options,
    )


def _trait_table(metadata: sa.MetaData, dialect: str, name: str, value: Any, *indexes: sa.Index) -> None:
    # PostgreSQL keeps an event's id once in an index of ids alone, and a primary key for each trait.
    key = (
        sa.Index(f"ix_{name}_event_id", "event_id")
        if dialect == "postgresql"
        else sa.PrimaryKeyConstraint("event_id", "key", name=f"pk_{name}")
    )
    sa.Table(
        name,
        metadata,
        sa.Column("event_id", _ID, nullable=False, autoincrement=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("value", value),
        key,
        # Without RESTRICT, PostgreSQL checks twice for each event that is deleted.
        sa.ForeignKeyConstraint(
            ["event_id"], ["event.id"], name=f"fk_{name}_event_id_event", ondelete="RESTRICT"
        ),
        *indexes,
        **_TABLE,
    )


def _dead_letter_table(metadata: sa.MetaData) -> None:
    options: dict[str, Any] = {**_TABLE, "sqlite_with_rowid": True}
    sa.Table(
        "dead_letter",
        metadata,
        sa.Column("id", _ID),
        sa.Column("digest", _DIGEST, nullable=False),
        sa.Column("body", _LONG_BINARY, nullable=False),
        sa.Column("content_type", sa.String(255)),
        sa.Column("content_encoding", sa.String(255)),
        sa.Column("headers", _LONG_TEXT, nullable=False),
        sa.Column("exchange", sa.String(255), nullable=False),
        sa.Column("routing_key", sa.String(255), nullable=False),
        sa.Column("queue", sa.String(255), nullable=False),
        sa.Column("stage", sa.String(32), nullable=False),
        sa.Column("error_class", sa.String(255), nullable=False),
        sa.Column("error", _LONG_TEXT, nullable=False),
        sa.Column("message_id", sa.String(255)),
        sa.Column("event_type", sa.String(255)),
        sa.Column("redacted", sa.Boolean(), nullable=False),
        sa.Column("first_at", _TIMESTAMP, nullable=False),
        sa.Column("last_at", _TIMESTAMP, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("id", name="pk_dead_letter"),
        sa.UniqueConstraint("digest", name="uq_dead_letter_digest"),
        sa.Index("ix_dead_letter_last_at", "last_at"),
        **options,
    )


def upgrade() -> None:
    connection = op.get_bind()
    metadata = layout(connection.dialect.name)
    if connection.dialect.name == "mysql":
        _leave_out_references(metadata, set(sa.inspect(connection).get_table_names()))
    metadata.create_all(connection)


def _leave_out_references(metadata: sa.MetaData, there: set[str]) -> None:
    """Leave out the references to tables that are there; the next revision makes them.

    MySQL takes none between numbers of different widths, and those of an adopted table are still narrow.
    """
    for table in metadata.tables.values():
        for reference in list(table.foreign_key_constraints):
            if reference.referred_table.name in there:
                table.constraints.discard(reference)


def downgrade() -> None:
    connection = op.get_bind()
    metadata = layout(connection.dialect.name)
    if connection.scalar(sa.select(sa.exists().select_from(metadata.tables["event"]))):
        raise CommandError(
            "downgrading would drop the tables with all events in them: delete the events first"
        )
    metadata.drop_all(connection)
