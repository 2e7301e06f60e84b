"""The schema: made, adopted, brought up to date, by many at once and after a crash."""

import contextlib
import datetime
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from panko_ingest.cli.main import main
from panko_ingest.findings import FAILURE
from panko_ingest.storage import EventFilter, StorageUnavailable, tables
from panko_ingest.storage.database import base as databases, leases
from panko_ingest.storage.database.engine import write_transaction
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.reading import events
from panko_ingest.storage.recording import recorder
from panko_ingest.storage.schema import migration_connection, partition_ddl, revisions
from panko_ingest.storage.schema.migration_connection import migrating, patient
from panko_ingest.storage.settings import StorageSettings
from tests import legacy, preloaded
from tests.integration.storage.samples import make_event
from tests.schema_snapshot import snapshot
from tests.services import MariaDB, PostgreSQL
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(database_url: str) -> Iterator[Connection]:
    connection = Connection(database_url)
    yield connection
    connection.close()


@pytest.fixture
def declared(store: Connection) -> dict[str, Any]:
    """The schema that tables.py declares, as this kind of database shows it; the database is empty again."""
    tables.Base.metadata.create_all(store.engine)
    seen = snapshot(store.engine)
    tables.Base.metadata.drop_all(store.engine)
    return seen


def adopted(store: Connection, shape: str) -> dict[str, list[dict[str, Any]]]:
    """Make a database of one of the old shapes and return its rows."""
    with store.engine.begin() as connection:
        legacy.make(connection, shape)
        legacy.fill(connection, shape)
    with store.engine.connect() as connection:
        return legacy.rows(connection)


def content(store: Connection) -> dict[str, list[dict[str, Any]]]:
    with store.engine.connect() as connection:
        return legacy.rows(connection)


def alembic(url: str, *arguments: str) -> str:
    command = [
        sys.executable,
        "-m",
        "alembic",
        "-c",
        "migrations/alembic.ini",
        "-x",
        f"url={url}",
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout


def test_migrated_and_declared_schemas_are_the_same(store: Connection, declared: dict[str, Any]) -> None:
    store.upgrade()
    assert snapshot(store.engine) == declared


def test_going_down_and_up_again_leads_to_the_same_schema(
    store: Connection, declared: dict[str, Any], database_url: str
) -> None:
    store.upgrade()
    alembic(database_url, "downgrade", "base")
    assert snapshot(store.engine) == {}
    store.upgrade()
    assert snapshot(store.engine) == declared


def test_alembic_by_itself_makes_the_tables_of_a_new_database_as_db_sync_does(
    database_url: str, declared: dict[str, Any]
) -> None:
    if database_url.startswith("sqlite"):
        database_url += ".new"
    alembic(database_url, "upgrade", "head")
    with contextlib.closing(Connection(database_url)) as store:
        assert snapshot(store.engine) == declared


@pytest.mark.parametrize("shape", legacy.SHAPES)
def test_an_adopted_database_keeps_every_row_and_becomes_the_declared_one(
    store: Connection, declared: dict[str, Any], shape: str
) -> None:
    before = adopted(store, shape)
    assert set(store.pending_rewrites()) == set(legacy.TABLES)
    store.upgrade()
    assert content(store) == before
    assert snapshot(store.engine) == declared
    assert store.pending_rewrites() == {}
    events = list(store.get_events(EventFilter(traits_filter=[{"key": "project_id", "string": "p3"}])))
    assert [event.message_id[-3:] for event in events] == [f"{number:03}" for number in range(3, 201, 7)]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_million_rows_are_equal_field_by_field_before_and_after(
    store: Connection, declared: dict[str, Any]
) -> None:
    with store.engine.begin() as connection:
        legacy.make(connection, "panko")
        legacy.fill(connection, "panko", events=170_000)
    with store.engine.connect() as connection:
        before = legacy.digests(connection)
    assert sum(count for count, _ in before.values()) > 1_000_000
    store.upgrade()
    with store.engine.connect() as connection:
        assert legacy.digests(connection) == before
    assert snapshot(store.engine) == declared


@pytest.mark.parametrize("shape", legacy.SHAPES)
def test_with_rewrites_postponed_an_adopted_database_is_written_and_read_in_its_old_shape(
    store: Connection, declared: dict[str, Any], shape: str
) -> None:
    before = adopted(store, shape)
    store.upgrade(postpone_rewrites=True)
    assert store.schema_state() == ("0001", "0002")
    traits = [
        Trait("memory_mb", Trait.INT_TYPE, 2**40),
        Trait("name", Trait.TEXT_TYPE, "snow \N{SNOWMAN} and \N{PILE OF POO}"),
        Trait("at", Trait.DATETIME_TYPE, datetime.datetime(2026, 1, 2, 3, 4, 5, 6)),
    ]
    new = Event("new", "some.type", datetime.datetime(2026, 1, 2), traits)
    result = store.record_events([new], on_failure=lambda _, error: pytest.fail(str(error)))
    assert result.recorded == (0,)
    (read,) = store.get_events(EventFilter(message_id="new"))
    assert "at" in {trait.name for trait in read.traits}
    assert store.clear_expired_data(ttl=86400 * 365) == 200
    store.upgrade()
    assert snapshot(store.engine) == declared
    assert [event.message_id for event in store.get_events(EventFilter())] == ["new"]
    assert before["event"]


def test_a_daemon_that_runs_while_tables_are_rewritten_uses_what_they_hold_from_then_on(
    store: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_LOOK_AGAIN", 0.0)
    adopted(store, "panko")
    store.upgrade(postpone_rewrites=True)

    def kept(name: str) -> list[Any]:
        huge = Trait("size", Trait.INT_TYPE, 5 * 10**9)
        store.record_events([Event(name, "some.type", datetime.datetime(2026, 1, 2), [huge])])
        (read,) = store.get_events(EventFilter(message_id=name))
        return [trait.value for trait in read.traits]

    assert kept("before") == []
    with contextlib.closing(Connection(database_url)) as other:
        other.upgrade()
    assert kept("afterwards") == [5 * 10**9]


def test_a_reader_that_leaves_keeps_no_upgrade_from_its_end(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    conf = tmp_path / "panko-ingest.conf"
    conf.write_text(f"[database]\nconnection = {database_url}\n")
    adopted(store, "panko")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "panko_ingest", "--config-file", str(conf), "db", "sync"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=110)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    assert store.schema_state() == (revisions.head(), revisions.head())


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("more", [0, 1, 2])
def test_rows_of_an_adopted_database_without_an_id_end_no_list(
    store: Connection, more: int, direction: str
) -> None:
    adopted(store, "panko")
    store.upgrade(postpone_rewrites=True)
    start = datetime.datetime(2026, 1, 2)
    groups = [Event(f"m{n}", "some.type", start + datetime.timedelta(0, n // 3), []) for n in range(1200)]
    ends = [
        Event(f"{day}-{n}", "some.type", datetime.datetime(day, 1, 2), [])
        for day in (1990, 2030)
        for n in range(more)
    ]
    store.record_events(groups + ends)
    # One of each three that are of the same time, so that a page ends with one.
    without = ", ".join(f"'m{n}'" for n in range(2, 1200, 3))
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE event SET message_id = NULL WHERE message_id IN ({without})")
    listed = list(store.get_events(EventFilter(), pagination={"sort": [("generated", direction)]}))
    assert len(listed) == len(content(store)["event"])
    assert len({event.message_id for event in listed}) == len(listed) - 399


@pytest.mark.parametrize("sort", ["generated", "message_id"])
@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_rows_of_one_moment_without_an_id_are_all_listed(
    store: Connection, monkeypatch: pytest.MonkeyPatch, sort: str, direction: str
) -> None:
    monkeypatch.setattr(events, "PAGE_SIZE", 5)
    adopted(store, "panko")
    store.upgrade(postpone_rewrites=True)
    moment = datetime.datetime(2030, 1, 2)
    store.record_events([Event(f"m{number}", "some.type", moment, []) for number in range(23)])
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE event SET message_id = NULL WHERE message_id LIKE 'm%%' ")
    listed = list(store.get_events(EventFilter(event_type="some.type"), {"sort": [(sort, direction)]}))
    assert len(listed) == 23
    assert len(list(store.get_events(EventFilter(), {"sort": [(sort, direction)]}))) == 223


def test_rows_of_an_adopted_database_without_an_id_end_no_expiry(store: Connection) -> None:
    adopted(store, "panko")
    store.upgrade(postpone_rewrites=True)
    with store.engine.begin() as connection:
        even = tables.Event.id % 2 == 0
        connection.execute(sa.update(tables.Event).where(even).values(message_id=None))
    assert store.expire(86400, batch_size=7, clock=store.now).events == 200
    assert content(store)["event"] == []


def test_an_event_type_of_an_adopted_database_without_a_name_is_none(store: Connection) -> None:
    adopted(store, "panko")
    store.upgrade(postpone_rewrites=True)
    with store.engine.begin() as connection:
        connection.execute(sa.update(tables.EventType).where(tables.EventType.id == 1).values(desc=None))
    assert None not in list(store.get_event_types())
    assert None not in store.count_events()


def test_tables_that_lack_nothing_but_an_index_are_upgraded(
    store: Connection, declared: dict[str, Any]
) -> None:
    store.upgrade()
    lacks = next(name for name in declared["event"]["indexes"] if name.startswith("ix_event_generated"))
    on = " ON event" if store.engine.dialect.name == "mysql" else ""
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP INDEX {lacks}{on}")
        connection.exec_driver_sql("UPDATE panko_ingest_version SET version_num = '0001'")
    assert list(store.pending_rewrites()) == ["event"]
    store.upgrade()
    assert snapshot(store.engine) == declared


@pytest.mark.postgresql
def test_tables_of_a_restore_that_did_not_come_to_its_end_get_their_keys(postgresql_url: str) -> None:
    with contextlib.closing(Connection(postgresql_url)) as store:
        tables.Base.metadata.create_all(store.engine)
        whole = snapshot(store.engine)
        tables.Base.metadata.drop_all(store.engine)
        before = adopted(store, "panko")
        with store.engine.begin() as connection:
            for table in ("event", "event_type"):
                connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey CASCADE")
            connection.exec_driver_sql("ALTER TABLE event DROP CONSTRAINT event_message_id_key")
        store.upgrade()
        assert snapshot(store.engine) == whole
        assert content(store) == before


def test_an_upgrade_that_dies_at_any_statement_is_taken_up_by_the_next(
    store: Connection, declared: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = adopted(store, "panko")
    last, step, deaths = snapshot(store.engine), 1, 0
    while _upgrade_dying_at(store, step, monkeypatch):
        deaths += 1
        assert deaths < 200, "the upgrade never comes to its end"
        # Let as few statements through as get it any further, so that it dies between all of them.
        now = snapshot(store.engine)
        step = 1 if now != last else step + 1
        last = now
    assert deaths > 15
    assert snapshot(store.engine) == declared
    assert content(store) == before


class _Killed(BaseException):
    pass


def _upgrade_dying_at(store: Connection, step: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Upgrade, and die before the statement of this number that changes the schema; tell whether it did."""
    count = iter(range(10_000))
    engine = patient(store.engine)

    def die(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        words = statement.split()
        changes = words[0] in {"ALTER", "CREATE", "DROP", "UPDATE"} and leases.TABLE not in statement
        if changes and next(count) == step:
            raise _Killed

    sa.event.listen(engine, "before_cursor_execute", die)
    with monkeypatch.context() as patch:
        patch.setattr(migration_connection, "patient", lambda _: engine)
        try:
            store.upgrade()
        except (_Killed, StorageUnavailable):
            return True
        finally:
            engine.dispose()
    return False


def test_rows_without_what_every_event_must_have_are_named_before_anything_is_rewritten(
    store: Connection,
) -> None:
    adopted(store, "ceilometer")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE event SET message_id = NULL WHERE id = 7")
    with pytest.raises(StorageUnavailable, match="1 rows of event have no message_id"):
        store.upgrade()
    assert store.current_revision() in {None, "0001"}
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE event SET message_id = 'found' WHERE id = 7")
    store.upgrade()
    assert store.schema_state().revision == revisions.head()


def test_missing_values_are_found_beforehand_and_mended_by_the_statement_that_is_told(
    store: Connection,
) -> None:
    adopted(store, "panko")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE event SET message_id = NULL WHERE id IN (7, 8)")
        connection.exec_driver_sql("UPDATE event SET event_type_id = NULL WHERE id = 9")
    for postpone in (False, True):
        texts = [finding.text for finding in store.check() if finding.subject == "adoption"]
        assert [text.partition(",")[0] for text in texts] == [
            "2 rows of event have no message_id",
            "1 rows of event have no event_type_id",
        ]
        assert store.sync_obstacles() == (texts, [])
        if not postpone:
            store.upgrade(postpone_rewrites=True)
    with store.engine.begin() as connection:
        for text in texts:
            for statement in text.partition(": ")[2].split("; "):
                connection.exec_driver_sql(statement)
    assert store.sync_obstacles() == ([], [])
    store.upgrade()
    found = {event.message_id for event in store.get_events(EventFilter())}
    assert len(found) == 199
    assert {"no-message_id-7", "no-message_id-8"} < found


def all_tables(store: Connection) -> list[str]:
    return sorted(sa.inspect(store.engine).get_table_names())


def test_a_dry_run_in_a_database_without_tables_makes_none(
    store: Connection, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "panko-ingest.conf").write_text(f"[database]\nconnection = {database_url}\n")
    if store.engine.dialect.name == "sqlite":
        Path(str(store.engine.url.database)).unlink()
    assert main(["--config-file", str(tmp_path / "panko-ingest.conf"), "db", "sync", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "nothing was changed" in said
    if store.engine.dialect.name == "sqlite":
        assert not Path(str(store.engine.url.database)).exists()
    else:
        assert re.search(r"^dead_letter, event_type, event, .* would be made$", said, re.MULTILINE)
        assert all_tables(store) == []


@pytest.mark.parametrize("gone", ["dead_letter", "trait_float"])
def test_a_table_that_is_gone_is_told_and_made_anew(
    store: Connection,
    declared: dict[str, Any],
    database_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    gone: str,
) -> None:
    store.upgrade()
    store.record_events([make_event(1)])
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {gone}")
    (told,) = [finding for finding in store.check() if finding.subject == "tables"]
    assert told.level == FAILURE
    assert f"{gone} is not there" in told.text
    (tmp_path / "panko-ingest.conf").write_text(f"[database]\nconnection = {database_url}\n")
    arguments = ["--config-file", str(tmp_path / "panko-ingest.conf"), "db", "sync"]
    assert main([*arguments, "--dry-run"]) == 0
    assert f"{gone} would be made" in capsys.readouterr().out
    assert main(arguments) == 0
    assert snapshot(store.engine) == declared
    assert store.record_events([make_event(2)]).recorded == (0,)
    assert len(list(store.get_events(EventFilter()))) == 2


@pytest.mark.parametrize("gone", ["event", "event_type"])
def test_a_table_that_others_refer_to_is_not_made_anew(
    store: Connection, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    """Ids would begin at 1 again, and what is left would be taken for that of new events."""
    store.upgrade()
    store.record_events([make_event(1)])
    with sa.create_engine(store.engine.url, poolclass=sa.NullPool).begin() as connection:  # as others do
        for statement in _DROPS[connection.dialect.name]:
            connection.exec_driver_sql(statement.format(gone))
    refusal = f"{gone} is gone, and rows of "
    (told,) = [finding for finding in store.check() if finding.subject == "tables"]
    assert refusal in told.text
    (tmp_path / "panko-ingest.conf").write_text(f"[database]\nconnection = {database_url}\n")
    arguments = ["--config-file", str(tmp_path / "panko-ingest.conf"), "db", "sync"]
    assert main([*arguments, "--dry-run"]) == 1
    assert refusal in capsys.readouterr().out
    assert main(arguments) == main([*arguments, "--postpone-rewrites"]) == 3
    assert refusal in capsys.readouterr().err
    assert not sa.inspect(store.engine).has_table(gone)


_DROPS = {
    "sqlite": ["DROP TABLE {}"],
    "postgresql": ["DROP TABLE {} CASCADE"],
    "mysql": ["SET foreign_key_checks = 0", "DROP TABLE {}"],
}


@pytest.mark.postgresql
def test_partitioned_tables_of_which_nobody_knows_the_revision_are_left_as_they_are(
    postgresql_url: str,
) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    with write_transaction(store.engine) as connection:
        partition_ddl.create(connection, "month", datetime.date(2026, 3, 5))
    before = snapshot(store.engine)
    with store.engine.begin() as connection:
        # As after a restore of the tables of events alone.
        connection.exec_driver_sql("DELETE FROM panko_ingest_version")
        connection.exec_driver_sql("DROP TABLE dead_letter")
    assert store.pending_rewrites() == {}
    store.upgrade()
    assert snapshot(store.engine) == before
    assert store.schema_state() == ("0002", "0002")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE trait_float")
    with pytest.raises(StorageUnavailable, match=r"trait_float is gone, .* partitioned: restore it"):
        store.upgrade()
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE event CASCADE")
    with pytest.raises(StorageUnavailable, match=r"event, trait_float is gone, .* partitioned: restore it"):
        store.upgrade()
    store.close()


def test_a_dry_run_waits_for_a_change_of_the_schema_and_takes_no_lease(
    postgresql_url: str,
) -> None:
    other = Connection(postgresql_url)
    other.upgrade()
    lease = leases.Lease(other.engine, StorageSettings(), leases.MIGRATION)
    assert lease.take()
    holder = lease.holder()
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(other.pending_rewrites, dry_run=True)
        with pytest.raises(TimeoutError):
            looking.result(0.5)
        lease.release()
        assert looking.result(10) == {}
    assert lease.holder() == holder
    other.close()


@pytest.mark.mariadb
def test_db_sync_on_a_server_that_is_read_only_says_so(mariadb: MariaDB, mariadb_url: str) -> None:
    name = mariadb_url.rpartition("/")[2]
    mariadb.execute("CREATE USER owner", f"GRANT ALL ON {name}.* TO owner")
    mariadb.execute("SET GLOBAL read_only = 1")  # which holds for all but root
    store = Connection(mariadb_url.replace("root@", "owner@"))
    try:
        with pytest.raises(StorageUnavailable, match=r"^1290: .*read-only"):
            store.upgrade()
    finally:
        store.close()
        mariadb.execute("SET GLOBAL read_only = 0", "DROP USER owner")


def test_a_dry_run_of_db_sync_tells_and_changes_nothing(
    store: Connection, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adopted(store, "panko")
    before, there = snapshot(store.engine), all_tables(store)
    (tmp_path / "panko-ingest.conf").write_text(f"[database]\nconnection = {database_url}\n")
    arguments = ["--config-file", str(tmp_path / "panko-ingest.conf"), "db", "sync"]

    assert main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"^trait_text \(.*rows, .* s\) would be written anew; whoever writes to it waits$", said, re.MULTILINE
    )
    # Nobody has looked at the tables yet, as after a restore.
    assert "about 0 rows" not in said
    if store.engine.dialect.name == "postgresql":
        assert re.search(r"^event \(200 rows, ", said, re.MULTILINE)
    assert said.endswith("the schema is at revision none; nothing was changed\n")
    assert all_tables(store) == there

    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE event SET message_id = NULL WHERE id = 7")
    assert main([*arguments, "--dry-run"]) == 1
    assert "it would be refused: 1 rows of event have no message_id" in capsys.readouterr().out
    assert main([*arguments, "--dry-run", "--postpone-rewrites"]) == 0
    assert "would be left as it is" in capsys.readouterr().out
    assert main(arguments) == 3
    output, errors = capsys.readouterr()
    assert "written anew" not in output
    assert "UPDATE event SET message_id = " in errors
    assert snapshot(store.engine) == before
    assert store.current_revision() is None


@pytest.mark.parametrize("missing", ["trait_float", "trait_text"])
@pytest.mark.parametrize("postpone", [False, True])
def test_an_adopted_database_without_one_of_the_tables_gets_it_as_the_dry_run_says(
    store: Connection,
    declared: dict[str, Any],
    database_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    missing: str,
    postpone: bool,
) -> None:
    before = adopted(store, "panko")
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {missing}")
    (told,) = [finding.text for finding in store.check() if finding.subject == "revision"]
    assert told == (
        f"the tables were made by Panko or Ceilometer and not adopted yet, and {missing} is missing, which "
        "it makes: run `panko-ingest db sync`"
    )
    (tmp_path / "panko-ingest.conf").write_text(f"[database]\nconnection = {database_url}\n")
    arguments = ["--config-file", str(tmp_path / "panko-ingest.conf"), "db", "sync"]
    assert main([*arguments, "--dry-run"]) == 0
    if postpone:
        assert main([*arguments, "--postpone-rewrites"]) == 0
        assert store.record_events([make_event(1)]).recorded == (0,)
        assert store.clear_expired_data(ttl=0) == 201
    assert main(arguments) == 0, capsys.readouterr().err
    assert snapshot(store.engine) == declared
    if not postpone:
        assert content(store) == {**before, missing: []}


def test_what_a_cluster_needs_is_told_also_where_a_table_is_missing(
    mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Connection(mariadb_url)
    adopted(store, "panko")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE trait_float")
    monkeypatch.setattr(type(databases.of(store.engine)), "is_cluster", lambda *_: True)
    statements = store.left_out_on_a_cluster()
    store.upgrade()
    with store.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    store.upgrade()
    assert store.schema_state().revision == revisions.head()
    assert len(sa.inspect(store.engine).get_foreign_keys("trait_float")) == 1
    store.close()


def test_tables_of_ceilometer_that_are_not_ours_stay_as_they_are(store: Connection) -> None:
    adopted(store, "ceilometer")
    store.upgrade()
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT version FROM migrate_version").scalar_one() == 45
        assert sa.inspect(connection).has_table("meter")


def test_ids_beyond_32_bits_fit_after_adoption(store: Connection) -> None:
    adopted(store, "panko")
    store.upgrade()
    with store.engine.begin() as connection:
        connection.execute(
            sa.insert(tables.Event).values(
                id=2**31 + 5, message_id="far", generated=legacy.START, raw={}, event_type_id=1
            )
        )
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT setval('event_id_seq', (SELECT max(id) FROM event))")
    store.record_events([Event("next", "t", legacy.START, [Trait("n", Trait.INT_TYPE, 2**62)])])
    (event,) = store.get_events(EventFilter(message_id="next"))
    assert event.traits == [Trait("n", Trait.INT_TYPE, 2**62)]


def test_going_down_from_a_database_with_events_is_refused(store: Connection, database_url: str) -> None:
    store.upgrade()
    store.record_events([Event("m", "t", legacy.START)])
    with pytest.raises(subprocess.CalledProcessError) as caught:
        alembic(database_url, "downgrade", "base")
    assert "delete the events first" in caught.value.stdout + caught.value.stderr
    assert len(list(store.get_events(EventFilter()))) == 1


def test_the_state_says_what_to_do_about_a_schema_that_does_not_fit(store: Connection) -> None:
    with pytest.raises(StorageUnavailable, match="no tables for events yet: run `panko-ingest db sync`"):
        store.schema_state()
    with store.engine.begin() as connection:
        legacy.make(connection, "panko")
    with pytest.raises(StorageUnavailable, match="made by Panko or Ceilometer") as caught:
        store.schema_state()
    assert caught.value.operator
    store.upgrade("0001")
    assert store.schema_state() == ("0001", revisions.head())
    store.upgrade()
    assert store.schema_state() == (revisions.head(), revisions.head())
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {revisions.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(StorageUnavailable, match="9999, which this release does not know"):
        store.schema_state()
    with pytest.raises(StorageUnavailable, match="9999"):
        store.upgrade()


def sync(url: str, *arguments: str, folder: Path) -> preloaded.Process:
    config = folder / "panko-ingest.conf"
    if not config.exists():  # others may be reading it
        config.write_text(f"[database]\nconnection = {url}\n")
    return preloaded.Process(["--config-file", config, "db", "sync", *arguments])


@pytest.mark.parametrize("shape", [None, "panko"])
def test_five_syncs_at_once_are_harmless(
    store: Connection, declared: dict[str, Any], database_url: str, tmp_path: Path, shape: str | None
) -> None:
    before = adopted(store, shape) if shape else None
    processes = [sync(database_url, folder=tmp_path) for _ in range(5)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
    assert snapshot(store.engine) == declared
    if before:
        assert content(store) == before


@pytest.mark.postgresql
def test_limits_that_a_server_has_for_others_do_not_end_a_change_of_the_schema(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    wanted = ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
    limits = [
        name
        for name in wanted
        if postgresql.execute(f"SELECT FROM pg_settings WHERE name = '{name}'")  # the last: from 17 on
    ]
    for name in limits:
        postgresql.execute(f"ALTER DATABASE {postgresql_url.rpartition('/')[2]} SET {name} = '10s'")
    with migrating(postgresql_url) as connection:
        shown = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in limits}
    assert shown == dict.fromkeys(limits, "0")


def test_a_sync_that_is_killed_can_be_run_again(
    store: Connection, declared: dict[str, Any], database_url: str, tmp_path: Path
) -> None:
    before = adopted(store, "panko")
    store.upgrade(postpone_rewrites=True)
    with store.engine.connect().execution_options(writes=True) as holder, holder.begin():
        # A statement of ours in the way: the rewrite waits for it and is killed there.
        holder.exec_driver_sql("UPDATE event_type SET id = id WHERE id = 1")
        process = sync(database_url, folder=tmp_path)
        if store.engine.dialect.name != "sqlite":
            wait_until(lambda: _waiting(store), 30, "db sync to wait for the lock")
        else:
            opened, file = psutil.Process(process.pid).open_files, database_url.removeprefix("sqlite:///")
            wait_until(lambda: file in {one.path for one in opened()}, 30, "db sync to come to the lock")
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL
    again = sync(database_url, folder=tmp_path)
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, out + err
    assert snapshot(store.engine) == declared
    assert content(store) == before


def _waiting(store: Connection) -> bool:
    look = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND datname = current_database()",
        "mysql": "SELECT count(*) FROM information_schema.processlist "
        "WHERE state LIKE 'Waiting for table metadata lock%%' AND db = DATABASE()",
    }[store.engine.dialect.name]
    with store.engine.connect() as connection:
        return bool(connection.exec_driver_sql(look).scalar())


def test_alembics_own_command_works_from_a_checkout(store: Connection, database_url: str) -> None:
    alembic(database_url, "upgrade", "head")
    assert store.schema_state().revision == revisions.head()
    assert revisions.head() in alembic(database_url, "current")


def test_loggers_that_exist_still_speak_after_an_upgrade(
    store: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("panko_ingest.some.module")
    store.upgrade()
    with caplog.at_level("INFO"):
        logger.info("still here")
    assert "still here" in caplog.text


def test_clearing_leaves_dead_letters_and_the_revision(store: Connection) -> None:
    store.upgrade()
    store.record_events([Event("m", "t", legacy.START, [Trait("a", Trait.TEXT_TYPE, "b")])])
    store.clear()
    assert list(store.get_event_types()) == []
    assert store.schema_state().revision == revisions.head()


@pytest.mark.postgresql
def test_weak_durability_is_found(postgresql_url: str) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    assert {finding.level for finding in store.check()} == {"ok"}
    with store.engine.begin() as connection:
        name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    store.close()
    (found,) = [finding for finding in store.check() if finding.level != "ok"]
    assert (found.level, found.subject) == ("warning", "synchronous_commit")
    assert found.text.startswith("off")
    store.close()


def test_faults_of_a_postponed_schema_are_found(store: Connection) -> None:
    adopted(store, "panko")
    store.upgrade(postpone_rewrites=True)
    found = {finding.subject: finding for finding in store.check() if finding.level != "ok"}
    assert "0001; this release works with it" in found["revision"].text
    if store.engine.dialect.name == "mysql":
        assert "utf8mb3" in found["collation"].text


def test_ids_that_run_out_are_found(store: Connection) -> None:
    adopted(store, "panko")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE event_type SET id = id")
        connection.execute(
            sa.insert(tables.Event).values(
                id=2**31 - 10, message_id="far", generated=legacy.START, raw={}, event_type_id=1
            )
        )
    store.upgrade(postpone_rewrites=True)
    found = {finding.subject: finding.level for finding in store.check()}
    assert found["ids"] == ("ok" if store.engine.dialect.name == "sqlite" else "warning")


ADOPTERS_OWN = [
    "CREATE TRIGGER keep BEFORE DELETE ON Event WHEN old.id = 7 BEGIN SELECT RAISE(ABORT, ':held 5%'); END",
    "CREATE TRIGGER follow AFTER INSERT ON trait_text BEGIN INSERT INTO seen SELECT id FROM event; END",
    "CREATE TRIGGER held AFTER INSERT ON legal_hold BEGIN UPDATE event SET raw = raw WHERE id = new.id; END",
    "CREATE INDEX by_value ON trait_text (value, key)",
    "CREATE INDEX by_lower_case ON trait_text (key COLLATE NOCASE, lower(value)) WHERE value <> ''",
    'CREATE UNIQUE INDEX once ON event_type ("desc")',
    "CREATE VIEW texts AS SELECT message_id, key, value FROM event JOIN trait_text ON id = event_id",
    "CREATE TABLE legal_hold (id INTEGER REFERENCES event (id))",
]


def test_what_an_operator_has_of_his_own_on_tables_of_sqlite_is_there_when_they_are_adopted(
    sqlite_url: str, tmp_path: Path
) -> None:
    with contextlib.closing(Connection(sqlite_url)) as store:
        before = adopted(store, "panko")
        with store.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE seen (id INTEGER)")
            for statement in ADOPTERS_OWN[-1:] + ADOPTERS_OWN[:-1]:
                connection.exec_driver_sql(statement)
            connection.exec_driver_sql("INSERT INTO legal_hold VALUES (8)")
        store.upgrade()
        assert content(store) == before
        with store.engine.begin() as connection:
            made = connection.exec_driver_sql("SELECT sql FROM sqlite_master").scalars().all()
            assert set(ADOPTERS_OWN) <= set(made)
            assert connection.exec_driver_sql("SELECT count(*) FROM texts").scalar() == 400
        for number, word in ((7, ":held 5%"), (8, "FOREIGN KEY")):
            with pytest.raises(sa.exc.IntegrityError, match=word), store.engine.begin() as connection:
                legacy.forget(connection, f"8f7c3a1e-0000-4000-8000-{number:012}")
        store.record_events([make_event(1)])
        for name in ("texts", "seen", "legal_hold"):
            with store.engine.begin() as connection:
                kind = "VIEW" if name == "texts" else "TABLE"
                connection.exec_driver_sql(f"DROP {kind} {name}")
        with store.engine.begin() as connection:
            for name in ("keep", "follow"):
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
            for name in ("by_value", "by_lower_case", "once"):
                connection.exec_driver_sql(f"DROP INDEX {name}")
        with contextlib.closing(Connection(f"sqlite:///{tmp_path}/empty.sqlite")) as empty:
            empty.upgrade()
            assert snapshot(store.engine) == snapshot(empty.engine)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "ALTER TABLE event ADD COLUMN region TEXT",
            "the column region of event is none of ours and would be lost",
        ),
        (
            "CREATE TABLE trait_float (event_id INTEGER, key TEXT, value FLOAT, CHECK (value < 1000))",
            "the table trait_float has a check that is none of ours and would be lost, value < 1000",
        ),
    ],
)
def test_what_no_adopted_table_of_sqlite_could_keep_is_told_before_anything_is_done(
    sqlite_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, words: str
) -> None:
    with contextlib.closing(Connection(sqlite_url)) as store:
        adopted(store, "panko")
        with store.engine.begin() as connection:
            if change.startswith("CREATE"):
                connection.exec_driver_sql("DROP TABLE trait_float")
            connection.exec_driver_sql(change)
        before = snapshot(store.engine)
        (tmp_path / "panko-ingest.conf").write_text(f"[database]\nconnection = {sqlite_url}\n")
        arguments = ["--config-file", str(tmp_path / "panko-ingest.conf"), "db", "sync"]
        assert main([*arguments, "--dry-run"]) == 1
        assert f"it would be refused: {words}" in capsys.readouterr().out
        assert main(arguments) == 3
        assert words in capsys.readouterr().err
        assert snapshot(store.engine) == before
        store.upgrade(postpone_rewrites=True)
        with pytest.raises(StorageUnavailable, match=words):
            store.upgrade()
