"""References are declared, and not proved twice: by whom, where, and what `check` says of it."""

import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from panko_ingest.storage.database.engine import write_transaction
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.recording.writers import references
from tests.integration.storage.samples import connect, count, execute, letter_for, make_events, rows

pytestmark = pytest.mark.postgresql

# It tells under which role a trait was written; a trigger would be an operator's, before which we refrain.
WITNESS = "ALTER TABLE trait_int ADD COLUMN role text DEFAULT current_setting('session_replication_role')"


@pytest.fixture
def owner(postgresql_url: str) -> Iterator[Connection]:
    connection = Connection(postgresql_url)
    connection.upgrade()
    execute(connection, WITNESS)
    yield connection
    connection.close()


def roles(store: Connection) -> set[str]:
    """Return under which roles traits were written."""
    return {role for (role,) in rows(store, "SELECT DISTINCT role FROM trait_int")}


def told(store: Connection) -> str:
    (text,) = [finding.text for finding in store.check() if finding.subject == "reference checks"]
    return text


@pytest.fixture
def role(owner: Connection) -> Iterator[str]:
    name = f"ingest_{uuid.uuid4().hex[:8]}"
    execute(
        owner,
        f"CREATE ROLE {name} LOGIN",
        f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {name}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}",
    )
    yield name
    execute(owner, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_our_own_traits_are_not_looked_up_and_the_rest_of_the_transaction_is(owner: Connection) -> None:
    assert owner.record_events(make_events(50)).recorded == tuple(range(50))
    assert owner.record_events([*make_events(50, first=25)]).duplicates == tuple(range(25))
    assert roles(owner) == {"replica"}
    assert told(owner).startswith("skipped")
    writer = owner._recorder._learn().writer
    with write_transaction(owner.engine) as connection:
        event_type = connection.exec_driver_sql("SELECT id FROM event_type").scalar_one()
        events = owner._recorder._learn().validator.rows(make_events(50, first=100))[0]
        writer.write(connection, events, {"compute.instance.update": event_type})
        assert connection.exec_driver_sql("SHOW session_replication_role").scalar_one() == "origin"
        with pytest.raises(sa.exc.IntegrityError, match="foreign key"):
            connection.exec_driver_sql("INSERT INTO trait_int (event_id, key, value) VALUES (999999, 'x', 1)")
        connection.rollback()


def test_an_event_still_needs_its_type(owner: Connection) -> None:
    owner.record_events(make_events(1))
    writer = owner._recorder._learn().writer
    events = owner._recorder._learn().validator.rows(make_events(50, first=100))[0]
    with (
        pytest.raises(Exception, match="fk_event_event_type_id_event_type"),
        write_transaction(owner.engine) as connection,
    ):
        writer.write(connection, events, {"compute.instance.update": 999_999})
    assert count(owner, "event") == 1


@pytest.mark.parametrize("table", ["trait_text", "event"])
def test_an_operators_trigger_fires_as_ever(owner: Connection, table: str) -> None:
    owner.record_events(make_events(30))
    execute(
        owner,
        "CREATE TABLE seen (name text)",
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO seen VALUES (tg_table_name); RETURN new; END $$",
        f"CREATE TRIGGER audit BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION see()",
        "TRUNCATE trait_int",
    )
    owner.record_events(make_events(30, first=100))
    assert count(owner, "seen") == 30
    assert roles(owner) == {"origin"}
    assert "trigger audit" in told(owner)
    execute(owner, f"DROP TRIGGER audit ON {table}", "TRUNCATE trait_int")
    owner.record_events(make_events(30, first=200))
    assert roles(owner) == {"replica"}


def test_an_operators_trigger_that_leaves_out_events_leaves_no_traits_behind(owner: Connection) -> None:
    execute(
        owner,
        "CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER filter BEFORE INSERT ON event FOR EACH ROW WHEN (new.message_id = 'm0007') "
        "EXECUTE FUNCTION drop_it()",
    )
    result = owner.record_events(make_events(30), (), letter_for)
    assert [index for index, _ in result.failed] == [7]
    assert count(owner, "event") == count(owner, "trait_int") == 29


def test_a_role_without_the_right_writes_as_ever_and_is_told_how_to_get_it(
    owner: Connection, role: str
) -> None:
    url = owner.engine.url.set(username=role).render_as_string(hide_password=False)
    store = Connection(url)
    assert f"GRANT SET ON PARAMETER session_replication_role TO {role}" in told(store)
    store.record_events(make_events(30))
    assert roles(owner) == {"origin"}

    execute(owner, f"GRANT SET ON PARAMETER session_replication_role TO {role}", "TRUNCATE trait_int")
    store.close()
    store = Connection(url)
    assert told(store).startswith("skipped")
    store.record_events(make_events(30, first=100))
    assert roles(owner) == {"replica"}

    execute(owner, f"REVOKE SET ON PARAMETER session_replication_role FROM {role}", "TRUNCATE trait_int")
    with pytest.raises(Exception, match="session_replication_role"):
        store.record_events(make_events(30, first=200))
    store.record_events(make_events(30, first=200))
    assert roles(owner) == {"origin"}
    store.close()


def test_an_option_turns_it_off(owner: Connection) -> None:
    store = connect(owner.engine.url.render_as_string(hide_password=False), skip_reference_checks=False)
    store.record_events(make_events(30))
    assert roles(owner) == {"origin"}
    assert "skip_reference_checks is off" in told(store)
    store.close()


def test_partitioned_tables_have_nothing_to_skip(partitioned_url: str) -> None:
    store = Connection(partitioned_url)
    assert [finding for finding in store.check() if finding.subject == "reference checks"] == []
    assert list(references.check(store.engine, store._settings)) == []
    store.close()
