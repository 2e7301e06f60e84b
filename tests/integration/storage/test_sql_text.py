"""Text of SQL and of COPY that we build arrives as it was: whatever it is, by way of the real servers."""

import datetime
import math
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings, strategies as st

from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Trait
from panko_ingest.storage.recording import sql_text
from panko_ingest.storage.recording.validation import Row

# What means something to COPY, to an array or to SQL comes more often than by chance.
CHARACTERS = st.sampled_from("\\\t\n\r\b\f\v'\"`{},;()%N x0/*-#\x1a\x7f\u2028\ufeff") | st.characters(
    exclude_characters="\0", exclude_categories=["Cs"]
)
TEXT = st.text(CHARACTERS, max_size=40) | st.sampled_from(
    ["None", "\\N", "NULL", "null", "", "\\.", "{}", "%s"]
)
TRAITS = st.lists(st.tuples(TEXT, st.none() | TEXT), max_size=12)
SEVERAL = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def postgresql_session(postgresql_url: str) -> Iterator[sa.Connection]:
    store = Connection(postgresql_url)
    with store.engine.connect() as connection:
        connection.exec_driver_sql("CREATE TEMPORARY TABLE trait (event_id bigint, key text, value text)")
        connection.exec_driver_sql(
            "CREATE TEMPORARY TABLE numbers (event_id bigint, key text, value double precision)"
        )
        connection.exec_driver_sql(
            "CREATE TEMPORARY TABLE events "
            "(id bigint, message_id text, generated timestamp, raw text, type bigint)"
        )
        yield connection
    store.close()


@pytest.fixture(params=["", ",NO_BACKSLASH_ESCAPES"])
def mariadb_session(mariadb_url: str, request: pytest.FixtureRequest) -> Iterator[sa.Connection]:
    store = Connection(mariadb_url)
    with store.engine.connect() as connection:
        connection.exec_driver_sql(
            "CREATE TEMPORARY TABLE trait (number SERIAL, event_id bigint, `key` text, value text) "
            "CHARACTER SET utf8mb4"
        )
        connection.exec_driver_sql(f"SET SESSION sql_mode = CONCAT(@@sql_mode, '{request.param}')")
        yield connection
    store.close()


def copy(connection: sa.Connection, table: str, text: str) -> list[Any]:
    """Return what a table holds after COPY of a text into it when it was empty."""
    connection.exec_driver_sql(f"TRUNCATE {table}")
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as writer:
        writer.write(text)
    return [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY ctid")]


def by_event(rows: list[tuple[str, Any]], dtype: int = Trait.TEXT_TYPE) -> sql_text.Traits:
    """Return traits of two events."""
    traits = [Trait(key, dtype, value) for key, value in rows]
    middle = len(traits) // 2
    return [(1, traits[:middle]), (-7, traits[middle:])]


def flat(traits: sql_text.Traits) -> list[tuple[int, str, Any]]:
    return [(number, trait.name, trait.value) for number, found in traits for trait in found]


@pytest.mark.postgresql
@SEVERAL
@given(TRAITS)
def test_copy_of_traits_arrives_as_it_was(
    postgresql_session: sa.Connection, rows: list[tuple[str, str | None]]
) -> None:
    traits = [(number, found) for number, found in by_event(rows) if found]
    assert copy(postgresql_session, "trait", sql_text.copy_of_traits(traits)) == flat(traits)


@pytest.mark.postgresql
@SEVERAL
@given(st.lists(st.tuples(TEXT, st.none() | st.floats(allow_nan=False, allow_infinity=False)), max_size=12))
def test_copy_of_numbers_arrives_to_the_last_bit(
    postgresql_session: sa.Connection, rows: list[tuple[str, float | None]]
) -> None:
    traits = [(number, found) for number, found in by_event(rows, Trait.FLOAT_TYPE) if found]
    found = copy(postgresql_session, "numbers", sql_text.copy_of_traits(traits))
    assert found == flat(traits)
    assert [math.copysign(1, row[2]) for row in found if row[2] is not None] == [
        math.copysign(1, value) for _, _, value in flat(traits) if value is not None
    ]


@pytest.mark.postgresql
@SEVERAL
@given(st.lists(st.tuples(TEXT, TEXT, st.datetimes(), TEXT), max_size=8))
def test_copy_of_events_arrives_as_it_was(
    postgresql_session: sa.Connection, events: list[tuple[str, str, datetime.datetime, str]]
) -> None:
    rows = [
        Row(index, message_id, event_type, generated, raw)
        for index, (message_id, event_type, generated, raw) in enumerate(events)
    ]
    numbered = [(row.index + 2**40, row) for row in rows]
    types = {row.event_type: -row.index for row in rows}
    expected = [
        (number, row.message_id, row.generated, row.raw, types[row.event_type]) for number, row in numbered
    ]
    assert copy(postgresql_session, "events", sql_text.copy_of_events(numbered, types)) == expected


@pytest.mark.postgresql
@SEVERAL
@given(st.lists(st.none() | TEXT, max_size=12))
def test_the_text_of_an_array_arrives_as_it_was(
    postgresql_session: sa.Connection, values: list[str | None]
) -> None:
    found = postgresql_session.exec_driver_sql(
        "SELECT %s::text[]", (sql_text.array_text(values),)
    ).scalar_one()
    assert found == values


@pytest.mark.mariadb
@SEVERAL
@given(TRAITS)
def test_values_in_sql_of_mariadb_arrive_as_they_were(
    mariadb_session: sa.Connection, rows: list[tuple[str, str | None]]
) -> None:
    traits = by_event(rows)
    cursor: Any = mariadb_session.connection.cursor()
    values = sql_text.values_of_traits(traits, cursor.mogrify)
    mariadb_session.exec_driver_sql("DELETE FROM trait")
    if values:
        statement = f"INSERT INTO trait (event_id, `key`, value) VALUES {','.join(values)}"
        mariadb_session.exec_driver_sql(statement, execution_options={"no_parameters": True})
    found = mariadb_session.exec_driver_sql("SELECT event_id, `key`, value FROM trait ORDER BY number")
    assert [tuple(row) for row in found] == flat(traits)


@given(st.datetimes())
def test_seconds_are_those_that_panko_keeps(moment: datetime.datetime) -> None:
    elapsed = moment - datetime.datetime(1970, 1, 1)
    whole, _, fraction = sql_text.seconds(moment).partition(".")
    assert datetime.timedelta(seconds=int(whole), microseconds=int(fraction)) == elapsed
