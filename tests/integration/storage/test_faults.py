"""What a store says when the server behind it is away, refuses, or hangs: on real servers."""

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator

import pymysql
import pytest
import sqlalchemy as sa

from panko_ingest.errors import ConfigError
from panko_ingest.storage import StorageUnavailable, get_connection
from panko_ingest.storage.database import pooling
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.recording import recorder
from tests.integration.storage.cutting_proxy import CuttingProxy
from tests.integration.storage.samples import (
    connect,
    counts,
    make_event,
    make_events,
    make_letter,
    stored_ids,
)
from tests.services import MariaDB, PostgreSQL
from tests.waiting import wait_until

ON_SERVERS = [
    pytest.param("postgresql", marks=pytest.mark.postgresql),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]

CONFLICTS_AT_COMMIT = """
-- Two: a sequence counts on in a transaction that is taken back.
CREATE SEQUENCE conflicts;
CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('conflicts') <= 2 THEN RAISE 'another was first' USING ERRCODE = '40001'; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER conflict AFTER INSERT ON event DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION conflict();
"""


@pytest.fixture(params=ON_SERVERS)
def server(request: pytest.FixtureRequest) -> PostgreSQL | MariaDB:
    found: PostgreSQL | MariaDB = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def url(server: PostgreSQL | MariaDB) -> Iterator[str]:
    created = server.create_database()
    yield created
    server.start()
    server.drop_database(created)


@pytest.fixture
def store(url: str) -> Iterator[Connection]:
    connection = connect(url, statement_timeout=1.0)
    connection.upgrade()
    connection.record_events([make_event(0)])
    yield connection
    connection.close()


@pytest.fixture
def proxy(server: PostgreSQL | MariaDB) -> Iterator[CuttingProxy]:
    with CuttingProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: CuttingProxy, store: Connection, url: str) -> Iterator[Connection]:
    """The store as it is used through the proxy."""
    # The proxy reads along: no TLS, which MariaDB offers by itself from 11.4 on.
    plain = {"ssl_disabled": "true"} if store.engine.dialect.name == "mysql" else {}
    connection = connect(str(sa.make_url(url).set(port=proxy.port, query=plain)))
    yield connection
    connection.close()


def refusal(work: Callable[[], object]) -> tuple[StorageUnavailable, float]:
    """Return the error and the seconds it took."""
    started = time.monotonic()
    with pytest.raises(StorageUnavailable) as caught:
        work()
    return caught.value, time.monotonic() - started


def test_a_server_that_is_down_is_told_at_once_and_used_again_when_it_is_back(
    server: PostgreSQL | MariaDB, store: Connection
) -> None:
    server.stop()
    error, seconds = refusal(lambda: store.record_events([make_event(1)], [make_letter("a")]))
    assert not error.operator
    assert seconds < 3
    assert not refusal(store.ping)[0].operator
    assert not refusal(lambda: store.clear_expired_data(0))[0].operator

    server.start()
    store.ping()
    assert store.record_events([make_event(1)]).recorded == (0,)


def test_a_connection_that_broke_while_it_was_pooled_is_no_failure(
    server: PostgreSQL | MariaDB, store: Connection
) -> None:
    server.restart()
    assert store.record_events([make_event(1)]).recorded == (0,)


def test_a_server_that_hangs_does_not_hang_the_writer(
    server: PostgreSQL | MariaDB, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "CONNECT_TIMEOUT", 2)
    store = connect(url, statement_timeout=0.5)
    store.upgrade()
    store.record_events([make_event(0)])
    server.pause()
    try:
        error, seconds = refusal(lambda: store.record_events([make_event(1)]))
    finally:
        server.resume()
    assert not error.operator
    assert seconds < 12
    assert store.record_events([make_event(1)]).recorded == (0,)
    store.close()


def test_a_store_that_fails_while_it_is_asked_what_it_is_like_is_asked_again(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_connection: object) -> None:
        # MariaDB makes a temporary table to answer from information_schema.
        raise sa.exc.OperationalError("SELECT", None, pymysql.OperationalError(1021, "Disk got full"))

    store = connect(sqlite_url)
    store.upgrade()
    with monkeypatch.context() as spoiled:
        spoiled.setattr(recorder, "read_limits", full)
        for _ in range(2):
            error, _ = refusal(lambda: store.record_events([make_event(1)], [make_letter("a")]))
            assert "1021" in str(error)
    assert store.record_events([make_event(1)], [make_letter("a")]).recorded == (0,)
    store.close()


def test_a_missing_schema_is_the_operators_to_mend(url: str) -> None:
    store = Connection(url)
    error, _ = refusal(lambda: store.record_events([make_event(1)]))
    assert error.operator
    assert "db sync" in str(error)
    store.upgrade()
    assert store.record_events([make_event(1)]).recorded == (0,)
    store.close()


def test_a_missing_database_is_the_operators_to_mend(url: str) -> None:
    store = Connection(f"{url}_of_nobody")
    assert refusal(lambda: store.record_events([make_event(1)]))[0].operator
    store.close()


def test_a_role_that_may_not_write_is_the_operators_to_mend(server: PostgreSQL | MariaDB, url: str) -> None:
    owner = Connection(url)
    owner.upgrade()
    owner.record_events([make_event(1)])
    with owner.engine.begin() as connection:
        if isinstance(server, PostgreSQL):
            connection.exec_driver_sql("CREATE ROLE reader LOGIN PASSWORD 's3cret'")
            connection.exec_driver_sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        else:
            connection.exec_driver_sql("CREATE USER reader@'%%' IDENTIFIED BY 's3cret'")
            connection.exec_driver_sql(f"GRANT SELECT ON {url.rpartition('/')[2]}.* TO reader@'%%'")
    try:
        as_reader = sa.make_url(url).set(username="reader", password="s3cret")
        store = Connection(as_reader.render_as_string(hide_password=False))
        error, _ = refusal(lambda: store.record_events([make_event(2)]))
        assert error.operator
        assert "s3cret" not in str(error)
        assert stored_ids(owner) == ["m0001"]
        store.close()
    finally:
        with owner.engine.begin() as connection:
            if isinstance(server, PostgreSQL):
                connection.exec_driver_sql("DROP OWNED BY reader")
                connection.exec_driver_sql("DROP ROLE reader")
            else:
                connection.exec_driver_sql("DROP USER reader@'%%'")
        owner.close()


@pytest.mark.postgresql
def test_a_demoted_server_is_left_for_the_new_one(postgresql: PostgreSQL, postgresql_url: str) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    store.record_events([make_event(0)])
    name = postgresql_url.rpartition("/")[2]
    with store.engine.connect() as connection:
        pids = {connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()}
        connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        connection.commit()

    # The pooled session can't write any more; a new one can.
    assert store.record_events([make_event(1)]).recorded == (0,)
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() not in pids

    postgresql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    postgresql.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    error, _ = refusal(lambda: store.record_events([make_event(2)]))
    assert not error.operator
    assert stored_ids(store) == ["m0000", "m0001"]
    store.close()


@pytest.mark.postgresql
def test_no_session_at_rest_stays_with_a_demoted_server(postgresql: PostgreSQL, postgresql_url: str) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    pids = []
    with contextlib.ExitStack() as sessions:
        for connection in [sessions.enter_context(store.engine.connect()) for _ in range(3)]:
            pids.append(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
            connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            connection.commit()

    # One finds out, another one may be wanted then: nobody asks for the third.
    with contextlib.suppress(StorageUnavailable):
        store.prove_rows()

    left = f"SELECT pid FROM pg_stat_activity WHERE pid = ANY (ARRAY{pids})"
    wait_until(lambda: postgresql.execute(left) == [], what="the sessions are over")
    store.close()


@pytest.mark.mariadb
def test_no_session_that_asked_who_holds_locks_is_kept(mariadb: MariaDB, mariadb_url: str) -> None:
    store = Connection(mariadb_url)
    assert store.lock_waits() == []

    name = mariadb_url.rpartition("/")[2]
    sessions = f"SELECT id FROM information_schema.processlist WHERE db = '{name}'"
    wait_until(lambda: mariadb.execute(sessions) == [], what="the session is over")
    store.close()


def test_a_commit_whose_answer_is_lost_neither_loses_nor_doubles(
    proxy: CuttingProxy, through: Connection, store: Connection
) -> None:
    through.record_events([make_event(1)])
    proxy.cut_after(b"COMMIT")

    result = through.record_events(make_events(20, first=2), [make_letter("a")])

    assert proxy.cuts == 1
    # Nobody could know that the first try took effect; the second found the events there.
    assert result.duplicates == tuple(range(20))
    assert counts(store) == {**dict.fromkeys(counts(store), 22), "dead_letter": 1}


def test_a_lone_event_whose_answer_is_lost_is_neither_lost_nor_doubled(
    proxy: CuttingProxy, through: Connection, store: Connection
) -> None:
    through.record_events([make_event(1)])
    proxy.cut_after(b"COMMIT")

    assert through.record_events([make_event(2)]).duplicates == (0,)

    assert proxy.cuts == 1
    assert counts(store) == {**dict.fromkeys(counts(store), 3), "dead_letter": 0}


def test_a_lease_is_ours_though_the_answer_that_says_so_is_lost(
    proxy: CuttingProxy, through: Connection, store: Connection
) -> None:
    store.record_events(make_events(3))
    through.ping()
    proxy.cut_after(b"COMMIT")

    report = through.expire(1.0, clock=through.now)

    assert proxy.cuts == 1
    assert (report.stood_by, report.events) == (False, 3)


@pytest.mark.postgresql
@pytest.mark.parametrize("count", [1, 30])
def test_a_conflict_that_shows_at_the_commit_is_no_failure(postgresql_url: str, count: int) -> None:
    """As each may on a Galera cluster, where another node has the last word."""
    store = Connection(postgresql_url)
    store.upgrade()
    with store.engine.begin() as connection:
        connection.exec_driver_sql(CONFLICTS_AT_COMMIT)
    letters = [make_letter("a")] if count > 1 else []  # a lone event goes a shorter way
    assert store.record_events(make_events(count), letters).recorded == tuple(range(count))
    assert store.statistics().conflicts == 2
    assert counts(store) == {**dict.fromkeys(counts(store), count), "dead_letter": len(letters)}
    store.close()


@pytest.mark.parametrize("name", ["statement_timeout", "lock_timeout"])
@pytest.mark.postgresql
def test_postgresql_sessions_have_limits(name: str, postgresql_url: str) -> None:
    store = connect(postgresql_url, statement_timeout=7.5, lock_timeout=3.0)
    with store.engine.connect() as connection:
        shown = connection.exec_driver_sql(f"SHOW {name}").scalar_one()
        assert shown == {"statement_timeout": "7500ms", "lock_timeout": "3s"}[name]
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar_one() == "read committed"
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
    store.close()


@pytest.mark.mariadb
def test_mariadb_sessions_are_strict_and_have_limits(mariadb_url: str) -> None:
    store = connect(f"{mariadb_url}?charset=utf8", statement_timeout=7.5, lock_timeout=3.0)
    with store.engine.connect() as connection:
        row = connection.exec_driver_sql(
            "SELECT @@sql_mode, @@max_statement_time, @@innodb_lock_wait_timeout, @@tx_isolation, "
            "@@character_set_client"
        ).one()
    assert "STRICT_ALL_TABLES" in row[0]
    assert (float(row[1]), *row[2:]) == (7.5, 3, "READ-COMMITTED", "utf8mb4")
    store.close()


def test_sqlite_sessions_are_durable_and_share_the_file(sqlite_url: str) -> None:
    store = connect(sqlite_url, lock_timeout=3.0)
    with store.engine.connect() as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert values == ["wal", 2, 1, 3000]
    store.close()


def test_a_connection_is_opened_at_its_first_use() -> None:
    store = get_connection("postgresql://nobody:s3cret@127.0.0.1:1/nothing")
    error, seconds = refusal(store.ping)
    assert seconds < 3
    assert not error.operator
    assert "s3cret" not in str(error)
    store.close()


def test_a_url_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError, match="is no URL") as caught:
        Connection("postgresql//u:s3cret@h/db")
    assert "s3cret" not in str(caught.value)


def test_closing_gives_every_connection_back(
    server: PostgreSQL | MariaDB, store: Connection, url: str
) -> None:
    name = url.rpartition("/")[2]
    view, column = (
        ("pg_stat_activity", "datname")
        if isinstance(server, PostgreSQL)
        else ("information_schema.processlist", "db")
    )
    store.close()
    wait_until(
        lambda: server.execute(f"SELECT count(*) FROM {view} WHERE {column} = '{name}'") == [(0,)],
        what="no connection to the database",
    )


def test_a_connection_that_was_out_when_the_store_was_closed_is_closed_as_it_comes_back(
    server: PostgreSQL | MariaDB, store: Connection
) -> None:
    """Else its session would stay with a server that was given up until Python happens to collect garbage."""
    number = "pg_backend_pid()" if isinstance(server, PostgreSQL) else "connection_id()"
    view = (
        "pg_stat_activity WHERE pid"
        if isinstance(server, PostgreSQL)
        else "information_schema.processlist WHERE id"
    )
    gc.disable()
    try:
        with store.engine.connect() as out:
            session = out.execute(sa.text(f"SELECT {number}")).scalar_one()
            store.close()
            store.ping()
            assert out.execute(sa.text(f"SELECT {number}")).scalar_one() == session, "it can be used still"
        wait_until(
            lambda: server.execute(f"SELECT count(*) FROM {view} = {session}") == [(0,)],
            10,
            "the session to end",
        )
    finally:
        gc.enable()
    with store.engine.connect() as another:
        assert another.execute(sa.text(f"SELECT {number}")).scalar_one() != session


@pytest.mark.postgresql
def test_a_transaction_does_not_fail_because_no_thread_can_be_started_to_watch_it(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    first = connect(postgresql_url)
    first.upgrade()
    first.close()
    store, before = connect(postgresql_url), set(threading.enumerate())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        store.record_events(make_events(3))
    store.record_events(make_events(3, first=3))
    assert {thread.name for thread in {*threading.enumerate()} - before} == {"blockers", "database watchdog"}
    assert len(stored_ids(store)) == 6
    store.close()
