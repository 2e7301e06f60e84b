"""Following what is stored: every event once, as soon as it is committed."""

import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from panko_ingest.storage import EventFilter, StorageUnavailable
from panko_ingest.storage.database.engine import write_transaction
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.reading.follow import Follower
from panko_ingest.storage.schema import partitions
from panko_ingest.storage.tables import datetime_to_decimal
from tests.integration.storage.samples import START, connect, make_event, make_events
from tests.services import PostgreSQL


class Clock:
    """Seconds that a test moves on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def follower(store: Connection, clock: Clock) -> Follower:
    """A follower that has looked once, when three events were there."""
    store.record_events(make_events(3))
    follower = Follower(store._reader, EventFilter(), clock)
    assert ids(follower) == []
    return follower


def ids(follower: Follower) -> list[str]:
    return [event.message_id for event in follower.poll()]


def draw(session: sa.Connection, store: Connection, message_id: str, generated: datetime.datetime) -> None:
    """Write an event by hand, in a transaction that is still to be committed."""
    new_id = partitions.NEW_ID if partitions.exist(session) else None
    values: dict[str, object] = {"m": message_id, "t": 1, "generated": generated, "raw": "{}"}
    if store.engine.dialect.name == "mysql":
        values["generated"] = datetime_to_decimal(generated)
    columns, given = "message_id, `generated`, raw, event_type_id", ":m, :generated, :raw, :t"
    if new_id:
        columns, given = (
            f"id, {columns}",
            f"{new_id.replace('generated', 'CAST(:generated AS timestamp)')}, {given}",
        )
    if store.engine.dialect.name != "mysql":
        columns = columns.replace("`", "")
    session.execute(sa.text(f"INSERT INTO event ({columns}) VALUES ({given})"), values)


def test_every_event_is_found_once_with_its_traits(store: Connection, follower: Follower) -> None:
    assert ids(follower) == []
    store.record_events(make_events(700, first=3))
    assert ids(follower) == [f"m{number:04}" for number in range(3, 703)]
    assert ids(follower) == []
    late = make_event(5000, Trait("note", Trait.TEXT_TYPE, "late"))
    late.generated = START - datetime.timedelta(days=400)
    store.record_events([late, make_event(5001)])
    found = list(follower.poll())
    assert sorted(event.message_id for event in found) == ["m5000", "m5001"]
    assert {len(event.traits) for event in found} == {4, 5}


def test_large_events_are_read_a_few_at_a_time_and_the_rest_at_the_next_look(
    store: Connection, follower: Follower
) -> None:
    large = make_events(6, first=3)
    for event in large:
        event.raw = {"payload": "x" * 3_000_000}
    store.record_events(large)
    found = follower.poll()
    assert next(found).message_id == "m0003"
    del found
    found = follower.poll()
    assert next(found).message_id == "m0004"
    # What is not read yet is not in memory: it is gone with its row.
    assert store.clear_expired_data(0) == 9
    assert "m0008" not in [event.message_id for event in found]


@pytest.mark.parametrize("years", [-1000, 1000])
def test_an_event_of_a_day_far_away_is_found(store: Connection, follower: Follower, years: int) -> None:
    far = make_event(9000)
    far.generated = START.replace(year=START.year + years, microsecond=0)
    store.record_events([far])
    store.record_events([make_event(9001)])
    assert ids(follower) == ["m9000", "m9001"]
    assert ids(follower) == []


@pytest.mark.parametrize("days", [-400, 400])
def test_an_event_of_a_day_far_away_is_found_once_also_if_it_is_the_newest(
    store: Connection, follower: Follower, clock: Clock, days: int
) -> None:
    store.record_events(make_events(5, first=10))
    assert len(ids(follower)) == 5
    far = make_event(9000)
    far.generated = START + datetime.timedelta(days=days)
    store.record_events([far])
    assert ids(follower) == ["m9000"]
    for _ in range(3):
        clock.now += 200
        assert ids(follower) == []
    store.record_events([make_event(9001)])
    assert ids(follower) == ["m9001"]


def test_an_event_that_is_committed_after_one_with_a_higher_id_is_found(
    store: Connection, follower: Follower, clock: Clock
) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite lets one transaction write at a time")
    with store.engine.connect() as slow:
        draw(slow, store, "slow", START)
        store.record_events(make_events(5, first=10))
        assert ids(follower) == ["m0010", "m0011", "m0012", "m0013", "m0014"]
        store.record_events([make_event(15)])
        clock.now += 200
        assert ids(follower) == ["m0015"]
        slow.commit()
    assert ids(follower) == ["slow"]
    assert ids(follower) == []


def test_no_event_is_shown_again_when_a_newer_one_expires(store: Connection, follower: Follower) -> None:
    store.record_events([make_event(10)])
    assert ids(follower) == ["m0010"]
    late = make_event(11)
    late.generated -= datetime.timedelta(days=3650)
    store.record_events([late])
    assert ids(follower) == ["m0011"]
    age = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - late.generated
    assert store.clear_expired_data(age.total_seconds() - 86400) == 1
    assert (ids(follower), ids(follower)) == ([], [])
    store.record_events(make_events(2, first=12))
    assert ids(follower) == ["m0012", "m0013"]


def test_an_event_that_was_being_written_when_following_began_is_found(
    store: Connection, clock: Clock
) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite lets one transaction write at a time")
    store.record_events(make_events(3))
    with store.engine.connect() as slow:
        draw(slow, store, "slow", START)
        store.record_events([make_event(4)])
        follower = Follower(store._reader, EventFilter(), clock)
        assert ids(follower) == []
        slow.commit()
    assert ids(follower) == ["slow"]


def test_numbers_that_were_given_back_are_not_looked_for_forever(
    store: Connection, follower: Follower, clock: Clock
) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite gives no number back")
    with store.engine.connect() as slow:
        draw(slow, store, "never", START)
        slow.rollback()
    store.record_events(make_events(100, first=10))
    assert len(ids(follower)) == 100
    assert len(follower._known) > 100
    for _ in range(3):
        clock.now += 200
        assert ids(follower) == []
    assert len(follower._known) == 1


def test_only_events_that_the_filter_chooses_are_found(store: Connection) -> None:
    store.record_events(make_events(3))
    wanted = EventFilter(traits_filter=[{"key": "disk_gb", "integer": 12, "op": "ge"}])
    follower = store.follow(wanted)
    assert list(follower.poll()) == []
    store.record_events(make_events(5, first=10))
    assert [event.message_id for event in follower.poll()] == ["m0012", "m0013", "m0014"]


def test_a_number_that_sqlite_gives_again_is_a_new_event(sqlite_url: str) -> None:
    store = Connection(sqlite_url)
    store.upgrade()
    store.record_events(make_events(3))
    follower = store.follow(EventFilter())
    assert list(follower.poll()) == []
    with write_transaction(store.engine) as connection:
        for table in ("trait_text", "trait_int", "trait_float", "trait_datetime"):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE event_id = 3")
        connection.exec_driver_sql("DELETE FROM event WHERE id = 3")
    store.record_events([Event("another", "x", START)])
    assert [event.message_id for event in follower.poll()] == ["another"]
    store.close()


@pytest.mark.postgresql
def test_a_restart_of_the_database_costs_no_event(postgresql: PostgreSQL, postgresql_url: str) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    store.record_events(make_events(3))
    follower = store.follow(EventFilter())
    assert list(follower.poll()) == []
    store.record_events(make_events(3, first=3))
    postgresql.stop()
    with pytest.raises(StorageUnavailable):
        list(follower.poll())
    postgresql.restart()
    store.record_events(make_events(3, first=6))
    assert [event.message_id for event in follower.poll()] == [f"m{number:04}" for number in range(3, 9)]
    store.close()


@pytest.mark.postgresql
def test_nothing_is_skipped_or_shown_again_when_tables_become_partitioned_meanwhile(
    postgresql_url: str, clock: Clock
) -> None:
    store = connect(postgresql_url, event_time_to_live="30d")
    store.upgrade()
    store.record_events(make_events(3))
    follower = Follower(store._reader, EventFilter(), clock)
    assert ids(follower) == []
    with store.engine.connect() as slow:
        draw(slow, store, "never", START)
        slow.rollback()
    store.record_events(make_events(4, first=3))
    ahead = make_event(90)
    ahead.generated = datetime.datetime.now() + datetime.timedelta(days=3)
    store.record_events([ahead])
    store.partition("day", lambda _done, _total: None)
    store.record_events(make_events(3, first=7))
    assert ids(follower) == [*(f"m{number:04}" for number in range(3, 7)), "m0090", "m0007", "m0008", "m0009"]
    assert ids(follower) == []
    clock.now += 200
    store.record_events([make_event(10)])
    assert ids(follower) == ["m0010"]
    store.close()


@pytest.mark.mariadb
def test_numbers_that_come_in_steps_are_not_all_read_again_at_each_look(mariadb_url: str) -> None:
    clock, read = Clock(), [0]
    store = Connection(mariadb_url)

    @sa.event.listens_for(store.engine, "connect")
    def _be_a_node(connection: Any, _record: object) -> None:
        connection.cursor().execute("SET SESSION auto_increment_increment = 3")

    @sa.event.listens_for(store.engine, "after_cursor_execute")
    def _count(_connection: object, cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("SELECT event.id, event.message_id"):
            read[0] += cursor.rowcount
            clock.now += 0.01  # a look takes so long

    store.upgrade()
    store.record_events([make_event(5000)])
    follower = Follower(store._reader, EventFilter(), clock)
    assert ids(follower) == []
    with store.engine.connect() as slow:
        draw(slow, store, "slow", START)
        store.record_events(make_events(1500))
        assert len(ids(follower)) == 1500
        read[0] = 0
        assert ids(follower) == []
        assert read[0] == 0
        slow.commit()
    store.record_events([make_event(6000)])
    assert ids(follower) == ["m6000"], "what is new is found at once"
    assert [name for _ in range(30) for name in ids(follower)] == ["slow"]
    clock.now += 1000
    assert ids(follower) == []
    assert len(follower._known) == 1
    store.close()
