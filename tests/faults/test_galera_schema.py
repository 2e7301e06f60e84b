"""The schema, leases and checks on a Galera cluster."""

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from panko_ingest.storage.database import leases
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.schema import revisions
from panko_ingest.storage.settings import StorageSettings
from tests import legacy
from tests.services import Galera, HAProxy

pytestmark = pytest.mark.mariadb


def urls(galera: Galera, url: str) -> list[str]:
    """The same database on each node."""
    parsed = sa.make_url(url)
    return [parsed.set(port=node.port).render_as_string(hide_password=False) for node in galera.nodes]


def sync(url: str, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    file = folder / f"{sa.make_url(url).port}.conf"
    file.write_text(f"[database]\nconnection = {url}\n")
    program = [sys.executable, "-m", "panko_ingest", "--config-file", str(file), "db", "sync", *arguments]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def adopted(url: str) -> None:
    store = Connection(url)
    with store.engine.begin() as connection:
        legacy.make(connection, "panko")
        legacy.fill(connection, "panko", events=50)
    store.close()


def test_db_sync_on_all_nodes_at_once_makes_one_schema(
    galera: Galera, galera_url: str, tmp_path: Path
) -> None:
    runs = [sync(url, tmp_path) for url in urls(galera, galera_url)]
    outputs = [run.communicate(timeout=110)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], outputs
    store = Connection(galera_url)
    assert store.schema_state() == (revisions.head(), revisions.head())
    store.close()


def test_nothing_that_would_stop_the_cluster_is_done_unasked(galera_url: str, tmp_path: Path) -> None:
    adopted(galera_url)
    run = sync(galera_url, tmp_path)
    output = run.communicate(timeout=110)[0]
    assert run.returncode == 0, output
    assert "no service of the cloud can write" in output
    assert "ALTER TABLE event MODIFY" in output
    assert "CREATE INDEX ix_event_type_generated_message_id ON event" in output
    store = Connection(galera_url)
    assert store.schema_state() == ("0001", revisions.head())
    names = {index["name"] for index in sa.inspect(store.engine).get_indexes("event")}
    assert "ix_event_type_generated_message_id" not in names
    assert store.pending_rewrites()

    run = sync(galera_url, tmp_path, "--block-cluster")
    output = run.communicate(timeout=110)[0]
    assert run.returncode == 0, output
    assert "ALTER" not in output
    assert store.pending_rewrites() == {}
    assert store.left_out_on_a_cluster() == []
    store.close()


def test_statements_that_were_printed_bring_an_adopted_database_to_the_newest_schema(galera_url: str) -> None:
    adopted(galera_url)
    store = Connection(galera_url)
    store.upgrade()
    by_hand = sa.create_engine(sa.make_url(store.engine.url), isolation_level="AUTOCOMMIT")
    with by_hand.connect() as connection:
        for statement in store.left_out_on_a_cluster():
            connection.exec_driver_sql(statement.replace("%", "%%"))
    by_hand.dispose()
    store.upgrade()
    assert store.schema_state() == (revisions.head(), revisions.head())
    store.close()


def test_one_expirer_works_in_the_whole_cluster(galera: Galera, galera_url: str) -> None:
    stores = [Connection(url) for url in urls(galera, galera_url)]
    stores[0].upgrade()
    for node in galera.nodes:
        node.execute("SET SESSION wsrep_sync_wait = 1", "SHOW DATABASES")
    with leases.held(stores[0].engine, StorageSettings(), leases.EXPIRY) as lease:
        assert lease is not None
        for node in galera.nodes:
            node.execute("SET SESSION wsrep_sync_wait = 1", "SHOW DATABASES")
        assert [store.expire(3600).stood_by for store in stores[1:]] == [True, True]
    for store in stores:
        store.close()


def test_durability_is_judged_by_the_cluster_and_what_stands_between_is_told(
    galera_url: str, galera_proxy: HAProxy
) -> None:
    store = Connection(galera_proxy.through(galera_url))
    store.upgrade()
    found = {finding.subject: finding for finding in store.check()}
    assert found["innodb_flush_log_at_trx_commit"].level == "ok"
    assert found["cluster"].level == "ok"
    assert "3 nodes, Primary" in found["cluster"].text
    assert found["wsrep_max_ws_size"].level == "ok"
    assert "a proxy" in found["proxy"].text
    assert "every node" in found["lease"].text
    store.close()
