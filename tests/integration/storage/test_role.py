"""What the account in the database may do is found out without doing it."""

import uuid
from collections.abc import Iterator

import pytest

from panko_ingest.storage import StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.integration.storage.samples import execute, make_events
from tests.services import PostgreSQL


def levels(connection: Connection, **purposes: bool) -> list[str]:
    return [finding.level for finding in connection.check_rights(**purposes)]


@pytest.fixture
def owner(database_url: str) -> Iterator[Connection]:
    connection = Connection(database_url)
    connection.upgrade()
    yield connection
    connection.close()


def test_the_owner_of_the_tables_may_do_everything(owner: Connection) -> None:
    assert levels(owner, to_record=True, to_expire=True) == ["ok"]
    # Partitions want a time to live, which no configuration sets here.
    others = [finding.level for finding in owner.check() if finding.subject != "partitions"]
    assert set(others) == {"ok"}


@pytest.mark.postgresql
def test_rights_that_a_role_lacks_are_named(postgresql_url: str) -> None:
    owner = Connection(postgresql_url)
    owner.upgrade()
    role = f"checked_{uuid.uuid4().hex[:8]}"
    url = owner.engine.url.set(username=role).render_as_string(hide_password=False)
    connection = Connection(url)
    try:
        execute(
            owner,
            f"CREATE ROLE {role} LOGIN",
            f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {role}",
        )
        (finding,) = connection.check_rights(to_record=True, to_expire=False)
        assert finding.level == "failure"
        assert "lacks UPDATE on dead_letter" in finding.text
        assert "USAGE on the sequence of event_type.id" in finding.text
        execute(
            owner,
            f"GRANT UPDATE ON dead_letter TO {role}",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
        )
        assert levels(connection, to_record=True, to_expire=False) == ["ok"]
        (finding,) = connection.check_rights(to_record=True, to_expire=True)
        assert "DELETE on trait_datetime" in finding.text
    finally:
        connection.close()
        execute(owner, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
        owner.close()


@pytest.mark.parametrize("change", ["RENAME COLUMN raw TO body", "RENAME TO events"])
def test_a_table_that_is_not_as_we_need_it_is_no_right_that_the_role_lacks(
    database_url: str, change: str
) -> None:
    owner = Connection(database_url)
    try:
        owner.upgrade()
        execute(owner, f"ALTER TABLE event {change}")
        findings = owner.check_rights(to_record=True, to_expire=False)
        assert {finding.level for finding in findings} == {"failure"}
        assert not any("lacks" in finding.text for finding in findings)
        assert any("event" in finding.text or "raw" in finding.text for finding in findings)
        assert len({finding.text for finding in findings}) == len(findings)
    finally:
        owner.close()


@pytest.fixture(params=["en", "de", "fr", "ru"])
def told_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgreSQL]:
    """A server that tells errors in a language, where its package has it."""
    monkeypatch.setenv("LANGUAGE", request.param)
    with PostgreSQL({"lc_messages": "C.UTF-8"}) as server:
        yield server


@pytest.mark.postgresql
def test_a_publication_that_keeps_traits_from_being_deleted_is_no_missing_right(told_in: PostgreSQL) -> None:
    store = Connection(told_in.create_database())
    store.upgrade()
    store.record_events(make_events(1))
    with store.engine.begin() as connection:
        connection.exec_driver_sql("CREATE PUBLICATION everything FOR ALL TABLES")

    with pytest.raises(StorageUnavailable, match="ALTER TABLE trait_text REPLICA IDENTITY FULL") as told:
        store.expire(1, clock=store.now)
    assert told.value.operator
    assert "db sync" not in str(told.value)
    findings = store.check_rights(to_record=True, to_expire=True)
    assert {finding.level for finding in findings} == {"failure"}
    assert not any("grant" in finding.text for finding in findings)
    with store.engine.begin() as connection:
        for finding in findings:
            connection.exec_driver_sql(finding.text.rpartition(": ")[2].removesuffix(")"))

    assert store.expire(1, clock=store.now).events == 1
    assert [finding.level for finding in store.check_rights(to_record=True, to_expire=True)] == ["ok"]
    store.close()
