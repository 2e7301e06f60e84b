"""Tables that an operator changed so that rows of ours don't go into them: told with what mends it."""

import contextlib
import datetime
from collections.abc import Sequence
from typing import Any

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
    ["ALTER TABLE event ADD CONSTRAINT once UNIQUE (message_id) DEFERRABLE INITIALLY DEFERRED"],
    ["CREATE RULE tell AS ON UPDATE TO event DO ALSO NOTIFY events"],
    ["CREATE RULE tell AS ON INSERT TO event DO ALSO NOTIFY events"],
]
AS_TIMES = [
    [
        "SET time_zone = '+00:00'",
        f"ALTER TABLE event ADD moment {kind}(6)",
        "UPDATE event SET moment = FROM_UNIXTIME(generated)",
        f"ALTER TABLE event DROP generated, CHANGE moment generated {kind}(6)",
    ]
    for kind in ("DATETIME", "TIMESTAMP")
]
MARIADB = [
    ["ALTER TABLE event MODIFY generated DOUBLE"],
    ["ALTER TABLE trait_text MODIFY `key` ENUM ('project_id', 'display_name') NOT NULL"],
]
AS_BYTES = ["ALTER TABLE event ALTER raw TYPE bytea USING convert_to(raw, 'UTF8')"]
HARMLESS = {
    "postgresql_url": [
        "CREATE DOMAIN of_names AS varchar(255)",
        "ALTER TABLE trait_text ALTER key TYPE of_names, ALTER value TYPE of_names",
        "CREATE DOMAIN of_times AS timestamp",
        "ALTER TABLE event ALTER generated TYPE of_times",
        "CREATE DOMAIN of_numbers AS bigint",
        "ALTER TABLE trait_int ALTER value TYPE of_numbers",
        "CREATE EXTENSION citext",
        "ALTER TABLE event ALTER raw TYPE citext",
        "ALTER TABLE trait_float ALTER value TYPE numeric(30, 20)",
        "ALTER TABLE trait_text ADD CONSTRAINT once UNIQUE (event_id, key) DEFERRABLE",
        "CREATE RULE tell AS ON INSERT TO event DO ALSO NOTIFY events",
        "ALTER TABLE event DISABLE RULE tell",
    ],
    "mariadb_url": [
        "ALTER TABLE event MODIFY generated DECIMAL(30, 9) UNSIGNED",
        "ALTER TABLE trait_int MODIFY value DECIMAL(20, 0)",
        "ALTER TABLE trait_float MODIFY value DOUBLE UNSIGNED",
        "ALTER TABLE event MODIFY raw LONGTEXT COMPRESSED",
    ],
}


def of_postgresql(*values: object) -> Any:
    return pytest.param("postgresql_url", *values, marks=pytest.mark.postgresql)


def of_mariadb(*values: object) -> Any:
    return pytest.param("mariadb_url", *values, marks=pytest.mark.mariadb)


SPOILED = [of_postgresql(AS_BYTES), *map(of_mariadb, AS_TIMES)]
CONVERTED = [*map(of_postgresql, POSTGRESQL), *map(of_mariadb, MARIADB)]
SERVERS = [of_postgresql(), of_mariadb()]


def adopt(store: Connection, shape: str = "panko") -> dict[str, list[dict[str, Any]]]:
    with store.engine.begin() as connection:
        legacy.make(connection, shape)
        legacy.fill(connection, shape, 20)
        return legacy.rows(connection)


def run(store: Connection, statements: Sequence[str]) -> None:
    with store.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    store.engine.dispose()  # with what was set in the session


def failures(store: Connection) -> list[str]:
    return [one.text for one in store.check() if (one.level, one.subject) == (FAILURE, "tables")]


def statements(told: str) -> list[str]:
    return told.partition(": ")[2].partition(", and let")[0].split("; ")


@pytest.mark.parametrize(("server", "changes"), SPOILED)
def test_columns_that_a_rewrite_would_spoil_are_told_and_adopted_when_they_are_mended(
    request: pytest.FixtureRequest, server: str, changes: list[str]
) -> None:
    with contextlib.closing(Connection(request.getfixturevalue(server))) as store:
        before = adopt(store)
        run(store, changes)
        with pytest.raises(StorageUnavailable) as told:
            store.upgrade()
        assert told.value.operator
        assert failures(store) == [str(told.value)]
        assert store.current_revision() is None
        zone = ["SET time_zone = '+05:00'"] if server == "mariadb_url" else []
        run(store, [*zone, *statements(str(told.value))])
        store.upgrade()
        assert failures(store) == []
        with store.engine.connect() as connection:
            assert legacy.rows(connection) == before
        assert store.record_events([make_event(1)]).recorded == (0,)


@pytest.mark.parametrize(("server", "changes"), CONVERTED)
def test_other_columns_that_take_no_rows_of_ours_are_made_right_by_an_upgrade_or_told_after_it(
    request: pytest.FixtureRequest, server: str, changes: list[str]
) -> None:
    with contextlib.closing(Connection(request.getfixturevalue(server))) as store:
        before = adopt(store)
        run(store, changes)
        store.upgrade(postpone_rewrites=True)
        (told,) = failures(store)
        with pytest.raises(StorageUnavailable, match=r": (ALTER|DROP) ") as refused:
            store.record_events([make_event(1)])
        assert str(refused.value) == told
        store.upgrade()
        for after in failures(store):
            run(store, statements(after))
        assert failures(store) == []
        with store.engine.connect() as connection:
            assert legacy.rows(connection) == before
        assert store.record_events([make_event(1)]).recorded == (0,)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("postpone", [True, False])
def test_columns_that_hold_rows_of_ours_as_they_are_do_no_harm(
    request: pytest.FixtureRequest, server: str, postpone: bool
) -> None:
    with contextlib.closing(Connection(request.getfixturevalue(server))) as store:
        adopt(store, "panko-bigint")
        run(store, HARMLESS[server])
        store.upgrade(postpone_rewrites=postpone)
        events = [make_event(number) for number in range(30)]
        assert store.record_events(events[:1]).recorded == (0,)
        assert store.record_events(events[1:]).failed == ()
        assert failures(store) == []
        found = {event.message_id: event for event in store.get_events(EventFilter())}
        assert len(found) == len(events) + 20
        for event in events:
            assert found[event.message_id].generated == event.generated
            assert sorted(found[event.message_id].traits) == sorted(event.traits)


@pytest.mark.parametrize(("server", "changes"), [*CONVERTED, *map(of_mariadb, AS_TIMES)])
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
        of_postgresql(["ALTER TABLE event ALTER message_id TYPE uuid USING message_id::uuid"]),
        of_mariadb(AS_TIMES[0]),
    ],
)
def test_columns_that_can_not_be_merged_are_told_of_the_other_database(
    request: pytest.FixtureRequest, sqlite_url: str, server: str, changes: list[str]
) -> None:
    url = request.getfixturevalue(server)
    with contextlib.closing(Connection(url)) as other, contextlib.closing(Connection(sqlite_url)) as store:
        adopt(other)
        run(other, changes)
        store.upgrade()
        with pytest.raises(
            StorageUnavailable, match=r"db merge: --from: event.* is .*: .*ALTER TABLE event"
        ) as told:
            store.merge(url, lambda *_: None)
        assert told.value.operator


@pytest.mark.parametrize(
    ("server", "changes"),
    [of_postgresql(POSTGRESQL[1]), of_mariadb(MARIADB[-1])],
)
def test_columns_that_are_read_as_ours_are_merged(
    request: pytest.FixtureRequest, sqlite_url: str, server: str, changes: list[str]
) -> None:
    url = request.getfixturevalue(server)
    with contextlib.closing(Connection(url)) as other, contextlib.closing(Connection(sqlite_url)) as store:
        adopt(other)
        run(other, changes)
        store.upgrade()
        assert store.merge(url, lambda *_: None).recorded == 20
        times = [event.generated for event in store.get_events(EventFilter())]
        assert min(times) == legacy.START + datetime.timedelta(minutes=7)


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
