"""An event whose message_id another one has is refused and told; one that comes again is no other, ever."""

import dataclasses
import datetime
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from panko_ingest.storage import EventFilter, MessageIdTaken, RecordResult, StorageError
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.recording.writers.portable import PortableWriter
from tests import legacy
from tests.integration.storage.samples import (
    START,
    count,
    execute,
    letter_for,
    make_event,
    make_events,
    make_letter,
    refuse_the_word,
    rows,
    stored,
)

SECOND, DAY = datetime.timedelta(seconds=1), datetime.timedelta(days=1)
MICROSECOND = datetime.timedelta(microseconds=1)
SHAPES = pytest.mark.parametrize("shape", legacy.SHAPES)


def of_another_type(event: Event) -> Event:
    return dataclasses.replace(event, event_type="identity.user.deleted", traits=[])


def of_another_time(event: Event) -> Event:
    return dataclasses.replace(event, generated=event.generated + SECOND, traits=[])


def on_another_day(event: Event) -> Event:
    return dataclasses.replace(event, generated=event.generated + DAY, traits=[])


PLAIN = pytest.mark.parametrize(
    "database_url",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
    indirect=True,
)
"""Partitions are made by us alone, and written by psycopg's writer alone, which knows their ids."""

OTHERS = pytest.mark.parametrize("other", [of_another_type, of_another_time, on_another_day])


IDS_OF_MARCH = "SELECT id FROM event WHERE generated > '2026-03-02'"


def sort_traits(events: list[Event]) -> list[Event]:
    return [dataclasses.replace(event, traits=sorted(event.traits)) for event in events]


def failed(result: RecordResult) -> list[int]:
    """Return the indexes of those that were refused, all of them for the same reason."""
    assert all(isinstance(error, MessageIdTaken) for _, error in result.failed)
    return [index for index, _ in result.failed]


@OTHERS
@pytest.mark.parametrize("length", [1, 30], ids=["one event", "a batch"])
def test_an_event_whose_message_id_another_one_has_becomes_one_dead_letter(
    store: Connection, other: object, length: int
) -> None:
    assert callable(other)
    store.record_events(make_events(40))
    batch = [other(event) for event in make_events(length)]

    for _ in range(2):  # as the broker may deliver them again
        result = store.record_events(batch, (), letter_for)
        assert (failed(result), result.recorded, result.duplicates) == ([*range(length)], (), ())

    assert stored(store) == sort_traits(make_events(40))
    letters = rows(store, "SELECT stage, error_class, error, attempts FROM dead_letter")
    assert len(letters) == length
    assert {tuple(letter) for letter in letters} == {
        (
            "record",
            "MessageIdTaken",
            f"the message_id is another event's: {event.event_type} of {event.generated} is stored under it",
            2,
        )
        for event in make_events(length)
    }


@OTHERS
def test_of_those_that_come_together_each_is_what_it_is(store: Connection, other: object) -> None:
    assert callable(other)
    old, new = make_event(1), make_event(2)
    store.record_events([old])

    # The one that comes first, of two that are new, has the message_id.
    batch = [other(old), new, old, other(new), new, other(old), make_event(3)]
    result = store.record_events(batch, [make_letter("beside")], letter_for)

    assert (result.recorded, result.duplicates, failed(result)) == ((1, 6), (2, 4), [0, 3, 5])
    assert stored(store) == sort_traits([old, new, make_event(3)])
    assert count(store, "dead_letter") == 4


def test_the_same_where_a_batch_is_stored_one_by_one(store: Connection) -> None:
    old, new, bad = make_event(1), make_event(2), make_event(3, Trait("word", Trait.TEXT_TYPE, "poison"))
    refuse_the_word(store, "poison")
    store.record_events([old])

    batch = [
        bad,
        of_another_type(old),
        old,
        new,
        on_another_day(new),
        on_another_day(old),
        new,
        make_event(4),
    ]
    result = store.record_events(batch, (), letter_for)

    assert (result.recorded, result.duplicates) == ((3, 7), (2, 6))
    errors = dict(result.failed)
    assert sorted(errors) == [0, 1, 4, 5]
    assert not isinstance(errors.pop(0), MessageIdTaken)
    assert all(isinstance(error, MessageIdTaken) for error in errors.values())
    assert stored(store) == sort_traits([old, new, make_event(4)])


@PLAIN
def test_the_same_with_the_portable_writer(store: Connection) -> None:
    learned = store._recorder._learn()
    store._recorder._learned = learned._replace(writer=PortableWriter())
    old, new = make_event(1), make_event(2)
    store.record_events([old])

    result = store.record_events([of_another_type(old), new, on_another_day(new), old, new], (), letter_for)

    assert (result.recorded, result.duplicates, failed(result)) == ((1,), (3, 4), [0, 2])


def test_without_on_failure_an_id_that_is_stored_is_a_duplicate_as_for_panko_s_callers(
    store: Connection,
) -> None:
    store.record_events([make_event(1)])
    result = store.record_events([of_another_type(make_event(1)), make_event(2)])
    assert (result.recorded, result.duplicates, result.failed) == ((1,), (0,), ())
    assert stored(store) == sort_traits([make_event(1), make_event(2)])


def test_a_dead_letter_stays_when_what_it_became_has_the_message_id_of_another_event(
    store: Connection,
) -> None:
    store.record_events([make_event(1)], [make_letter("a")])
    ((letter,),) = rows(store, "SELECT id FROM dead_letter")
    refused = store.replay_dead_letters({letter: of_another_type(make_event(1))})
    assert isinstance(refused.pop(letter), MessageIdTaken)
    assert count(store, "dead_letter") == 1
    assert store.replay_dead_letters({letter: make_event(1)}) == refused == {}
    assert count(store, "dead_letter") == 0


def test_of_dead_letters_replayed_at_once_those_stay_whose_events_are_refused(store: Connection) -> None:
    store.record_events([make_event(1)], [make_letter(name) for name in "abcd"])
    first, second, third, fourth = sorted(letter for (letter,) in rows(store, "SELECT id FROM dead_letter"))
    events = {
        first: make_event(2),
        second: of_another_type(make_event(1)),
        third: make_event(2),  # the same one once more, by another queue
        fourth: of_another_type(make_event(2)),
    }
    refused = store.replay_dead_letters(events)
    assert {letter: type(error) for letter, error in refused.items()} == {
        second: MessageIdTaken,
        fourth: MessageIdTaken,
    }
    assert rows(store, "SELECT id FROM dead_letter ORDER BY id") == [(second,), (fourth,)]
    assert stored(store) == sort_traits([make_event(1), make_event(2)])


@pytest.mark.postgresql
@pytest.mark.parametrize("database_url", ["partitioned"], indirect=True)
@pytest.mark.parametrize("rules", [(), ("event", "trait_text")], ids=["no rules", "row level security"])
def test_each_partition_may_have_the_message_id_and_each_event_has_its_own_traits(
    store: Connection, rules: tuple[str, ...]
) -> None:
    for table in rules:
        execute(
            store,
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"CREATE POLICY everything ON {table} USING (true) WITH CHECK (true)",
        )
    months = [
        dataclasses.replace(make_event(number), message_id="one", generated=START + days * DAY)
        for number, days in enumerate((-60, -20, 0, 40))
    ]
    near = [on_another_day(event) for event in months]

    result = store.record_events([*months, *near, *months[::-1]], (), letter_for)

    assert (result.recorded, result.duplicates, failed(result)) == (
        (0, 1, 2, 3),
        (8, 9, 10, 11),
        [4, 5, 6, 7],
    )
    assert stored(store) == sort_traits(months)


@pytest.mark.postgresql
@pytest.mark.parametrize("database_url", ["partitioned"], indirect=True)
@pytest.mark.parametrize("length", [1, 30], ids=["one event", "a batch"])
def test_what_a_trigger_leaves_out_is_not_told_as_stored_in_another_partition(
    store: Connection, length: int
) -> None:
    stored_before = [
        dataclasses.replace(event, generated=event.generated - 60 * DAY) for event in make_events(length)
    ]
    store.record_events(stored_before)
    execute(
        store,
        "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.message_id ~ '^m00' THEN RETURN NULL; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER leave_out BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION leave_out()",
    )
    with pytest.raises(StorageError, match="did not store it, and gave no reason"):
        store.record_events(make_events(length))
    result = store.record_events([*make_events(length), *stored_before], (), letter_for)
    assert result.duplicates == tuple(range(length, 2 * length))
    assert [index for index, _ in result.failed] == [*range(length)]
    assert {type(error) for _, error in result.failed} == {StorageError}


@pytest.mark.postgresql
@pytest.mark.parametrize("database_url", ["partitioned"], indirect=True)
@pytest.mark.parametrize("length", [1, 30], ids=["one event", "a batch"])
def test_what_met_an_event_that_expires_then_is_stored_beside_that_of_another_partition(
    store: Connection, length: int
) -> None:
    far = [dataclasses.replace(event, generated=event.generated - 60 * DAY) for event in make_events(length)]
    near = [on_another_day(event) for event in make_events(length)]
    store.record_events([*far, *near])
    store.record_events(far)  # PostgreSQL's writer has learnt then
    others = sa.create_engine(store.engine.url, poolclass=sa.NullPool)

    def expire(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT event.message_id"):
            with others.begin() as connection:
                for table in ("trait_text", "trait_int", "trait_float", "trait_datetime"):
                    connection.execute(sa.text(f"DELETE FROM {table} WHERE event_id IN ({IDS_OF_MARCH})"))
                connection.execute(sa.text(f"DELETE FROM event WHERE id IN ({IDS_OF_MARCH})"))

    sa.event.listen(store.engine, "before_cursor_execute", expire)
    assert store.record_events(make_events(length)).recorded == tuple(range(length))
    assert stored(store) == sort_traits([*far, *make_events(length)])


# What comes again.


def test_what_had_to_be_changed_to_fit_is_no_other_event_when_it_comes_again(store: Connection) -> None:
    landing = datetime.datetime(1969, 7, 20, 20, 17, 40, 500_000)
    events = [
        make_event(1, Trait("long", Trait.TEXT_TYPE, "x" * 300), Trait("big", Trait.INT_TYPE, 2**70)),
        dataclasses.replace(make_event(2), generated=landing),
        dataclasses.replace(make_event(3), generated=datetime.datetime(9999, 12, 31, 23, 59, 59, 999_999)),
        dataclasses.replace(make_event(4), generated=datetime.datetime(1, 1, 1)),
        dataclasses.replace(make_event(5), event_type="x" * 255, raw={"a": "\0\ud800"}),
        dataclasses.replace(make_event(6), generated="2026-03-01T12:00:00.123456+05:30"),  # type: ignore[arg-type]
        dataclasses.replace(
            make_event(7), generated=START.replace(tzinfo=datetime.timezone(5 * 3600 * SECOND))
        ),
    ]
    assert store.record_events(events, (), letter_for).recorded == tuple(range(7))
    for number in range(7):
        assert store.record_events([events[number]], (), letter_for).duplicates == (0,)
    assert store.record_events([*events, *events], (), letter_for).duplicates == tuple(range(14))


@PLAIN
@SHAPES
def test_what_panko_has_stored_is_no_other_event_when_it_comes_again(database_url: str, shape: str) -> None:
    store = Connection(database_url)
    with store.engine.begin() as connection:
        legacy.make(connection, shape)
        legacy.fill(connection, shape)
    store.upgrade("0001")
    for _ in range(2):
        events = [dataclasses.replace(event, traits=[]) for event in store.get_events(EventFilter())]
        assert store.record_events(events, (), letter_for).duplicates == tuple(range(200))
        result = store.record_events([of_another_time(event) for event in events], (), letter_for)
        assert failed(result) == [*range(200)]
        store.upgrade()
    store.close()


COLUMNS = [
    pytest.param("postgresql", "timestamp(0)", True, marks=pytest.mark.postgresql),
    pytest.param("postgresql", "timestamp(3)", True, marks=pytest.mark.postgresql),
    pytest.param("postgresql", "timestamptz", False, marks=pytest.mark.postgresql),
    pytest.param("mariadb", "decimal(20, 0)", True, marks=pytest.mark.mariadb),
    pytest.param("mariadb", "decimal(20, 3)", True, marks=pytest.mark.mariadb),
    pytest.param("mariadb", "double", False, marks=pytest.mark.mariadb),
]


@pytest.mark.parametrize(("database_url", "kind", "compared"), COLUMNS, indirect=["database_url"])
def test_a_column_that_keeps_less_of_a_time_makes_no_other_event_of_one_that_comes_again(
    store: Connection, kind: str, compared: bool
) -> None:
    events = [
        dataclasses.replace(event, generated=event.generated + number * 1234 * MICROSECOND)
        for number, event in enumerate(make_events(300))
    ]
    store.record_events(events)
    change = (
        "ALTER COLUMN generated TYPE" if store.engine.dialect.name == "postgresql" else "MODIFY `generated`"
    )
    execute(store, f"ALTER TABLE event {change} {kind}")
    assert store.record_events(events, (), letter_for).duplicates == tuple(range(300))

    later = [dataclasses.replace(event, generated=event.generated + 2 * SECOND) for event in events]
    result = store.record_events(later, (), letter_for)
    assert failed(result) == ([*range(300)] if compared else [])
    types = [of_another_type(event) for event in events]
    assert failed(store.record_events(types, (), letter_for)) == [*range(300)]


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
        "sqlite",
    ]
)
def adopted(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A store whose tables are Panko's, in which columns may be empty."""
    store = Connection(request.getfixturevalue(f"{request.param}_url"))
    with store.engine.begin() as connection:
        legacy.make(connection, "panko")
    store.upgrade("0001")
    yield store
    store.close()


@pytest.mark.parametrize("column", ["event_type_id", "generated"])
def test_what_is_missing_or_unreadable_makes_no_other_event_of_one_that_comes_again(
    adopted: Connection, column: str
) -> None:
    adopted.record_events(make_events(2))
    quoted = adopted.engine.dialect.identifier_preparer.quote(column)
    execute(adopted, f"UPDATE event SET {quoted} = NULL WHERE message_id = 'm0000'")
    if column == "generated":
        never = {"sqlite": "'never'", "mysql": "1700000000000"}.get(adopted.engine.dialect.name, "'infinity'")
        execute(adopted, f"UPDATE event SET {quoted} = {never} WHERE message_id = 'm0001'")

    assert adopted.record_events(make_events(2), (), letter_for).duplicates == (0, 1)


def test_a_type_is_known_by_its_name_where_a_restore_has_given_it_another_id(store: Connection) -> None:
    events = make_events(2)
    store.record_events(events)
    desc = store.engine.dialect.identifier_preparer.quote("desc")
    execute(
        store,
        f"INSERT INTO event_type (id, {desc}) VALUES (1000, 'new')",
        "UPDATE event SET event_type_id = 1000",
        f"UPDATE event_type SET {desc} = 'gone' WHERE id <> 1000",
        f"UPDATE event_type SET {desc} = 'compute.instance.update' WHERE id = 1000",
    )
    assert store.record_events(events, (), letter_for).duplicates == (0, 1)


@pytest.mark.mariadb
def test_a_type_that_the_database_takes_for_the_same_is_no_other(mariadb_url: str) -> None:
    store = Connection(mariadb_url)
    with store.engine.begin() as connection:
        legacy.make(connection, "panko")
    store.upgrade("0001")
    event = make_event(1)
    store.record_events([event])
    spelt = dataclasses.replace(event, event_type="Compute.Instance.UPDATE ")
    assert store.record_events([spelt], (), letter_for).duplicates == (0,)
    assert store.record_events([spelt, event, *make_events(30, 5)], (), letter_for).duplicates == (0, 1)
    store.close()


# What it costs.


def sent(store: Connection, events: list[Event]) -> tuple[RecordResult, list[str]]:
    """Record events; return what came of it, and the statements that SQLAlchemy has sent."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    sa.event.listen(store.engine, "before_cursor_execute", note)
    try:
        return store.record_events(events, (), letter_for), seen
    finally:
        sa.event.remove(store.engine, "before_cursor_execute", note)


def test_a_flood_of_redeliveries_is_looked_up_in_one_statement(store: Connection) -> None:
    events = make_events(400)
    store.record_events(events)
    store.record_events(events[:40])  # PostgreSQL's writer has learnt then
    result, statements = sent(store, events)
    assert result.duplicates == tuple(range(400))
    assert sum("FROM event" in statement and "IN" in statement for statement in statements) <= 2
    assert len(statements) <= 8


@pytest.mark.parametrize("days", [1, 20], ids=["one day", "many days"])
def test_one_message_id_repeated_in_a_batch_takes_no_statements_for_each(
    store: Connection, days: int
) -> None:
    store.record_events(make_events(30))
    events = [
        dataclasses.replace(make_event(number), message_id="one", generated=START + (number % days) * DAY)
        for number in range(200)
    ]
    result, statements = sent(store, [*make_events(30, 100), *events])
    assert len(result.recorded) == 31
    assert (result.duplicates, failed(result)) == (
        tuple(range(30 + days, 230, days)),
        [30 + number for number in range(200) if number % days],
    )
    letters = 200 - 200 // days
    assert len(statements) <= 12 + letters  # each dead letter is an INSERT of its own
