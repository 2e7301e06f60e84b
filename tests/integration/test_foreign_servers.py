"""Servers and databases that are not as we would have set them up."""

import subprocess
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from panko_ingest.storage import StorageUnavailable
from panko_ingest.storage.database import leases
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.schema import revisions
from panko_ingest.storage.schema.migration_connection import migrating
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.timestamps import parse
from tests import preloaded
from tests.services import MariaDB

EVENT = Event("m1", "some.type", parse("2026-01-02"), [Trait("key", Trait.TEXT_TYPE, 'a "quoted" one')])

HEAT = (
    "CREATE TABLE event (id INTEGER PRIMARY KEY, uuid VARCHAR(36), stack_id VARCHAR(36) NOT NULL, "
    "resource_action VARCHAR(255), created_at TIMESTAMP)"
)


def command(url: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    file = folder / "panko-ingest.conf"
    file.write_text(f"[database]\nconnection = {url}\n")
    return preloaded.run(["--config-file", file, *arguments])


@pytest.mark.mariadb
@pytest.mark.parametrize("mode", ["ANSI_QUOTES", "ANSI", "ORACLE"])
def test_the_sql_mode_of_a_server_does_not_matter(mode: str, mariadb: MariaDB, mariadb_url: str) -> None:
    before = mariadb.execute("SELECT @@global.sql_mode")[0][0]
    mariadb.execute(f"SET GLOBAL sql_mode = '{mode}'")
    try:
        store = Connection(mariadb_url)
        store.upgrade()
        assert store.record_events([EVENT]).recorded == (0,)
        assert store.record_events([EVENT] * 30).duplicates == tuple(range(30))
        (found,) = store.get_traits("some.type")
        assert found.value == 'a "quoted" one'
        assert store.expire(3600, clock=store.now).events == 1
        store.close()
    finally:
        mariadb.execute(f"SET GLOBAL sql_mode = '{before}'")


def test_another_services_table_of_events_is_neither_announced_nor_touched(
    database_url: str, tmp_path: Path
) -> None:
    store = Connection(database_url)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(HEAT)
    run = command(database_url, tmp_path, "db", "sync")
    assert run.returncode == 3, run.stdout + run.stderr
    assert "the table event is another service's, for it has no event_type_id, generated" in run.stderr
    assert "anew" not in run.stdout
    with store.engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["event"]
    with pytest.raises(StorageUnavailable, match="a database of panko_ingest's own"):
        store.ping()
    store.close()


def test_a_revision_that_nobody_knows_is_told_in_words(database_url: str, tmp_path: Path) -> None:
    store = Connection(database_url)
    store.upgrade()
    with store.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.exec_driver_sql(f"UPDATE {revisions.VERSION_TABLE} SET version_num = '9999'")
    store.close()
    for action in (["db", "sync"], ["db", "current"], ["db", "check"], ["check"]):
        run = command(database_url, tmp_path, *action)
        assert run.returncode in {1, 3}
        told = run.stdout + run.stderr
        assert "9999" in told, action
        assert "Traceback" not in told, told


def test_a_change_of_the_schema_stops_before_the_next_step_when_its_lease_is_lost(
    database_url: str,
) -> None:
    store = Connection(database_url)
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite's writers wait for each other")
    with (
        migrating(store.engine) as connection,
        store.engine.begin() as other,
    ):
        other.exec_driver_sql("UPDATE panko_ingest_lease SET holder = 'other' WHERE name = 'migration'")
        other.commit()
        with pytest.raises(leases.LeaseLost, match="taken over"):
            connection.exec_driver_sql("CREATE TABLE too_late (id INTEGER)")
    assert not sa.inspect(store.engine).has_table("too_late")
    store.close()


@pytest.mark.mariadb
def test_a_lease_outlives_the_sessions_that_a_server_or_a_proxy_cuts(
    mariadb: MariaDB, mariadb_url: str
) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    with leases.held(store.engine, StorageSettings(), leases.EXPIRY) as lease:
        assert lease is not None
        name = mariadb_url.rpartition("/")[2].partition("?")[0]
        for (session,) in mariadb.execute(
            f"SELECT id FROM information_schema.processlist WHERE db = '{name}'"
        ):
            mariadb.execute(f"KILL {session}")
        lease.prove()
        other = Connection(mariadb_url)
        assert other.expire(3600).stood_by
        other.close()
    store.close()


def test_a_lease_is_given_to_one_of_many_that_ask_at_once(database_url: str) -> None:
    store = Connection(database_url)
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite's writers wait for each other")
    store.upgrade()
    taken: list[leases.Lease] = []
    together = threading.Barrier(5)

    def ask() -> None:
        lease = leases.Lease(store.engine, StorageSettings(), leases.EXPIRY)
        together.wait()
        if lease.take():
            taken.append(lease)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    taken[0].prove()
    store.close()


@pytest.mark.mariadb
def test_sessions_wait_for_what_other_nodes_committed_where_one_wants_that(mariadb_url: str) -> None:
    conf = cfg.ConfigOpts()
    conf.register_opts([cfg.IntOpt("mysql_wsrep_sync_wait", default=7)], group="database")
    store = Connection(mariadb_url, conf)
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT @@wsrep_sync_wait").scalar_one() == 7
    store.close()
