"""Retention: what is too old goes, whole and nothing else, whatever happens meanwhile."""

import datetime
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from panko_ingest import timestamps
from panko_ingest.storage import DeadLetterFilter, EventFilter, ExpiryReport
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from tests.integration.storage.samples import (
    ON_SERVERS,
    WHERE_TRIGGERS_CAN_KEEP_ROWS,
    connect,
    count,
    counts,
    keep,
    legal_hold,
    letter_for,
    make_events,
    rows,
    stored_ids,
)
from tests.services import PgBouncer, PostgreSQL
from tests.waiting import wait_until

NOW = datetime.datetime(2026, 3, 10, 12, 0, 0, 123456)
DAY = 86400.0


def now() -> datetime.datetime:
    return NOW


def event(name: str, generated: datetime.datetime, event_type: str = "volume.create.end") -> Event:
    traits = [
        Trait("state", Trait.TEXT_TYPE, "available"),
        Trait("size", Trait.INT_TYPE, 4),
        Trait("load", Trait.FLOAT_TYPE, 0.5),
        Trait("created_at", Trait.DATETIME_TYPE, NOW),
    ]
    return Event(name, event_type, generated, traits)


def old_events(number: int, first: int = 0, event_type: str = "volume.create.end") -> list[Event]:
    """Return events of more than a day ago, the first one the oldest."""
    start = NOW - datetime.timedelta(days=3)
    return [
        event(f"m{index:05}", start + datetime.timedelta(seconds=index), event_type)
        for index in range(first, first + number)
    ]


def lost_halves(store: Connection) -> dict[str, int]:
    """Return what there is of traits without their event, and of events without all their traits."""
    orphans = {
        table: rows(
            store, f"SELECT count(*) FROM {table} t LEFT JOIN event e ON e.id = t.event_id WHERE e.id IS NULL"
        )[0][0]
        for table in ("trait_text", "trait_int", "trait_float", "trait_datetime")
    }
    incomplete = sum(
        abs(count(store, table) - count(store, "event")) for table in orphans
    )  # each event has one trait of each type
    return {name: number for name, number in {**orphans, "incomplete": incomplete}.items() if number}


def after_each_commit(store: Connection, act: Callable[[], Any]) -> None:
    sa.event.listen(store.engine, "commit", lambda _connection: act())


def test_an_event_at_the_limit_stays_and_one_a_microsecond_older_goes(store: Connection) -> None:
    limit = NOW - datetime.timedelta(days=1)
    store.record_events(
        [
            event("at the limit", limit),
            event("a microsecond older", limit - datetime.timedelta(microseconds=1)),
            event("a microsecond younger", limit + datetime.timedelta(microseconds=1)),
        ]
    )

    report = store.expire(DAY, clock=now)

    assert stored_ids(store) == ["a microsecond younger", "at the limit"]
    assert (report.events, report.traits, report.backlog, report.oldest) == (1, 4, 0, limit)
    assert lost_halves(store) == {}


def test_times_to_live_with_a_fraction_are_exact(store: Connection) -> None:
    store.record_events([event("a", NOW - datetime.timedelta(microseconds=1_000_001))])
    assert store.expire(1.000001, clock=now).events == 0
    assert store.expire(1.0, clock=now).events == 1


@pytest.mark.parametrize("ttl", [0, -1, -86400])
def test_without_a_time_to_live_nothing_expires(store: Connection, ttl: float) -> None:
    store.record_events(old_events(3))
    assert store.expire(ttl, clock=now) == ExpiryReport()
    assert store.forecast_expiry(ttl, clock=now).events == 0
    assert count(store, "event") == 3


def test_times_to_live_longer_than_the_calendar_expire_nothing(store: Connection) -> None:
    store.record_events(old_events(1))
    assert store.expire(DAY * 365 * 3000, clock=now).events == 0
    assert store.expire(1e18, clock=now).events == 0
    assert store.expire(10**400, clock=now).events == store.clear_expired_data(10**400) == 0


def test_events_of_the_far_past_go_and_those_of_the_far_future_stay(store: Connection) -> None:
    store.record_events(
        [
            event("first", datetime.datetime(1, 1, 1)),
            event("before 1970", datetime.datetime(1969, 12, 31, 23, 59, 59)),
            event("future", datetime.datetime(9999, 12, 31, 23, 59, 59, 999999)),
        ]
    )
    assert store.expire(DAY, clock=now).events == 2
    assert stored_ids(store) == ["future"]


def test_a_clock_that_goes_back_keeps_what_was_expired_before(store: Connection) -> None:
    store.record_events(old_events(20))
    times = iter([NOW - datetime.timedelta(days=1, hours=23, minutes=59, seconds=50), NOW])
    assert store.expire(DAY, clock=lambda: next(times)).events == 10
    back = NOW - datetime.timedelta(days=30)
    assert store.expire(DAY, clock=lambda: back).events == 0
    assert count(store, "event") == 10
    assert store.expire(DAY, clock=lambda: next(times)).events == 10


def test_the_oldest_go_first_and_a_round_stops_between_batches(store: Connection, database_url: str) -> None:
    store.expire(DAY, clock=now)  # the partitions that are over are gone
    store.record_events(old_events(100)[::-1])
    stopping = threading.Event()
    other = Connection(database_url)

    def stop_after_a_batch(*_: object) -> None:
        if counts(other)["event"] < 100:
            stopping.set()

    # When the connection is given back, its transaction is over.
    sa.event.listen(store.engine, "checkin", stop_after_a_batch)
    report = store.expire(DAY, batch_size=30, stopping=stopping, clock=now)

    assert (report.events, report.batches, report.backlog) == (30, 1, 70)
    assert stored_ids(store) == [f"m{number:05}" for number in range(30, 100)]
    assert report.oldest == old_events(31)[-1].generated
    assert "30 events with 120 traits deleted" in str(report)
    assert "70 expired ones are left" in str(report)
    other.close()


def test_a_round_ends_when_its_time_is_up(store: Connection) -> None:
    store.record_events(old_events(60))
    report = store.expire(DAY, batch_size=1, budget=1e-9, clock=now)
    assert report.backlog == 60 - report.events > 0


def test_older_events_that_come_during_a_round_go_with_it(store: Connection, database_url: str) -> None:
    store.expire(DAY, clock=now)  # the partitions that are over are gone
    store.record_events(old_events(40, first=10))
    other = Connection(database_url)
    late = old_events(10)

    def record_late_ones(*_: object) -> None:
        if late and counts(other)["event"] < 40:
            other.record_events(late)
            late.clear()

    # When the connection is given back, its transaction is over.
    sa.event.listen(store.engine, "checkin", record_late_ones)
    report = store.expire(DAY, batch_size=20, clock=now)

    assert (report.events, report.backlog, report.oldest) == (50, 0, None)
    assert lost_halves(store) == {}
    other.close()


def test_a_round_goes_on_until_nothing_is_left_and_adapts_its_batches(store: Connection) -> None:
    for start in range(0, 3000, 1000):
        store.record_events(old_events(1000, start))
    report = store.expire(DAY, clock=now)
    assert (report.events, report.traits, report.backlog, report.oldest) == (3000, 12000, 0, None)
    assert counts(store) == dict.fromkeys(counts(store), 0)


def test_clear_expired_data_deletes_one_batch_or_all(store: Connection) -> None:
    store.record_events(make_events(25))
    assert store.clear_expired_data(DAY, 10) == 10
    assert stored_ids(store) == [f"m{number:04}" for number in range(10, 25)]
    assert store.clear_expired_data(DAY, 0) == 15
    assert store.clear_expired_data(DAY) == 0
    assert lost_halves(store) == {}


@WHERE_TRIGGERS_CAN_KEEP_ROWS
@pytest.mark.parametrize("same_moment", [False, True], ids=["in a row", "of one moment"])
def test_events_that_a_trigger_keeps_end_no_round_late_and_keep_no_others(
    store: Connection, caplog: pytest.LogCaptureFixture, *, same_moment: bool
) -> None:
    held = old_events(30)
    free = [event(f"n{number}", held[-1].generated) for number in range(25)]
    for one in held:
        one.generated = held[-1].generated if same_moment else one.generated
    store.record_events([*held, *free])
    keep(store, "event", "OLD.message_id LIKE 'm%%'")
    for number in (25, 0):
        # Without its end it would take all the time that it is given.
        report = store.expire(DAY, batch_size=10, budget=30, clock=now)
        assert (report.events, report.backlog) == (number, 30)
        assert report.seconds < 15
    (told,) = [one.message for one in caplog.records if "rows stay" in one.message]
    assert told.startswith("30 expired rows stay")
    store.record_events([event("younger", held[-1].generated + datetime.timedelta(seconds=1))])
    assert store.clear_expired_data(DAY, 1) == 1
    assert count(store, "event") == 30
    store.clear()
    assert count(store, "event") == 30
    assert lost_halves(store) == {}


def test_events_that_another_table_refers_to_stay_whole_and_keep_no_others(
    store: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    store.record_events(old_events(300))
    with legal_hold(store, "message_id IN ('m00000', 'm00007', 'm00298')"):
        forecast = store.forecast_expiry(DAY, clock=now)
        # Nobody can write to SQLite meanwhile: fewer are tried there.
        assert (forecast.tried, forecast.kept) in {(300, 3), (15, 2)}
        assert "legal_hold" in forecast.why or store.engine.dialect.name == "sqlite"
        report = store.expire(DAY, batch_size=50, budget=60, clock=now)
        assert (report.events, report.traits, report.backlog) == (297, 4 * 297, 3)
        assert stored_ids(store) == ["m00000", "m00007", "m00298"]
        assert lost_halves(store) == {}
        (told,) = [one.message for one in caplog.records if "expired rows stay" in one.message]
        assert told.startswith("3 expired rows stay")
        # SQLite names no table.
        assert "legal_hold" in told or store.engine.dialect.name == "sqlite"
        store.clear()
        assert stored_ids(store) == ["m00000", "m00007", "m00298"]
    assert store.clear_expired_data(DAY) == 3


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)
def test_a_reference_that_is_looked_at_when_all_is_done_keeps_no_other_events(store: Connection) -> None:
    store.record_events(old_events(20))
    with legal_hold(store, "message_id IN ('m00003', 'm00019')", more="DEFERRABLE INITIALLY DEFERRED"):
        report = store.expire(DAY, batch_size=20, clock=now)
        assert (report.events, report.backlog) == (18, 2)
        assert stored_ids(store) == ["m00003", "m00019"]
        assert lost_halves(store) == {}
        store.clear()
        assert stored_ids(store) == ["m00003", "m00019"]
    assert store.clear_expired_data(DAY) == 2


@pytest.mark.parametrize("deferred", ["", "DEFERRABLE INITIALLY DEFERRED"], ids=["at once", "at the end"])
def test_writers_of_sqlite_have_their_turns_while_expiry_looks_for_held_events(
    sqlite_url: str, deferred: str
) -> None:
    with closing(Connection(sqlite_url)) as store, closing(Connection(sqlite_url)) as writer:
        store.upgrade()
        store.record_events(old_events(400))
        with legal_hold(store, "message_id NOT LIKE '%50'", more=deferred), ThreadPoolExecutor(1) as expirer:
            assert store.forecast_expiry(DAY, clock=now).events == 400
            began = time.monotonic()
            deleted = expirer.submit(store.clear_expired_data, DAY)
            ends = [began]
            while not deleted.done():
                writer.record_events([event(f"new{len(ends)}", timestamps.utc_now())])
                ends.append(time.monotonic())
            assert deleted.result() == 4
    waited = [end - start for start, end in itertools.pairwise(ends)]
    assert max(waited) < (ends[-1] - began) / 4


def test_more_held_events_than_a_round_can_look_at_keep_no_others(store: Connection) -> None:
    store.record_events(old_events(60))
    store.expire(DAY, batch_size=1, budget=1e-9, clock=now)  # the partitions that are over are gone
    store.record_events(old_events(60))
    with legal_hold(store, "message_id < 'm00055'"):
        rounds = 0
        while count(store, "event") > 55:
            rounds += 1
            assert rounds < 40
            report = store.expire(DAY, batch_size=10, stopping=StopsAfter(2), clock=now)
            assert report.backlog == count(store, "event")
        assert rounds > 1
        # Also of those before the place where the last round ended.
        store.record_events([event("older", NOW - datetime.timedelta(days=4))])
        store.expire(DAY, batch_size=10, clock=now)
        assert count(store, "event") == 55
    assert store.expire(DAY, clock=now).backlog == 0
    assert count(store, "event") == 0


@pytest.mark.postgresql
@pytest.mark.parametrize("size", [0, 1000])
def test_batches_that_never_end_in_time_become_smaller(postgresql_url: str, size: int) -> None:
    store = connect(postgresql_url, statement_timeout=1)
    store.upgrade()
    store.record_events(old_events(700))
    # What each may take where another table refers to events, without an index.
    keep(store, "event", "pg_sleep(0.003) IS NULL")
    assert store.expire(DAY, batch_size=size, clock=now).events == 700
    store.close()


@pytest.mark.postgresql
@pytest.mark.parametrize("size", [0, pytest.param(1000, marks=pytest.mark.long)])
def test_batches_become_smaller_for_a_time_limit_of_a_pooler_and_stay_so(
    postgresql: PostgreSQL, postgresql_url: str, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    with PgBouncer(postgresql, {"pool_mode": "transaction", "query_timeout": "1"}) as pooler:
        store = connect(pooler.through(postgresql_url))
        store.upgrade()
        keep(store, "event", "pg_sleep(0.003) IS NULL")
        for first in (0, 500):  # the second round begins with what worked in the first one
            store.record_events(old_events(500))
            assert store.forecast_expiry(DAY, clock=now).events == 500
            caplog.clear()
            assert store.expire(DAY, batch_size=size, clock=now).events == 500
            fewer = [text for text in caplog.messages if "fewer are taken" in text]
            assert bool(fewer) is (first == 0)
        store.close()


@pytest.mark.postgresql
def test_batches_of_dead_letters_that_never_end_in_time_become_smaller(postgresql_url: str) -> None:
    with closing(connect(postgresql_url)) as patient:
        patient.upgrade()
        patient.record_events([], [letter_for(number, ValueError("bad")) for number in range(700)])
        keep(patient, "dead_letter", "pg_sleep(0.003) IS NULL")
    with closing(connect(postgresql_url, statement_timeout=1)) as store:
        assert store.clear_expired_dead_letters(0) == 700


def test_expiry_of_dead_letters_ends_between_two_batches(store: Connection) -> None:
    store.record_events([], [letter_for(number, ValueError("bad")) for number in range(1200)])
    assert store.clear_expired_dead_letters(0, budget=1e-9) == 0
    assert store.clear_expired_dead_letters(0, stopping=StopsAfter(1)) == 1000
    assert store.clear_expired_dead_letters(0) == 200


def test_clearing_ends_although_events_come_that_are_expired_already(
    store: Connection, database_url: str
) -> None:
    store.record_events(old_events(10))
    numbers = itertools.count(10)
    with closing(Connection(database_url)) as late:

        def publish() -> None:
            if (number := next(numbers)) < 60:
                late.record_events(old_events(1, number))

        sa.event.listen(store.engine, "checkin", lambda *_: publish())  # "commit" comes before it is one
        assert 10 <= store.clear_expired_data(DAY) < 20
    assert next(numbers) < 30


def test_held_events_are_looked_at_again_only_when_all_others_were(store: Connection) -> None:
    store.record_events(old_events(90))
    store.expire(DAY, batch_size=1, budget=1e-9, clock=now)  # the partitions that are over are gone
    store.record_events(old_events(90))
    with legal_hold(store, "message_id < 'm00030'"):
        left = []
        for _ in range(6):
            store.expire(DAY, batch_size=10, stopping=StopsAfter(2), clock=now)
            left.append(count(store, "event"))
        assert left == [90, 80, 60, 40, 30, 30]


class StopsAfter(threading.Event):
    """Set when it has been looked at so often."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    def is_set(self) -> bool:
        self._looks -= 1
        return self._looks < 0


def test_dead_letters_that_another_table_refers_to_keep_no_others(store: Connection) -> None:
    store.record_events([], [letter_for(number, ValueError("bad")) for number in range(20)])
    with store.engine.connect() as connection:
        first = connection.exec_driver_sql("SELECT min(id) FROM dead_letter").scalar_one()
    with legal_hold(store, f"id = {first}", "dead_letter"):
        assert store.clear_expired_dead_letters(0) == 19
        assert count(store, "dead_letter") == 1


@WHERE_TRIGGERS_CAN_KEEP_ROWS
def test_a_trigger_that_raises_keeps_its_events_and_no_others(store: Connection) -> None:
    store.record_events(old_events(40))
    keep(store, "event", "OLD.message_id < 'm00005'", "RAISE(ABORT, 'held')", "RAISE EXCEPTION 'held'")
    report = store.expire(DAY, batch_size=10, budget=60, clock=now)
    assert (report.events, report.backlog) == (35, 5)
    assert lost_halves(store) == {}


@WHERE_TRIGGERS_CAN_KEEP_ROWS
def test_clearing_ends_although_a_trigger_keeps_more_than_a_batch(store: Connection) -> None:
    store.record_events(old_events(1200))
    store.record_events([], [letter_for(number, ValueError("bad")) for number in range(1200)])
    for table in ("event", "dead_letter"):
        keep(store, table, "true")
    assert store.clear_expired_data(DAY) == 0
    assert store.clear_expired_dead_letters(0) == 0
    assert (count(store, "event"), count(store, "dead_letter")) == (1200, 1200)


@WHERE_TRIGGERS_CAN_KEEP_ROWS
def test_a_round_ends_although_a_trigger_keeps_traits_whose_events_are_gone(store: Connection) -> None:
    store.record_events([event("young", NOW)])
    checks_nothing = {
        "sqlite": "PRAGMA foreign_keys = OFF",
        "postgresql": "SET session_replication_role = replica",
    }
    raw = store.engine.raw_connection()
    driver: Any = raw.driver_connection
    driver.execute(checks_nothing[store.engine.dialect.name])
    for number in range(30):
        driver.execute(f"INSERT INTO trait_int VALUES ({2**62 + number}, 'lost', 1)")
    driver.commit()
    raw.invalidate()
    keep(store, "trait_int", "true")
    report = store.expire(DAY, batch_size=10, budget=30, clock=now)
    assert (report.traits, count(store, "trait_int")) == (0, 31)
    assert report.seconds < 15


def test_event_types_without_events_stay(store: Connection) -> None:
    store.record_events(old_events(3))
    store.expire(DAY, clock=now)
    assert list(store.get_event_types()) == ["volume.create.end"]


def test_a_forecast_tells_what_a_round_then_does_and_changes_nothing(store: Connection) -> None:
    generated = [NOW - datetime.timedelta(days=days) for days in (1000, 40, 10, 9, 3, 1)]
    store.record_events([event(f"m{index}", time) for index, time in enumerate(generated)])

    forecast = store.forecast_expiry(DAY, clock=now)

    assert count(store, "event") == 6
    assert forecast.limit == NOW - datetime.timedelta(days=1)
    assert (forecast.events, forecast.oldest) == (5, generated[0])
    assert [tuple(line) for line in forecast.ages] == [(1, 1), (7, 2), (30, 1), (365, 1)]
    assert 0 < forecast.seconds < 10
    assert lost_halves(store) == {}
    assert store.expire(DAY, clock=now).events == 5


_ENDLESS_ROUND = """
import datetime, sys
from panko_ingest.storage.impl_sqlalchemy import Connection
now = datetime.datetime.fromisoformat(sys.argv[2])
Connection(sys.argv[1]).expire(86400, batch_size=1, clock=lambda: now)
"""


def test_an_expirer_that_is_killed_leaves_whole_events_and_the_next_goes_on(
    store: Connection, database_url: str
) -> None:
    for start in range(0, 4000, 1000):
        store.record_events(old_events(1000, start))
    process = subprocess.Popen([sys.executable, "-c", _ENDLESS_ROUND, database_url, str(NOW)])
    try:
        wait_until(lambda: count(store, "event") < 3990, 60, "the expirer to begin")
    finally:
        process.kill()
        process.wait()

    assert 0 < count(store, "event") < 4000
    assert lost_halves(store) == {}
    wait_until(lambda: not store.expire(DAY, clock=now).stood_by, 30, "the lease of the killed one to end")
    assert counts(store) == dict.fromkeys(counts(store), 0)


def test_one_expirer_works_and_another_stands_by_until_it_is_gone(
    store: Connection, database_url: str
) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite's writers wait for each other")
    store.record_events(old_events(10))
    other = Connection(database_url)
    reports: list[ExpiryReport] = []

    def look_on() -> None:
        with other.engine.connect() as connection:
            taken = connection.exec_driver_sql("SELECT ends FROM panko_ingest_lease WHERE name = 'expiry'")
            seen = taken.scalar_one() > 0
        if seen and not reports:
            reports.append(other.expire(DAY, clock=now))

    after_each_commit(store, look_on)
    assert store.expire(DAY, batch_size=5, clock=now).events == 10
    assert reports == [ExpiryReport(stood_by=True)]
    assert str(reports[0]) == "another expirer is at work"
    assert not other.expire(DAY, clock=now).stood_by
    other.close()


def test_events_expire_although_nobody_could_hold_the_lease(store: Connection) -> None:
    store.record_events(old_events(10))
    if sa.inspect(store.engine).has_table("panko_ingest_lease"):
        with store.engine.begin() as connection:
            connection.exec_driver_sql(
                "DELETE FROM panko_ingest_lease"
            )  # as a restore leaves it without rows
    report = store.expire(DAY, clock=now)
    assert (report.stood_by, report.events) == (False, 10)


def test_an_expirer_that_lost_its_lease_stops_and_the_one_that_took_over_goes_on(
    store: Connection, database_url: str
) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite's writers wait for each other")
    store.expire(DAY, clock=now)  # the partitions that are over are gone
    store.record_events(old_events(40))
    other = Connection(database_url)
    reports: list[ExpiryReport] = []

    def take_over(*_: object) -> None:
        if reports or count(other, "event") == 40:
            return
        assert other.expire(DAY, clock=now).stood_by
        with other.engine.begin() as connection:
            # As if the one at work had been suspended for longer than its lease lasts.
            connection.exec_driver_sql("UPDATE panko_ingest_lease SET ends = 0 WHERE name = 'expiry'")
        reports.append(other.expire(DAY, batch_size=10, clock=now))

    # When the connection is given back, its transaction is over.
    sa.event.listen(store.engine, "checkin", take_over)
    report = store.expire(DAY, batch_size=15, clock=now)

    assert (report.events, report.backlog) == (15, 0)
    assert [one.events for one in reports] == [25]
    assert counts(store) == dict.fromkeys(counts(store), 0)
    assert not store.expire(DAY, clock=now).stood_by
    other.close()


def test_two_expirers_without_a_lock_delete_each_event_once(store: Connection, database_url: str) -> None:
    store.record_events(old_events(1000))
    others = [Connection(database_url), Connection(database_url)]

    def work(connection: Connection) -> int:
        total = 0
        while count(connection, "event"):
            total += connection.clear_expired_data(DAY, 50)
        return total

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(work, others)) == 1000
    assert counts(store) == dict.fromkeys(counts(store), 0)
    for connection in others:
        connection.close()


@pytest.mark.parametrize(
    ("database_url", "sessions"),
    [
        pytest.param(
            "postgresql",
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle'",
            marks=pytest.mark.postgresql,
        ),
        pytest.param(
            "mariadb",
            "SELECT CONCAT('KILL ', id) FROM information_schema.processlist "
            "WHERE db = DATABASE() AND id <> CONNECTION_ID() AND command = 'Sleep'",
            marks=pytest.mark.mariadb,
        ),
    ],
    indirect=["database_url"],
)
def test_a_round_goes_on_although_its_idle_sessions_are_ended(store: Connection, sessions: str) -> None:
    store.record_events(old_events(40))
    one_at_a_time = threading.Lock()  # the lease has a thread of its own
    # Without a pool, as the store's threads may end sessions still when the round is over.
    administrator = sa.create_engine(store.engine.url, poolclass=sa.NullPool)

    def end_sessions(*_: object) -> None:
        with one_at_a_time, administrator.connect() as connection:
            for (found,) in connection.exec_driver_sql(sessions).all():
                if isinstance(found, str):
                    connection.exec_driver_sql(found)

    # First, as it takes a while: what looks after the pool looks just before a connection is put back.
    sa.event.listen(store.engine, "checkin", end_sessions, insert=True)
    report = store.expire(DAY, batch_size=10)
    assert (report.events, report.backlog) == (40, 0)


def test_a_round_waits_for_a_database_that_somebody_else_has_locked(sqlite_url: str) -> None:
    store = connect(sqlite_url)
    store.upgrade()
    store.record_events(old_events(10))
    expirer = connect(sqlite_url, lock_timeout=1.0)
    turned_away = threading.Event()
    sa.event.listen(expirer.engine, "handle_error", lambda _context: turned_away.set())
    other = sa.create_engine(store.engine.url, poolclass=sa.NullPool)

    with ThreadPoolExecutor(1) as pool, other.connect() as holder:
        driver: Any = holder.connection.driver_connection
        driver.isolation_level = None
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        expired = pool.submit(expirer.expire, DAY, clock=now)
        assert turned_away.wait(30)
        assert count(store, "event") == 10
        holder.rollback()
        report = expired.result()

    assert (report.events, report.traits, report.backlog) == (10, 40, 0)
    assert lost_halves(store) == {}
    expirer.close()
    store.close()


_LOCKS = {
    "event": "SELECT id FROM event WHERE id = {number} FOR UPDATE",
    "trait": "SELECT event_id FROM trait_int WHERE event_id = {number} FOR UPDATE",
}


@ON_SERVERS
@pytest.mark.parametrize(("locks", "number"), [("event", 1), ("trait", 1), ("event", 15)])
def test_what_somebody_else_has_locked_stays_until_the_next_round_and_keeps_no_others(
    store: Connection, database_url: str, caplog: pytest.LogCaptureFixture, locks: str, number: int
) -> None:
    store.expire(DAY, clock=now)  # the partitions that are over are gone
    store.record_events(old_events(200))
    some = [row[0] for row in rows(store, "SELECT id FROM event ORDER BY message_id")][: 3 * number : 3]
    # No limit of ours ends what waits for a session at rest.
    expirer = connect(database_url, lock_timeout=0.0)

    with store.engine.connect() as holder:
        for event_id in some:
            holder.exec_driver_sql(_LOCKS[locks].format(number=event_id)).all()
        report = expirer.expire(DAY, clock=now)
        assert (report.events, report.traits, report.backlog) == (200 - number, 4 * (200 - number), number)
        assert f"{number} expired rows stay until the next round, as another session has" in caplog.text
        forecast = expirer.forecast_expiry(DAY, clock=now)
        assert (forecast.kept, forecast.why) == (number, "another session has them locked")
        assert lost_halves(store) == {}

    assert expirer.expire(DAY, clock=now).events == number
    # The sessions wait for others as long as before.
    setting = {"postgresql": "SHOW lock_timeout", "mysql": "SELECT @@innodb_lock_wait_timeout"}
    assert rows(expirer, setting[store.engine.dialect.name])[0][0] in {"0", 100_000_000}
    expirer.close()


@ON_SERVERS
def test_dead_letters_that_somebody_else_has_locked_keep_no_others(
    store: Connection, database_url: str
) -> None:
    store.record_events([], [letter_for(index, ValueError()) for index in range(30)])
    expirer = connect(database_url, lock_timeout=0.0)
    with store.engine.connect() as holder:
        holder.exec_driver_sql("SELECT id FROM dead_letter ORDER BY id LIMIT 1 FOR UPDATE").all()
        done = expirer.delete_dead_letters(DeadLetterFilter())
        assert done == (29, 1, "another session has them locked")
    assert expirer.clear_expired_dead_letters(0) == 1
    expirer.close()


_SESSION = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
_WAITS = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = {session}",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx "
    "WHERE trx_state = 'LOCK WAIT' AND trx_mysql_thread_id = {session}",
}


@ON_SERVERS
def test_a_round_undoes_nobody_by_a_deadlock_and_counts_right(store: Connection, database_url: str) -> None:
    kind = store.engine.dialect.name
    store.expire(DAY, clock=now)  # the partitions that are over are gone
    store.record_events(old_events(20))
    numbers = dict(tuple(row) for row in rows(store, "SELECT message_id, id FROM event"))
    expirer = Connection(database_url)
    errors: list[str] = []
    sa.event.listen(
        expirer.engine, "handle_error", lambda context: errors.append(str(context.original_exception))
    )

    with ThreadPoolExecutor(1) as pool, store.engine.connect() as other:
        session = other.exec_driver_sql(_SESSION[kind]).scalar_one()

        def lock(table: str, column: str, message_id: str) -> None:
            other.exec_driver_sql(
                f"SELECT {column} FROM {table} WHERE {column} = {numbers[message_id]} FOR UPDATE"
            ).all()

        def want_what_the_expirer_holds() -> None:
            lock("trait_text", "event_id", "m00001")
            other.rollback()

        lock("event", "id", "m00003")
        wanting: list[Future[None]] = []

        def before_events(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if statement.startswith("DELETE FROM event ") and not wanting:
                wanting.append(pool.submit(want_what_the_expirer_holds))
                waits = _WAITS[kind].format(session=session)
                wait_until(lambda: rows(store, waits)[0][0], 30, "the other one to wait for the expirer")

        sa.event.listen(expirer.engine, "before_cursor_execute", before_events)
        first = expirer.expire(DAY, batch_size=5, clock=now)
        wanting[0].result(30)  # which raises what it met
        second = expirer.expire(DAY, batch_size=5, clock=now)

    assert errors
    assert not [error for error in errors if "deadlock" in error.lower()]
    assert (first.events + second.events, first.traits + second.traits, second.backlog) == (20, 80, 0)
    assert counts(store) == dict.fromkeys(counts(store), 0)
    expirer.close()


def test_writers_never_fail_because_of_an_expirer_at_work_on_the_same_event_types(
    store: Connection, database_url: str
) -> None:
    done = threading.Event()
    # The write lock of SQLite goes to who asks at the right moment: give everybody time.
    expirer = connect(database_url, lock_timeout=60.0)

    def expire() -> int:
        total = 0
        while not done.is_set():
            total += expirer.expire(DAY, clock=now).events
        return total

    with ThreadPoolExecutor(1) as pool:
        expired = pool.submit(expire)
        try:
            for start in range(0, 1500, 50):
                events = old_events(50, start, event_type=f"type {start % 3}")
                result = store.record_events(events, on_failure=letter_for)
                assert len(result.recorded) == 50
        finally:
            done.set()
        total = expired.result()
    total += expirer.expire(DAY, clock=now).events
    expirer.close()
    assert total == 1500
    assert counts(store) == dict.fromkeys(counts(store), 0)


def test_readers_never_see_half_an_event_while_it_expires(store: Connection, database_url: str) -> None:
    store.record_events(old_events(1000))
    expirer = Connection(database_url)

    with ThreadPoolExecutor(1) as pool:
        expired = pool.submit(expirer.expire, DAY, batch_size=20, clock=now)
        while not expired.done():
            assert {len(event.traits) for event in store.get_events(EventFilter())} <= {4}
    assert expired.result().events == 1000
    expirer.close()
