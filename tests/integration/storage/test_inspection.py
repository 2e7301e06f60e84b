"""What `check` finds out about a database that works: settings, collation, clocks, ids, orphans."""

import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from panko_ingest.findings import FAILURE, OK, WARNING, Finding
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.services import MariaDB, PostgreSQL

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


def execute(store: Connection, *statements: str) -> None:
    with store.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


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


@SERVERS
def test_traits_of_events_that_are_gone_are_told(served: Connection) -> None:
    assert found(served, "references").level == OK
    (reference,) = sa.inspect(served.engine).get_foreign_keys("trait_text")
    word = "CONSTRAINT" if served.engine.dialect.name == "postgresql" else "FOREIGN KEY"
    key = "key" if served.engine.dialect.name == "postgresql" else "`key`"
    execute(
        served,
        f"ALTER TABLE trait_text DROP {word} {reference['name']}",
        f"INSERT INTO trait_text (event_id, {key}, value) VALUES (5, 'k', 'v')",
    )
    warned = found(served, "references")
    assert warned.level == WARNING
    assert "trait_text: traits of events that are gone; run `panko-ingest expire`" in warned.text


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
