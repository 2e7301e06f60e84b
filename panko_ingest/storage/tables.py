"""The tables, as SQLAlchemy ORM classes: Panko's six for events, and ``dead_letter`` beside them.

This is the **plain** layout, which enforces every reference. Panko's API can read it: names of
tables and columns and the form of the values are Panko's. What differs is what readers don't see:
64-bit ids, utf8mb4 and a binary collation on MySQL, and no index that another one covers.
"""

import datetime
import decimal
from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Text,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from panko_ingest import exact_json
from panko_ingest.storage import far_times
from panko_ingest.storage.models import MAX_MESSAGE_ID, MAX_NAME, SALVAGED_KEY, Trait

IDENTIFIER_KEYS = ("project_id", "user_id", "resource_id", "instance_id", "request_id")
"""Text traits by which people look events up: where an index can be partial, it holds their values only."""

EPOCH = datetime.datetime(1970, 1, 1)
_MICROSECOND = decimal.Decimal("0.000001")


# MySQL's TEXT ends at 64 kB.
LongText = Text().with_variant(mysql.LONGTEXT(), "mysql")


def datetime_to_decimal(moment: datetime.datetime) -> decimal.Decimal:
    """Return naive UTC as seconds since 1970, the form in which Panko keeps times on MySQL."""
    elapsed = moment - EPOCH
    return decimal.Decimal(elapsed.days * 86400 + elapsed.seconds) + elapsed.microseconds * _MICROSECOND


def decimal_to_datetime(seconds: decimal.Decimal) -> datetime.datetime:
    """Return seconds since 1970 as naive UTC."""
    whole, fraction = divmod(int(seconds.scaleb(6)), 1_000_000)
    return EPOCH + datetime.timedelta(seconds=whole, microseconds=fraction)


class PreciseTimestamp(TypeDecorator[datetime.datetime]):
    """Naive UTC to the microsecond: DECIMAL(20,6) seconds on MySQL, a timestamp without zone elsewhere.

    What is stored and is no such time, as another program may leave it, is read as a ``FarTime``.
    """

    impl = DateTime().with_variant(mysql.DECIMAL(precision=20, scale=6), "mysql")
    cache_ok = True

    def process_bind_param(self, value: datetime.datetime | None, dialect: Dialect) -> Any:
        """Return the value as the driver takes it."""
        return datetime_to_decimal(value) if value is not None and dialect.name == "mysql" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime.datetime | None:
        """Return what the driver gave as naive UTC."""
        return decimal_to_datetime(value) if value is not None and dialect.name == "mysql" else value

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        """Return what makes a value the driver's: of a ``FarTime`` what is stored."""
        bind = super().bind_processor(dialect)
        return lambda value: (
            value.stored if isinstance(value, far_times.FarTime) else bind(value) if bind else value
        )

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Return what makes the driver's value one of ours."""
        read = super().result_processor(dialect, coltype)

        def process(value: Any) -> Any:
            try:
                return read(value) if read else value
            except (ValueError, TypeError, OverflowError):
                # As the database sorts them: SQLite has numbers before all text.
                late = value > 0 if dialect.name == "mysql" else isinstance(value, str) and value > "9"
                return far_times.nearest(value, late=late)

        return process


class AnyJSONText(TypeDecorator[Any]):
    """A JSON value kept as text, as it is: others may have written one that is no object."""

    impl = LongText
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Return the value as JSON text."""
        return None if value is None else exact_json.dumps(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002 - SQLAlchemy's signature
        """Return the value; nothing stored is an empty object, and what is damaged says so."""
        if not value:
            return {}
        try:
            return exact_json.loads(value)
        # A MySQL that is not strict cuts off what is too long; another program may have nested it too deep.
        except (ValueError, RecursionError):
            return {SALVAGED_KEY: [{"trait": "raw", "reason": "what is stored of it is no whole JSON"}]}


class JSONText(AnyJSONText):
    """A JSON object kept as text, as Panko's API reads it; any other value is read as an empty one."""

    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, Any]:
        """Return the object."""
        loaded = super().process_result_value(value, dialect)
        return loaded if isinstance(loaded, dict) else {}


# SQLite numbers rows by themselves only in a column that is exactly INTEGER.
BigId = BigInteger().with_variant(Integer, "sqlite")
LongBinary = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql")
Digest = LargeBinary(32).with_variant(mysql.BINARY(32), "mysql")

_MYSQL_TABLE = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mysql_row_format": "DYNAMIC",
}
# A trait is found by its event and key: SQLite then needs no row number nor a second tree.
_TRAIT_TABLE = {**_MYSQL_TABLE, "sqlite_with_rowid": False}


class Base(DeclarativeBase):
    """What the tables share: one metadata, and names for every constraint."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        }
    )


def _trait_keys(table: str) -> tuple[PrimaryKeyConstraint, Index]:
    """Return how a trait table finds the traits of an event.

    Where rows lie in the order of their primary key, that is it. PostgreSQL's don't, and an index
    of events' ids alone takes a fifth of the space there, because it keeps each id once: an event's
    traits are written once, together, so that nothing depends on the key being enforced.
    """
    return (
        PrimaryKeyConstraint("event_id", "key").ddl_if(callable_=_unless_postgresql),
        Index(f"ix_{table}_event_id", "event_id").ddl_if(dialect="postgresql"),
    )


def _refers_to_event() -> ForeignKey:
    """Return the reference of a trait to its event.

    RESTRICT, because without it PostgreSQL first looks, at each deleted event and for each table of
    traits, whether another event has taken its id: half as much work again.
    """
    return ForeignKey("event.id", ondelete="RESTRICT")


def _page_indexes(name: str, *columns: str) -> tuple[Index, Index]:
    """Return the index for events in the order of their pages: by these columns, then by message_id.

    PostgreSQL sorts the few events of one moment itself, so that the index can do without their message_ids.
    """
    return (
        Index(name, *columns).ddl_if(dialect="postgresql"),
        Index(f"{name}_message_id", *columns, "message_id").ddl_if(callable_=_unless_postgresql),
    )


def _unless_postgresql(*_: Any, dialect: Dialect, **__: Any) -> bool:
    return dialect.name != "postgresql"


class EventType(Base):
    """The name of a kind of event, kept once: ``compute.instance.create.end``."""

    __tablename__ = "event_type"
    # Ids are kept in memory by every worker, so none may be given to another name later.
    __table_args__ = ({**_MYSQL_TABLE, "sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    desc: Mapped[str] = mapped_column(String(MAX_NAME), unique=True)


class Event(Base):
    """One event; ``message_id`` is the notification's and makes it unique. ``raw`` is JSON text."""

    __tablename__ = "event"
    __table_args__ = (
        # Pages sort by these two, and expiry starts at the oldest.
        *_page_indexes("ix_event_generated", "generated"),
        # Serves the reference to event_type, and pages of a type's events.
        *_page_indexes("ix_event_type_generated", "event_type_id", "generated"),
        _MYSQL_TABLE,
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    message_id: Mapped[str] = mapped_column(String(MAX_MESSAGE_ID), unique=True)
    generated: Mapped[datetime.datetime] = mapped_column(PreciseTimestamp)
    raw: Mapped[dict[str, Any]] = mapped_column(JSONText)
    event_type_id: Mapped[int] = mapped_column(ForeignKey("event_type.id"))


class TraitText(Base):
    """A text trait of an event, or one without a type; at most 255 characters."""

    __tablename__ = "trait_text"

    event_id: Mapped[int] = mapped_column(_refers_to_event())
    key: Mapped[str] = mapped_column(String(MAX_NAME))
    value: Mapped[str | None] = mapped_column(String(Trait.MAX_TEXT))

    _identifiers = text(f"key IN ({', '.join(repr(key) for key in IDENTIFIER_KEYS)})")
    # SQLite would build the list of an IN anew for each row, and its planner does not see through it.
    _identifiers_one_by_one = text(" OR ".join(f"key = {key!r}" for key in IDENTIFIER_KEYS))
    __table_args__ = (
        *_trait_keys("trait_text"),
        Index(
            "ix_trait_text_identifiers",
            "value",
            postgresql_where=_identifiers,
            sqlite_where=_identifiers_one_by_one,
        ).ddl_if(dialect=("postgresql", "sqlite")),  # type: ignore[arg-type]  # it takes several
        Index("ix_trait_text_key_value", "key", "value").ddl_if(dialect="mysql"),
        _TRAIT_TABLE,
    )


class TraitInt(Base):
    """A 64-bit integer trait of an event."""

    __tablename__ = "trait_int"
    __table_args__ = (*_trait_keys("trait_int"), _TRAIT_TABLE)

    event_id: Mapped[int] = mapped_column(_refers_to_event())
    key: Mapped[str] = mapped_column(String(MAX_NAME))
    value: Mapped[int | None] = mapped_column(BigInteger)


class TraitFloat(Base):
    """A double-precision trait of an event."""

    __tablename__ = "trait_float"
    __table_args__ = (*_trait_keys("trait_float"), _TRAIT_TABLE)

    event_id: Mapped[int] = mapped_column(_refers_to_event())
    key: Mapped[str] = mapped_column(String(MAX_NAME))
    value: Mapped[float | None] = mapped_column(Double)


class TraitDatetime(Base):
    """A trait of an event that is a time, in naive UTC."""

    __tablename__ = "trait_datetime"
    __table_args__ = (*_trait_keys("trait_datetime"), _TRAIT_TABLE)

    event_id: Mapped[int] = mapped_column(_refers_to_event())
    key: Mapped[str] = mapped_column(String(MAX_NAME))
    value: Mapped[datetime.datetime | None] = mapped_column(PreciseTimestamp)


class DeadLetter(Base):
    """A delivered message that can't become an event: its bytes, where it came from, and why.

    ``digest`` (SHA-256 over queue, content_type, content_encoding and the original body) makes it
    unique: a repeat only updates ``last_at`` and ``attempts``. Times are naive UTC.
    """

    __tablename__ = "dead_letter"
    __table_args__ = _MYSQL_TABLE

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    digest: Mapped[bytes] = mapped_column(Digest, unique=True)
    body: Mapped[bytes] = mapped_column(LongBinary)
    content_type: Mapped[str | None] = mapped_column(String(255))
    content_encoding: Mapped[str | None] = mapped_column(String(255))
    headers: Mapped[dict[str, Any]] = mapped_column(JSONText)
    exchange: Mapped[str] = mapped_column(String(255))
    routing_key: Mapped[str] = mapped_column(String(255))
    queue: Mapped[str] = mapped_column(String(255))
    stage: Mapped[str] = mapped_column(String(32))
    error_class: Mapped[str] = mapped_column(String(255))
    error: Mapped[str] = mapped_column(LongText)
    message_id: Mapped[str | None] = mapped_column(String(255))
    event_type: Mapped[str | None] = mapped_column(String(MAX_NAME))
    redacted: Mapped[bool] = mapped_column(Boolean)
    first_at: Mapped[datetime.datetime] = mapped_column(PreciseTimestamp)
    last_at: Mapped[datetime.datetime] = mapped_column(PreciseTimestamp, index=True)
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("1"))


TRAIT_TABLES: dict[int, type[TraitText | TraitInt | TraitFloat | TraitDatetime]] = {
    Trait.NONE_TYPE: TraitText,
    Trait.TEXT_TYPE: TraitText,
    Trait.INT_TYPE: TraitInt,
    Trait.FLOAT_TYPE: TraitFloat,
    Trait.DATETIME_TYPE: TraitDatetime,
}
"""The table of each type number of ``models.Trait``."""

STORED_TYPES = tuple(dtype for dtype in TRAIT_TABLES if dtype != Trait.NONE_TYPE)
"""The types that a trait can have when it is read: one without a type is a text then."""

TRAITS = tuple(dict.fromkeys(TRAIT_TABLES.values()))
"""The tables of traits, in the order in which writers and readers come to them."""

EVENT_TABLES = tuple(table.__tablename__ for table in (Event, *TRAITS))
"""The names of the tables that grow with every event, in the same order."""
