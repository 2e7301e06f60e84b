"""Behind PgBouncer that lends a session of the server for a transaction, each time another one."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator

import psycopg
import pytest

from panko_ingest.storage import EventFilter, StorageUnavailable
from panko_ingest.storage.database import leases
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Trait
from panko_ingest.storage.settings import StorageSettings
from tests import legacy
from tests.integration.storage.samples import (
    another_writer_of,
    connect,
    counts,
    make_event,
    make_events,
    stored_ids,
)
from tests.services import PgBouncer, PostgreSQL
from tests.waiting import wait_until

pytestmark = pytest.mark.postgresql

DAY = 86400
SESSIONS = 4
SETTINGS = {
    "pool_mode": "transaction",
    "default_pool_size": str(SESSIONS),
    "server_round_robin": "1",  # the one that was idle for longest, not the one that was used last
    "server_login_retry": "1",
    "query_wait_timeout": "3",
}


@pytest.fixture(scope="module")
def pgbouncer(postgresql: PostgreSQL) -> Iterator[PgBouncer]:
    with PgBouncer(postgresql, SETTINGS) as server:
        yield server


@pytest.fixture
def url(pgbouncer: PgBouncer, postgresql_url: str) -> str:
    """URL of an empty database by way of the pooler, all of whose sessions are open."""
    found = pgbouncer.through(postgresql_url)
    assert len({pid for pid, _ in sessions(found)}) == SESSIONS
    return found


@pytest.mark.parametrize("way", ["direct", "pooled"])
def test_floats_come_back_as_they_were_whatever_the_server_shortens(
    way: str, pgbouncer: PgBouncer, postgresql_url: str
) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{connection.info.dbname}" SET extra_float_digits = -15')
    with psycopg.connect(postgresql_url) as connection:
        assert connection.execute("SELECT (0.1 + 0.2)::float8").fetchone() != (0.1 + 0.2,)
    store = Connection(pgbouncer.through(postgresql_url) if way == "pooled" else postgresql_url)
    store.upgrade()
    values = [0.1 + 0.2, math.pi, 5e-324, 1.7976931348623157e308, -1 / 3]
    events = [
        dataclasses.replace(make_event(number), traits=[Trait("load", Trait.FLOAT_TYPE, value)])
        for number, value in enumerate(values)
    ]
    assert not store.record_events(events).failed
    for _ in range(SESSIONS + 1):
        found = {event.message_id: event.traits[0].value for event in store.get_events(EventFilter())}
        assert [found[event.message_id] for event in events] == values
    store.close()


def sessions(url: str) -> list[tuple[int, str]]:
    """Return for each of the pooler's sessions, as another program meets it, its process and its limit."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(psycopg.connect(url, prepare_threshold=None)) for _ in range(SESSIONS)]
        limit = "SELECT pg_backend_pid(), current_setting('statement_timeout')"
        return [row for client in clients for row in client.execute(limit).fetchall()]


@pytest.mark.parametrize("query", ["", "?prepare_threshold=none"])
def test_events_are_recorded_read_and_expired(url: str, query: str, postgresql: PostgreSQL) -> None:
    stores = [Connection(url + query) for _ in range(2)]
    for store in stores:
        store.upgrade()
    for turn in range(8):  # often enough for a statement to be worth preparing
        for worker, store in enumerate(stores):
            first = 1000 * worker + 50 * turn
            assert len(store.record_events(make_events(1, first)).recorded) == 1
            assert store.record_events(make_events(40, first)).duplicates == (0,)
    assert counts(stores[0])["event"] == counts(stores[1])["trait_text"] == 640
    for store in stores:
        assert len(list(store.get_events(EventFilter(), {"limit": 100}))) == 100
    for store in stores:
        for _ in range(3):
            assert not store.expire(DAY, clock=store.now).stood_by
        store.upgrade()
    assert counts(stores[0])["event"] == 0
    for store in stores:
        store.close()


def test_sessions_that_are_lent_for_as_long_as_a_client_stays_do_as_well(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    with PgBouncer(postgresql, {"pool_mode": "session"}) as server:
        store = Connection(server.through(postgresql_url))
        for _ in range(2):
            store.upgrade()
            assert store.record_events(make_events(40)).recorded == tuple(range(40))
            assert store.expire(DAY, clock=store.now).events == 40
        store.close()


def test_checks_find_the_same_behind_a_pooler_as_without_one(url: str, postgresql_url: str) -> None:
    direct, store = Connection(postgresql_url), Connection(url)
    store.upgrade()
    found, expected = ({(one.level, one.subject) for one in each.check()} for each in (store, direct))
    assert found == expected
    rights = store.check_rights(to_record=True, to_expire=True)
    assert rights == direct.check_rights(to_record=True, to_expire=True)
    direct.close()
    store.close()


def test_each_transaction_has_our_limits_and_no_session_keeps_them(url: str) -> None:
    store = connect(url, lock_timeout=0.5, max_retries=0)
    store.upgrade()
    store.record_events(make_events(1))
    with another_writer_of("m0001", Connection(url)):
        for count in (1, 100):
            started = time.monotonic()
            with pytest.raises(StorageUnavailable, match="lock timeout"):
                store.record_events(make_events(count, first=1))
            assert time.monotonic() - started < 20
    assert [limit for _, limit in sessions(url)] == ["0"] * SESSIONS
    store.close()


def test_a_database_of_panko_is_adopted_and_then_partitioned(url: str, postgresql: PostgreSQL) -> None:
    store = connect(url, event_time_to_live=365 * DAY)
    with store.engine.begin() as connection:
        legacy.make(connection, "panko")
        legacy.fill(connection, "panko")
        before = legacy.digests(connection)
    store.upgrade()
    with store.engine.connect() as connection:
        assert legacy.digests(connection) == before
    store.partition("month", lambda _copied, _all: None)
    assert store.record_events([make_event(1)]).recorded == (0,)
    assert counts(store)["event"] == 201
    store.close()


def test_one_expirer_works_and_keeps_no_session(url: str, postgresql: PostgreSQL) -> None:
    stores = [Connection(url) for _ in range(2)]
    stores[0].upgrade()
    with leases.held(stores[0].engine, StorageSettings(), leases.EXPIRY) as lease:
        assert lease
        # An old snapshot would keep VACUUM from what was deleted.
        others = "backend_xmin IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        assert postgresql.execute(f"SELECT pid FROM pg_stat_activity WHERE {others}") == []
        for _ in range(SESSIONS):
            assert stores[1].expire(DAY).stood_by
    for _ in range(SESSIONS):
        assert not stores[1].expire(DAY).stood_by
    for store in stores:
        store.close()


def test_a_server_that_went_away_behind_it_is_used_again_when_it_is_back(
    url: str, postgresql: PostgreSQL
) -> None:
    store = Connection(url)
    store.upgrade()
    store.record_events([make_event(0)])
    postgresql.stop()
    try:
        with pytest.raises(StorageUnavailable) as caught:
            store.record_events([make_event(1)])
        assert not caught.value.operator
    finally:
        postgresql.start()

    def record() -> bool:
        try:
            store.record_events([make_event(2)])
        except StorageUnavailable:
            return False
        return True

    wait_until(record, 30, "the pooler to connect again")
    assert stored_ids(store) == ["m0000", "m0002"]
    store.close()


@pytest.mark.parametrize("length", [1, 30], ids=["one event", "a batch"])
def test_events_keep_their_types_after_a_failover_that_no_session_notices(
    pgbouncer: PgBouncer, postgresql: PostgreSQL, postgresql_url: str, length: int
) -> None:
    name, replica = postgresql_url.rpartition("/")[2], f"replica_{length}"
    direct, store = Connection(postgresql_url), Connection(pgbouncer.through(postgresql_url))
    direct.upgrade()
    direct.record_events([make_event(0, event_type="first")])
    direct.close()
    postgresql.execute(f"CREATE DATABASE {replica} TEMPLATE {name}")
    store.record_events([make_event(1, event_type="lost")])
    pgbouncer.execute(f"PAUSE {name}")
    postgresql.execute(f"ALTER DATABASE {name} RENAME TO former_{length}")
    postgresql.execute(f"ALTER DATABASE {replica} RENAME TO {name}")
    pgbouncer.execute(f"RESUME {name}")
    direct.record_events([make_event(2, event_type="another")])
    events = [make_event(number, event_type="lost") for number in range(10, 10 + length)]
    assert len(store.record_events(events).recorded) == length
    types = {event.message_id: event.event_type for event in direct.get_events(EventFilter())}
    assert types == {"m0000": "first", "m0002": "another"} | {event.message_id: "lost" for event in events}
    direct.close()
    store.close()
    postgresql.execute(f"DROP DATABASE former_{length}")
