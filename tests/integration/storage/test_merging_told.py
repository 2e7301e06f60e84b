"""``db merge`` tells of what came over changed or not at all, and why; all else is as it was there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from panko_ingest.storage import EventFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.integration.storage.samples import make_event, make_events, rows


def ignore(_done: int, _total: int) -> None:
    """Take a report of progress."""


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Connection]:
    """The database to merge from."""
    connection = Connection(f"sqlite:///{tmp_path}/other.sqlite")
    connection.upgrade()
    yield connection
    connection.close()


def url_of(store: Connection) -> str:
    return store.engine.url.render_as_string(hide_password=False)


RAWS = ['["a", {"b": 1.5}]', '"text"', "17", "0", "false", "[]", '{"a":{"b":[1,null]}}']


def test_a_raw_that_is_no_object_comes_over_as_it_is(source: Connection, store: Connection) -> None:
    source.record_events(make_events(len(RAWS)))
    with source.engine.begin() as connection:
        for number, raw in enumerate(RAWS):
            connection.execute(
                sa.text("UPDATE event SET raw = :raw WHERE message_id = :id"),
                {"raw": raw, "id": f"m{number:04}"},
            )

    merged = store.merge(url_of(source), ignore)

    assert (merged.recorded, merged.refused) == (len(RAWS), [])
    found = [row.raw for row in rows(store, "SELECT raw FROM event ORDER BY message_id")]
    assert [raw.replace(" ", "") for raw in found] == [raw.replace(" ", "") for raw in RAWS]


def test_a_raw_that_is_no_object_of_an_event_with_a_trait_that_does_not_fit_is_kept_beside_the_reason(
    source: Connection, store: Connection
) -> None:
    source.record_events([make_event(1)])
    with source.engine.begin() as connection:
        connection.execute(sa.text("UPDATE event SET raw = '[1, 2]'"))
        connection.execute(sa.text("UPDATE trait_text SET value = :long"), {"long": "x" * 300})

    merged = store.merge(url_of(source), ignore)

    assert (merged.recorded, merged.refused) == (1, [])
    (event,) = store.get_events(EventFilter(salvaged=True))
    assert event.raw["raw"] == [1, 2]
