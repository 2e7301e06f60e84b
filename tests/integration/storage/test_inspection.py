"""What `check` finds out about a database that works: settings, collation, clocks, ids, orphans."""

import contextlib
import datetime
import re
import time
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

from panko_ingest.findings import FAILURE, OK, WARNING, Finding
from panko_ingest.storage import EventFilter, StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.schema import checks, partitions
from tests.integration.storage.samples import connect, execute, make_events, rows
from tests.schema_snapshot import snapshot
from tests.services import MariaDB, PostgreSQL
from tests.waiting import wait_until

SERVERS = pytest.mark.parametrize(
    "kind",
    [
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)


@pytest.fixture
def store(database_url: str) -> Iterator[Connection]:
    store = Connection(database_url)
    store.upgrade()
    yield store
    store.close()


@pytest.fixture
def served(kind: str, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A store on a server, which has settings and a clock of its own."""
    store = Connection(request.getfixturevalue(f"{kind}_url"))
    store.upgrade()
    yield store
    store.close()


def found(store: Connection, subject: str) -> Finding:
    (finding,) = [finding for finding in store.check() if finding.subject == subject]
    return finding


def test_made_up_event_types_are_told_with_what_takes_them_away(
    store: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MOST_KNOWN_TYPES", 2)
    store.record_events(make_events(1))
    execute(store, "INSERT INTO event_type SELECT id + 1, 'made up' FROM event_type")
    assert "event types" not in {finding.subject for finding in store.check()}
    execute(store, "INSERT INTO event_type SELECT max(id) + 1, 'more' FROM event_type")
    finding = found(store, "event types")
    assert finding.level == WARNING
    execute(store, finding.text.partition("for names without events: ")[2])
    assert len(list(store.get_event_types())) == 1


def test_ids_that_run_out_are_told_in_time(store: Connection) -> None:
    assert found(store, "ids").level == OK
    quoted = "`desc`" if store.engine.dialect.name == "mysql" else '"desc"'
    when = "'2026-01-01'" if store.engine.dialect.name == "postgresql" else "1767225600"
    newest = 2**62 + 2**61
    execute(
        store,
        f"INSERT INTO event_type (id, {quoted}) VALUES (1, 'x')",
        "INSERT INTO event (id, message_id, generated, event_type_id, raw) "
        f"VALUES ({newest}, 'm', {when}, 1, '{{}}')",
    )
    warned = found(store, "ids")
    assert (warned.level, warned.text[:3]) == (WARNING, "75%")


def test_events_of_a_publisher_whose_clock_is_ahead_are_told(store: Connection) -> None:
    events = make_events(3)
    store.record_events(events[:2])
    assert "times" not in {finding.subject for finding in store.check()}
    events[2].generated = datetime.datetime(9999, 12, 31, 23, 59, 59)
    store.record_events(events[2:])
    warned = found(store, "times")
    assert warned.level == WARNING
    assert ": 1, the last one 9999-12-31 23:59" in warned.text


@SERVERS
@pytest.mark.parametrize("ahead", [60.0, -60.0])
def test_clocks_that_differ_are_told(
    served: Connection, ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(served, "clock").level == OK
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead)
    warned = found(served, "clock")
    assert warned.level == WARNING
    assert f"differs from ours by {-ahead:+.0f}" in warned.text


def test_an_index_that_an_earlier_release_made_for_fewer_identifiers_is_told_with_what_mends_it(
    store: Connection,
) -> None:
    assert not [finding for finding in store.check() if finding.subject == "indexes"]
    dialect = store.engine.dialect.name
    if dialect == "mysql":  # all keys are in its index
        return
    whole = snapshot(store.engine)["trait_text"]
    keys = ("project_id", "user_id", "resource_id", "instance_id")
    where = f"key IN {keys}" if dialect == "postgresql" else " OR ".join(f"key = '{key}'" for key in keys)
    execute(
        store,
        "DROP INDEX ix_trait_text_identifiers",
        f"CREATE INDEX ix_trait_text_identifiers ON trait_text (value) WHERE {where}",
    )

    told = found(store, "indexes")
    assert told.level == WARNING
    said, *statements = told.text.split("; ")
    with store.engine.connect() as connection:
        beside_writers = dialect == "postgresql" and not partitions.exist(connection)
    wait = "" if beside_writers else " (writers wait while it is made anew)"
    fault = "ix_trait_text_identifiers does not cover request_id: to look for one reads the whole table"
    assert said == f"{fault}{wait}"
    if dialect == "sqlite":
        execute(store, *statements)
    else:  # as psql does
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
    assert not [finding for finding in store.check() if finding.subject == "indexes"]
    mended = snapshot(store.engine)["trait_text"]
    assert {name: one[0] for name, one in mended["indexes"].items()} == {
        name: one[0] for name, one in whole["indexes"].items()
    }


@SERVERS
def test_traits_of_events_that_are_gone_are_told_and_go_with_expiry_and_when_all_is_cleared(
    served: Connection,
) -> None:
    assert found(served, "references").level == OK
    (reference,) = sa.inspect(served.engine).get_foreign_keys("trait_text")
    word = "CONSTRAINT" if served.engine.dialect.name == "postgresql" else "FOREIGN KEY"
    key = "key" if served.engine.dialect.name == "postgresql" else "`key`"
    served.record_events(make_events(1))
    (stored,) = served.get_events(EventFilter())
    with served.engine.connect() as connection:
        event_id = connection.exec_driver_sql("SELECT id FROM event").scalar_one()
    lost = [
        f"INSERT INTO trait_text (event_id, {key}, value) VALUES ({event_id + n}, 'k', 'v')" for n in (-1, 7)
    ]
    execute(served, f"ALTER TABLE trait_text DROP {word} {reference['name']}", *lost)
    warned = found(served, "references")
    assert warned.level == WARNING
    assert "trait_text: traits of events that are gone; run `panko-ingest expire`" in warned.text
    assert served.expire(100 * 365 * 86400.0).traits == 2
    assert found(served, "references").level == OK
    (left,) = served.get_events(EventFilter())
    assert len(left.traits) == len(stored.traits)
    execute(served, *lost)
    served.clear()
    assert found(served, "references").level == OK
    with served.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM trait_text").scalar() == 0


@pytest.mark.postgresql
def test_postgresql_that_may_forget_a_commit_is_told(postgresql_url: str, postgresql: PostgreSQL) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    assert found(store, "synchronous_commit").level == OK
    postgresql.execute(f"ALTER DATABASE {store.engine.url.database} SET synchronous_commit = off")
    store.close()
    store = Connection(postgresql_url)
    assert "may lose events that were acknowledged; set on" in found(store, "synchronous_commit").text
    store.close()


@pytest.mark.postgresql
def test_an_encoding_that_cannot_hold_all_text_is_a_failure(postgresql: PostgreSQL) -> None:
    postgresql.execute(
        "CREATE DATABASE plain ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    store = Connection(f"{postgresql.url.rpartition('/')[0]}/plain")
    try:
        assert "must be made with ENCODING 'UTF8'" in found(store, "encoding").text
        assert found(store, "encoding").level == FAILURE
    finally:
        store.close()
        postgresql.execute("DROP DATABASE plain WITH (FORCE)")


@pytest.mark.mariadb
def test_mariadb_that_may_forget_a_commit_is_told(mariadb_url: str, mariadb: MariaDB) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    setting = "innodb_flush_log_at_trx_commit"
    assert found(store, setting).level == OK
    mariadb.execute(f"SET GLOBAL {setting} = 2")
    try:
        assert "2: a crash of the server may lose events" in found(store, setting).text
    finally:
        mariadb.execute(f"SET GLOBAL {setting} = 1")
        store.close()


@pytest.mark.mariadb
def test_a_collation_for_which_names_of_either_case_are_one_is_told(mariadb_url: str) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    assert found(store, "collation") == Finding(OK, "collation", "utf8mb4_bin")
    execute(store, "ALTER TABLE dead_letter CONVERT TO CHARACTER SET utf8mb3 COLLATE utf8mb3_general_ci")
    warned = found(store, "collation")
    assert warned.level == WARNING
    assert "utf8mb3_general_ci: names that differ by case alone count as one" in warned.text
    store.close()


@pytest.mark.mariadb
def test_replication_that_shows_events_which_no_replica_has_is_told(
    mariadb_url: str, mariadb: MariaDB
) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    setting = "rpl_semi_sync_master_wait_point"
    assert setting not in {finding.subject for finding in store.check()}
    mariadb.execute("SET GLOBAL rpl_semi_sync_master_enabled = ON")
    assert found(store, setting).level == WARNING
    mariadb.execute(f"SET GLOBAL {setting} = AFTER_SYNC")
    assert found(store, setting).level == OK
    mariadb.execute("SET GLOBAL rpl_semi_sync_master_enabled = OFF")
    store.close()


@pytest.mark.postgresql
def test_a_sequence_behind_its_table_is_told_with_the_statement_that_sets_it_right(
    postgresql_url: str,
) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    store.record_events(make_events(30))
    assert not [finding for finding in store.check() if finding.subject == "sequences"]
    execute(store, "SELECT setval('event_id_seq', 1, false)", "SELECT setval('event_type_id_seq', 1, false)")

    found_now = [finding for finding in store.check() if finding.subject == "sequences"]

    assert [finding.level for finding in found_now] == [FAILURE, FAILURE]
    execute(store, *(finding.text.rpartition(": ")[2] for finding in found_now))
    assert not [finding for finding in store.check() if finding.subject == "sequences"]
    assert len(store.record_events(make_events(30, 30)).recorded) == 30
    store.close()


@pytest.mark.postgresql
def test_a_sequence_behind_its_partitions_is_told_although_a_publishers_clock_is_ahead(
    postgresql_url: str,
) -> None:
    store = connect(postgresql_url, partition_by="day", event_time_to_live=30 * 86400)
    store.upgrade()
    ahead = make_events(1)
    ahead[0].generated = datetime.datetime(2100, 1, 1)
    store.record_events(ahead)
    store.record_events(make_events(30, 1))
    execute(store, "SELECT setval('event_id_seq', 5)")

    (told,) = [finding for finding in store.check() if finding.subject == "sequences"]

    execute(store, told.text.rpartition(": ")[2])
    assert len(store.record_events(make_events(30, 50)).recorded) == 30
    store.close()


@pytest.mark.postgresql
def test_a_transaction_that_has_the_tables_in_use_for_long_is_told(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    monkeypatch.setattr(checks, "LONG_USE", 0.05)
    with psycopg.connect(postgresql_url, application_name="report") as other:
        other.execute("SELECT count(*) FROM event")
        pid = other.info.backend_pid
        wait_until(lambda: "locks" in {finding.subject for finding in store.check()}, 10, "the finding")
        assert f"session {pid} of postgres (report, " in found(store, "locks").text
        assert found(store, "locks").level == WARNING
        other.rollback()
    assert "locks" not in {finding.subject for finding in store.check()}
    store.close()


ON_POSTGRESQL = pytest.mark.parametrize(
    "database_url",
    [pytest.param(layout, marks=pytest.mark.postgresql) for layout in ("postgresql", "partitioned")],
    indirect=True,
)


def mend(store: Connection, text: str, statement: str) -> None:
    """Run the statement that a finding gives, as an administrator would."""
    found = re.search(statement, text)
    assert found, text
    autocommit = store.engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as connection:
        connection.exec_driver_sql(found[0])


@pytest.mark.parametrize(
    ("database_url", "table", "drop"),
    [
        pytest.param(
            "postgresql",
            "event",
            "ALTER TABLE event DROP CONSTRAINT uq_event_message_id",
            marks=pytest.mark.postgresql,
        ),
        pytest.param(
            "partitioned", "event_last", "DROP INDEX event_last_message_id_idx", marks=pytest.mark.postgresql
        ),
        pytest.param(
            "mariadb", "event", "ALTER TABLE event DROP INDEX uq_event_message_id", marks=pytest.mark.mariadb
        ),
    ],
    indirect=["database_url"],
)
def test_a_unique_index_that_is_gone_is_told_with_what_mends_it_and_when_a_process_begins(
    store: Connection, database_url: str, table: str, drop: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert "unique" not in {finding.subject for finding in store.check()}
    execute(store, drop)
    lost = found(store, "unique")
    assert lost.level == FAILURE
    assert lost.text.startswith(f"{table} has no valid unique index of message_id")
    with contextlib.closing(Connection(database_url)) as started:
        started.ping()
        started.ping()
    assert [one.message for one in caplog.records if one.levelname == "ERROR"] == [lost.text]
    mend(store, lost.text, "CREATE UNIQUE INDEX [^;]*")
    assert "unique" not in {finding.subject for finding in store.check()}
    twice = make_events(1)
    twice[0].generated = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    assert store.record_events(twice * 2).duplicates == (1,)


@ON_POSTGRESQL
def test_a_unique_index_that_was_never_finished_is_none(store: Connection) -> None:
    store.record_events(make_events(3))
    name = rows(store, "SELECT tableoid::regclass FROM event LIMIT 1")[0][0]
    execute(
        store,
        "UPDATE pg_index SET indisvalid = false WHERE indisunique AND NOT indisprimary "
        f"AND indrelid = '{name}'::regclass",
    )
    assert found(store, "unique").text.startswith(f"{name} has no valid unique index")


@pytest.mark.parametrize(
    ("database_url", "statement"),
    [
        pytest.param("postgresql", "CREATE TABLE archive () INHERITS (event)", marks=pytest.mark.postgresql),
        pytest.param(
            "mariadb", "ALTER TABLE event ALTER INDEX uq_event_message_id IGNORED", marks=pytest.mark.mariadb
        ),
    ],
    indirect=["database_url"],
)
@pytest.mark.filterwarnings("ignore:Unknown schema content")  # SQLAlchemy, of other checks
def test_no_unique_index_is_missed_that_is_there(store: Connection, statement: str) -> None:
    execute(store, statement)
    assert "unique" not in {finding.subject for finding in store.check()}


@pytest.mark.mariadb
@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_no_unique_index_is_missed_of_a_table_that_our_role_may_not_see(
    store: Connection, mariadb: MariaDB, caplog: pytest.LogCaptureFixture
) -> None:
    database = store.engine.url.database
    tables = rows(store, "SHOW TABLES")
    mariadb.execute(
        "CREATE USER forgotten",
        *(f"GRANT SELECT ON {database}.{name} TO forgotten" for (name,) in tables if name != "dead_letter"),
    )
    url = store.engine.url.set(username="forgotten", password=None)
    other = Connection(url.render_as_string(hide_password=False))
    with pytest.raises(StorageUnavailable, match=r"SELECT command denied .*dead_letter"):
        other.prove_rows()
    other.close()
    mariadb.execute("DROP USER forgotten")
    assert "unique index" not in caplog.text


@ON_POSTGRESQL
def test_tables_that_a_crash_empties_are_told_with_what_mends_it(store: Connection) -> None:
    assert "tables" not in {finding.subject for finding in store.check()}
    name = rows(
        store, "SELECT oid::regclass FROM pg_class WHERE relname ~ '^trait_text(_last)?$' AND relkind = 'r'"
    )[0][0]
    execute(store, f"ALTER TABLE {name} SET UNLOGGED")
    lost = found(store, "tables")
    assert lost.level == FAILURE
    assert lost.text.startswith(f"a crash of the server empties {name}")
    mend(store, lost.text, "ALTER TABLE .*")
    assert "tables" not in {finding.subject for finding in store.check()}


@pytest.mark.mariadb
def test_tables_without_transactions_are_told_with_what_mends_it(mariadb_url: str) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    assert "tables" not in {finding.subject for finding in store.check()}
    execute(store, "ALTER TABLE dead_letter ENGINE=Aria ROW_FORMAT=DEFAULT")
    lost = found(store, "tables")
    assert (lost.level, lost.text.split()[0]) == (FAILURE, "dead_letter")
    mend(store, lost.text, "ALTER TABLE .*")
    assert "tables" not in {finding.subject for finding in store.check()}
    store.close()


@ON_POSTGRESQL
def test_references_that_an_interrupted_restore_left_off_are_told_with_what_mends_it(
    store: Connection,
) -> None:
    assert found(store, "references").level == OK
    execute(store, "ALTER TABLE event DISABLE TRIGGER ALL")
    off = [finding for finding in store.check() if finding.subject == "references"]
    assert {finding.level for finding in off} == {FAILURE}
    assert off[0].text.startswith("references of event are not kept")
    for finding in off:
        mend(store, finding.text, "ALTER TABLE .* ENABLE TRIGGER ALL")
    assert found(store, "references").level == OK


@pytest.mark.postgresql
def test_references_that_were_never_checked_are_told_with_what_mends_it(postgresql_url: str) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    execute(
        store,
        "UPDATE pg_constraint SET convalidated = false "
        "WHERE conrelid = 'trait_int'::regclass AND contype = 'f'",
    )
    unchecked = found(store, "references")
    assert unchecked.level == WARNING
    mend(store, unchecked.text, "ALTER TABLE .* VALIDATE CONSTRAINT .*")
    assert found(store, "references").level == OK
    store.close()
