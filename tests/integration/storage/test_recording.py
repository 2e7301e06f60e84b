"""Recording: one transaction for a list, every event accounted for, the guilty found and kept apart."""

import dataclasses
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pymysql.cursors
import pytest
import sqlalchemy as sa

from panko_ingest.storage import RecordResult, StorageError, StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.recording.writers.portable import PortableWriter
from tests.integration.storage.samples import (
    another_writer_of,
    connect,
    counts,
    letter_for,
    make_event,
    make_events,
    make_letter,
    refuse_the_word,
    rows,
    skip_where_partitioned,
    stored,
    stored_ids,
)
from tests.services import MariaDB, PostgreSQL
from tests.waiting import wait_until


def with_sorted_traits(events: list[Event]) -> list[Event]:
    return [dataclasses.replace(event, traits=sorted(event.traits)) for event in events]


def statements(store: Connection, work: Callable[[], Any]) -> tuple[Any, int]:
    """Return what ``work`` returns, and how many statements of any kind the driver sent meanwhile."""
    sent: list[str] = []
    count = {"postgresql": count_psycopg, "mysql": count_pymysql, "sqlite": count_sqlite}

    def listen(connection: Any, _record: Any, _proxy: Any) -> None:
        count[store.engine.dialect.name](connection, sent)

    sa.event.listen(store.engine, "checkout", listen)
    try:
        return work(), len(sent)
    finally:
        sa.event.remove(store.engine, "checkout", listen)
        store.close()


def count_psycopg(connection: psycopg.Connection, sent: list[str]) -> None:
    class Cursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
            sent.append(str(query))
            return super().execute(query, *arguments, **options)

        def copy(self, statement: Any, *arguments: Any, **options: Any) -> Any:
            sent.append(str(statement))
            return super().copy(statement, *arguments, **options)

    connection.cursor_factory = Cursor


def count_pymysql(connection: Any, sent: list[str]) -> None:
    class Cursor(pymysql.cursors.Cursor):
        def execute(self, query: Any, args: Any = None) -> int:
            sent.append(str(query))
            return super().execute(query, args)

    connection.cursorclass = Cursor


def count_sqlite(connection: sqlite3.Connection, sent: list[str]) -> None:
    def note(statement: str) -> None:
        start = statement.partition(" VALUES")[0]
        # Rows of one executemany are one statement.
        if not sent or " INTO " not in start or sent[-1] != start:
            sent.append(start)

    connection.set_trace_callback(note)


def test_a_list_is_stored_with_all_its_traits_and_read_back_as_it_was(store: Connection) -> None:
    events = make_events(250)

    result = store.record_events(random.Random(1).sample(events, len(events)))

    assert result == RecordResult(recorded=tuple(range(250)))
    assert stored(store) == with_sorted_traits(events)
    assert counts(store) == {
        "event": 250,
        "trait_text": 250,
        "trait_int": 250,
        "trait_float": 250,
        "trait_datetime": 250,
        "dead_letter": 0,
    }


def test_an_empty_list_opens_no_transaction(store: Connection) -> None:
    store.record_events(make_events(1))
    result, sent = statements(store, lambda: store.record_events([]))
    assert (result, sent) == (RecordResult(), 0)


def test_events_stored_before_and_doubles_within_the_list_are_duplicates(store: Connection) -> None:
    store.record_events(make_events(10))

    result = store.record_events([*make_events(10, first=5), make_event(12), make_event(5)])

    assert result.recorded == (5, 6, 7, 8, 9)
    assert result.duplicates == (0, 1, 2, 3, 4, 10, 11)
    assert result.failed == ()
    assert stored(store) == with_sorted_traits(make_events(15))


def test_long_lists_with_and_without_duplicates_follow_each_other(store: Connection) -> None:
    assert store.record_events(make_events(100)).recorded == tuple(range(100))

    result = store.record_events([*make_events(100, first=150), *make_events(100, first=50)])

    assert result.recorded == (*range(100), *range(150, 200))
    assert result.duplicates == tuple(range(100, 150))
    for first in range(300, 3300, 100):  # again and again, as a writer may choose its way by what it met
        assert store.record_events(make_events(100, first)).recorded == tuple(range(100))
    assert counts(store) == {**dict.fromkeys(counts(store), 3250), "dead_letter": 0}


def test_long_lists_with_raw_that_means_something_to_sql_arrive_as_they_are(store: Connection) -> None:
    events = make_events(50)
    events[20].raw = {"a\\": "'\"%s\n\t\r\\N", "é": ["\U0001f600"]}
    events[30].message_id = "m'\\\t\n\"%"

    store.record_events(events)

    assert stored(store) == with_sorted_traits(events)


def test_a_lone_event_takes_few_statements(store: Connection) -> None:
    store.record_events([make_event(1)])
    result, sent = statements(store, lambda: store.record_events([make_event(2)]))
    assert result.recorded == (0,)
    # SQLite has no round trips to save: three for its patience, BEGIN, two looks, an INSERT for each table,
    # COMMIT.
    assert sent <= {"postgresql": 1, "mysql": 1, "sqlite": 12}[store.engine.dialect.name]


def test_a_duplicate_changes_nothing_of_what_is_stored(store: Connection) -> None:
    store.record_events([make_event(1)])
    store.record_events([make_event(1, Trait("late", Trait.TEXT_TYPE, "x"))])
    assert stored(store) == with_sorted_traits([make_event(1)])


def test_values_that_mean_something_to_sql_arrive_as_they_are(store: Connection) -> None:
    texts = [
        "\\N",
        "\\",
        "a\tb",
        "a\nb\r",
        "'",
        '"',
        "%s",
        "%(x)s",
        "None",
        "",
        "{}",
        "\x1f",
        "é\U0001f600",
        "--",
        ";",
    ]
    traits = [Trait(f"key{text}", Trait.TEXT_TYPE, text) for text in texts]
    event = Event("m'\\\t\"%", "type'\\\t\"%", make_event(1).generated, traits, {"a\\": "'\"%s\n"})

    store.record_events([event])

    assert stored(store) == with_sorted_traits([event])


def test_traits_without_a_type_live_with_the_texts_and_may_have_no_value(store: Connection) -> None:
    traits = [Trait("none", Trait.NONE_TYPE, "5"), Trait("null", Trait.INT_TYPE, None), Trait("nil", 0, None)]
    traits.append(Trait("as Panko's", None, "6"))  # type: ignore[arg-type]
    store.record_events([Event("m", "t", make_event(1).generated, traits)])
    assert sorted(rows(store, "SELECT value FROM trait_text"), key=str) == [("5",), ("6",), (None,)]
    assert rows(store, "SELECT raw FROM event") == [("{}",)]
    assert rows(store, "SELECT value FROM trait_int") == [(None,)]


def test_dead_letters_are_committed_with_the_events(store: Connection) -> None:
    store.record_events(make_events(3), [make_letter("a"), make_letter("b", b"x" * 100_000)])

    found = rows(store, "SELECT body, stage, attempts FROM dead_letter ORDER BY id")
    assert found == [(b"\0\xff not an event", "decode", 1), (b"x" * 100_000, "decode", 1)]
    assert counts(store)["event"] == 3


def test_a_dead_letter_that_comes_again_only_counts_up(store: Connection) -> None:
    letter = make_letter("a")
    store.record_events([], [letter, letter])
    (before,) = rows(store, "SELECT id, first_at, last_at, attempts FROM dead_letter")
    store.record_events([], [dataclasses.replace(letter, error="another")])
    (after,) = rows(store, "SELECT id, first_at, last_at, attempts FROM dead_letter")

    assert (before[3], after[3]) == (2, 3)
    assert after[:2] == before[:2]
    assert after[2] > before[2]
    assert rows(store, "SELECT error FROM dead_letter") == [("is no JSON",)]


def test_a_dead_letter_is_kept_whatever_its_fields_hold(store: Connection) -> None:
    letter = dataclasses.replace(
        make_letter("a"),
        error="e\0\ud800" * 9000,
        message_id="m\0" * 200,
        event_type="\U0001f600" * 300,
        queue="q\udfff",
        headers={"x": b"\xff", "y": 2**70, "z": float("nan"), "\ud800": "\0"},
    )
    store.record_events([], [letter])
    assert counts(store)["dead_letter"] == 1


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def western_store(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A store in which dead letters have no more characters than Latin-1."""
    server: PostgreSQL | MariaDB = request.getfixturevalue(request.param)
    options = ("ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'",) if isinstance(server, PostgreSQL) else ()
    url = server.create_database(*options)
    store = Connection(url)
    store.upgrade()
    if isinstance(server, MariaDB):
        with store.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE dead_letter CONVERT TO CHARACTER SET latin1")
    yield store
    store.close()
    server.drop_database(url)


def test_a_dead_letter_that_its_table_has_no_characters_for_is_kept_in_ascii(
    western_store: Connection,
) -> None:
    letter = dataclasses.replace(
        make_letter("a"), error="is no JSON: Ω\U0001f600", queue="é", headers={"Ω": "Ω"}
    )
    other = dataclasses.replace(make_letter("b"), error="é")
    assert western_store.record_events([make_event(1)], [letter, other], letter_for).recorded == (0,)
    kept, plain = rows(western_store, "SELECT error, queue FROM dead_letter ORDER BY digest")
    assert kept[0].startswith(r"is no JSON: \u03a9\U0001f600 (its headers are left out: ")
    assert kept[1] == r"\xe9"
    assert plain[0] == "é"


def test_an_event_that_fits_no_column_fails_alone_and_becomes_a_dead_letter(store: Connection) -> None:
    events = make_events(5)
    events[2].message_id = "x" * 51
    events[4].event_type = "x" * 256

    result = store.record_events(events, on_failure=letter_for)

    assert result.recorded == (0, 1, 3)
    assert [index for index, _ in result.failed] == [2, 4]
    assert all(isinstance(error, StorageError) for _, error in result.failed)
    assert rows(store, "SELECT error FROM dead_letter ORDER BY id") == [
        ("message_id has 51 characters; the column takes 50",),
        ("event_type has 256 characters; the column takes 255",),
    ]


def test_without_on_failure_the_good_are_stored_and_the_last_error_raised(store: Connection) -> None:
    events = make_events(5)
    events[1].message_id = "x" * 51
    events[3].message_id = "y" * 60

    with pytest.raises(StorageError, match="60 characters"):
        store.record_events(events)

    assert stored_ids(store) == ["m0000", "m0002", "m0004"]
    assert counts(store)["dead_letter"] == 0


@pytest.mark.parametrize(
    "guilty", [[0], [250], [499], list(range(20, 500, 50))], ids=["first", "middle", "last", "ten"]
)
def test_events_that_the_database_refuses_are_found_by_halves(store: Connection, guilty: list[int]) -> None:
    refuse_the_word(store, "poison")
    events = make_events(500)
    for index in guilty:
        events[index].traits.append(Trait("word", Trait.TEXT_TYPE, "poison"))
    store.record_events([make_event(1000)])

    result, sent = statements(store, lambda: store.record_events(events, on_failure=letter_for))

    assert [index for index, _ in result.failed] == guilty
    assert len(result.recorded) == 500 - len(guilty)
    assert counts(store)["event"] == 501 - len(guilty)
    assert counts(store)["trait_int"] == 501 - len(guilty)
    assert counts(store)["dead_letter"] == len(guilty)
    # Two halves on each of the nine levels for each guilty one, and all that there is around them.
    lists = 2 * len(guilty) * 9 + 2
    # Of a list: a savepoint and its end, two looks, one INSERT for each of five tables.
    assert sent <= lists * 9 + len(guilty) + 10


def test_a_clash_on_anything_but_the_message_id_is_an_error_and_no_duplicate(store: Connection) -> None:
    skip_where_partitioned(store, "it has no unique index but over ids")
    with store.engine.begin() as connection:
        connection.execute(sa.text("CREATE UNIQUE INDEX one_of_a_kind ON trait_int (value)"))
        connection.execute(sa.text("CREATE UNIQUE INDEX one_at_a_time ON event (generated)"))
    store.record_events(make_events(3))
    same_trait = make_event(10)
    same_trait.traits = [Trait("disk_gb", Trait.INT_TYPE, 1)]
    same_time = make_event(11)
    same_time.generated = make_event(2).generated

    result = store.record_events(
        [same_trait, same_time, make_event(12), make_event(0)], on_failure=letter_for
    )

    assert result.recorded == (2,)
    assert result.duplicates == (3,)
    assert [index for index, _ in result.failed] == [0, 1]
    assert stored_ids(store) == ["m0000", "m0001", "m0002", "m0012"]


@pytest.mark.postgresql
@pytest.mark.parametrize("others", [0, 50], ids=["alone", "among others"])
def test_an_event_that_is_refused_only_at_commit_fails_alone(postgresql_url: str, others: int) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    with store.engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE 'not this one' USING ERRCODE = 'check_violation'; END $$"
            )
        )
        connection.execute(
            sa.text(
                "CREATE CONSTRAINT TRIGGER of_an_operator AFTER INSERT ON event INITIALLY DEFERRED "
                "FOR EACH ROW WHEN (new.message_id = 'bad') EXECUTE FUNCTION refuse()"
            )
        )
    bad = dataclasses.replace(make_event(0), message_id="bad")

    result = store.record_events([bad, *make_events(others)], on_failure=letter_for)

    assert [(index, "not this one" in str(error)) for index, error in result.failed] == [(0, True)]
    assert len(result.recorded) == others
    assert counts(store)["event"] == others
    assert counts(store)["dead_letter"] == 1
    store.close()


@pytest.mark.mariadb
@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE event MODIFY id BIGINT NOT NULL DEFAULT NEXTVAL(own_ids)",
        "CREATE TRIGGER own_ids BEFORE INSERT ON event FOR EACH ROW SET NEW.id = NEXTVAL(own_ids)",
    ],
    ids=["sequence", "trigger"],
)
def test_traits_follow_their_event_where_an_operator_chooses_its_id(mariadb_url: str, change: str) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    store.record_events(make_events(9))
    store.record_events([make_event(9)])  # its session will go on knowing an id that AUTO_INCREMENT gave
    with sa.create_engine(store.engine.url).connect() as connection:
        connection.exec_driver_sql("CREATE SEQUENCE own_ids START WITH 1000")
        connection.exec_driver_sql("SET foreign_key_checks = 0")
        connection.exec_driver_sql(change)
    # Of another name, or they would clash with those of the event that they must not go to.
    traits = [Trait("of_another_name", Trait.TEXT_TYPE, "value")]
    events = [dataclasses.replace(event, traits=traits) for event in make_events(3, first=10)]
    for event in events:
        assert store.record_events([event]).recorded == (0,)
    assert stored(store) == with_sorted_traits([*make_events(10), *events])
    store.close()


def test_an_event_type_deleted_behind_our_back_is_made_again(store: Connection) -> None:
    store.record_events([make_event(1, event_type="a"), make_event(2, event_type="b")])
    store.clear_expired_data(0)
    with store.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM event_type"))

    result = store.record_events([make_event(3, event_type="a"), make_event(4, event_type="c")])

    assert result.recorded == (0, 1)
    assert sorted(store.get_event_types()) == ["a", "c"]


def test_clear_takes_events_traits_and_types_and_nothing_else(store: Connection) -> None:
    store.record_events(make_events(3), [make_letter("a")])
    revision = store.current_revision()

    store.clear()

    assert counts(store) == {**dict.fromkeys(counts(store), 0), "dead_letter": 1}
    assert list(store.get_event_types()) == []
    assert store.current_revision() == revision
    assert store.record_events(make_events(3)).recorded == (0, 1, 2)


def test_a_conflict_with_another_transaction_is_waited_out(database_url: str) -> None:
    store = connect(database_url, lock_timeout=0.2)
    store.upgrade()
    store.record_events([make_event(1)])
    results: list[RecordResult] = []

    with another_writer_of("m0002", store):
        worker = threading.Thread(target=lambda: results.append(store.record_events([make_event(2)])))
        worker.start()
        wait_until(lambda: store.statistics().conflicts, what="a lock timeout")
    worker.join(30)

    assert results == [RecordResult(recorded=(0,))]
    store.close()


def test_nothing_is_committed_when_a_conflict_does_not_end(database_url: str) -> None:
    store = connect(database_url, lock_timeout=0.1, max_retries=1)
    store.upgrade()
    store.record_events([make_event(1)])

    with another_writer_of("m0002", store), pytest.raises(StorageUnavailable) as caught:
        store.record_events([make_event(0), make_event(2)], [make_letter("a")], letter_for)

    assert not caught.value.operator
    assert stored_ids(store) == ["m0001"]
    assert counts(store)["dead_letter"] == 0
    store.close()


def test_only_the_events_at_fault_fail_with_the_portable_writer(store: Connection) -> None:
    skip_where_partitioned(store, "only psycopg's writer knows its ids")
    learned = store._recorder._learn()
    store._recorder._learned = learned._replace(writer=PortableWriter())
    assert type(learned.writer) is not PortableWriter
    refuse_the_word(store, "poison")
    events = make_events(20)
    events[7].traits.append(Trait("word", Trait.TEXT_TYPE, "poison"))
    events[8].raw = {"a": "\\'\""}

    result = store.record_events([*events, make_event(3)], on_failure=letter_for)

    assert [index for index, _ in result.failed] == [7]
    assert result.duplicates == (20,)
    assert stored(store) == with_sorted_traits([event for event in events if event is not events[7]])
