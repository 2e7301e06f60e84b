"""Sessions that a client left behind in the middle of its work, which keep locks that others need."""

import contextlib
import datetime
import errno
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import psycopg
import pymysql
import pytest
import sqlalchemy as sa

from panko_ingest.storage import StorageUnavailable
from panko_ingest.storage.database import pooling, postgresql as postgresql_database
from panko_ingest.storage.database.blockers import end_while_waiting
from panko_ingest.storage.database.engine import write_transaction
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from panko_ingest.storage.schema import partition_ddl
from panko_ingest.timestamps import parse
from tests import legacy
from tests.faults.proxy import Proxy
from tests.integration.storage.samples import connect
from tests.services import MariaDB, PostgreSQL
from tests.waiting import wait_until

STATEMENT_TIMEOUT, RECOVERY = 2.0, 15.0
EVENT = Event("m1", "some.type", parse("2026-01-02"), [])
LEFT = (
    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY event%' AND backend_xid IS NOT NULL "
    "AND wait_event = 'ClientRead' AND datname = current_database()"
)
COPY = "COPY event (id, message_id, generated, raw, event_type_id) FROM STDIN"


@pytest.fixture(params=["direct", "through a proxy"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def left_in_mid_copy(url: str, way: str, message_id: str = "m1") -> Iterator[None]:
    """Leave a session that has copied an event, holds its message_id and never hears of its client again."""
    with contextlib.ExitStack() as stack:
        parsed = sa.make_url(url)
        proxy = stack.enter_context(Proxy(int(parsed.port or 0)))
        direct = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
        plain = direct if way == "direct" else proxy.url(direct)
        client = stack.enter_context(
            contextlib.closing(psycopg.connect(plain, application_name="panko-ingest"))
        )
        client.execute("INSERT INTO event_type (id, \"desc\") VALUES (1000, 'left')")
        client.commit()
        client.pgconn.exec_(COPY.encode())
        client.pgconn.put_copy_data(f"900000\t{message_id}\t2026-01-02 00:00:00\t{{}}\t1000\n".encode())
        # The server writes what it has read only when there is more of it, or the end.
        rows = (
            f"{number}\tx{number}\t2026-01-02 00:00:00\t{{}}\t1000\n" for number in range(910_000, 914_000)
        )
        client.pgconn.put_copy_data("".join(rows).encode())
        client.pgconn.flush()
        looker = stack.enter_context(
            psycopg.connect(parsed.set(drivername="postgresql").render_as_string(False))
        )
        looker.autocommit = True
        wait_until(lambda: looker.execute(LEFT).fetchone() == (1,), 30, "the server to have read it all")
        proxy.silence()
        yield


@pytest.mark.postgresql
def test_a_batch_is_recorded_soon_though_a_lost_session_holds_its_message_id(
    postgresql: PostgreSQL, postgresql_url: str, way: str
) -> None:
    store = connect(postgresql_url, statement_timeout=STATEMENT_TIMEOUT, lock_timeout=1.0, max_retries=100)
    store.upgrade()
    with left_in_mid_copy(postgresql_url, way):
        began = time.monotonic()
        result = store.record_events([EVENT])
        assert time.monotonic() - began < STATEMENT_TIMEOUT + RECOVERY
    assert result.recorded == (0,)
    # It is counted after it was ended, when the batch may be recorded already.
    wait_until(lambda: store.statistics().blockers_ended == 1, what="the lost session to be counted")
    store.close()


@pytest.mark.postgresql
def test_a_lost_session_is_ended_though_no_file_was_free_when_it_was_first_looked_for(
    postgresql_url: str,
) -> None:
    store = connect(postgresql_url, statement_timeout=STATEMENT_TIMEOUT, lock_timeout=1.0, max_retries=10)
    store.upgrade()
    refused: list[OSError] = []

    def refuse(*_: object) -> None:
        if threading.current_thread().name == "blockers" and not refused:
            refused.append(OSError(errno.EMFILE, "Too many open files"))
            raise refused[0]

    sa.event.listen(store.engine, "checkout", refuse)
    with left_in_mid_copy(postgresql_url, "direct"):
        result = store.record_events([EVENT])
    assert refused
    assert result.recorded == (0,)
    store.close()


@pytest.mark.postgresql
def test_a_way_that_goes_silent_while_a_session_is_set_up_is_given_up(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "CONNECT_TIMEOUT", 1)
    with Proxy(sa.make_url(postgresql_url).port or 0) as proxy:
        store = connect(proxy.url(postgresql_url), statement_timeout=0.5, max_retries=0)
        sa.event.listen(store.engine, "connect", lambda *_: proxy.silence(), insert=True)
        with pytest.raises(StorageUnavailable):
            store.record_events([EVENT])
        assert proxy.silenced
        store.close()


@pytest.mark.postgresql
def test_a_store_that_is_closed_while_it_looks_for_lost_sessions_keeps_no_connection(
    postgresql_url: str,
) -> None:
    engine = sa.create_engine(sa.make_url(postgresql_url).set(drivername="postgresql+psycopg"))
    looking, closed = threading.Event(), threading.Event()
    lent: list[psycopg.Connection] = []

    def end(connection: sa.Connection, _patience: float) -> int:
        lent.append(cast("psycopg.Connection", connection.connection.dbapi_connection))
        looking.set()
        closed.wait(30)
        return 1

    end_while_waiting(engine, 0.1, end)
    with engine.connect():
        assert looking.wait(30)
    engine.dispose()
    closed.set()
    wait_until(lambda: lent[0].closed, what="the connection that looked to be closed")


@pytest.mark.postgresql
def test_a_change_of_the_schema_ends_a_lost_session_that_holds_a_table(
    postgresql: PostgreSQL, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_database, "STUCK", STATEMENT_TIMEOUT)
    store = Connection(postgresql_url)
    with store.engine.begin() as connection:
        legacy.make(connection, "panko")
    store.upgrade(postpone_rewrites=True)
    with left_in_mid_copy(postgresql_url, "direct"):
        began = time.monotonic()
        store.upgrade()
        assert time.monotonic() - began < STATEMENT_TIMEOUT + RECOVERY
    assert store.pending_rewrites() == {}
    store.close()


def partition(store: Connection) -> None:
    store.partition("month", lambda _done, _all: None)


def make_partitions(store: Connection) -> None:
    """Do as `db sync` does when the last partition has come into use."""
    day = datetime.date(2027, 3, 1)
    assert partition_ddl.patiently(lambda: partition_ddl.split(store.engine, "month", day), 60)


def drop_partitions(store: Connection) -> None:
    assert store.expire(86400.0, budget=120, clock=store.now).partitions


@pytest.mark.postgresql
@pytest.mark.parametrize("work", [partition, make_partitions, drop_partitions])
def test_partitions_are_changed_though_a_lost_session_has_the_tables_in_use(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, work: Callable[[Connection], None]
) -> None:
    monkeypatch.setattr(postgresql_database, "STUCK", STATEMENT_TIMEOUT)
    store = connect(postgresql_url, statement_timeout=STATEMENT_TIMEOUT, event_time_to_live=86400)
    store.upgrade()
    if work is not partition:
        with write_transaction(store.engine) as connection:
            partition_ddl.create(connection, "month", datetime.date(2026, 1, 2))
        store.record_events([EVENT])
    with left_in_mid_copy(postgresql_url, "direct", "x1"):
        began = time.monotonic()
        work(store)
        assert time.monotonic() - began < STATEMENT_TIMEOUT + RECOVERY
    store.close()


@pytest.mark.postgresql
def test_a_batch_is_recorded_though_a_lost_change_of_the_schema_has_the_tables_in_use(
    postgresql_url: str,
) -> None:
    store = connect(postgresql_url, statement_timeout=STATEMENT_TIMEOUT, lock_timeout=1.0, max_retries=100)
    store.upgrade()
    # A change of the schema has no limit of time.
    lost = connect(postgresql_url, statement_timeout=0)
    with lost.engine.connect() as connection:
        connection.exec_driver_sql("LOCK TABLE event")
        began = time.monotonic()
        assert store.record_events([EVENT]).recorded == (0,)
        assert time.monotonic() - began < STATEMENT_TIMEOUT + RECOVERY
        connection.invalidate()
    lost.close()
    store.close()


@pytest.mark.postgresql
def test_a_session_that_only_waits_for_its_client_is_left_alone_while_it_is_in_nobodys_way(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    store = connect(postgresql_url, statement_timeout=1.0)
    store.upgrade()
    with left_in_mid_copy(postgresql_url, "direct"):
        ends = time.monotonic() + 3.0
        while time.monotonic() < ends:
            store.ping()
        copies = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY event%'"
        assert postgresql.execute(copies) == [(1,)]
    store.close()


@pytest.mark.postgresql
def test_the_server_looks_whether_our_clients_are_still_there(postgresql_url: str) -> None:
    store = Connection(postgresql_url)
    with store.engine.connect() as connection:
        for name, value in {"tcp_keepalives_idle": "30", "tcp_user_timeout": "60000"}.items():
            assert connection.exec_driver_sql(f"SHOW {name}").scalar_one() == value
    store.close()


@pytest.mark.mariadb
def test_mariadb_ends_a_lost_session_by_itself(mariadb: MariaDB, mariadb_url: str, way: str) -> None:
    store = connect(mariadb_url, statement_timeout=STATEMENT_TIMEOUT, lock_timeout=1.0, max_retries=100)
    store.upgrade()
    with Proxy(mariadb.port) as proxy:
        left = connect(
            proxy.url(mariadb_url) if way != "direct" else mariadb_url, statement_timeout=STATEMENT_TIMEOUT
        )
        with left.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT @@net_read_timeout").scalar_one() == STATEMENT_TIMEOUT
            connection.exec_driver_sql("INSERT INTO event_type (id, `desc`) VALUES (1000, 'left')")
            connection.commit()
            connection.exec_driver_sql(
                "INSERT INTO event (message_id, `generated`, raw, event_type_id) VALUES ('m1', 0, '{}', 1000)"
            )
            proxy.silence()
            began = time.monotonic()
            assert store.record_events([EVENT]).recorded == (0,)
            assert time.monotonic() - began < STATEMENT_TIMEOUT + RECOVERY
            with contextlib.suppress(sa.exc.OperationalError, pymysql.Error):
                connection.rollback()
        left.close()
    store.close()


def expire(store: Connection) -> None:
    # What the lost session has locked is passed over, and looked for again.
    gone = "the lost session to be ended"
    wait_until(lambda: store.expire(86400.0, clock=store.now).events == 1, STATEMENT_TIMEOUT + RECOVERY, gone)


@pytest.mark.mariadb
@pytest.mark.parametrize("work", [expire, Connection.upgrade])
def test_expiry_and_db_sync_on_mariadb_wait_for_no_lost_session(
    mariadb_url: str, work: Callable[[Connection], None]
) -> None:
    with connect(mariadb_url).engine.begin() as connection:
        legacy.make(connection, "panko")
    store = connect(mariadb_url, statement_timeout=STATEMENT_TIMEOUT, lock_timeout=1.0, max_retries=100)
    store.upgrade(postpone_rewrites=work is not expire)
    store.record_events([EVENT])
    left = connect(mariadb_url, statement_timeout=STATEMENT_TIMEOUT)
    with left.engine.connect() as connection:
        connection.exec_driver_sql("UPDATE event SET raw = '{}' WHERE message_id = 'm1'")
        began = time.monotonic()
        work(store)
        assert time.monotonic() - began < STATEMENT_TIMEOUT + RECOVERY
        connection.invalidate()
    assert store.pending_rewrites() == {}
    left.close()
    store.close()
