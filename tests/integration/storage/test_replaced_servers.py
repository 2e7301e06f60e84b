"""The server, the file or the process is another one than before, and nobody has told the store."""

import contextlib
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from panko_ingest import threads
from panko_ingest.storage import EventFilter, RecordResult, StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Trait
from tests.integration.storage.samples import (
    count,
    letter_for,
    make_event,
    make_events,
    refuse_the_word,
    rows,
    stored,
    stored_ids,
)
from tests.services import MariaDB, PostgreSQL
from tests.waiting import wait_until

LENGTHS = pytest.mark.parametrize("length", [1, 30], ids=["one event", "a batch"])

_RESET_IDS = {
    "postgresql": "SELECT setval(pg_get_serial_sequence('event_type', 'id'), 1)",
    "mysql": "ALTER TABLE event_type AUTO_INCREMENT = 2",
}
_END_SESSIONS = {
    "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "mysql": "SELECT CONCAT('KILL ', id) FROM information_schema.processlist "
    "WHERE db = DATABASE() AND id <> CONNECTION_ID()",
}


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Connection, Connection]]:
    """Two stores of one database, as two workers have them."""
    url = request.getfixturevalue(f"{request.param}_url")
    one, other = Connection(url), Connection(url)
    one.upgrade()
    yield one, other
    one.close()
    other.close()


def fail_over(store: Connection, *lost: str) -> None:
    """End all sessions, as a failover does to a replica that had not got the last statements."""
    dialect = store.engine.dialect.name
    with sa.create_engine(store.engine.url, isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in (*lost, _RESET_IDS[dialect]):
            connection.exec_driver_sql(statement)
        for end in connection.exec_driver_sql(_END_SESSIONS[dialect]).scalars().all():
            if isinstance(end, str):
                connection.exec_driver_sql(end)
    connection.engine.dispose()


@LENGTHS
def test_ids_of_event_types_that_a_failover_lost_are_not_given_to_events_of_others(
    served: tuple[Connection, Connection], length: int
) -> None:
    store, other = served
    store.record_events([make_event(0, event_type="first")])
    store.record_events([make_event(1, event_type="compute.instance.delete.end")])
    lost = "(SELECT id FROM event WHERE message_id = 'm0001')"
    traits = [
        f"DELETE FROM trait_{kind} WHERE event_id = {lost}" for kind in ("text", "int", "float", "datetime")
    ]
    fail_over(
        store,
        *traits,
        "DELETE FROM event WHERE message_id = 'm0001'",
        "DELETE FROM event_type WHERE id = 2",
    )
    other.record_events([make_event(2, event_type="image.create")])
    assert rows(other, "SELECT id FROM event_type WHERE event_type.id = 2") == [(2,)]
    events = [
        make_event(number, event_type="compute.instance.delete.end") for number in range(10, 10 + length)
    ]
    store.record_events(events, (), letter_for)
    types = {event.message_id: event.event_type for event in stored(other)}
    assert types == {"m0000": "first", "m0002": "image.create"} | {
        event.message_id: event.event_type for event in events
    }


def _read_again_and_again(store: Connection, expected: list[str]) -> None:
    for _ in range(50):
        found = [event.message_id for event in store.get_events(EventFilter())]
        assert found == expected


def test_processes_that_are_forked_have_connections_of_their_own(store: Connection) -> None:
    store.record_events(make_events(20))
    expected = stored_ids(store)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_read_again_and_again, args=(store, expected)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert stored_ids(store) == expected


@pytest.mark.postgresql
@pytest.mark.parametrize("at", ["blockers", "database watchdog"])
def test_a_process_that_is_forked_while_a_thread_takes_a_connection_out_has_one_of_its_own(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    Connection(postgresql_url).upgrade()
    store, parent, start = Connection(postgresql_url), os.getpid(), threads.start
    taking, forked = threading.Event(), threading.Event()

    def held_up(work: Callable[..., object], name: str, *arguments: object) -> threading.Thread:
        if name == at and os.getpid() == parent:
            taking.set()
            assert forked.wait(30)
        return start(work, name, *arguments)

    monkeypatch.setattr(threads, "start", held_up)
    taker = threading.Thread(target=store.ping)
    taker.start()
    assert taking.wait(30)
    child = multiprocessing.get_context("fork").Process(target=store.ping)
    child.start()
    child.join(20)
    forked.set()
    child.kill()
    child.join()
    taker.join(30)
    assert child.exitcode == 0
    store.close()


@pytest.mark.postgresql
def test_of_several_hosts_the_one_is_used_that_can_be_written_to(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    name = postgresql_url.rpartition("/")[2]
    with PostgreSQL() as standby:
        standby.execute(f"CREATE DATABASE {name}")
        standby.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        hosts = f"host=127.0.0.1:{standby.port}&host=127.0.0.1:{postgresql.port}"
        both = f"postgresql://postgres@/{name}?{hosts}"
        with contextlib.closing(Connection(both)) as store:
            store.upgrade()
            assert store.record_events([make_event(1)]).recorded == (0,)
        with contextlib.closing(Connection(f"{both}&target_session_attrs=any")) as told:
            assert told.current_revision() is None


@pytest.mark.postgresql
def test_any_host_is_taken_where_the_environment_or_a_service_says_so(
    postgresql: PostgreSQL, postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = postgresql_url.rpartition("/")[2]
    postgresql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    host = f"host=127.0.0.1:{postgresql.port}"
    both = f"postgresql://postgres@/{name}?{host}&{host}"

    def is_taken(url: str, **environment: str) -> bool:
        with monkeypatch.context() as patch:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            with contextlib.closing(Connection(url)) as store:
                try:
                    return store.current_revision() is None
                except StorageUnavailable:
                    return False

    services = tmp_path / "pg_service.conf"
    services.write_text(
        "[told]\n# as libpq itself\ntarget_session_attrs=any\n\n[untold]\nconnect_timeout=5\n"
    )
    assert not is_taken(both)
    assert is_taken(both, PGTARGETSESSIONATTRS="any")
    assert is_taken(f"{both}&service=told", PGSERVICEFILE=str(services))
    assert is_taken(both, PGSERVICEFILE=str(services), PGSERVICE="told")
    assert is_taken(f"{both}&service=told", PGSYSCONFDIR=str(tmp_path))
    assert not is_taken(f"{both}&service=untold", PGSERVICEFILE=str(services))


@pytest.mark.parametrize("way", ["replaced", "deleted"])
@LENGTHS
def test_events_do_not_go_into_a_file_that_nobody_sees_any_more(
    sqlite_url: str, tmp_path: Path, way: str, length: int
) -> None:
    store = Connection(sqlite_url)
    store.upgrade()
    file, backup = tmp_path / "events.sqlite", tmp_path / "backup.sqlite"
    store.record_events(make_events(3))
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(file, backup)
    if way == "replaced":
        remove_log(file)
        backup.replace(file)
    else:
        # Somebody who has it open keeps the one that is made in its place from having its inode.
        with file.open("rb"):
            file.unlink()
            with pytest.raises(StorageUnavailable, match="db sync"):
                store.record_events(make_events(length, first=10), (), letter_for)
        Connection(sqlite_url).upgrade()
    store.record_events(make_events(length, first=10), (), letter_for)
    reader = Connection(sqlite_url)
    there = 3 if way == "replaced" else 0
    assert count(reader, "event") == there + length
    reader.close()
    store.close()


@LENGTHS
def test_a_file_is_not_written_over_with_the_log_of_the_one_that_it_replaced(
    sqlite_url: str, tmp_path: Path, length: int
) -> None:
    store = Connection(sqlite_url)
    store.upgrade()
    store.record_events(make_events(300))
    file, other = tmp_path / "events.sqlite", tmp_path / "other.sqlite"
    with contextlib.closing(Connection(f"sqlite:///{other}")) as elsewhere:
        elsewhere.upgrade()
        elsewhere.record_events(make_events(7, first=1000))
    other.replace(file)
    for work in (
        lambda: store.record_events(make_events(length, first=10), (), letter_for),
        lambda: list(store.get_events(EventFilter())),
        store.check,
    ):
        with pytest.raises(StorageUnavailable, match=r"was replaced.*stop the daemon, remove") as refused:
            work()
        assert refused.value.operator
    remove_log(file)
    with contextlib.closing(Connection(sqlite_url)) as restarted:
        assert count(restarted, "event") == 7
        assert [one for one in restarted.check() if one.level != "ok"] == []
    store.close()


def test_nothing_is_acknowledged_that_goes_into_a_log_that_was_removed(
    sqlite_url: str, tmp_path: Path
) -> None:
    store = Connection(sqlite_url)
    store.upgrade()
    store.record_events(make_events(3))
    remove_log(tmp_path / "events.sqlite")
    for number in (10, 20):
        with pytest.raises(
            StorageUnavailable, match=r"events.sqlite-wal was removed.*stop the daemon"
        ) as refused:
            store.record_events(make_events(5, first=number), (), letter_for)
        assert refused.value.operator
    store.close()
    with contextlib.closing(Connection(sqlite_url)) as restarted:
        assert count(restarted, "event") == 3
        assert [one for one in restarted.check() if one.level != "ok"] == []
        restarted.record_events(make_events(5, first=10))
        assert count(restarted, "event") == 8


def remove_log(file: Path) -> None:
    for end in ("-wal", "-shm"):
        file.with_name(f"{file.name}{end}").unlink(missing_ok=True)


_WAITING = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@contextlib.contextmanager
def absent_standby(postgresql: PostgreSQL) -> Iterator[None]:
    """Let COMMIT wait for a synchronous standby that is not there."""
    postgresql.execute("ALTER SYSTEM SET synchronous_standby_names = 'one'")
    postgresql.execute("SELECT pg_reload_conf()")
    try:
        wait_until(
            lambda: postgresql.execute("SHOW synchronous_standby_names")[0][0] == "one", 10, "the setting"
        )
        yield
    finally:
        postgresql.execute("ALTER SYSTEM RESET synchronous_standby_names")
        postgresql.execute("SELECT pg_reload_conf()")


@pytest.fixture
def least_url(postgresql_url: str) -> Iterator[str]:
    """URL of a database with tables whose role may record, and call no function of replication."""
    with contextlib.closing(Connection(postgresql_url)) as store:
        store.upgrade()
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE least LOGIN")
        connection.execute("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO least")
        connection.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO least")
        for (function,) in connection.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE proname LIKE 'pg_logical%'"
        ).fetchall():
            connection.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC".encode())
        yield postgresql_url.replace("postgres@", "least@")
        connection.execute("DROP OWNED BY least")
        connection.execute("DROP ROLE least")


@pytest.mark.postgresql
def test_a_role_that_may_do_no_more_than_record_is_told_of_duplicates(least_url: str) -> None:
    store = Connection(least_url)
    for length in (1, 30):
        store.record_events(make_events(length))
        assert store.record_events(make_events(length)).duplicates == tuple(range(length))
    store.close()


@pytest.mark.postgresql
@pytest.mark.parametrize("length", [3, 30], ids=["few", "a batch"])
def test_an_event_is_no_duplicate_before_a_synchronous_standby_has_it(
    postgresql: PostgreSQL, least_url: str, length: int
) -> None:
    store = Connection(least_url)
    store.record_events(make_events(length))
    found: list[RecordResult] = []
    again = threading.Thread(target=lambda: found.append(store.record_events(make_events(length))))
    with absent_standby(postgresql):
        again.start()
        wait_until(
            lambda: postgresql.execute(f"SELECT pid {_WAITING}"), 10, "a COMMIT that waits for the standby"
        )
        assert not found
    again.join(30)
    assert found[0].duplicates == tuple(range(length))
    assert count(store, "event_type") == 1
    store.close()


@pytest.mark.postgresql
@pytest.mark.parametrize("rule", ["a constraint", "a policy", "a trigger"])
def test_duplicates_are_told_where_an_operator_admits_known_event_types_only(
    postgresql: PostgreSQL, postgresql_url: str, rule: str
) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    store.record_events(make_events(3))
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        if rule == "a constraint":
            known = "'compute.instance.update'"
            connection.execute(f'ALTER TABLE event_type ADD CHECK ("desc" IN ({known}))'.encode())
        elif rule == "a trigger":
            connection.execute(
                "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
            )
            connection.execute(
                "CREATE TRIGGER known BEFORE INSERT ON event_type FOR EACH ROW EXECUTE FUNCTION leave_out()"
            )
        else:
            connection.execute("ALTER TABLE event_type ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
            connection.execute("CREATE POLICY known ON event_type FOR SELECT USING (true)")
            connection.execute("CREATE ROLE policed LOGIN")
            connection.execute("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO policed")
            connection.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO policed")
    other = Connection(
        postgresql_url.replace("postgres@", "policed@") if rule == "a policy" else postgresql_url
    )
    found: list[RecordResult] = []
    again = threading.Thread(target=lambda: found.append(other.record_events(make_events(3))))
    try:
        with absent_standby(postgresql):
            again.start()
            wait_until(lambda: postgresql.execute(f"SELECT pid {_WAITING}"), 10, "a COMMIT that waits")
            assert not found
        again.join(30)
        assert found[0].duplicates == (0, 1, 2)
    finally:
        other.close()
        store.close()
        if rule == "a policy":
            with psycopg.connect(postgresql_url, autocommit=True) as connection:
                connection.execute("DROP OWNED BY policed")
                connection.execute("DROP ROLE policed")


@pytest.mark.postgresql
@pytest.mark.parametrize("length", [1, 30], ids=["one event", "a batch"])
def test_an_event_is_not_recorded_because_somebody_cancels_the_wait_for_a_synchronous_standby(
    postgresql: PostgreSQL, postgresql_url: str, length: int
) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(
            f"ALTER DATABASE {connection.info.dbname} SET client_min_messages = error".encode()
        )
    store = Connection(postgresql_url)
    store.upgrade()
    store.record_events(make_events(1))
    found: list[RecordResult] = []
    events = make_events(length, first=10)
    writer = threading.Thread(target=lambda: found.append(store.record_events(events)))

    def waiting(since: str) -> list[tuple[int, str]]:
        return postgresql.execute(f"SELECT pid, xact_start::text {_WAITING} AND xact_start > '{since}'")

    with absent_standby(postgresql):
        writer.start()
        ((pid, began),) = wait_until(lambda: waiting("-infinity"), 10, "a COMMIT that waits")
        postgresql.execute(f"SELECT pg_cancel_backend({pid})")
        wait_until(lambda: found or waiting(began), 10, "the next COMMIT to wait")
        assert not found
    writer.join(30)
    assert sorted(found[0].recorded + found[0].duplicates) == list(range(length))
    store.close()


@pytest.mark.mariadb
def test_what_a_table_can_hold_is_learned_anew_before_an_event_is_refused_for_it(
    mariadb: MariaDB, mariadb_url: str
) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    store.record_events(make_events(3))
    name = mariadb_url.rpartition("/")[2]
    mariadb.execute(f"ALTER TABLE {name}.trait_text CONVERT TO CHARACTER SET utf8mb3")
    smile = Trait("display_name", Trait.TEXT_TYPE, "smile \N{GRINNING FACE}")
    result = store.record_events([make_event(10, smile), *make_events(3, first=20)], (), letter_for)
    assert result.recorded == (0, 1, 2, 3)
    assert count(store, "dead_letter") == 0
    store.close()


@pytest.mark.mariadb
@pytest.mark.parametrize("others", [0, 30], ids=["alone", "in a batch"])
def test_an_event_is_refused_though_sessions_can_send_packets_of_different_sizes(
    mariadb: MariaDB, mariadb_url: str, others: int
) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    refuse_the_word(store, "poison")
    store.close()
    size = mariadb.execute("SELECT @@max_allowed_packet")[0][0]
    with store.engine.connect():
        try:
            mariadb.execute(f"SET GLOBAL max_allowed_packet = {4 * size}")
            store.engine.connect().close()
        finally:
            mariadb.execute(f"SET GLOBAL max_allowed_packet = {size}")
    poison = make_event(1000, Trait("word", Trait.TEXT_TYPE, "poison"))
    for turn in range(2):
        events = [poison, *make_events(others, first=100 * turn)]
        result = store.record_events(events, (), letter_for)
        assert [index for index, _ in result.failed] == [0]
        assert len(result.recorded) == others
    store.close()
