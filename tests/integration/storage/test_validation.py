"""Whatever an event holds: it is stored, with what its database can't hold salvaged and named."""

import contextlib
import datetime
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st

from panko_ingest.storage import EventFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import SALVAGED_KEY, Event, Trait
from panko_ingest.storage.recording import batch_transaction, recorder
from panko_ingest.storage.schema.column_limits import read_limits
from tests.integration.storage.samples import START, counts, letter_for, make_event, rows, stored_ids

TRAIT_TABLES = ("trait_text", "trait_int", "trait_float", "trait_datetime")

HOUR = datetime.timedelta(hours=1)

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)
ANY_TIME = st.datetimes(timezones=st.none() | st.timezones())
VALUES: dict[int, st.SearchStrategy[Any]] = {
    Trait.NONE_TYPE: st.none() | ANY_TEXT,
    Trait.TEXT_TYPE: ANY_TEXT | st.integers() | st.binary(max_size=10),
    Trait.INT_TYPE: st.integers() | st.booleans() | st.sampled_from([2**63 - 1, -(2**63), 2**63, "7", "x"]),
    Trait.FLOAT_TYPE: st.floats() | st.integers(max_value=2**80, min_value=-(2**80)),
    Trait.DATETIME_TYPE: ANY_TIME,
    7: st.none(),
}
TRAITS = st.lists(
    st.sampled_from(list(VALUES)).flatmap(
        lambda dtype: st.builds(Trait, ANY_TEXT, st.just(dtype), VALUES[dtype])
    ),
    max_size=8,
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


def record(store: Connection, event: Event) -> Event:
    """Return the event as a reader gets it."""
    assert store.record_events([event]).recorded == (0,)
    (read,) = store.get_events(EventFilter(message_id=event.message_id))
    return read


def reasons(event: Event) -> dict[str, str]:
    """Return why traits were salvaged, by their names."""
    return {entry["trait"]: entry["reason"] for entry in event.raw.get(SALVAGED_KEY, [])}


def as_stored(trait: Trait) -> Any:
    """Return the value that a trait has when nothing about it has to be salvaged."""
    value: Any = trait.value
    if value is None:
        return None
    if trait.dtype == Trait.DATETIME_TYPE:
        return value.astimezone(datetime.UTC).replace(tzinfo=None) if value.tzinfo else value
    if trait.dtype in {Trait.NONE_TYPE, Trait.TEXT_TYPE}:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return {Trait.INT_TYPE: int, Trait.FLOAT_TYPE: float}[trait.dtype](value)


@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(traits=TRAITS, raw=st.dictionaries(ANY_TEXT, JSON, max_size=3))
def test_every_event_is_stored_and_what_could_not_be_is_named(
    store: Connection, traits: list[Trait], raw: dict[str, Any]
) -> None:
    store.clear()
    read = record(store, Event("m", "t", START, traits, raw))

    salvaged = reasons(read)
    found = {(trait.name, trait.dtype): trait.value for trait in read.traits}
    for trait in traits:
        if trait.name in salvaged or any(name in salvaged for name in (trait.name[:255], clean(trait.name))):
            continue
        assert found[trait.name, trait.dtype or Trait.TEXT_TYPE] == as_stored(trait)
    assert len(read.traits) + len(salvaged) >= len({(trait.name, trait.dtype) for trait in traits}) - 8


def clean(name: str) -> str:
    return "".join("\ufffd" if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in name)


@pytest.mark.parametrize(
    ("trait", "value", "reason"),
    [
        (Trait("a", Trait.TEXT_TYPE, "x" * 300), "x" * 255, "trimmed from 300 characters"),
        (Trait("a", Trait.TEXT_TYPE, "x\ud800y"), "x\ufffdy", "characters that the database can't store"),
        (Trait("a", Trait.INT_TYPE, 2**63), None, "dropped: is not within"),
        (Trait("a", Trait.INT_TYPE, -(2**63) - 1), None, "dropped: is not within"),
        (Trait("a", Trait.INT_TYPE, "lots"), None, "dropped: is no integer"),
        (Trait("a", Trait.FLOAT_TYPE, math.nan), None, "dropped: nan is not finite"),
        (Trait("a", Trait.FLOAT_TYPE, math.inf), None, "dropped: inf is not finite"),
        (Trait("a", Trait.DATETIME_TYPE, "yesterday"), None, "dropped: is no datetime"),
        (Trait("a", 9, "x"), None, "dropped: there is no type 9"),
    ],
)
def test_a_trait_that_does_not_fit_is_trimmed_or_dropped(
    store: Connection, trait: Trait, value: Any, reason: str
) -> None:
    event = make_event(1, trait)
    event.raw = {"payload": {"x": 1}}
    before = len(event.traits)

    read = record(store, event)

    assert reason in reasons(read)["a"]
    assert {found.name: found.value for found in read.traits}.get("a") == value
    assert len(read.traits) == before - (value is None)
    assert read.raw["payload"] == {"x": 1}
    assert store.statistics().salvaged == 1
    store.record_events([event])
    assert store.statistics().salvaged == 1, "a redelivery changes nothing more"
    # The caller's event is its own: it may be recorded again.
    assert event.raw == {"payload": {"x": 1}}


@pytest.mark.parametrize(
    ("trait", "value"),
    [
        (Trait("a", Trait.TEXT_TYPE, "x" * 255), "x" * 255),
        (Trait("a", Trait.TEXT_TYPE, "\U0001f600" * 255), "\U0001f600" * 255),
        (Trait("a", Trait.TEXT_TYPE, ""), ""),
        (Trait("a", Trait.TEXT_TYPE, " a "), " a "),
        (Trait("k" * 255, Trait.TEXT_TYPE, "long name"), "long name"),
        (Trait("a", Trait.INT_TYPE, 2**63 - 1), 2**63 - 1),
        (Trait("a", Trait.INT_TYPE, -(2**63)), -(2**63)),
        (Trait("a", Trait.INT_TYPE, True), 1),
        (Trait("a", Trait.FLOAT_TYPE, 5e-324), 5e-324),
        (Trait("a", Trait.FLOAT_TYPE, 1.7976931348623157e308), 1.7976931348623157e308),
        (Trait("a", Trait.FLOAT_TYPE, 0.1 + 0.2), 0.1 + 0.2),
        (Trait("a", Trait.FLOAT_TYPE, -0.0), 0.0),
        (Trait("a", Trait.DATETIME_TYPE, datetime.datetime(1, 1, 1)), datetime.datetime(1, 1, 1)),
        (Trait("a", Trait.DATETIME_TYPE, datetime.datetime(1969, 7, 20, 20, 17, 40)), None),
        (Trait("a", Trait.DATETIME_TYPE, datetime.datetime(9999, 12, 31, 23, 59, 59, 999999)), None),
        (
            Trait(
                "a",
                Trait.DATETIME_TYPE,
                datetime.datetime(2026, 1, 1, 7, tzinfo=datetime.timezone(14 * HOUR)),
            ),
            datetime.datetime(2025, 12, 31, 17),
        ),
    ],
)
def test_a_trait_at_the_edge_of_its_column_is_stored_as_it_is(
    store: Connection, trait: Trait, value: Any
) -> None:
    read = record(store, Event("m", "t", START, [trait]))
    assert read.traits == [Trait(trait.name, trait.dtype, trait.value if value is None else value)]
    assert read.raw == {}


@pytest.mark.mariadb
def test_panko_can_read_times_before_1970_on_mysql(mariadb_url: str) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    landing = datetime.datetime(1969, 7, 20, 20, 17, 40, 500_000)
    read = record(store, Event("m", "t", landing, [Trait("at", Trait.DATETIME_TYPE, landing)]))
    # Panko's reader takes the fraction of a negative number for negative microseconds and fails.
    for (stored,) in rows(store, "SELECT value FROM trait_datetime UNION SELECT `generated` FROM event"):
        assert stored == int(stored) == -14182940
    assert set(reasons(read)) == {"at", "generated"}
    store.close()


def test_times_are_kept_to_the_microsecond(store: Connection) -> None:
    moment = datetime.datetime(2026, 11, 23, 23, 59, 59, 999_999)
    read = record(store, Event("m", "t", moment, [Trait("at", Trait.DATETIME_TYPE, moment)]))
    assert (read.generated, read.traits[0].value) == (moment, moment)


def test_raw_is_stored_as_json_text_that_any_parser_reads(store: Connection) -> None:
    raw: dict[Any, Any] = {
        "nul\0": "\ud800",
        "big": 2**70,
        "nan": math.nan,
        "deep": [[{"é": "\U0001f600"}]],
        5: {1, 2},
    }
    read = record(store, Event("m", "t", START, [], raw))
    assert read.raw["big"] == 2**70
    assert read.raw["nan"] is None
    assert read.raw["deep"] == [[{"é": "\U0001f600"}]]
    assert record(store, Event("n", "t", START)).raw == {}
    assert rows(store, "SELECT raw FROM event WHERE message_id = 'n'") == [("{}",)]


def test_a_raw_too_big_for_its_column_is_dropped_and_the_event_kept(
    store: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        recorder, "read_limits", lambda connection: replace(read_limits(connection), raw_bytes=1000)
    )
    event = make_event(1)
    event.raw = {"payload": "x" * 2000}
    read = record(store, event)
    assert "dropped" in reasons(read)["raw"]
    assert len(read.traits) == len(event.traits)


@pytest.mark.mariadb
def test_names_that_the_database_takes_for_the_same_are_one(mariadb_url: str) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    traits = [Trait(name, Trait.TEXT_TYPE, name) for name in ("host", "host ", "Host", "hóst")]
    read = record(store, Event("m", "t", START, traits))
    assert sorted(str(trait.value) for trait in read.traits) == ["Host", "host", "hóst"]
    assert list(reasons(read)) == ["host "]

    # As Panko made it, names are compared without case.
    store.clear()
    store.record_events([Event("l", "t", START)])
    with store.engine.begin() as connection:
        for table in ("trait_text", "event_type"):
            column = "`key`" if table == "trait_text" else "`desc`"
            connection.exec_driver_sql(
                f"ALTER TABLE {table} MODIFY {column} VARCHAR(255) CHARACTER SET utf8mb3 "
                "COLLATE utf8mb3_general_ci NOT NULL"
            )
    store.close()
    store = Connection(mariadb_url)
    read = record(store, Event("n", "T", START, traits))
    assert [trait.value for trait in read.traits] == ["host"]
    assert set(reasons(read)) == {"host ", "Host", "hóst"}
    assert list(store.get_event_types()) == ["t"]
    store.close()


@pytest.mark.mariadb
def test_characters_that_an_old_schema_lacks_are_replaced(mariadb_url: str) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    with store.engine.begin() as connection:
        for table, column, kind in [
            ("trait_text", "value", "VARCHAR(255)"),
            ("event", "raw", "TEXT"),
        ]:
            connection.exec_driver_sql(
                f"ALTER TABLE {table} MODIFY {column} {kind} CHARACTER SET utf8mb3 COLLATE utf8mb3_general_ci"
            )
        connection.exec_driver_sql("ALTER TABLE trait_int MODIFY value INT")
    traits = [Trait("a", Trait.TEXT_TYPE, "é\U0001f600"), Trait("i", Trait.INT_TYPE, 2**31), Trait("j", 2, 5)]
    read = record(store, Event("m", "t", START, traits, {"name": "\U0001f600", "é": 1}))
    assert sorted(read.traits) == [Trait("a", Trait.TEXT_TYPE, "é\ufffd"), Trait("j", Trait.INT_TYPE, 5)]
    assert {key: read.raw[key] for key in ("name", "é")} == {"name": "\U0001f600", "é": 1}
    assert set(reasons(read)) == {"a", "i"}

    big = record(store, Event("n", "t", START, traits[2:], {"name": "x" * 70_000}))
    assert "dropped" in reasons(big)["raw"]
    store.close()


@pytest.mark.mariadb
@pytest.mark.parametrize(
    "tables", [("event",), ("event", "event_type", *TRAIT_TABLES)], ids=["as Ceilometer had it", "all"]
)
def test_names_that_latin_1_lacks_cost_their_events_alone_and_of_traits_what_it_lacks_is_replaced(
    mariadb_url: str, tables: tuple[str, ...]
) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    with store.engine.begin() as connection:
        connection.exec_driver_sql("SET foreign_key_checks = 0")
        for table in tables:
            connection.exec_driver_sql(f"ALTER TABLE {table} CONVERT TO CHARACTER SET latin1")
    traits = [Trait("naïve", Trait.TEXT_TYPE, "é€Ω")]
    events = [Event(name, "t", START, traits, {"Ω": "€"}) for name in ("m", "Ω", "é€", "\x81", "n")]
    result = store.record_events(events, on_failure=letter_for)
    assert (result.recorded, result.duplicates) == ((0, 2, 4), ())
    assert {index: str(error) for index, error in result.failed} == {
        1: "message_id has a character that the database can't store: '\\u03a9'",
        3: "message_id has a character that the database can't store: '\\x81'",
    }
    assert store.record_events(events, on_failure=letter_for).duplicates == (0, 2, 4)
    for read in store.get_events(EventFilter()):
        assert read.raw["Ω"] == "€"
        assert [trait.value for trait in read.traits] == ["é€?" if len(tables) > 1 else "é€Ω"]
    others = [Event("o", "Ω", START), Event("p", "t", START)]
    assert store.record_events(others, on_failure=letter_for).recorded == (
        (1,) if len(tables) > 1 else (0, 1)
    )
    store.close()


NARROWED = {
    "trait_text MODIFY value VARCHAR(255) CHARACTER SET utf8mb3": Event(
        "bad", "t", START, [Trait("a", Trait.TEXT_TYPE, "\U0001f600")]
    ),
    "trait_text MODIFY value VARCHAR(10)": Event("bad", "t", START, [Trait("a", Trait.TEXT_TYPE, "x" * 11)]),
    "trait_int MODIFY value INT": Event("bad", "t", START, [Trait("a", Trait.INT_TYPE, 2**31)]),
    "event MODIFY message_id VARCHAR(10) NOT NULL": Event("bad" * 4, "t", START),
    "event MODIFY raw TEXT NOT NULL": Event("bad", "t", START, [], {"name": "x" * 70_000}),
}


@pytest.fixture
def learns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let limits never be learned anew: the database has to refuse what the validator lets through."""
    monkeypatch.setattr(batch_transaction, "read_limits", lambda _connection: ANY)


@pytest.mark.mariadb
@pytest.mark.parametrize("change", NARROWED)
@pytest.mark.usefixtures("learns_once")
def test_mariadb_changes_nothing_in_silence_though_a_column_became_narrow(
    mariadb_url: str, change: str
) -> None:
    """A lone event goes another way than several, of which INSERT IGNORE would take anything."""
    store = Connection(mariadb_url)
    store.upgrade()
    store.record_events([Event("first", "t", START)])
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {change}")
    bad, good = NARROWED[change], Event("good", "t", START)
    for events, recorded in (([bad], ()), ([bad, good], (1,))):
        result = store.record_events(events, on_failure=letter_for)
        assert (result.recorded, result.duplicates, [index for index, _ in result.failed]) == (
            recorded,
            (),
            [0],
        )
    assert stored_ids(store) == ["first", "good"]
    assert counts(store)["dead_letter"] == 1
    store.close()


@pytest.mark.usefixtures("learns_once")
def test_the_database_has_the_last_word_on_what_fits(store: Connection) -> None:
    """Nothing that a validator of ours lets through is changed in silence."""
    validator = store._recorder._learn().validator
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite enforces no lengths")
    object.__setattr__(validator.limits, "text", 1000)
    object.__setattr__(validator.limits, "message_id", 1000)
    long_text = Event("m", "t", START, [Trait("a", Trait.TEXT_TYPE, "x" * 300)])
    for event in (long_text, Event("m" * 60, "t", START)):
        with pytest.raises(Exception, match=r"too long|does not fit|did not store"):
            store.record_events([event])
    assert [row for row in rows(store, "SELECT message_id FROM event") if len(row[0]) > 50] == []
    with store.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM trait_text")) == 0


class Shouted(str):
    """A text that shows something else than it holds."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()


def test_events_that_were_read_can_be_recorded_elsewhere(store: Connection, tmp_path: Path) -> None:
    store.record_events([make_event(1)])
    read = list(store.get_events(EventFilter()))
    assert store.record_events(read).duplicates == (0,)
    with contextlib.closing(Connection(f"sqlite:///{tmp_path}/elsewhere.sqlite")) as other:
        other.upgrade()
        assert other.record_events(read).recorded == (0,)
        assert list(other.get_events(EventFilter())) == read


def test_a_text_of_a_class_of_its_own_is_stored_as_what_it_holds(store: Connection) -> None:
    for number, name in ((1, "new"), (2, "new"), (3, "state")):
        event = make_event(number, Trait(Shouted("word"), Trait.TEXT_TYPE, Shouted("said")))
        event.message_id, event.event_type = Shouted(event.message_id), Shouted("volume.create.end")
        event.traits.append(Trait(Shouted(f"{name}_2"), Trait.INT_TYPE, number))
        time: Any = Shouted(event.generated.isoformat())
        read = record(store, replace(event, generated=time))
        assert read == replace(event, traits=sorted(event.traits))
        assert "_salvaged" not in read.raw


@pytest.mark.parametrize("assigned", [False, True], ids=["given", "assigned"])
@pytest.mark.parametrize("kind", [iter, tuple, dict.fromkeys])
def test_traits_of_any_iterable_are_stored(store: Connection, kind: Any, *, assigned: bool) -> None:
    whole = make_event(1)
    event = replace(whole, traits=None if assigned else kind(whole.traits))  # type: ignore[arg-type]
    if assigned:
        event.traits = kind(whole.traits)
    assert record(store, event).traits == sorted(whole.traits)
    assert event.serialize() == whole.serialize()


def test_events_of_an_iterator_are_stored_also_when_they_are_tried_again(store: Connection) -> None:
    # The second makes us look whether the tables hold more by now.
    events = [make_event(1), make_event(2, Trait("long", Trait.TEXT_TYPE, "x" * 300))]
    widen = {
        "postgresql": "ALTER TABLE trait_text ALTER COLUMN value TYPE VARCHAR(400)",
        "mysql": "ALTER TABLE trait_text MODIFY value VARCHAR(400)",
    }
    store.record_events([make_event(3)])
    with store.engine.begin() as connection:
        connection.execute(sa.text(widen.get(connection.dialect.name, "SELECT 1")))
    result = store.record_events(iter(events))  # type: ignore[arg-type]
    assert result.recorded == (0, 1)
    assert stored_ids(store) == ["m0001", "m0002", "m0003"]
