"""Plain tables become partitioned ones, with every event, while others write."""

import datetime
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa

from panko_ingest.errors import ConfigError
from panko_ingest.storage import EventFilter, StorageUnavailable
from panko_ingest.storage.database import leases
from panko_ingest.storage.database.engine import read_transaction
from panko_ingest.storage.expiry import expiry_round
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.schema import partition_ddl, partition_migration, partitions
from panko_ingest.storage.tables import EVENT_TABLES
from tests import legacy
from tests.integration.storage.samples import connect, ignored_progress, letter_for, rows, stored_ids
from tests.services import PostgreSQL
from tests.waiting import wait_until

pytestmark = pytest.mark.postgresql

NOW = datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)


def events(count: int, first: int = 0) -> list[Event]:
    return [
        Event(
            f"m{number:05}",
            f"type {number % 3}",
            NOW - datetime.timedelta(hours=number % 300),
            [Trait("size", Trait.INT_TYPE, number), Trait("project_id", Trait.TEXT_TYPE, f"p{number}")],
        )
        for number in range(first, first + count)
    ]


def filled(url: str, count: int) -> Connection:
    store = connect(url, event_time_to_live="30d")
    store.upgrade()
    for start in range(0, count, 1000):
        store.record_events(events(min(1000, count - start), start))
    return store


def is_partitioned(store: Connection) -> bool:
    with read_transaction(store.engine) as connection:
        return partitions.exist(connection)


def test_all_events_are_there_after_partitioning_and_duplicates_are_still_known(postgresql_url: str) -> None:
    store = filled(postgresql_url, 5000)
    before = list(store.get_events(EventFilter()))
    told: list[tuple[int, int]] = []

    store.partition("day", lambda done, total: told.append((done, total)))

    assert is_partitioned(store)
    assert list(store.get_events(EventFilter())) == before
    assert told[-1][0] == told[-1][1] > 0
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(store.record_events(events(10)).duplicates) == 10
    assert len(store.record_events(events(10, 5000)).recorded) == 10
    assert {finding.level for finding in store.check() if finding.subject == "partitions"} == {"ok"}
    yesterday = NOW - datetime.timedelta(days=1)
    since = list(store.get_events(EventFilter(start_timestamp=yesterday)))
    assert len(since) == len([one for one in before if one.generated >= yesterday])
    store.partition("day", ignored_progress)  # there is nothing left to do
    store.close()


def test_events_recorded_while_tables_are_partitioned_are_all_there(postgresql_url: str) -> None:
    store = filled(postgresql_url, 3000)
    writer = Connection(postgresql_url)
    done = threading.Event()

    def write() -> int:
        number = 3000
        while not done.is_set():
            try:
                writer.record_events(events(20, number), on_failure=letter_for)
            except StorageUnavailable as error:
                assert "partitioned" in str(error)  # noqa: PT017 - the daemon keeps the batch and tries again
                continue
            number += 20
        return number

    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(write)
        try:
            store.partition("week", ignored_progress)
            number = rows(store, "SELECT count(*) FROM event")[0][0]
            wait_until(lambda: rows(store, "SELECT count(*) FROM event")[0][0] > number, 30, "more events")
        finally:
            done.set()
        total = written.result()

    assert stored_ids(store) == [f"m{number:05}" for number in range(total)]
    assert rows(store, "SELECT count(*) FROM trait_int t JOIN event e ON e.id = t.event_id") == [(total,)]
    assert rows(store, "SELECT count(*) FROM dead_letter") == [(0,)]
    writer.close()
    store.close()


_PARTITIONING = """
import sys
from tests import legacy
from tests.integration.storage.samples import connect
connect(sys.argv[1], event_time_to_live="30d").partition("day", lambda done, total: print(done, flush=True))
"""


def test_partitioning_that_was_killed_goes_on_where_it_was(postgresql_url: str) -> None:
    store = filled(postgresql_url, 2000)
    process = subprocess.Popen(
        [sys.executable, "-c", _PARTITIONING, postgresql_url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate()

    def go_on() -> bool:
        try:
            store.partition("day", ignored_progress)
        except StorageUnavailable:  # the lock of the killed one
            return False
        return True

    wait_until(go_on, 30, "the killed one's session to end")
    assert stored_ids(store) == [f"m{number:05}" for number in range(2000)]
    store.close()


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.long)])
def test_partitioning_may_break_off_at_any_statement(postgresql_url: str, stride: int) -> None:
    """The session ends at the first statement, at the next run some statements later, and so on."""
    store = filled(postgresql_url, 100)
    store.record_events([event_of_tomorrow()])
    before = list(store.get_events(EventFilter()))
    survived, number = 0, 0

    def break_off(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        nonlocal number
        changes = statement.startswith(("ALTER", "CREATE", "UPDATE", "LOCK", "GRANT", "REVOKE", "DROP"))
        if not changes or leases.TABLE in statement:
            return
        number += 1
        if number > survived:
            pid = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
            with sa.create_engine(store.engine.url, poolclass=sa.NullPool).connect() as other:
                other.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 30000)")

    sa.event.listen(sa.Engine, "before_cursor_execute", break_off)
    try:
        while True:
            number = 0
            try:
                store.partition("day", ignored_progress)
                break
            except StorageUnavailable:
                survived += stride
            assert list(store.get_events(EventFilter())) == before
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", break_off)

    assert survived > 50
    assert is_partitioned(store)
    assert list(store.get_events(EventFilter())) == before
    assert {finding.level for finding in store.check() if finding.subject == "partitions"} == {"ok"}
    store.close()


def event_of_tomorrow() -> Event:
    return Event("tomorrow", "t", NOW + datetime.timedelta(days=2), [Trait("size", Trait.INT_TYPE, 1)])


def test_an_event_of_a_day_to_come_meets_its_redelivery_after_tables_were_partitioned(
    postgresql_url: str,
) -> None:
    store = filled(postgresql_url, 10)
    store.record_events([event_of_tomorrow()])

    store.partition("day", ignored_progress)

    assert store.record_events([event_of_tomorrow(), *events(10)]).duplicates == tuple(range(11))
    found = rows(
        store,
        "SELECT e.tableoid::regclass::text, t.tableoid::regclass::text FROM event e "
        "JOIN trait_int t ON t.event_id = e.id WHERE message_id = 'tomorrow'",
    )
    day = f"{NOW + datetime.timedelta(days=2):%Y%m%d}"
    assert found == [(f"event_p{day}", f"trait_int_p{day}")]
    store.close()


def test_days_that_fill_while_the_tables_are_read_stay_with_the_plain_part(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_ddl, "MOST_MOVED", 5)
    store = filled(postgresql_url, 10)
    late = [Event(f"late-{number}", "t", NOW + datetime.timedelta(days=2)) for number in range(10)]

    def come(done: int, total: int) -> None:
        if done == total:  # as where midnight passes meanwhile
            store.record_events(late)

    store.partition("day", come)
    assert store.record_events(late).duplicates == tuple(range(10))
    parts = rows(store, "SELECT DISTINCT tableoid::regclass::text FROM event WHERE message_id LIKE 'late%'")
    assert parts == [("event_plain",)]
    store.close()


def test_the_plain_part_of_partitioned_tables_shrinks_by_expiry_and_is_dropped_when_it_is_over(
    postgresql_url: str,
) -> None:
    store = filled(postgresql_url, 300)
    store.partition("day", ignored_progress)
    assert len(store.record_events(events(10, 300)).recorded) == 10

    report = store.expire(6 * 86400)
    assert report.partitions == ()
    assert report.events > 0
    assert {name for (name,) in rows(store, "SELECT tableoid::regclass::text FROM event")} == {"event_plain"}

    later = NOW + datetime.timedelta(days=8)
    store.record_events([event_of_tomorrow()])
    report = store.expire(6 * 86400, clock=lambda: later)
    assert report.partitions[0] == "plain"
    assert stored_ids(store) == ["tomorrow"]
    assert rows(store, "SELECT to_regclass('event_plain'), to_regclass('event_first')::text") == [
        (None, "event_first")
    ]
    store.close()


def test_tables_keep_owner_rights_and_indexes_when_a_superuser_partitions_them(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    number = postgresql_url.rpartition("_")[2]
    owner, ingester, auditor = f"owner_{number}", f"ingester_{number}", f"auditor_{number}"
    for role in (owner, ingester, auditor):
        postgresql.execute(f"CREATE ROLE {role} LOGIN")
    superuser = connect(postgresql_url, event_time_to_live="30d")
    with superuser.engine.begin() as connection:
        connection.exec_driver_sql(f"GRANT CREATE ON SCHEMA public TO {owner}")
    store = connect(postgresql_url.replace("postgres@", f"{owner}@"), event_time_to_live="30d")
    store.upgrade()
    store.record_events(events(10))
    with store.engine.begin() as connection:
        for statement in (
            f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ingester}",
            f"GRANT INSERT ON event_type, event, trait_text, trait_int TO {ingester} WITH GRANT OPTION",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {ingester}",
            f"GRANT SELECT (id, message_id) ON event TO {auditor}",
            "GRANT SELECT ON trait_int TO PUBLIC",
            "CREATE INDEX of_the_operator ON event (lower(message_id)) WHERE id > 5",
            f"ALTER DEFAULT PRIVILEGES GRANT UPDATE ON TABLES TO {auditor}",
        ):
            connection.exec_driver_sql(statement)
    rights = (
        "SELECT c.relname, c.relowner::regrole::text, c.relacl::text, "
        "array(SELECT attacl::text FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL) "
        "FROM pg_class c WHERE relname IN ('event', 'trait_text', 'trait_int', 'event_id_seq') ORDER BY 1"
    )
    before = rows(store, rights)

    superuser.partition("day", ignored_progress)

    assert rows(store, rights) == before
    owners = rows(
        store, "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname ~ '^(event|trait)'"
    )
    assert owners == [(owner,)]
    indexes = [name for (name,) in rows(store, "SELECT indexname FROM pg_indexes WHERE tablename = 'event'")]
    assert sorted(indexes) == ["ix_event_generated", "ix_event_type_generated", "of_the_operator", "pk_event"]
    assert rows(store, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
    writer = Connection(postgresql_url.replace("postgres@", f"{ingester}@"))
    assert len(writer.record_events(events(5, 10)).recorded) == 5
    store.expire(86400, clock=lambda: NOW + datetime.timedelta(days=20))  # the owner may still drop
    assert rows(store, "SELECT to_regclass('event_plain')") == [(None,)]
    for one in (writer, store, superuser):
        one.close()


def test_an_owner_who_may_make_no_tables_is_told_what_to_grant(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    store = filled(postgresql_url, 10)
    owner = f"nobody_{postgresql_url.rpartition('_')[2]}"
    postgresql.execute(f"CREATE ROLE {owner}")
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE event OWNER TO {owner}")
    with pytest.raises(StorageUnavailable, match=f"GRANT CREATE ON SCHEMA public TO {owner}"):
        store.partition("day", ignored_progress)
    assert not is_partitioned(store)
    store.close()


def test_two_schemas_of_one_database_are_partitioned_each_for_itself(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url) as connection:
        connection.execute("CREATE SCHEMA one")
        connection.execute('CREATE SCHEMA "Other%x"')
    one = filled(f"{postgresql_url}?options=-csearch_path%3Done", 50)
    other = filled(f"{postgresql_url}?options=-csearch_path%3D%22Other%25x%22", 80)
    with other.engine.begin() as session:
        for number, columns in enumerate(("raw", "raw, message_id")):
            name = f'"100% of "" {"ü" * 26}{number}"'
            session.exec_driver_sql(f"CREATE INDEX {name} ON event ({columns})".replace("%", "%%"))

    other.partition("day", ignored_progress)
    assert not is_partitioned(one)
    one.partition("day", ignored_progress)

    assert stored_ids(one) == [f"m{number:05}" for number in range(50)]
    assert stored_ids(other) == [f"m{number:05}" for number in range(80)]
    assert len(other.record_events(events(20, 80)).recorded) == 20
    assert other.expire(86400, clock=lambda: NOW + datetime.timedelta(days=20)).partitions
    assert len(stored_ids(one)) == 50
    one.close()
    other.close()


def test_a_transaction_in_another_database_stalls_nothing(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    store = filled(postgresql_url, 10)
    with psycopg.connect(postgresql.url) as other:
        other.execute("SELECT txid_current()")
        store.partition("day", ignored_progress)
    assert is_partitioned(store)
    store.close()


def test_who_keeps_the_tables_from_being_partitioned_is_told(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(postgresql_url, 10)
    with ThreadPoolExecutor(1) as pool, psycopg.connect(postgresql_url, application_name="report") as other:
        pid = other.info.backend_pid
        other.execute("SELECT count(*) FROM event")
        running = pool.submit(store.partition, "day", ignored_progress)
        wait_until(lambda: "waits for the tables" in caplog.text, 30, "a word about who is in the way")
        other.rollback()
        running.result(timeout=60)
    assert f"session {pid} of postgres (report, " in caplog.text
    assert "idle in transaction" in caplog.text
    assert is_partitioned(store)
    store.close()


@pytest.fixture
def busy_autovacuum(postgresql: PostgreSQL) -> Iterator[None]:
    """A server that looks each second for tables to vacuum."""
    postgresql.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    postgresql.execute("SELECT pg_reload_conf()")
    yield
    postgresql.execute("ALTER SYSTEM RESET autovacuum_naptime")
    postgresql.execute("SELECT pg_reload_conf()")


_SLOW_VACUUM = (
    "autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_limit = 1, "
    "autovacuum_vacuum_cost_delay = 100"
)
_VACUUM = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'autovacuum: VACUUM % public.event%'"


@pytest.mark.usefixtures("busy_autovacuum")
def test_a_vacuum_of_the_servers_own_makes_way_for_partitions(
    postgresql: PostgreSQL, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_migration, "_PATIENCE", 10.0)
    monkeypatch.setattr(expiry_round, "_PATIENCE", 10.0)
    store = filled(postgresql_url, 1)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE event SET ({_SLOW_VACUUM})")
        connection.exec_driver_sql(
            "INSERT INTO event (message_id, generated, raw, event_type_id) SELECT 'g' || n, now(), "
            "repeat(md5(n::text), 30), (SELECT min(id) FROM event_type) FROM generate_series(1, 2000) AS n"
        )
        connection.exec_driver_sql("UPDATE event SET generated = generated WHERE id < 200")

    wait_until(lambda: bool(postgresql.execute(_VACUUM)), 30, "a vacuum")
    store.partition("day", ignored_progress)
    assert is_partitioned(store)

    wait_until(lambda: bool(postgresql.execute(_VACUUM)), 30, "another vacuum")
    report = store.expire(86400, clock=lambda: NOW + datetime.timedelta(days=40))
    assert "plain" in report.partitions
    store.close()


@pytest.mark.usefixtures("busy_autovacuum")
def test_a_vacuum_of_what_is_stored_out_of_line_makes_way_for_a_drop(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry_round, "_PATIENCE", 10.0)
    store = filled(postgresql_url, 1)
    with store.engine.begin() as connection:
        slow = ", ".join(f"toast.{option}" for option in _SLOW_VACUUM.split(", "))
        connection.exec_driver_sql(f"ALTER TABLE event SET (autovacuum_enabled = off, {slow})")
        connection.exec_driver_sql("ALTER TABLE event ALTER raw SET STORAGE EXTERNAL")
        connection.exec_driver_sql(
            "INSERT INTO event (message_id, generated, raw, event_type_id) SELECT 'g' || n, now(), "
            "repeat(md5(n::text), 300), (SELECT min(id) FROM event_type) FROM generate_series(1, 2000) AS n"
        )
    store.partition("day", ignored_progress)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM event WHERE message_id > 'g5'")

    vacuum = (
        "SELECT count(*) FROM pg_stat_activity JOIN pg_class ON oid = 'event_plain'::regclass "
        "WHERE query = 'autovacuum: VACUUM ' || reltoastrelid::regclass"
    )
    wait_until(lambda: rows(store, vacuum) == [(1,)], 30, "a vacuum")
    report = store.expire(86400, clock=lambda: NOW + datetime.timedelta(days=40))
    assert "plain" in report.partitions
    store.close()


def test_a_writer_that_has_its_ids_but_has_written_nothing_yet_loses_no_event(postgresql_url: str) -> None:
    store = filled(postgresql_url, 10)
    writer = Connection(postgresql_url)
    has_ids, go_on = threading.Event(), threading.Event()

    def wait(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "nextval" in statement:
            has_ids.set()
            assert go_on.wait(60)

    sa.event.listen(writer.engine, "after_cursor_execute", wait)
    with ThreadPoolExecutor(2) as pool:
        try:
            writing = pool.submit(writer.record_events, events(100, 10))
            assert has_ids.wait(60)
            partitioning = pool.submit(store.partition, "day", ignored_progress)
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            wait_until(lambda: rows(store, waiting) != [(0,)], 30, "the exchange to wait for the writer")
        finally:
            go_on.set()
        assert len(writing.result(60).recorded) == 100
        partitioning.result(60)

    assert is_partitioned(store)
    assert stored_ids(store) == [f"m{number:05}" for number in range(110)]
    writer.close()
    store.close()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("CREATE VIEW mine AS SELECT count(*) FROM event", "view public.mine"),
        ("CREATE MATERIALIZED VIEW mine AS SELECT id FROM event", "materialized view public.mine"),
        (
            "CREATE TABLE notes (event_id bigint REFERENCES event (id))",
            "table constraint notes_event_id_fkey on public.notes",
        ),
        (
            "CREATE PUBLICATION copy FOR TABLE event",
            "publication relation public.event in publication copy",
        ),
        ("CREATE RULE copy AS ON UPDATE TO event DO ALSO NOTHING", "rule copy on public.event"),
        ("ALTER TABLE trait_text ENABLE ROW LEVEL SECURITY", "row-level security of trait_text"),
        (
            "CREATE FUNCTION mine() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM event; END",
            r"function public.mine\(\)",
        ),
        (
            "CREATE FUNCTION mine(event) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            r"function public.mine\(public.event\)",
        ),
        (
            "ALTER TABLE event ADD CONSTRAINT mine CHECK (message_id <> 'm00003') NOT VALID",
            "table constraint mine on public.event",
        ),
        (
            "ALTER TABLE event ADD CONSTRAINT mine EXCLUDE (message_id WITH =)",
            "table constraint mine on public.event",
        ),
        (
            "ALTER TABLE event REPLICA IDENTITY USING INDEX uq_event_message_id",
            "replica identity of event by uq_event_message_id",
        ),
        (
            "ALTER TABLE trait_int ADD number bigint GENERATED BY DEFAULT AS IDENTITY",
            "identity column number of trait_int",
        ),
    ],
)
def test_what_would_stay_with_the_old_part_of_the_tables_keeps_them_plain(
    postgresql_url: str, statement: str, words: str
) -> None:
    store = filled(postgresql_url, 10)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    with pytest.raises(StorageUnavailable, match=f"^db partition: {words}: would stay"):
        store.partition("day", ignored_progress)
    assert not is_partitioned(store)
    store.close()


@pytest.mark.parametrize(
    ("statement", "words", "remedy"),
    [
        ("CREATE VIEW mine AS SELECT FROM event", "view public.mine", "DROP VIEW mine"),
        (
            "CREATE TABLE hold (event_id bigint REFERENCES event)",
            "table constraint hold_event_id_fkey on public.hold",
            "DROP TABLE hold",
        ),
        (
            "CREATE TRIGGER mine BEFORE DELETE ON event EXECUTE FUNCTION tsvector_update_trigger()",
            "trigger mine on public.event",
            "DROP TRIGGER mine ON event",
        ),
        (
            "CREATE POLICY mine ON trait_text USING (true)",
            "policy mine on public.trait_text",
            "DROP POLICY mine ON trait_text",
        ),
    ],
)
def test_what_is_made_while_the_tables_are_read_is_seen_before_they_change_places(
    postgresql_url: str, statement: str, words: str, remedy: str
) -> None:
    store = filled(postgresql_url, 10)
    made: list[str] = []

    def make(_done: int, _total: int) -> None:
        if not made:
            made.append(statement)
            with store.engine.begin() as connection:
                connection.exec_driver_sql(statement)

    with pytest.raises(StorageUnavailable, match=f"^db partition: {words}: would stay"):
        store.partition("day", make)
    assert not is_partitioned(store)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(remedy)
    store.partition("day", make)
    assert is_partitioned(store)
    assert len(stored_ids(store)) == 10
    store.close()


def test_a_view_that_is_not_committed_yet_is_seen_before_the_tables_change_places(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(postgresql_url, 10)
    made: list[str] = []
    with ThreadPoolExecutor(1) as pool, psycopg.connect(postgresql_url) as other:

        def tell(_done: int, _total: int) -> None:
            if not made:
                made.append("view")
                other.execute("CREATE VIEW mine AS SELECT FROM event")

        partitioning = pool.submit(store.partition, "day", tell)
        wait_until(lambda: "waits for the tables" in caplog.text, 30, "the exchange to wait for the view")
        other.commit()
        with pytest.raises(StorageUnavailable, match=r"view public\.mine: would stay"):
            partitioning.result(60)
    assert not is_partitioned(store)
    store.close()


def test_published_tables_stay_published_and_expire_after_they_were_partitioned(postgresql_url: str) -> None:
    store = filled(postgresql_url, 10)
    with store.engine.begin() as connection:
        for table in EVENT_TABLES[1:]:
            connection.exec_driver_sql(f"ALTER TABLE {table} REPLICA IDENTITY FULL")
        connection.exec_driver_sql("CREATE PUBLICATION everything FOR ALL TABLES")

    store.record_events([event_of_tomorrow()])
    store.partition("day", ignored_progress)

    later = NOW + datetime.timedelta(days=10)
    store.record_events([Event("old", "t", later - datetime.timedelta(hours=30), [Trait("size", 2, 1)])])
    # What the limit cuts goes row by row.
    store.expire(86400, clock=lambda: later)
    assert stored_ids(store) == []
    identities = (
        "SELECT DISTINCT relreplident::text FROM pg_class WHERE relname ~ '^trait' AND relkind IN ('r', 'p')"
    )
    assert rows(store, identities) == [("f",)]
    store.close()


def test_new_partitions_are_stored_as_the_plain_tables_were(postgresql_url: str) -> None:
    store = filled(postgresql_url, 10)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE event SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, "
            "toast.autovacuum_enabled = off)"
        )

    store.partition("day", ignored_progress)
    store.expire(86400, clock=lambda: NOW + datetime.timedelta(days=20))

    stored = "SELECT DISTINCT c.reloptions::text, t.reloptions::text FROM pg_class c JOIN pg_class t "
    stored += "ON t.oid = c.reltoastrelid WHERE c.relname ~ '^event_(first|p|last)'"
    options = "{fillfactor=70,autovacuum_vacuum_scale_factor=0.01}"
    assert rows(store, stored) == [(options, "{autovacuum_enabled=off}")]
    assert rows(store, "SELECT to_regclass('event_plain')") == [(None,)]
    store.close()


def test_columns_keep_the_defaults_and_the_compression_that_an_operator_gave_them(
    postgresql_url: str,
) -> None:
    store = filled(postgresql_url, 10)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE event ADD received timestamptz NOT NULL DEFAULT now()")
        connection.exec_driver_sql(
            "ALTER TABLE event ADD day date GENERATED ALWAYS AS (generated::date) STORED"
        )
        connection.exec_driver_sql("ALTER TABLE event ALTER raw SET COMPRESSION lz4")

    store.partition("day", ignored_progress)

    assert len(store.record_events(events(10, 10), on_failure=letter_for).recorded) == 10
    compressions = (
        "SELECT DISTINCT attcompression::text FROM pg_attribute JOIN pg_class c ON c.oid = attrelid "
        "WHERE attname = 'raw' AND relkind IN ('r', 'p') AND relname ~ '^event'"
    )
    assert rows(store, compressions) == [("l",)]
    store.close()


def test_columns_of_an_operators_that_are_numbered_go_on_and_keep_no_part_from_being_dropped(
    postgresql_url: str,
) -> None:
    store = filled(postgresql_url, 10)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE event ADD number bigserial")
        connection.exec_driver_sql('ALTER TABLE trait_int ADD "Its number" serial')

    store.partition("day", ignored_progress)

    assert len(store.record_events(events(10, 10), on_failure=letter_for).recorded) == 10
    numbers = 'SELECT count(DISTINCT number), count(DISTINCT "Its number") FROM event, trait_int'
    assert rows(store, numbers) == [(20, 20)]
    assert "plain" in store.expire(86400, clock=lambda: NOW + datetime.timedelta(days=20)).partitions
    store.record_events([event_of_tomorrow()])
    assert rows(store, numbers) == [(1, 1)]
    owned = "SELECT pg_get_serial_sequence('event', 'number'), "
    owned += "pg_get_serial_sequence('trait_int', 'Its number')"
    assert rows(store, owned) == [("public.event_number_seq", 'public."trait_int_Its number_seq"')]
    store.close()


def assert_reads_the_whole_tables_alone(url: str, reader: str, number: int) -> None:
    """Look as an account that may see so many events, and the traits of all: not at the tables' old part."""
    with psycopg.connect(url.replace("postgres@", f"{reader}@"), autocommit=True) as other:
        assert other.execute("SELECT count(*) FROM event").fetchone() == (number,)
        assert other.execute("SELECT count(event_id) FROM trait_text").fetchone() == (10,)
        for look in ("SELECT count(*) FROM event_plain", "SELECT count(event_id) FROM trait_text_plain"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute(look.encode())


def test_db_sync_takes_from_the_old_part_what_the_whole_tables_have_and_asks_for_no_lock_in_vain(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    store = filled(postgresql_url, 10)
    reader = f"reader_{postgresql_url.rpartition('_')[2]}"
    postgresql.execute(f"CREATE ROLE {reader} LOGIN")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE event ADD number bigserial")
        connection.exec_driver_sql(f"GRANT SELECT ON event, event_type TO {reader}")
        connection.exec_driver_sql(f"GRANT SELECT (event_id) ON trait_text TO {reader}")
    store.partition("day", ignored_progress)
    with store.engine.begin() as connection:  # as they were left by those who partitioned them before
        connection.exec_driver_sql(f"GRANT SELECT ON event_plain TO {reader} WITH GRANT OPTION")
        connection.exec_driver_sql(f"GRANT SELECT (event_id) ON trait_text_plain TO {reader}")
        connection.exec_driver_sql("ALTER SEQUENCE event_number_seq OWNED BY event_plain.number")

    store.upgrade()

    assert_reads_the_whole_tables_alone(postgresql_url, reader, 10)
    with psycopg.connect(postgresql_url) as other:
        other.execute("SELECT FROM event")
        store.upgrade()
    assert "plain" in store.expire(86400, clock=lambda: NOW + datetime.timedelta(days=20)).partitions
    store.close()


def test_nobody_reads_the_old_part_of_the_tables_past_a_policy_that_is_made_again(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    store = filled(postgresql_url, 10)
    reader = f"reader_{postgresql_url.rpartition('_')[2]}"
    postgresql.execute(f"CREATE ROLE {reader} LOGIN")
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"GRANT SELECT ON event, event_type TO {reader} WITH GRANT OPTION")
        connection.exec_driver_sql(f"GRANT SELECT (event_id) ON trait_text TO {reader}")

    store.partition("day", ignored_progress)

    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE event ENABLE ROW LEVEL SECURITY")
        connection.exec_driver_sql("CREATE POLICY a_few ON event USING (message_id < 'm00003')")
    assert_reads_the_whole_tables_alone(postgresql_url, reader, 3)
    store.close()


@pytest.mark.parametrize("time", ["infinity", "30000-01-01", "9999-12-31 23:59:59.999999"])
def test_an_event_of_a_time_beyond_the_calendar_stays_when_tables_are_partitioned(
    postgresql_url: str, time: str
) -> None:
    store = filled(postgresql_url, 10)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE event SET generated = '{time}' WHERE message_id = 'm00003'")
        connection.exec_driver_sql("UPDATE event SET generated = '-infinity' WHERE message_id = 'm00004'")
    before = list(store.get_events(EventFilter()))

    store.partition("day", ignored_progress)

    assert list(store.get_events(EventFilter())) == before
    store.expire(86400, clock=lambda: NOW + datetime.timedelta(days=20))
    assert rows(store, "SELECT to_regclass('event_plain')") == [(None,)]
    (left,) = store.get_events(EventFilter())
    assert (left.message_id, len(left.traits)) == ("m00003", 2)
    assert left.generated == datetime.datetime.max
    store.close()


def test_many_events_of_a_time_beyond_the_calendar_are_refused_in_words(postgresql_url: str) -> None:
    store = filled(postgresql_url, 0)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO event_type (\"desc\") VALUES ('t')")
        connection.exec_driver_sql(
            "INSERT INTO event (message_id, generated, raw, event_type_id) "
            "SELECT 'm' || n, 'infinity', '{}', event_type.id FROM event_type, generate_series(0, 10000) AS n"
        )
    with pytest.raises(StorageUnavailable, match="more than 10000 events are of 9999-12-30 or later"):
        store.partition("day", ignored_progress)
    store.close()


@pytest.mark.parametrize("shape", legacy.SHAPES)
def test_tables_of_panko_are_partitioned_once_they_are_adopted(postgresql_url: str, shape: str) -> None:
    store = connect(postgresql_url, event_time_to_live="300d")
    with store.engine.begin() as connection:
        legacy.make(connection, shape)
        legacy.fill(connection, shape)
    store.upgrade(postpone_rewrites=True)
    with pytest.raises(StorageUnavailable, match="without --postpone-rewrites"):
        store.partition("month", ignored_progress)
    store.upgrade()
    before = list(store.get_events(EventFilter()))

    store.partition("month", ignored_progress)

    assert list(store.get_events(EventFilter())) == before
    assert store.record_events(before).recorded == ()
    store.close()


def test_partitioning_that_can_not_be_done_is_refused_before_anything_is_touched(
    postgresql_url: str, sqlite_url: str
) -> None:
    with pytest.raises(ConfigError, match="set event_time_to_live"):
        Connection(postgresql_url).partition("day", ignored_progress)
    with pytest.raises(ConfigError, match="PostgreSQL"):
        Connection(sqlite_url).partition("day", ignored_progress)
