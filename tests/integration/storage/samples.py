"""Events for tests of the write side, and looks at what became of them in the tables."""

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from panko_ingest import config
from panko_ingest.storage import EventFilter
from panko_ingest.storage.database.engine import read_transaction
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import DeadLetter, Event, Trait
from panko_ingest.storage.schema import partitions

START = datetime.datetime(2026, 3, 1, 12, 0, 0, 250_000)


def make_event(number: int, *more: Trait, event_type: str = "compute.instance.update") -> Event:
    """Return event ``m<number>`` with a trait of each type."""
    traits = [
        Trait("state", Trait.TEXT_TYPE, f"state {number}"),
        Trait("disk_gb", Trait.INT_TYPE, number),
        Trait("load", Trait.FLOAT_TYPE, number / 4),
        Trait("launched_at", Trait.DATETIME_TYPE, START + datetime.timedelta(days=number)),
        *more,
    ]
    return Event(f"m{number:04}", event_type, START + datetime.timedelta(seconds=number), traits)


def make_events(count: int, first: int = 0) -> list[Event]:
    return [make_event(number) for number in range(first, first + count)]


def make_letter(name: str, body: bytes = b"\0\xff not an event") -> DeadLetter:
    return DeadLetter(name.encode().ljust(32, b"."), body, "decode", "DecodeError", "is no JSON")


def letter_for(index: int, error: Exception) -> DeadLetter:
    """Return what the daemon would make of an event that can't be stored."""
    return DeadLetter(
        f"event {index}".encode().ljust(32, b"."), b"body", "record", type(error).__name__, str(error)
    )


def stored_ids(store: Connection) -> list[str]:
    """Return the message_ids of all events, sorted."""
    return sorted(row[0] for row in rows(store, "SELECT message_id FROM event"))


def stored(store: Connection) -> list[Event]:
    """Return all events as a reader gets them, traits sorted by name."""
    events = list(store.get_events(EventFilter()))
    return [dataclasses.replace(event, traits=sorted(event.traits)) for event in events]


def rows(store: Connection, statement: str) -> list[Any]:
    with store.engine.connect() as connection:
        return list(connection.execute(sa.text(statement)).all())


def execute(store: Connection, *statements: str) -> None:
    """Run statements in one transaction."""
    with store.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def ignored_progress(_done: int, _total: int) -> None:
    """Take a report of progress, and do nothing with it."""


def count(store: Connection, table: str) -> int:
    return int(rows(store, f"SELECT count(*) FROM {table}")[0][0])


def counts(store: Connection) -> dict[str, int]:
    """Return the number of rows by table."""
    tables = ("event", "trait_text", "trait_int", "trait_float", "trait_datetime", "dead_letter")
    return {table: count(store, table) for table in tables}


def is_partitioned(store: Connection) -> bool:
    """Tell whether days have events of their own."""
    with store.engine.connect() as connection:
        return partitions.exist(connection)


def there(store: Connection) -> list[partitions.Partition]:
    """Return the partitions, the oldest first."""
    with read_transaction(store.engine) as connection:
        return partitions.found(connection)


def skip_where_partitioned(store: Connection, reason: str) -> None:
    with store.engine.connect() as connection:
        if partitions.exist(connection):
            pytest.skip(reason)


def refuse_the_word(store: Connection, word: str) -> None:
    """Make the database refuse text traits of that value, as some constraint of an operator's might."""
    statement = {
        "sqlite": f"CREATE TRIGGER no_{word} BEFORE INSERT ON trait_text WHEN new.value = '{word}' "
        "BEGIN SELECT RAISE(ABORT, 'refused'); END",
    }.get(
        store.engine.dialect.name,
        f"ALTER TABLE trait_text ADD CONSTRAINT no_{word} CHECK (value <> '{word}')",
    )
    with store.engine.begin() as connection:
        connection.execute(sa.text(statement))


def connect(url: str, **options: Any) -> Connection:
    """Return a store under some options of [database]."""
    conf = cfg.ConfigOpts()
    config.register_opts(conf)
    for name, value in options.items():
        conf.set_override(name, value, "database")
    return Connection(url, conf)


@contextlib.contextmanager
def another_writer_of(message_id: str, store: Connection) -> Iterator[sa.Connection]:
    """Give a connection whose open transaction holds a copy of the only event under another message_id."""
    engine = sa.create_engine(store.engine.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            driver: Any = connection.connection.driver_connection
            driver.isolation_level = None
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.execute(
            sa.text(
                "INSERT INTO event (id, message_id, generated, raw, event_type_id) "
                "SELECT id + 1000, :message_id, generated, raw, event_type_id FROM event"
            ),
            {"message_id": message_id},
        )
        yield connection
        connection.rollback()


def keep(
    store: Connection,
    table: str,
    condition: str,
    on_sqlite: str = "RAISE(IGNORE)",
    on_postgresql: str = "RETURN NULL",
) -> None:
    """Have a trigger keep some rows of a table, without a word unless told otherwise."""
    with store.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(
                f"CREATE TRIGGER hold_{table} BEFORE DELETE ON {table} WHEN {condition} "
                f"BEGIN SELECT {on_sqlite}; END"
            )
            return
        connection.exec_driver_sql(
            f"CREATE FUNCTION hold_{table}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF {condition} THEN {on_postgresql}; END IF; RETURN OLD; END $$"
        )
        connection.exec_driver_sql(
            f"CREATE TRIGGER hold BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION hold_{table}()"
        )


WHERE_TRIGGERS_CAN_KEEP_ROWS = pytest.mark.parametrize(
    "database_url",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("partitioned", marks=pytest.mark.postgresql),
    ],
    indirect=True,
)

ON_SERVERS = pytest.mark.parametrize(
    "database_url",
    [
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("partitioned", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
    indirect=True,
)


@contextlib.contextmanager
def legal_hold(store: Connection, condition: str, table: str = "event", more: str = "") -> Iterator[None]:
    """Have a table of an operator's refer to some rows."""
    with store.engine.begin() as connection:
        column = "INTEGER" if connection.dialect.name == "sqlite" else "BIGINT"
        connection.exec_driver_sql(f"CREATE TABLE legal_hold (id {column} REFERENCES {table} (id) {more})")
        connection.exec_driver_sql(f"INSERT INTO legal_hold SELECT id FROM {table} WHERE {condition}")
    try:
        yield
    finally:
        with store.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE legal_hold")
