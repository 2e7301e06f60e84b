"""Tables that an operator changed so that rows of ours don't go into them: told with what mends it."""

import contextlib
from collections.abc import Sequence

import pytest

from panko_ingest.findings import FAILURE
from panko_ingest.storage import EventFilter, StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests import legacy
from tests.integration.storage.samples import make_event

POSTGRESQL = [
    ["ALTER TABLE event ALTER raw TYPE json USING raw::json"],
    ["ALTER TABLE event ALTER generated TYPE timestamptz USING generated AT TIME ZONE 'UTC'"],
    ["ALTER TABLE event ALTER message_id TYPE char(50)"],
    ["CREATE DOMAIN of_messages AS varchar(50)", "ALTER TABLE event ALTER message_id TYPE of_messages"],
    [
        "ALTER TABLE event ADD CONSTRAINT once UNIQUE (message_id) DEFERRABLE INITIALLY DEFERRED",
    ],
    [
        "CREATE TABLE copies AS SELECT * FROM event LIMIT 0",
        "CREATE RULE copy AS ON INSERT TO event DO ALSO INSERT INTO copies VALUES (NEW.*)",
    ],
]
MARIADB = [
    [
        "SET time_zone = '+00:00'",
        "ALTER TABLE event ADD moment DATETIME(6)",
        "UPDATE event SET moment = FROM_UNIXTIME(generated)",
        "ALTER TABLE event DROP generated, CHANGE moment generated DATETIME(6)",
    ],
    ["ALTER TABLE event MODIFY generated DOUBLE"],
    ["ALTER TABLE trait_text MODIFY `key` ENUM ('project_id', 'display_name') NOT NULL"],
]
CHANGES = [
    *(pytest.param("postgresql_url", one, marks=pytest.mark.postgresql) for one in POSTGRESQL),
    *(pytest.param("mariadb_url", one, marks=pytest.mark.mariadb) for one in MARIADB),
]
SERVERS = [
    pytest.param("postgresql_url", marks=pytest.mark.postgresql),
    pytest.param("mariadb_url", marks=pytest.mark.mariadb),
]


def run(store: Connection, statements: Sequence[str]) -> None:
    with store.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def failures(store: Connection) -> list[str]:
    return [one.text for one in store.check() if (one.level, one.subject) == (FAILURE, "tables")]


@pytest.mark.parametrize(("server", "changes"), CHANGES)
def test_columns_that_take_no_rows_of_ours_are_told_and_adopted_when_they_are_mended(
    request: pytest.FixtureRequest, server: str, changes: list[str]
) -> None:
    with contextlib.closing(Connection(request.getfixturevalue(server))) as store:
        with store.engine.begin() as connection:
            legacy.make(connection, "panko")
            legacy.fill(connection, "panko", 20)
            before = legacy.rows(connection)
        run(store, changes)
        with pytest.raises(StorageUnavailable) as told:
            store.upgrade()
        assert told.value.operator
        assert failures(store) == [str(told.value)]
        assert store.current_revision() is None
        statements = str(told.value).partition(": ")[2].partition(", and let")[0]
        run(store, statements.split("; "))
        store.upgrade()
        assert failures(store) == []
        with store.engine.connect() as connection:
            assert legacy.rows(connection) == before
        assert store.record_events([make_event(1)]).recorded == (0,)


@pytest.mark.parametrize(("server", "changes"), CHANGES)
def test_nothing_becomes_a_dead_letter_where_columns_take_no_rows_of_ours(
    request: pytest.FixtureRequest, server: str, changes: list[str]
) -> None:
    with contextlib.closing(Connection(request.getfixturevalue(server))) as store:
        store.upgrade()
        run(store, changes)
        for count in (1, 3):
            events = [make_event(number) for number in range(count)]
            with pytest.raises(StorageUnavailable) as told:
                store.record_events(events, on_failure=lambda _, error: pytest.fail(str(error)))
            assert told.value.operator
            assert failures(store) == [str(told.value)]


@pytest.mark.parametrize(
    ("server", "changes"),
    [
        pytest.param(
            "postgresql_url",
            ["ALTER TABLE event ALTER message_id TYPE uuid USING message_id::uuid"],
            marks=pytest.mark.postgresql,
        ),
        pytest.param("mariadb_url", MARIADB[0], marks=pytest.mark.mariadb),
    ],
)
def test_columns_that_can_not_be_merged_are_told_of_the_other_database(
    request: pytest.FixtureRequest, sqlite_url: str, server: str, changes: list[str]
) -> None:
    url = request.getfixturevalue(server)
    with contextlib.closing(Connection(url)) as other, contextlib.closing(Connection(sqlite_url)) as store:
        with other.engine.begin() as connection:
            legacy.make(connection, "panko")
            legacy.fill(connection, "panko", 20)
        run(other, changes)
        store.upgrade()
        with pytest.raises(
            StorageUnavailable, match=r"db merge: --from: event.* is .*: ALTER TABLE event"
        ) as told:
            store.merge(url, lambda *_: None)
        assert told.value.operator


@pytest.mark.parametrize("server", SERVERS)
def test_a_view_in_the_place_of_a_table_is_told(request: pytest.FixtureRequest, server: str) -> None:
    url = request.getfixturevalue(server)
    with contextlib.closing(Connection(url)) as store:
        store.upgrade()
        store.record_events([make_event(1)])
        run(store, ["ALTER TABLE event RENAME TO events", "CREATE VIEW event AS SELECT * FROM events"])
        text = "event is no table, and events need one: give it another name, and put a table in its place"
        assert text in failures(store)
        with contextlib.closing(Connection(url)) as another:
            for use in (another.prove_rows, another.upgrade):
                with pytest.raises(StorageUnavailable, match="event is no table") as told:
                    use()
                assert told.value.operator
        run(store, ["DROP VIEW event", "ALTER TABLE events RENAME TO event"])
        store.prove_rows()
        assert len(list(store.get_events(EventFilter()))) == 1
