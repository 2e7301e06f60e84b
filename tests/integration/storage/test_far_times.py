"""Times that other programs left in our tables, and that no datetime of Python's can be."""

import datetime

import pytest

from panko_ingest.storage import EventFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from tests.integration.storage.samples import stored_ids

START = datetime.datetime(2026, 3, 1)
FIRST, LAST = datetime.datetime.min, datetime.datetime.max
# Milliseconds where seconds belong, and others; two of each, for pages to go on between them.
EARLY = {"sqlite": ("1700000000000", "1"), "mysql": ("-99999999999999", "-77000000000.5")}
LATE = {"sqlite": ("'never'", "'99999-01-01'"), "mysql": ("1700000000000", "99999999999999.5")}
ON_POSTGRESQL = ("'-infinity'", "'0044-03-15 12:00:00 BC'"), ("'infinity'", "'12345-01-01'")


@pytest.fixture
def spoilt(store: Connection) -> Connection:
    """A store with six events, two each of the far past, of March, and of the far future."""
    store.record_events(
        [
            Event(f"m{number}", "a", START, [Trait("at", Trait.DATETIME_TYPE, START)], {})
            for number in range(6)
        ]
    )
    kind = store.engine.dialect.name
    early, late = EARLY.get(kind, ON_POSTGRESQL[0]), LATE.get(kind, ON_POSTGRESQL[1])
    with store.engine.begin() as connection:
        for number, time in zip((0, 1, 4, 5), (*early, *late), strict=True):
            event = f"(SELECT id FROM event WHERE message_id = 'm{number}')"
            connection.exec_driver_sql(f"UPDATE trait_datetime SET value = {time} WHERE event_id = {event}")
            connection.exec_driver_sql(f"UPDATE event SET generated = {time} WHERE message_id = 'm{number}'")
    return store


def test_they_are_read_as_the_limits_of_the_calendar(spoilt: Connection) -> None:
    events = list(spoilt.get_events(EventFilter()))
    times = {event.message_id: event.generated for event in events}
    assert times == dict(zip(sorted(times), [FIRST, FIRST, START, START, LAST, LAST], strict=True))
    assert all(event.traits == [Trait("at", 4, event.generated)] for event in events)
    assert len(list(spoilt.get_traits("a"))) == 6


@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_pages_give_each_of_their_events_once(spoilt: Connection, direction: str) -> None:
    seen: list[str] = []
    page: dict[str, object] = {"limit": 1, "sort": [("generated", direction)]}
    while found := list(spoilt.get_events(EventFilter(), page)):
        seen.append(str(found[0].message_id))
        assert len(seen) <= 6
        page["marker"] = found[0].message_id
    assert sorted(seen) == stored_ids(spoilt)


def test_those_of_the_far_past_expire_and_those_of_the_far_future_stay(spoilt: Connection) -> None:
    now = START + datetime.timedelta(days=2)
    assert spoilt.forecast_expiry(86400, clock=lambda: now).oldest == FIRST
    report = spoilt.expire(86400, batch_size=1, clock=lambda: now)
    assert (report.events, report.backlog, report.oldest) == (4, 0, LAST)
    assert stored_ids(spoilt) == ["m4", "m5"]
