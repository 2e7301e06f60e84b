"""The partitioned layout of PostgreSQL: whole days go at once, and everything else is as it was."""

import copy
import datetime
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

from panko_ingest.storage import EventFilter, InvalidMarker, StorageUnavailable
from panko_ingest.storage.database.engine import write_transaction
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.schema import partition_ddl, partitions
from panko_ingest.storage.schema.partitions import Partition
from panko_ingest.storage.tables import EVENT_TABLES
from tests.integration.storage.samples import connect, count, letter_for, rows, stored_ids, there
from tests.waiting import wait_until

DAY = 86400.0
TODAY = datetime.date(2026, 3, 10)
NOON = datetime.datetime(2026, 3, 10, 12)

pytestmark = pytest.mark.postgresql


def event(name: str, days_ago: float) -> Event:
    generated = NOON - datetime.timedelta(days=days_ago)
    return Event(name, "volume.create.end", generated, [Trait("size", Trait.INT_TYPE, 4)])


def noon() -> datetime.datetime:
    return NOON


@pytest.fixture
def store(postgresql_url: str) -> Iterator[Connection]:
    """A store partitioned by day on 10 March 2026, and split no further."""
    connection = Connection(postgresql_url)
    connection.upgrade()
    with write_transaction(connection.engine) as session:
        partition_ddl.create(session, "day", TODAY - datetime.timedelta(days=5))
    yield connection
    connection.close()


def places(store: Connection) -> dict[str, str]:
    """Return the partition that each event is in, by message_id; with its trait's, where they differ."""
    found = rows(
        store,
        "SELECT message_id, e.tableoid::regclass::text, t.tableoid::regclass::text "
        "FROM event e LEFT JOIN trait_int t ON t.event_id = e.id",
    )
    for _, of_event, of_trait in found:
        assert str(of_trait).removeprefix("trait_int") == of_event.removeprefix("event")
    return {name: of_event.removeprefix("event_") for name, of_event, _ in found}


def test_events_and_their_traits_are_in_the_partition_of_their_day(store: Connection) -> None:
    midnight = datetime.datetime(2026, 3, 6)
    store.record_events(
        [
            Event("at midnight", "t", midnight, [Trait("size", Trait.INT_TYPE, 1)]),
            Event("before", "t", midnight - datetime.timedelta(microseconds=1), []),
            Event("year 1", "t", datetime.datetime(1, 1, 1), []),
            Event("year 9999", "t", datetime.datetime(9999, 12, 31, 23, 59, 59), []),
        ]
    )
    found = dict(rows(store, "SELECT message_id, tableoid::regclass::text FROM event"))
    assert found == {
        "at midnight": "event_p20260306",
        "before": "event_p20260305",
        "year 1": "event_first",
        "year 9999": "event_last",
    }
    assert min(rows(store, "SELECT id FROM event"))[0] > 0
    assert len(list(store.get_events(EventFilter()))) == 4


def test_a_redelivered_event_is_a_duplicate_and_a_reused_id_on_another_day_is_not(store: Connection) -> None:
    store.record_events([event("a", 1), event("b", 1)])
    assert store.record_events([event("a", 1), event("c", 1)]).duplicates == (0,)
    assert store.record_events([event("a", 3)]).recorded == (0,)
    assert stored_ids(store) == ["a", "a", "b", "c"]


def test_one_message_id_of_two_days_in_one_list_is_two_events(store: Connection) -> None:
    result = store.record_events([event("a", 1), event("a", 3), event("a", 1), event("b", 1)])
    assert (result.recorded, result.duplicates) == ((0, 1, 3), (2,))
    assert stored_ids(store) == ["a", "a", "b"]


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("keys", [("generated", "message_id"), ("message_id",), ("generated",), ()])
def test_pages_give_every_event_once_where_two_days_have_the_same_message_ids(
    store: Connection, keys: tuple[str, ...], direction: str
) -> None:
    limit = 3
    store.record_events([event(f"m{number:02}", days) for number in range(20) for days in (1, 3)])
    sort = [(key, direction) for key in keys]
    seen: list[tuple[str, datetime.datetime]] = []
    page = list(store.get_events(EventFilter(), {"limit": limit, "sort": sort}))
    while page:
        assert len(page) <= limit
        seen += [(one.message_id, one.generated) for one in page]
        assert len(seen) <= 40
        marker = copy.copy(page[-1]).message_id if len(seen) % 2 else page[-1].marker
        page = list(store.get_events(EventFilter(), {"limit": limit, "sort": sort, "marker": marker}))
    assert len(set(seen)) == len(seen) == 40
    whole = [(one.message_id, one.generated) for one in store.get_events(EventFilter(), {"sort": sort})]
    assert seen == whole


def test_a_marker_that_is_two_events_says_how_to_tell_them_apart(store: Connection) -> None:
    store.record_events([event("a", 1), event("a", 3)])
    with pytest.raises(InvalidMarker, match=r"2 events have the message_id 'a': write a@2026-03-0"):
        store.get_events(EventFilter(), {"marker": "a"})
    with pytest.raises(InvalidMarker, match="no event"):
        store.get_events(EventFilter(), {"marker": "a@2026-03-01T00:00:00"})


def test_a_round_drops_what_is_over_and_deletes_what_the_limit_cuts(store: Connection) -> None:
    store.record_events([event(f"m{number}", number / 2) for number in range(20)])

    report = store.expire(3 * DAY, clock=noon)

    # The limit is at noon of the 7th, and an event of that very time stays.
    assert report.partitions == ("first", "p20260304", "p20260305", "p20260306")
    assert stored_ids(store) == sorted(f"m{number}" for number in range(7))
    assert (report.events, report.traits, report.batches, report.backlog) == (13, 13, 1, 0)
    assert rows(store, "SELECT count(*) FROM trait_int") == [(7,)]
    assert there(store)[0] == Partition(None, datetime.date(2026, 3, 7))


def test_a_day_goes_as_a_whole_the_moment_that_its_last_event_may_go(store: Connection) -> None:
    midnight = datetime.datetime(2026, 3, 7)
    last = midnight - datetime.timedelta(microseconds=1)
    store.record_events(
        [
            Event("last of the 6th", "t", last, [Trait("size", Trait.INT_TYPE, 1)]),
            Event("first of the 7th", "t", midnight, [Trait("size", Trait.INT_TYPE, 1)]),
        ]
    )

    report = store.expire(DAY, clock=lambda: last + datetime.timedelta(days=1))
    assert "p20260306" not in report.partitions
    assert report.events == 0

    report = store.expire(DAY, clock=lambda: midnight + datetime.timedelta(days=1))
    assert "p20260306" in report.partitions
    assert (report.events, report.batches, report.oldest) == (1, 0, midnight)
    assert places(store) == {"first of the 7th": "p20260307"}


def test_an_expirer_that_is_killed_while_it_drops_leaves_everything_to_the_next(store: Connection) -> None:
    store.record_events([event("old", 5), event("new", 0)])
    store.expire(0, clock=noon)  # the partitions that are missing are there
    before = there(store)
    killed: list[str] = []

    def kill(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("DROP TABLE trait_text_p20260305"):
            killed.append(statement)
            pid = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
            with sa.create_engine(store.engine.url, poolclass=sa.NullPool).connect() as other:
                other.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 30000)")

    sa.event.listen(store.engine, "before_cursor_execute", kill)
    with pytest.raises(StorageUnavailable):
        store.expire(DAY, clock=noon)
    sa.event.remove(store.engine, "before_cursor_execute", kill)

    assert killed
    assert there(store) == before
    assert places(store) == {"old": "p20260305", "new": "p20260310"}
    wait_until(lambda: not store.expire(DAY, clock=noon).stood_by, 30, "the lock of the killed one to go")
    assert places(store) == {"new": "p20260310"}


def test_a_day_that_is_detached_from_events_alone_is_told_and_keeps_no_other_from_expiry(
    store: Connection,
) -> None:
    store.record_events([event("kept", 3), event("other", 2), event("young", 0)])
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE event DETACH PARTITION event_p20260307")
    text = next(one.text for one in store.check() if one.level == "failure" and one.subject == "partitions")
    assert text.startswith("event_p20260307: detached")
    assert "; ALTER TABLE trait_int DETACH PARTITION trait_int_p20260307" in text
    report = store.expire(DAY, clock=noon)
    assert (report.events, report.backlog) == (1, 0)
    assert stored_ids(store) == ["young"]
    # What an administrator has put aside stays, with its traits.
    aside = "SELECT message_id, value FROM event_p20260307 e JOIN trait_int_p20260307 t ON t.event_id = e.id"
    assert rows(store, aside) == [("kept", 4)]
    assert not [one for one in store.check() if one.level == "failure" and "detached" in one.text]


@pytest.mark.parametrize("days_ago", [3, 0], ids=["the oldest", "the newest"])
def test_traits_stay_while_an_administrator_has_detached_their_events_and_not_yet_them(
    store: Connection, days_ago: int
) -> None:
    store.record_events([event("kept", days_ago), event("other", 1)])
    name = f"p{NOON - datetime.timedelta(days=days_ago):%Y%m%d}"
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE event DETACH PARTITION event_{name}")
    assert store.expire(30 * DAY, clock=noon).traits == 0
    store.clear()
    aside = f"SELECT message_id, value FROM event_{name} e JOIN trait_int_{name} t ON t.event_id = e.id"
    assert rows(store, aside) == [("kept", 4)]


@pytest.mark.parametrize(
    ("put_aside", "aside"),
    [
        ("", "trait_int_p20260307"),
        ("ALTER TABLE trait_int_p20260307 RENAME TO kept", "kept"),
        (
            "CREATE SCHEMA other; ALTER TABLE trait_int_p20260307 SET SCHEMA other",
            "other.trait_int_p20260307",
        ),
        ("DROP TABLE trait_int_p20260307", None),
    ],
    ids=["detached", "renamed", "moved", "dropped"],
)
def test_traits_of_a_day_that_are_detached_stay_and_keep_no_day_from_expiry(
    store: Connection, put_aside: str, aside: str | None
) -> None:
    store.record_events([event("old", 3), event("older", 4), event("young", 0)])
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE trait_int DETACH PARTITION trait_int_p20260307; {put_aside}")

    assert sum(one.events for one in store.forecast_expiry(DAY, clock=noon).partitions if one.dropped) == 2
    report = store.expire(DAY, clock=noon)

    assert (report.events, "p20260307" in report.partitions) == (2, True)
    assert stored_ids(store) == ["young"]
    if aside:
        assert rows(store, f"SELECT value FROM {aside}") == [(4,)]


def test_a_day_that_is_being_detached_is_not_dropped_and_keeps_no_other_event_from_expiry(
    store: Connection, postgresql_url: str
) -> None:
    store.record_events([event("kept", 3), event("old", 4)])
    with (
        psycopg.connect(postgresql_url) as reader,
        psycopg.connect(postgresql_url, autocommit=True) as administrator,
    ):
        reader.execute("SELECT count(*) FROM event")
        administrator.execute("SET statement_timeout = '1s'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            administrator.execute("ALTER TABLE event DETACH PARTITION event_p20260307 CONCURRENTLY")
    (told,) = [one.text for one in store.check() if "CONCURRENTLY" in one.text]
    report = store.expire(DAY, budget=30, clock=noon)
    assert (report.events, report.backlog) == (1, 0)
    assert rows(store, "SELECT message_id FROM event_p20260307") == [("kept",)]
    with store.engine.begin() as connection:
        connection.exec_driver_sql(told.rpartition(": ")[2])
    assert not [one for one in store.check() if "CONCURRENTLY" in one.text]
    store.expire(DAY, budget=30, clock=noon)
    assert rows(store, "SELECT message_id FROM event_p20260307") == [("kept",)]
    assert store.record_events([event("new", 0)]).recorded == (0,)


@pytest.mark.parametrize("tables", [EVENT_TABLES, EVENT_TABLES[:1], EVENT_TABLES[1:2]])
def test_another_first_partition_is_made_where_it_was_detached(
    store: Connection, tables: tuple[str, ...]
) -> None:
    store.record_events([event("oldest", 30), event("old", 5), event("young", 0)])
    with store.engine.begin() as connection:
        for table in tables:
            connection.exec_driver_sql(f"ALTER TABLE {table} DETACH PARTITION {table}_first")
    told = [one.text for one in store.check() if one.subject == "partitions" and "detached" in one.text]
    assert told
    assert tables != EVENT_TABLES or told[0].startswith("the first one is detached")

    assert "p20260305" in store.expire(DAY, clock=noon).partitions

    assert not [one for one in store.check() if one.subject == "partitions" and "detached" in one.text]
    assert store.record_events([event("late", 40)], on_failure=letter_for).recorded == (0,)
    assert places(store) == {"late": "first_2", "young": "p20260310"}
    held = [int(table in {"event", "trait_int"}) for table in tables]
    assert [count(store, f"{table}_first") for table in tables] == held


@pytest.mark.parametrize("when", ["sql_drop", "ddl_command_start"])
def test_events_expire_in_batches_where_a_trigger_keeps_tables_from_being_changed(
    store: Connection, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    store.record_events([event("older", 4), event("old", 3), event("young", 0)])
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'not without a ticket'; END $$"
        )
        connection.exec_driver_sql(f"CREATE EVENT TRIGGER refuse ON {when} EXECUTE FUNCTION refuse()")

    report = store.expire(DAY, clock=noon)

    assert (report.events, report.backlog, report.partitions) == (2, 0, ())
    assert stored_ids(store) == ["young"]
    assert "can't be dropped; their events are deleted in batches: P0001: not without a ticket" in caplog.text


@pytest.mark.parametrize(
    ("table", "keep"), [("event", "RETURN NULL"), ("trait_int", "RAISE EXCEPTION 'a legal hold'")]
)
def test_events_expire_in_batches_where_a_trigger_is_to_see_each_that_is_deleted(
    store: Connection, caplog: pytest.LogCaptureFixture, table: str, keep: str
) -> None:
    store.record_events([event("older", 4), event("old", 3), event("young", 0)])
    key = {"event": "id"}.get(table, "event_id")
    held = f"(SELECT id FROM event WHERE message_id = 'old' AND id = OLD.{key})"
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF EXISTS {held} THEN {keep}; END IF; RETURN OLD; END $$"
        )
        connection.exec_driver_sql(
            f"CREATE TRIGGER hold BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION hold()"
        )

    forecast = store.forecast_expiry(DAY, clock=noon)
    assert f"the trigger hold of {table}" in forecast.not_dropped
    assert not any(one.dropped for one in forecast.partitions)
    assert (forecast.tried, forecast.kept) == (2, 1)
    report = store.expire(DAY, clock=noon)

    assert (report.events, report.partitions) == (1, ())
    assert stored_ids(store) == ["old", "young"]
    assert (
        f"can't be dropped; their events are deleted in batches: the trigger hold of {table}" in caplog.text
    )
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER hold")
    assert "p20260307" in store.expire(DAY, clock=noon).partitions
    assert stored_ids(store) == ["young"]


@pytest.mark.parametrize("table", ["event", "trait_int"])
def test_events_expire_in_batches_where_a_rule_is_to_see_each_that_is_deleted(
    store: Connection, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    store.record_events([event("older", 4), event("old", 3), event("young", 0)])
    key = {"event": "id"}.get(table, "event_id")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE copied (id bigint)")
        connection.exec_driver_sql(
            f"CREATE RULE copy AS ON DELETE TO {table} DO ALSO INSERT INTO copied VALUES (OLD.{key})"
        )

    report = store.expire(DAY, clock=noon)

    assert (report.events, report.partitions) == (2, ())
    assert stored_ids(store) == ["young"]
    assert count(store, "copied") == 2
    assert f"their events are deleted in batches: the rule copy of {table}" in caplog.text


def test_events_expire_in_batches_where_a_policy_may_hold_them_back_from_the_tables_owner(
    store: Connection, postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.record_events([event("held", 4), event("old", 3), event("young", 0)])
    owner = f"owner_{postgresql_url.rpartition('_')[2]}"
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {owner} LOGIN")
        connection.exec_driver_sql(f"GRANT CREATE ON SCHEMA public TO {owner}")
        for (table,) in rows(
            store,
            "SELECT relname FROM pg_class WHERE relname ~ '^(event|trait|panko)' "
            "AND relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace",
        ):
            connection.exec_driver_sql(f"ALTER TABLE {table} OWNER TO {owner}")
        connection.exec_driver_sql(f"ALTER SEQUENCE event_id_seq OWNER TO {owner}")
        connection.exec_driver_sql("ALTER TABLE event ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        connection.exec_driver_sql("CREATE POLICY rest ON event USING (true)")
        connection.exec_driver_sql(
            "CREATE POLICY hold ON event AS RESTRICTIVE FOR DELETE USING (message_id <> 'held')"
        )
    expirer = Connection(postgresql_url.replace("postgres@", f"{owner}@"))

    report = expirer.expire(DAY, clock=noon)

    assert (report.events, report.partitions) == (1, ())
    assert stored_ids(store) == ["held", "young"]
    assert "deleted in batches: the row-level security of event" in caplog.text
    expirer.close()


def test_an_event_of_the_last_partition_that_another_table_refers_to_keeps_no_other_from_expiry(
    store: Connection,
) -> None:
    store.record_events([event("older", 4), event("old", 3), event("held", -20)])
    with store.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE legal_hold (id bigint REFERENCES event (id))")
        connection.exec_driver_sql("INSERT INTO legal_hold SELECT id FROM event WHERE message_id = 'held'")

    assert store.expire(DAY, clock=noon).events == 2
    assert stored_ids(store) == ["held"]

    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE legal_hold")


def test_a_clock_that_goes_back_behind_partitions_that_were_dropped_loses_nothing(store: Connection) -> None:
    store.record_events([event("old", 5), event("new", 0)])
    assert store.expire(DAY, clock=noon).events == 1
    back = NOON - datetime.timedelta(days=30)

    store.record_events([event("then", 30), event("before", 40)])
    report = store.expire(DAY, clock=lambda: back)
    assert (report.events, report.partitions) == (1, ())
    assert places(store) == {"then": "first", "new": "p20260310"}

    assert store.expire(DAY, clock=noon).events == 1
    assert places(store) == {"new": "p20260310"}


def test_two_expirers_drop_the_same_partitions_once(store: Connection, postgresql_url: str) -> None:
    store.record_events([event("old", 5), event("older", 6), event("new", 0)])
    store.expire(0, clock=noon)  # the partitions that are missing are there
    old = partitions.expired(there(store), NOON - datetime.timedelta(days=2))

    assert partition_ddl.drop(store.engine, old)
    assert not partition_ddl.drop(store.engine, old)

    assert places(store) == {"new": "p20260310"}
    assert there(store)[0] == Partition(None, datetime.date(2026, 3, 8))


def test_events_of_the_far_future_keep_no_partition_from_being_made(store: Connection) -> None:
    future = [event(f"m{number}", -1000 - number) for number in range(20)]
    store.record_events([*future, event("soon", -5)])

    assert partition_ddl.split(store.engine, "day", TODAY, most_moved=1) > 0

    assert places(store) == {**{one.message_id: "last" for one in future}, "soon": "p20260315"}
    assert store.record_events([*future, event("soon", -5)]).duplicates == tuple(range(21))
    store.record_events([event("sooner", -6), event("late", -2000)])
    assert places(store)["late"] == "last"
    assert partition_ddl.split(store.engine, "day", TODAY + datetime.timedelta(days=20), most_moved=1) > 0
    assert len(places(store)) == 23


def test_more_events_in_the_last_partition_than_writers_can_wait_for_are_left_to_db_sync(
    store: Connection,
) -> None:
    store.record_events([event("a", -5), event("b", -6), event("c", -6)])
    # No more are counted than it takes to know that: everybody waits meanwhile.
    with pytest.raises(StorageUnavailable, match=r"^more than 1 events .*db sync"):
        partition_ddl.split(store.engine, "day", TODAY, most_moved=1)
    assert partition_ddl.split(store.engine, "day", TODAY, most_moved=None) > 0
    assert places(store) == {"a": "p20260315", "b": "p20260316", "c": "p20260316"}


def test_readers_never_see_half_an_event_while_partitions_are_dropped(
    store: Connection, postgresql_url: str
) -> None:
    store.record_events([event(f"m{number:03}", number / 40) for number in range(200)])
    readers = Connection(postgresql_url)
    found: set[int] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            found.update(len(one.traits) for one in readers.get_events(EventFilter()))

    reading = threading.Thread(target=read)
    reading.start()
    try:
        report = store.expire(3 * DAY, clock=noon)
    finally:
        done.set()
        reading.join()

    assert report.partitions == ("first", "p20260304", "p20260305", "p20260306")
    assert found == {1}
    assert rows(
        store, "SELECT count(*) FROM trait_int t LEFT JOIN event e ON e.id = event_id WHERE e.id IS NULL"
    ) == [(0,)]
    readers.close()


def test_a_partition_that_is_dropped_while_partitions_are_looked_up_is_none_any_more(
    store: Connection, postgresql_url: str
) -> None:
    other = Connection(postgresql_url)
    with other.engine.connect().execution_options(isolation_level="REPEATABLE READ") as reader:
        before = partitions.found(reader)
        report = store.expire(3 * DAY, clock=noon)
        # By what it saw first they are still there, and yet they have no bounds any more.
        assert partitions.found(reader) == [one for one in before if one.suffix not in report.partitions]
    other.close()
    assert report.partitions


def test_a_late_event_of_days_that_are_dropped_is_stored_and_goes_in_the_next_round(
    store: Connection,
) -> None:
    store.expire(DAY, clock=noon)
    assert store.record_events([event("late", 30)], on_failure=letter_for).recorded == (0,)
    assert places(store) == {"late": "first"}
    assert store.expire(DAY, clock=noon).events == 1


@pytest.mark.parametrize("analyzed", [True, False])
def test_a_forecast_names_the_partitions_and_what_becomes_of_them(
    store: Connection, *, analyzed: bool
) -> None:
    store.record_events([event(f"m{number}", number) for number in range(8)])
    if analyzed:
        with store.engine.begin() as connection:
            connection.execute(sa.text("ANALYZE"))

    forecast = store.forecast_expiry(3 * DAY, clock=noon)

    assert forecast.events == 4
    assert [(one.name, one.events, one.dropped) for one in forecast.partitions] == [
        ("first", 1, True),
        ("p20260304", 1, True),
        ("p20260305", 1, True),
        ("p20260306", 1, True),
        ("p20260307", 1, False),
    ]
    assert all(one.size > 0 for one in forecast.partitions)
    assert count(store, "event") == 8


def test_new_partitions_are_split_off_ahead_of_need_with_what_is_there_already(store: Connection) -> None:
    store.record_events([event("future", -400), event("soon", -5), event("now", 0)])
    assert places(store) == {"future": "last", "soon": "last", "now": "p20260310"}

    store.expire(30 * DAY, clock=noon)

    assert places(store) == {"future": "last", "soon": "p20260315", "now": "p20260310"}
    assert there(store)[-1].start == datetime.date(2026, 3, 18)
    assert store.record_events([event("soon", -5)]).duplicates == (0,)


def test_events_are_carried_to_new_partitions_with_columns_of_an_operators(store: Connection) -> None:
    with store.engine.begin() as connection:
        for statement in (
            "ALTER TABLE event ADD gone int",
            "ALTER TABLE event DROP gone",
            "ALTER TABLE event ADD day date GENERATED ALWAYS AS (generated::date) STORED",
            "ALTER TABLE event ADD \"In %s\" text DEFAULT 'words'",
            "ALTER TABLE trait_int ADD double bigint GENERATED ALWAYS AS (value * 2) STORED",
        ):
            connection.execute(sa.text(statement))
    store.record_events([event("soon", -5), event("now", 0)])
    with store.engine.begin() as connection:
        connection.execute(sa.text('UPDATE event SET "In %s" = message_id'))

    assert partition_ddl.split(store.engine, "day", TODAY) > 0

    assert places(store) == {"soon": "p20260315", "now": "p20260310"}
    found = rows(
        store, 'SELECT day, "In %s", double FROM event e JOIN trait_int ON event_id = e.id ORDER BY day'
    )
    assert found == [(TODAY, "now", 8), (datetime.date(2026, 3, 15), "soon", 8)]


def test_days_in_which_nobody_split_become_one_partition(store: Connection) -> None:
    later = NOON + datetime.timedelta(days=300)
    store.record_events([event("a", -100)])
    store.expire(400 * DAY, clock=lambda: later)
    assert places(store) == {"a": "p20260313"}
    assert len(there(store)) < 25


def test_a_long_reader_is_not_waited_for_and_keeps_nobody_else_waiting(
    store: Connection, postgresql_url: str
) -> None:
    store.record_events([event("old", 5), event("new", 0)])
    other = Connection(postgresql_url)
    with other.engine.connect() as reader:
        reader.execute(sa.text("SELECT count(*) FROM event")).all()
        reports = []
        round_ = threading.Thread(target=lambda: reports.append(store.expire(DAY, budget=6.0, clock=noon)))
        round_.start()
        slowest = 0.0
        number = 0
        while round_.is_alive():
            started = time.monotonic()
            other.record_events([event(f"m{number}", 0)])
            slowest = max(slowest, time.monotonic() - started)
            number += 1
        round_.join()
        assert slowest < 2.0  # a tenth of a second, on an idle machine
        assert reports[0].partitions == ()
        # What could not be dropped is not deleted row by row either.
        assert "old" in stored_ids(other)
    assert "p20260305" in store.expire(DAY, clock=noon).partitions
    assert "old" not in stored_ids(store)
    other.close()


def test_a_panko_that_writes_is_refused_and_told_why(store: Connection) -> None:
    store.record_events([event("a", 0)])
    with pytest.raises(sa.exc.DBAPIError, match="only panko_ingest may write"), store.engine.begin() as panko:
        panko.execute(
            sa.text(
                "INSERT INTO event (message_id, generated, raw, event_type_id) "
                "SELECT 'b', generated, raw, event_type_id FROM event RETURNING id"
            )
        )
    assert stored_ids(store) == ["a"]


@pytest.mark.parametrize("length", [1, 100])
def test_a_writer_that_knew_the_plain_tables_keeps_its_events_and_finds_out(
    postgresql_url: str, length: int
) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    store.record_events([event("a", 0)])
    store.expire(DAY, clock=lambda: NOON + datetime.timedelta(days=30))
    events = [event(f"b{number}", 0) for number in range(length)]
    with write_transaction(store.engine) as connection:
        partition_ddl.create(connection, "day", TODAY)

    with pytest.raises(StorageUnavailable, match=r"partitioned[^(]*$") as refused:
        store.record_events(events, on_failure=letter_for)
    assert not refused.value.operator

    assert store.record_events(events, on_failure=letter_for).recorded == tuple(range(length))
    ((smallest,),) = rows(store, "SELECT min(id) FROM event")
    assert smallest >= partitions.first_id(TODAY)
    assert count(store, "dead_letter") == 0
    store.close()


def test_reads_of_a_day_visit_only_its_partitions(store: Connection) -> None:
    store.record_events([event(f"m{number}", number) for number in range(6)])
    statements: list[str] = []

    def explain(
        connection: sa.Connection, _cursor: object, statement: str, parameters: object, *_: object
    ) -> None:
        if statement.startswith("SELECT event.id, event.generated"):
            with connection.engine.connect() as other:
                plan = other.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()  # type: ignore[arg-type]
                statements.append("\n".join(plan))

    sa.event.listen(store.engine, "before_cursor_execute", explain)
    start = NOON - datetime.timedelta(days=2, hours=1)
    found = list(
        store.get_events(
            EventFilter(start_timestamp=start, end_timestamp=start + datetime.timedelta(hours=2))
        )
    )
    assert [one.message_id for one in found] == ["m2"]
    assert statements
    assert all("event_p20260308" in plan and "event_p20260309" not in plan for plan in statements)


def test_first_and_last_ids_of_a_day_in_sql_and_in_python_agree(store: Connection) -> None:
    days = [datetime.date(1, 1, 1), datetime.date(1969, 12, 31), TODAY, datetime.date(9999, 12, 31)]
    for day in days:
        number = rows(
            store,
            f"SELECT {partitions.NEW_ID} FROM (SELECT timestamp '{day:%Y-%m-%d} 23:59:59'"
            " AS generated) AS one".replace(f"'{day:%Y}-", f"'{day.year:04}-"),
        )[0][0]
        assert partitions.first_id(day) <= number < partitions.id_after(day)


def test_db_check_names_a_width_that_no_longer_goes_with_the_time_to_live(
    store: Connection, postgresql_url: str
) -> None:
    other = connect(postgresql_url, event_time_to_live="365d")
    (finding,) = [finding for finding in other.check() if finding.subject == "partitions"]
    assert finding.level == "failure"
    assert "set week" in finding.text
    other.close()
