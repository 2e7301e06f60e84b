"""What an operator's trigger or policy refuses of one event costs no other, by whatever code it is told."""

import dataclasses
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
import sqlalchemy as sa

from panko_ingest.storage import StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.integration.storage.samples import counts, letter_for, make_event, make_events, stored, stored_ids

LENGTHS = pytest.mark.parametrize("others", [0, 2, 30], ids=["alone", "among few", "in a batch"])
GUILTY = "m0500"

_FUNCTION = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
IF NEW.message_id = 'm0500' THEN
RAISE EXCEPTION 'not this one' USING ERRCODE = '{}'; END IF; RETURN NEW; END $$"""
_TRIGGER = "CREATE TRIGGER refuse BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION refuse()"
_SIGNAL = (
    "CREATE TRIGGER refuse BEFORE INSERT ON event FOR EACH ROW IF NEW.message_id = 'm0500' THEN "
    "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'{}; END IF"
)
_POLICY = "CREATE POLICY refuse ON event USING (true) WITH CHECK (message_id <> 'm0500')"


def assert_one_is_refused(store: Connection, others: int, words: str) -> None:
    events = make_events(others)
    events.insert(others // 2, make_event(int(GUILTY[1:])))
    result = store.record_events(events, (), letter_for)
    ((index, error),) = result.failed
    assert index == others // 2
    assert words in str(error)
    assert len(result.recorded) == others
    assert GUILTY not in stored_ids(store)
    assert counts(store)["dead_letter"] == 1


@LENGTHS
@pytest.mark.postgresql
@pytest.mark.parametrize("code", ["U0001", "45000", "25006", "42501", "57014", "P0001"])
def test_an_event_that_a_trigger_refuses_fails_alone_on_postgresql(
    postgresql_url: str, code: str, others: int
) -> None:
    with closing(Connection(postgresql_url)) as store:
        store.upgrade()
        with store.engine.begin() as connection:
            connection.execute(sa.text(_FUNCTION.format(code)))
            connection.execute(sa.text(_TRIGGER))
        assert_one_is_refused(store, others, f"{code}: not this one")


@pytest.mark.parametrize("has_traits", [True, False])
@pytest.mark.parametrize("others", [0, 3, 40])
def test_an_event_that_a_trigger_of_sqlite_leaves_out_without_a_word_fails_alone(
    sqlite_url: str, others: int, has_traits: bool
) -> None:
    store = Connection(sqlite_url)
    store.upgrade()
    store.record_events([make_event(100)])
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON event WHEN new.message_id = 'm0000' "
            "BEGIN SELECT RAISE(IGNORE); END"
        )
    events = make_events(1 + others)
    if not has_traits:
        events[0].traits = []
    result = store.record_events(events, (), letter_for)
    assert [index for index, _ in result.failed] == [0]
    assert len(result.recorded) == others
    assert counts(store)["dead_letter"] == 1
    assert "m0000" not in stored_ids(store)
    store.close()


@LENGTHS
@pytest.mark.mariadb
@pytest.mark.parametrize("number", [1644, 30001])
def test_an_event_that_a_trigger_refuses_fails_alone_on_mariadb(
    mariadb_url: str, number: int, others: int
) -> None:
    with closing(Connection(mariadb_url)) as store:
        store.upgrade()
        with store.engine.begin() as connection:
            connection.execute(sa.text(_SIGNAL.format(f", MYSQL_ERRNO = {number}")))
        assert_one_is_refused(store, others, f"{number}: not this one")


@pytest.fixture
def restricted_url(request: pytest.FixtureRequest, postgresql_url: str) -> Iterator[str]:
    """URL of a database with tables whose role may record, and has to obey policies."""
    with closing(Connection(postgresql_url)) as store:
        store.upgrade()
    if getattr(request, "param", "plain") == "partitioned":
        request.getfixturevalue("partitioned_url")
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE restricted LOGIN")
        connection.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO restricted"
        )
        connection.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO restricted")
        yield postgresql_url.replace("postgres@", "restricted@")
        connection.execute("DROP OWNED BY restricted")
        connection.execute("DROP ROLE restricted")


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url.replace("restricted@", "postgres@"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@LENGTHS
@pytest.mark.postgresql
def test_an_event_that_a_policy_refuses_fails_alone(restricted_url: str, others: int) -> None:
    execute(restricted_url, "ALTER TABLE event ENABLE ROW LEVEL SECURITY", _POLICY)
    with closing(Connection(restricted_url)) as store:
        assert_one_is_refused(store, others, "row-level security")


@pytest.mark.postgresql
def test_events_of_new_types_wait_for_a_policy_that_admits_any(restricted_url: str) -> None:
    execute(
        restricted_url,
        "ALTER TABLE event_type ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY shown ON event_type FOR SELECT USING (true)",
        "CREATE POLICY others ON event_type TO postgres USING (true)",
    )
    with closing(Connection(restricted_url)) as store:
        with pytest.raises(StorageUnavailable, match="no policy admits any: ") as refused:
            store.record_events(make_events(3), (), letter_for)
        assert refused.value.operator
        assert counts(store)["dead_letter"] == 0
        execute(restricted_url, str(refused.value).partition("no policy admits any: ")[2].removesuffix(")"))
        assert len(store.record_events(make_events(3), (), letter_for).recorded) == 3


@pytest.mark.postgresql
def test_events_of_a_type_that_a_policy_refuses_fail_alone(restricted_url: str) -> None:
    execute(
        restricted_url,
        "ALTER TABLE event_type ENABLE ROW LEVEL SECURITY",
        """CREATE POLICY known ON event_type USING (true) WITH CHECK ("desc" = 'compute.instance.update')""",
    )
    other = dataclasses.replace(make_event(int(GUILTY[1:])), event_type="other")
    with closing(Connection(restricted_url)) as store:
        result = store.record_events([*make_events(3), other], (), letter_for)
        assert [index for index, _ in result.failed] == [3]
        assert result.recorded == (0, 1, 2)


@pytest.mark.postgresql
@pytest.mark.parametrize("table", ["event", "trait_text"])
@pytest.mark.parametrize("restricted_url", ["plain", "partitioned"], indirect=True)
def test_batches_are_stored_where_policies_forbid_copy_and_check_tells_what_it_costs(
    restricted_url: str, table: str
) -> None:
    with closing(Connection(restricted_url)) as store:
        execute(
            restricted_url,
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"CREATE POLICY everything ON {table} USING (true) WITH CHECK (true)",
        )
        assert len(store.record_events(make_events(60)).recorded) == 60
        assert len(store.record_events(make_events(60, first=30)).duplicates) == 30
        assert stored(store) == [
            dataclasses.replace(event, traits=sorted(event.traits)) for event in make_events(90)
        ]
        (told,) = [found.text for found in store.check() if found.subject == "row-level security"]
        assert f"on {table}: " in told
        execute(restricted_url, told.rpartition("as superuser, ")[2])
        assert not [found for found in store.check() if found.subject == "row-level security"]
        execute(restricted_url, "ALTER ROLE restricted NOBYPASSRLS")


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "hold", ["FOR ALL USING", "FOR SELECT USING (true); CREATE POLICY b ON event FOR DELETE USING"]
)
def test_events_that_a_policy_holds_back_from_expiry_keep_their_traits(
    restricted_url: str, hold: str
) -> None:
    execute(
        restricted_url,
        "ALTER TABLE event ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY anything ON event FOR INSERT WITH CHECK (true)",
        f"CREATE POLICY a ON event {hold} (message_id NOT IN ('m0000', 'm0004'))",
    )
    owners = Connection(restricted_url.replace("restricted@", "postgres@"))
    with closing(owners), closing(Connection(restricted_url)) as store:
        owners.record_events(make_events(5))
        assert store.expire(1.0).events == 3
        store.clear()
        assert stored(owners) == [
            dataclasses.replace(event, traits=sorted(event.traits)) for event in make_events(5)[::4]
        ]


@pytest.mark.postgresql
def test_a_policy_that_comes_while_events_are_recorded_stops_them_no_longer_than_until_the_next_try(
    restricted_url: str,
) -> None:
    with closing(Connection(restricted_url)) as store:
        store.record_events(make_events(30))
        execute(
            restricted_url,
            "ALTER TABLE trait_text ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY everything ON trait_text USING (true) WITH CHECK (true)",
        )
        with pytest.raises(StorageUnavailable):
            store.record_events(make_events(30, first=30))
        assert len(store.record_events(make_events(30, first=30)).recorded) == 30
