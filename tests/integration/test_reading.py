"""Reading events back, on every database: filters, order, pages, and the cost in statements."""

import concurrent.futures
import datetime
import itertools
import random
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from panko_ingest.storage import (
    DeadLetterFilter,
    EventFilter,
    InvalidMarker,
    InvalidRequest,
    StorageError,
    StorageUnavailable,
)
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import DeadLetter, Event, Trait
from tests import legacy
from tests.waiting import wait_until

START = datetime.datetime(2026, 3, 1, 12, 0, 0, 250_000)
PROJECTS = ("p0", "p1", "p2")


def make_event(number: int, **raw: Any) -> Event:
    """Return event ``m<number>``; four events in a row share one second, and every sixth has no project."""
    kind = "compute.instance.update" if number % 2 else "volume.create.end"
    traits = [
        Trait("state", Trait.TEXT_TYPE, "active" if number % 3 else "error"),
        Trait("disk_gb", Trait.INT_TYPE, number),
        Trait("load", Trait.FLOAT_TYPE, number / 4),
        Trait("launched_at", Trait.DATETIME_TYPE, START + datetime.timedelta(days=number)),
    ]
    if number % 6:
        traits.append(Trait("project_id", Trait.TEXT_TYPE, PROJECTS[number % 3]))
    return Event(f"m{number:03}", kind, START + datetime.timedelta(seconds=number // 4), traits, raw)


EVENTS = [make_event(number) for number in range(60)]


@pytest.fixture(
    scope="module",
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
def connection(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Connection]:
    """A store with ``EVENTS`` in it, recorded in another order than theirs; tests only read it."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('reading')}/events.sqlite"
    else:
        server = request.getfixturevalue(request.param)
        url = server.create_database()
        request.addfinalizer(lambda: server.drop_database(url))  # noqa: PT021 - SQLite has no server
    store = Connection(url)
    store.upgrade()
    store.record_events(random.Random(1).sample(EVENTS, len(EVENTS)))
    yield store
    store.close()


@pytest.fixture
def empty(database_url: str) -> Iterator[Connection]:
    """A store without events."""
    store = Connection(database_url)
    store.upgrade()
    yield store
    store.close()


def ids(connection: Connection, event_filter: EventFilter | None = None, **pagination: Any) -> list[str]:
    return [event.message_id for event in connection.get_events(event_filter or EventFilter(), pagination)]


def trait(event: Event, name: str) -> Any:
    return next((one.value for one in event.traits if one.name == name), None)


def test_an_event_comes_back_as_it_was_recorded(connection: Connection) -> None:
    (event,) = connection.get_events(EventFilter(message_id="m007"))
    assert event == Event(
        "m007",
        EVENTS[7].event_type,
        EVENTS[7].generated,
        sorted(EVENTS[7].traits, key=lambda one: one.name),
        {},
    )


def test_without_a_sort_events_come_by_generated_and_then_by_message_id(connection: Connection) -> None:
    assert ids(connection) == [event.message_id for event in EVENTS]


def test_bounds_of_time_are_inclusive(connection: Connection) -> None:
    second = EVENTS[8].generated
    found = ids(connection, EventFilter(start_timestamp=second, end_timestamp=second))
    assert found == ["m008", "m009", "m010", "m011"]


def test_events_can_be_found_by_one_type_and_by_several(connection: Connection) -> None:
    odd = [event.message_id for event in EVENTS[1::2]]
    assert ids(connection, EventFilter(event_type="compute.instance.update")) == odd
    both = ["compute.instance.update", "volume.create.end"]
    assert len(ids(connection, EventFilter(event_type=both))) == len(EVENTS)
    assert ids(connection, EventFilter(event_type="no.such.type")) == []
    assert ids(connection, EventFilter(event_type=[])) == []
    assert ids(connection, EventFilter(message_id="")) == []
    assert len(ids(connection, EventFilter(event_type=""))) == len(EVENTS), "as in Panko"


FILTERS = [
    ("state", "string", "error"),
    ("disk_gb", "integer", 30),
    ("load", "float", 7.5),
    ("launched_at", "datetime", START + datetime.timedelta(days=30)),
    ("project_id", "string", "p1"),
]
OPERATORS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


def test_every_operator_holds_for_every_type_of_trait(connection: Connection) -> None:
    for (key, kind, value), (name, operator) in itertools.product(FILTERS, OPERATORS.items()):
        expected = [
            event.message_id
            for event in EVENTS
            if trait(event, key) is not None and operator(trait(event, key), value)
        ]
        found = ids(connection, EventFilter(traits_filter=[{"key": key, kind: value, "op": name}]))
        assert found == expected, f"{key} {name} {value}"


def test_all_trait_filters_must_hold(connection: Connection) -> None:
    wanted = [{"key": "project_id", "string": "p1"}, {"key": "state", "string": "active", "op": "eq"}]
    expected = [
        event.message_id
        for event in EVENTS
        if trait(event, "project_id") == "p1" and trait(event, "state") == "active"
    ]
    assert expected
    assert ids(connection, EventFilter(traits_filter=wanted)) == expected
    between = [{"key": "disk_gb", "integer": 10, "op": "ge"}, {"key": "disk_gb", "integer": 12, "op": "lt"}]
    assert ids(connection, EventFilter(traits_filter=between)) == ["m010", "m011"]


def test_a_value_of_any_type_is_compared_as_each_type_it_can_be(connection: Connection) -> None:
    cases = [
        ("disk_gb", "10", "eq", ["m010"]),
        ("load", "0.25", "eq", ["m001"]),
        ("load", "0", "eq", ["m000"]),
        ("state", "error", "eq", [event.message_id for event in EVENTS[::3]]),
        ("disk_gb", "57", "gt", ["m058", "m059"]),
        ("disk_gb", "57.5", "gt", ["m058", "m059"]),
        ("disk_gb", "58.0", "ge", ["m058", "m059"]),
        ("disk_gb", "1.5", "lt", ["m000", "m001"]),
        ("disk_gb", "1.0", "le", ["m000", "m001"]),
        ("disk_gb", "1e0", "lt", ["m000"]),
        ("disk_gb", "10.0", "eq", ["m010"]),
        ("disk_gb", "10.5", "eq", []),
        ("disk_gb", "10.5", "ne", [event.message_id for event in EVENTS]),
        ("disk_gb", "9" * 25, "lt", [event.message_id for event in EVENTS]),
        ("disk_gb", "-" + "9" * 25, "gt", [event.message_id for event in EVENTS]),
        ("disk_gb", "-" + "9" * 25, "lt", []),
        ("disk_gb", "9" * 25, "ge", []),
        ("disk_gb", "1e999999999", "le", [event.message_id for event in EVENTS]),
        ("launched_at", "2026-03-02", "lt", ["m000"]),
        ("project_id", "7", "eq", []),
    ]
    for key, value, op, expected in cases:
        found = ids(connection, EventFilter(traits_filter=[{"key": key, "any": value, "op": op}]))
        assert found == expected, f"{key} {op} {value}"


def test_integers_are_compared_with_a_float_as_the_number_that_it_is(connection: Connection) -> None:
    everything = [event.message_id for event in EVENTS]
    cases = [
        (1.5, "lt", ["m000", "m001"]),
        (1.5, "le", ["m000", "m001"]),
        (-0.5, "lt", []),
        (-0.5, "gt", everything),
        (57.5, "ge", ["m058", "m059"]),
        (58.0, "gt", ["m059"]),
        (10.0, "eq", ["m010"]),
        (10.5, "eq", []),
        (10.5, "ne", everything),
        (1e300, "lt", everything),
        (1e300, "ge", []),
    ]
    for value, op, expected in cases:
        found = ids(connection, EventFilter(traits_filter=[{"key": "disk_gb", "integer": value, "op": op}]))
        assert found == expected, f"disk_gb {op} {value}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "k", "integer": "lots"},
        {"key": "k", "integer": float("inf")},
        {"key": "k", "integer": 2**63},
        {"key": "k", "float": float("nan")},
        {"key": "k", "string": "a\0b"},
        {"key": "k", "string": "\ud800"},
        {"key": "k", "datetime": "soon"},
        {"key": "k", "string": "a", "op": "like"},
        {"key": "k", "blob": "a"},
        {"string": "a"},
    ],
)
def test_a_trait_filter_that_makes_no_sense_is_refused(connection: Connection, wrong: dict[str, Any]) -> None:
    with pytest.raises(StorageError, match=r"k|key"):
        connection.get_events(EventFilter(traits_filter=[wrong]))


def test_more_trait_filters_than_every_database_can_join_are_refused(connection: Connection) -> None:
    some = [{"key": "disk_gb", "integer": number, "op": "ne"} for number in range(60)]
    with pytest.raises(InvalidRequest, match="60 are more than 59"):
        connection.get_events(EventFilter(traits_filter=some))


def test_an_admins_project_hides_what_is_other_projects_and_keeps_what_is_nobodys(
    connection: Connection,
) -> None:
    expected = [event.message_id for event in EVENTS if trait(event, "project_id") in {None, "p2"}]
    assert ids(connection, EventFilter(admin_proj="p2")) == expected


@pytest.mark.parametrize(
    "sort",
    [
        [("generated", "asc")],
        [("generated", "desc")],
        [("generated", "asc"), ("message_id", "desc")],
        [("generated", "desc"), ("message_id", "asc")],
        [("message_id", "asc")],
        [("message_id", "desc"), ("generated", "asc")],
    ],
)
def test_pages_by_marker_give_each_event_once_and_in_order(
    connection: Connection, sort: list[tuple[str, str]]
) -> None:
    whole = ids(connection, sort=sort)
    expected = sorted(event.message_id for event in EVENTS)
    for key, direction in reversed(sort):
        values = {event.message_id: getattr(event, key) for event in EVENTS}
        expected.sort(key=values.__getitem__, reverse=direction == "desc")
    if sort == [("generated", "desc")]:
        expected = sorted(expected, key=lambda one: (EVENTS[int(one[1:])].generated, one), reverse=True)
    assert whole == expected
    collected: list[str] = []
    while page := ids(connection, sort=sort, limit=7, marker=collected[-1] if collected else None):
        assert len(page) <= 7
        collected += page
    assert collected == whole


def test_a_page_may_be_empty_and_a_limit_larger_than_the_table(connection: Connection) -> None:
    assert ids(connection, limit=0) == []
    assert len(ids(connection, limit=10_000)) == len(EVENTS)


def test_an_unknown_marker_is_refused_before_anything_is_read(connection: Connection) -> None:
    with pytest.raises(InvalidMarker, match="m999"):
        connection.get_events(EventFilter(), {"marker": "m999"})


@pytest.mark.parametrize(
    "pagination", [{"limit": -1}, {"sort": [("raw", "asc")]}, {"sort": [("generated", "up")]}]
)
def test_a_pagination_that_makes_no_sense_is_refused(
    connection: Connection, pagination: dict[str, Any]
) -> None:
    with pytest.raises(StorageError):
        connection.get_events(EventFilter(), pagination)


def test_the_number_of_statements_does_not_grow_with_the_events(connection: Connection) -> None:
    statements: list[str] = []
    sa.event.listen(connection.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    counts = []
    for limit in (2, 50):
        statements.clear()
        assert len(ids(connection, limit=limit)) == limit
        counts.append(len([one for one in statements if "SELECT" in one]))
    assert counts[0] == counts[1] < 10, statements


def test_sqlite_finds_identifiers_by_their_index(sqlite_url: str) -> None:
    store = Connection(sqlite_url)
    store.upgrade()
    store.record_events(EVENTS)
    asked: list[tuple[str, Any]] = []
    sa.event.listen(store.engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))

    list(store.get_events(EventFilter(traits_filter=[{"key": "project_id", "string": "p1"}])))

    statement, parameters = next(call for call in asked if "trait_text" in call[0])
    with store.engine.connect() as session:
        plan = session.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    assert any("ix_trait_text_identifiers (value=?)" in step[3] for step in plan), plan
    store.close()


def test_a_list_longer_than_a_page_is_read_to_its_end_page_by_page(
    empty: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("panko_ingest.storage.reading.events.PAGE_SIZE", 7)
    empty.record_events(EVENTS)
    assert ids(empty) == [event.message_id for event in EVENTS]
    assert ids(empty, limit=20) == [event.message_id for event in EVENTS[:20]]
    traits = list(empty.get_traits("compute.instance.update", "disk_gb"))
    assert [one.value for one in traits] == list(range(1, 60, 2))


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("missing", ["message_id", "generated"])
@pytest.mark.parametrize(
    "database_url",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
    indirect=True,
)
def test_a_long_list_has_each_event_of_adopted_tables_that_lacks_its_id_or_its_time(
    database_url: str, missing: str, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("panko_ingest.storage.reading.events.PAGE_SIZE", 7)
    store = Connection(database_url)
    with store.engine.begin() as session:
        legacy.make(session, "panko")
    store.upgrade("0001")
    store.record_events(EVENTS)
    column = store.engine.dialect.identifier_preparer.quote(missing)
    # Those without an id, of one time, are level.
    some = EVENTS[4:16:4] if missing == "message_id" else EVENTS[4:14]
    without = ", ".join(f"'{event.message_id}'" for event in some)
    with store.engine.begin() as session:
        session.exec_driver_sql(f"UPDATE event SET {column} = NULL WHERE message_id IN ({without})")
    for key in ("message_id", "generated"):
        found = store.get_events(EventFilter(), {"sort": [(key, direction)]})
        assert sorted(trait(event, "disk_gb") for event in found) == [*range(len(EVENTS))]
    store.close()


def test_events_are_counted_by_type_within_a_time(
    connection: Connection, empty: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("panko_ingest.storage.reading.events._TYPES_AT_ONCE", 1)
    assert connection.count_events() == {"compute.instance.update": 30, "volume.create.end": 30}
    second = EVENTS[8].generated
    assert connection.count_events(second, second) == {"compute.instance.update": 2, "volume.create.end": 2}
    assert connection.count_events(start=EVENTS[59].generated + datetime.timedelta(seconds=1)) == {}
    assert empty.count_events() == {}


def test_event_types_are_sorted_the_same_on_every_database(empty: Connection) -> None:
    names = ["b.start", "a.Z", "a.end", "B.start", "a.é", "a_end"]
    empty.record_events(
        [Event(f"t{number}", name, START) for number, name in enumerate(names)],
    )
    assert list(empty.get_event_types()) == sorted(names)


def test_trait_types_name_each_trait_of_a_type_once(connection: Connection) -> None:
    found = list(connection.get_trait_types("compute.instance.update"))
    assert found == [
        {"name": "project_id", "data_type": Trait.TEXT_TYPE},
        {"name": "state", "data_type": Trait.TEXT_TYPE},
        {"name": "disk_gb", "data_type": Trait.INT_TYPE},
        {"name": "load", "data_type": Trait.FLOAT_TYPE},
        {"name": "launched_at", "data_type": Trait.DATETIME_TYPE},
    ]
    assert list(connection.get_trait_types("no.such.type")) == []


def test_traits_of_a_type_can_be_read_all_or_by_name(connection: Connection) -> None:
    everything = list(connection.get_traits("volume.create.end"))
    assert sorted(everything, key=repr) == sorted(
        (one for event in EVENTS[::2] for one in event.traits), key=repr
    )
    assert {one.name for one in connection.get_traits("volume.create.end", "load")} == {"load"}
    assert list(connection.get_traits("no.such.type")) == []
    assert list(connection.get_traits("")) == []


def test_salvaged_events_can_be_told_from_the_others(empty: Connection) -> None:
    salvaged = {"_salvaged": [{"trait": "x", "reason": "no integer"}]}
    empty.record_events(
        [
            make_event(0),
            make_event(1, **salvaged),
            make_event(2, payload={"note": 'says "_salvaged" only'}),
            make_event(3, payload={"a": 1}, **salvaged),
        ]
    )
    assert ids(empty, EventFilter(salvaged=True)) == ["m001", "m003"]
    assert ids(empty, EventFilter(salvaged=True), limit=1) == ["m001"]


def test_reading_without_tables_says_what_to_do(database_url: str) -> None:
    store = Connection(database_url)
    with pytest.raises(StorageUnavailable, match="db sync") as caught:
        list(store.get_events(EventFilter()))
    assert caught.value.operator
    store.close()


def test_reading_all_traits_of_a_type_takes_no_more_memory_for_more_events(sqlite_url: str) -> None:
    store = Connection(sqlite_url)
    store.upgrade()
    peaks = []
    for round_ in range(2):
        store.record_events(
            [
                Event(f"{round_}-{number:05}", "big", START, [Trait("a", Trait.TEXT_TYPE, "x" * 100)])
                for number in range(3000 * (1 + 3 * round_))
            ]
        )
        tracemalloc.start()
        assert sum(1 for _ in store.get_traits("big")) == (3000, 15000)[round_]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Five times as many. How much of the pages before still waits for Python's collector is chance.
    assert peaks[1] < peaks[0] * 2
    store.close()


def test_a_list_takes_memory_for_a_few_big_notifications_at_once(empty: Connection) -> None:
    raw = {"payload": "x" * 500_000}
    for number in range(0, 40, 10):
        empty.record_events([Event(f"{one:02}", "big", START, [], raw) for one in range(number, number + 10)])
    tracemalloc.start()
    assert [event.message_id for event in empty.get_events(EventFilter()) if event.raw == raw] == [
        f"{number:02}" for number in range(40)
    ]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * len(raw["payload"]), "less than all of them"


@pytest.mark.postgresql
def test_a_reader_who_deadlocks_with_a_change_of_the_schema_reads_again(postgresql_url: str) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    store.record_events(EVENTS)
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'trait_text'::regclass")
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        store.engine.connect() as watcher,
        store.engine.connect() as changer,
    ):
        changer.execute(sa.text("SET deadlock_timeout = '1min'"))  # so that the reader is the victim
        changer.execute(sa.text("LOCK trait_text IN ACCESS EXCLUSIVE MODE"))
        found = pool.submit(ids, store, EventFilter())
        wait_until(lambda: watcher.scalar(waiting), what="the reader to wait for the traits")
        changer.execute(sa.text("LOCK event_type IN ACCESS EXCLUSIVE MODE"))
        changer.rollback()
        assert len(found.result(30)) == len(EVENTS)
    store.close()


BEYOND = 2**63
MISTAKES: dict[str, Callable[[Connection], Any]] = {
    "message_id": lambda store: list(store.get_events(EventFilter(message_id=5))),  # type: ignore[arg-type]
    "message_id of halves": lambda store: list(store.get_events(EventFilter(message_id="\ud800"))),
    "event_type": lambda store: list(store.get_events(EventFilter(event_type=5))),  # type: ignore[arg-type]
    "event_types": lambda store: list(store.get_events(EventFilter(event_type=["a", 5]))),  # type: ignore[list-item]
    "admin_proj": lambda store: list(store.get_events(EventFilter(admin_proj=5))),  # type: ignore[arg-type]
    "trait's key": lambda store: list(
        store.get_events(EventFilter(traits_filter=[{"key": 5, "string": "a"}]))
    ),
    "trait's type": lambda store: list(store.get_events(EventFilter(traits_filter=[{"key": "k", 5: "a"}]))),  # type: ignore[dict-item]
    "traits_filter of one": lambda _: EventFilter(traits_filter={"key": "k", "string": "a"}),  # type: ignore[arg-type]
    "traits_filter of text": lambda _: EventFilter(traits_filter="key"),  # type: ignore[arg-type]
    "traits_filter of a number": lambda _: EventFilter(traits_filter=5),  # type: ignore[arg-type]
    "traits_filter of texts": lambda _: EventFilter(traits_filter=["key"]),  # type: ignore[list-item]
    "op": lambda store: store.get_events(
        EventFilter(traits_filter=[{"key": "k", "string": "a", "op": ["eq"]}])
    ),
    "pagination": lambda store: store.get_events(EventFilter(), [("limit", 5)]),  # type: ignore[arg-type]
    "counted since": lambda store: store.count_events(5),  # type: ignore[arg-type]
    "counted until": lambda store: store.count_events(None, "soon"),  # type: ignore[arg-type]
    "limit": lambda store: list(store.get_events(EventFilter(), {"limit": "5"})),
    "limit beyond": lambda store: list(store.get_events(EventFilter(), {"limit": BEYOND})),
    "marker": lambda store: list(store.get_events(EventFilter(), {"marker": 5})),
    "marker with NUL": lambda store: list(store.get_events(EventFilter(), {"marker": "a\0b"})),
    "traits of": lambda store: list(store.get_traits("a\0b")),
    "traits of no text": lambda store: list(store.get_traits("a", 5)),  # type: ignore[arg-type]
    "traits of halves": lambda store: list(store.get_traits("a", "\ud800")),
    "trait types of": lambda store: list(store.get_trait_types("a\0b")),
    "trait types of halves": lambda store: list(store.get_trait_types("\ud800")),
    "sort of text": lambda store: store.get_events(EventFilter(), {"sort": "generated"}),
    "sort of keys": lambda store: store.get_events(EventFilter(), {"sort": ["generated"]}),
    "sort of no list": lambda store: store.get_events(EventFilter(), {"sort": 5}),
    "sort by a list": lambda store: store.get_events(EventFilter(), {"sort": [([], "asc")]}),
    "expired for less than 0 s": lambda store: store.clear_expired_data(-1),
    "expired for no number": lambda store: store.clear_expired_data(float("nan")),
    "expired for text": lambda store: store.clear_expired_data("86400"),  # type: ignore[arg-type]
    "expired, less than 0": lambda store: store.clear_expired_data(1, -5),
    "dead letters expired for less than 0 s": lambda store: store.clear_expired_dead_letters(-1),
    "round for text": lambda store: store.expire("86400"),  # type: ignore[arg-type]
    "dead letters' ids, no list": lambda _: DeadLetterFilter(ids=5),  # type: ignore[arg-type]
    "replayed, no mapping": lambda store: store.replay_dead_letters([5]),  # type: ignore[arg-type]
    "round for no number": lambda store: store.expire(float("nan")),
    "forecast for no number": lambda store: store.forecast_expiry(float("nan")),
    "dead letters' limit": lambda store: list(store.get_dead_letters(DeadLetterFilter(), -1)),
    "replayed": lambda store: store.replay_dead_letters({"a": EVENTS[0]}),  # type: ignore[dict-item]
    "dead letter": lambda store: store.get_dead_letter(BEYOND),
    "dead letter of no number": lambda store: store.get_dead_letter("a"),  # type: ignore[arg-type]
    "dead letters' ids": lambda store: list(store.get_dead_letters(DeadLetterFilter(ids=[BEYOND]))),
    "dead letters' stage": lambda store: store.count_dead_letters(DeadLetterFilter(stage="a\0b")),
    "dead letters' type": lambda store: store.delete_dead_letters(DeadLetterFilter(event_type="\ud800*")),
    "dead letters' error": lambda store: store.delete_dead_letters(DeadLetterFilter(error="a\0b")),
    "dead letters' time": lambda store: store.count_dead_letters(DeadLetterFilter(seen_since="soon")),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("ask", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_of_the_callers_is_never_told_as_a_store_that_is_away(
    connection: Connection, ask: Callable[[Connection], Any]
) -> None:
    with pytest.raises(InvalidRequest):
        ask(connection)


def test_times_with_a_zone_and_as_text_find_the_same_events_as_naive_ones(connection: Connection) -> None:
    moment = EVENTS[8].generated
    zone = datetime.timezone(datetime.timedelta(hours=-3))
    aware = moment.replace(tzinfo=datetime.UTC).astimezone(zone)
    for given in (moment, aware, aware.isoformat(), moment.isoformat()):
        assert connection.count_events(given, given) == {  # type: ignore[arg-type]
            "compute.instance.update": 2,
            "volume.create.end": 2,
        }
        wanted = EventFilter(start_timestamp=given, end_timestamp=given)
        assert ids(connection, wanted) == ["m008", "m009", "m010", "m011"]
        after = {"key": "launched_at", "op": "eq", "datetime": given}
        assert ids(connection, EventFilter(traits_filter=[after])) == []
    days = datetime.timedelta(days=8)
    at = {"key": "launched_at", "datetime": (START.replace(tzinfo=datetime.UTC) + days).astimezone(zone)}
    assert ids(connection, EventFilter(traits_filter=[at])) == ["m008"]


def test_dead_letters_are_found_by_any_number_of_ids(empty: Connection) -> None:
    empty.record_events([], [DeadLetter(b"." * 32, b"body", "decode", "DecodeError", "is no JSON")])
    every = DeadLetterFilter(ids=range(70_000))
    assert empty.count_dead_letters(every) == 1
    assert empty.delete_dead_letters(every).deleted == 1


def test_numbers_in_raw_keep_their_value(empty: Connection) -> None:
    numbers = [-(2**63) - 1, -(2**63), 2**64, 10**30, 0.1, 1e300]
    empty.record_events([make_event(0, payload={"numbers": numbers})])
    (event,) = empty.get_events(EventFilter())
    assert list(map(repr, event.raw["payload"]["numbers"])) == list(map(repr, numbers))
