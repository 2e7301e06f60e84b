"""Many writers at once, and an expirer among them: nothing lost, nothing doubled, nobody deadlocked."""

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from panko_ingest.storage import EventFilter, RecordResult
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from panko_ingest.storage.tables import TRAITS
from tests.integration.storage.hammer import WINDOW, event, is_old
from tests.integration.storage.samples import connect, count, counts, make_event, make_events, rows
from tests.services import MariaDB, PgBouncer, PostgreSQL
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a hammer; those left over are killed at the end."""
    with contextlib.ExitStack() as stack:

        def one(*arguments: object) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.integration.storage.hammer", *map(str, arguments)],
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return process

        yield one


def outcome(process: subprocess.Popen[str], seconds: float) -> Any:
    out, err = process.communicate(timeout=seconds + 90)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.long)])
def test_four_writers_in_opposite_orders_and_an_expirer(
    store: Connection, database_url: str, seconds: int, start: Start
) -> None:
    hammer(store, database_url, seconds, start)


@pytest.fixture(scope="module")
def easily_upset() -> Iterator[MariaDB]:
    """A server that refuses what changed since a snapshot, as 11.6.2 does, and undoes who waited too long."""
    settings = {"innodb-snapshot-isolation": "ON", "innodb-rollback-on-timeout": "ON"}
    with MariaDB(settings) as server:
        yield server


@pytest.mark.mariadb
@pytest.mark.timeout(300)
def test_four_writers_where_mariadb_refuses_what_changed_since_a_snapshot(
    easily_upset: MariaDB, start: Start
) -> None:
    url = easily_upset.create_database()
    store = Connection(url)
    store.upgrade()
    hammer(store, url, 4, start)
    store.close()


@pytest.mark.mariadb
def test_expiry_waits_for_locks_where_who_waited_too_long_is_undone(easily_upset: MariaDB) -> None:
    url = easily_upset.create_database()
    store, expirer = Connection(url), connect(url, lock_timeout=0.0, max_retries=0)
    store.upgrade()
    store.record_events(make_events(3))
    # Not of innodb_trx, which is not made anew where somebody looks ten times a second.
    waits = (
        "SELECT CAST(variable_value AS INT) FROM information_schema.global_status "
        "WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS'"
    )
    with ThreadPoolExecutor(1) as pool, store.engine.connect() as holder:
        holder.exec_driver_sql("SELECT id FROM event WHERE message_id = 'm0001' FOR UPDATE").all()
        expired = pool.submit(expirer.clear_expired_data, 0)
        wait_until(lambda: expired.done() or rows(store, waits)[0][0], 30, "expiry to wait")
        assert not expired.done()
        holder.rollback()
        assert expired.result(30) == 3
    expirer.close()
    store.close()


@pytest.mark.postgresql
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.long)])
def test_four_writers_behind_a_pooler_that_has_fewer_sessions(
    postgresql: PostgreSQL, postgresql_url: str, seconds: int, start: Start
) -> None:
    with PgBouncer(postgresql, {"pool_mode": "transaction", "default_pool_size": "3"}) as server:
        url = server.through(postgresql_url)
        store = Connection(url)
        store.upgrade()
        hammer(store, url, seconds, start)
        store.close()


def hammer(store: Connection, url: str, seconds: int, start: Start) -> None:
    """Let four writers and an expirer at a store, and compare what is in it then with what they say."""
    writers = [start(url, worker, seconds) for worker in range(4)]
    expirer = start(url, "expirer-of-some", seconds)
    outcomes = [outcome(writer, seconds) for writer in writers]
    assert outcome(expirer, seconds)["deleted"] > 0
    store.clear_expired_data(100 * 86400)

    last = max(one["windows"] for one in outcomes)
    young = [number for number in range((last + 1) * WINDOW) if not is_old(number)]
    # Each event was recorded by exactly one of them.
    assert sorted(number for one in outcomes for number in one["recorded"]) == young
    stored = {found.message_id: found for found in store.get_events(EventFilter())}
    assert len(stored) == len(young)
    for number in young:
        expected, found = event(number), stored[f"m{number:04}"]
        assert found.event_type == expected.event_type
        assert sorted(found.traits) == sorted(expected.traits)
    for table in ("trait_text", "trait_int", "trait_float", "trait_datetime"):
        assert count(store, table) == len(young)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.long)])
def test_no_trait_is_left_without_its_event_by_writers_expirer_clear_and_kills(
    store: Connection, database_url: str, seconds: int, start: Start
) -> None:
    """Also where PostgreSQL does not look up again that our own traits have their events."""
    others = [start(database_url, which, seconds) for which in ("expirer", "clear")]
    ends = time.monotonic() + seconds
    killed = 0
    while time.monotonic() < ends:
        writers = [start(database_url, f"careless{worker}", seconds) for worker in range(3)]
        # Each is on its way when it has connected; then it lives as long as chance will have it.
        until = time.monotonic() + random.uniform(1.0, 1.6)
        wait_until(lambda at=until: time.monotonic() > at, 10)  # type: ignore[misc]
        for writer in writers:
            writer.kill()
            writer.wait(30)
            killed += 1
        assert orphans(store) == [0] * len(TRAITS)
    assert outcome(others[0], seconds)["deleted"] >= 0
    assert outcome(others[1], seconds)["cleared"] > 2
    store.record_events([make_event(number) for number in range(40)])

    assert killed > 3
    assert count(store, "event") > 0
    assert orphans(store) == [0] * len(TRAITS)


def test_clear_beside_writers_and_readers_disturbs_nobody_and_takes_what_was_there(
    store: Connection, database_url: str
) -> None:
    stop = threading.Event()

    def write(worker: int) -> int:
        own, turn = Connection(database_url), 0
        while not stop.is_set():
            numbers = range(turn * 100, turn * 100 + 150)
            events = [make_event(number, event_type=f"type {number % 40}") for number in numbers]
            assert not own.record_events(events[:: -1 if worker else 1]).failed
            turn += 1
        own.close()
        return turn

    def read() -> int:
        own, turn = Connection(database_url), 0
        while not stop.is_set():
            for found in own.get_events(EventFilter()):
                assert len(found.traits) == len(make_event(0).traits)
            list(own.get_event_types())
            turn += 1
        own.close()
        return turn

    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(write, 0), pool.submit(write, 1), pool.submit(read)]
        try:
            for _ in range(6):
                some = [make_event(number, event_type="ours") for number in range(900_000, 900_100)]
                assert len(store.record_events(some).recorded) == len(some)
                store.clear()
                assert "ours" not in store.get_event_types()
        finally:
            stop.set()
        assert all(other.result(60) for other in others)
    store.clear()
    assert counts(store) == dict.fromkeys(counts(store), 0)
    assert list(store.get_event_types()) == []


def orphans(store: Connection) -> list[int]:
    """Return how many traits of each table have no event."""
    return [
        count(store, f"{table.__tablename__} t WHERE NOT EXISTS (SELECT 1 FROM event WHERE id = t.event_id)")
        for table in TRAITS
    ]


def record_at_once(stores: Sequence[Connection], events: Sequence[Sequence[Event]]) -> list[RecordResult]:
    """Have each store record its events at the same time, every other one from the last on."""
    barrier = threading.Barrier(len(stores))

    def record(worker: int) -> RecordResult:
        barrier.wait(30)
        return stores[worker].record_events(events[worker][:: -1 if worker % 2 else 1])

    with ThreadPoolExecutor(len(stores)) as pool:
        return list(pool.map(record, range(len(stores)), timeout=60))


def test_workers_that_meet_the_same_new_event_types_agree(store: Connection, database_url: str) -> None:
    stores = [Connection(database_url) for _ in range(4)]
    names = [f"type {number}" for number in range(60)]
    results = record_at_once(
        stores,
        [
            [make_event(number + 100 * worker, event_type=name) for number, name in enumerate(names)]
            for worker in range(len(stores))
        ],
    )
    assert [len(result.recorded) for result in results] == [60] * 4
    assert sorted(store.get_event_types()) == sorted(names)
    assert rows(store, "SELECT count(DISTINCT event_type_id), count(*) FROM event") == [(60, 240)]
    for one in stores:
        one.close()


def test_an_event_type_made_by_another_is_found_though_an_old_snapshot_lacks_it(
    store: Connection, database_url: str
) -> None:
    """With a snapshot held open elsewhere, and the name inserted after ours began to look."""
    other = Connection(database_url)
    store.record_events([make_event(1, event_type="first")])
    with store.engine.connect() as snapshot:
        snapshot.execute(sa.text("SELECT count(*) FROM event_type"))
        other.record_events([make_event(2, event_type="new")])
        assert store.record_events([make_event(3, event_type="new")]).recorded == (0,)
    assert sorted(store.get_event_types()) == ["first", "new"]
    other.close()


def test_the_same_events_at_the_same_time_are_stored_once(store: Connection, database_url: str) -> None:
    stores = [Connection(database_url) for _ in range(4)]
    results = record_at_once(stores, [[make_event(number) for number in range(200)]] * len(stores))
    assert sum(len(result.recorded) for result in results) == 200
    assert sum(len(result.duplicates) for result in results) == 600
    assert counts(store)["event"] == counts(store)["trait_text"] == 200
    for one in stores:
        one.close()


def test_threads_share_a_database_in_memory_by_turns() -> None:
    with contextlib.closing(Connection("sqlite://")) as store, ThreadPoolExecutor(5) as pool:
        store.upgrade()

        def write(start: int) -> int:
            batches = (make_events(5, first) for first in range(start, start + 200, 5))
            return sum(len(store.record_events(batch).recorded) for batch in batches)

        def read() -> None:
            while not written.is_set():
                list(store.get_event_types())
                list(store.get_events(EventFilter(), {"limit": 5}))

        written = threading.Event()
        readers = [pool.submit(read) for _ in range(2)]
        try:
            assert list(pool.map(write, (0, 1000, 2000))) == [200, 200, 200]
        finally:
            written.set()
        for reader in readers:
            reader.result()
        events = list(store.get_events(EventFilter()))
        assert len(events) == 600
        assert all(len(event.traits) == 4 for event in events)
        with store.engine.connect():
            assert count(store, "event") == 600
        assert pool.submit(count, store, "event").result(timeout=10) == 600
