"""What nobody in this project calls: it is there because programs written for Panko do."""

import datetime

import pytest

from panko_ingest.storage import EventFilter, InvalidRequest, get_connection, models

NOON = datetime.datetime(2026, 11, 23, 12)
PLUS_FIVE = datetime.timezone(datetime.timedelta(hours=5))


def test_an_event_knows_how_it_can_be_sorted_and_paged() -> None:
    assert models.Event.SUPPORT_DIRS == ("asc", "desc")
    assert models.Event.SUPPORT_SORT_KEYS == ("message_id", "generated")
    assert models.Event.DEFAULT_SORT == (("generated", "asc"), ("message_id", "asc"))
    assert models.Event.PRIMARY_KEY == "message_id"


def test_a_trait_can_be_added_to_an_event() -> None:
    trait = models.Trait("a", models.Trait.TEXT_TYPE, "x")
    event = models.Event("m", "x", NOON, [], {})
    event.append_trait(trait)
    assert event.traits == [trait]


def test_an_event_may_be_given_without_traits_and_raw() -> None:
    store = get_connection("sqlite://")
    store.upgrade()
    event = models.Event("m", "x", NOON, None, None)  # type: ignore[arg-type]  # what Panko's callers pass
    assert event.serialize()["traits"] == []
    store.record_events([event])
    (found,) = store.get_events(EventFilter())
    assert (found.traits, found.raw) == ([], {})
    store.close()


def test_a_connection_tells_what_it_can_do() -> None:
    store = get_connection("sqlite://")
    assert store.get_capabilities() == {"events": {"query": {"simple": True}}}
    assert store.get_storage_capabilities() == {"storage": {"production_ready": True}}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, None),
        ("", None),
        (NOON, NOON),
        (NOON.replace(tzinfo=datetime.UTC), NOON),
        (datetime.datetime(2026, 11, 23, 17, tzinfo=PLUS_FIVE), NOON),
        ("2026-11-23T12:00:00", NOON),
        ("2026-11-23T17:00:00+05:00", NOON),
        ("2026-11-23 12:00:00Z", NOON),
    ],
)
def test_a_filter_takes_times_as_panko_does(
    given: datetime.datetime | str | None, meant: datetime.datetime | None
) -> None:
    wanted = EventFilter(start_timestamp=given, end_timestamp=given)
    assert (wanted.start_timestamp, wanted.end_timestamp) == (meant, meant)


@pytest.mark.parametrize("given", ["soon", "2026-13-01", "9999-12-31T23:59:59-14:00", 5])
def test_a_filter_refuses_what_is_no_time_by_its_name(given: str) -> None:
    with pytest.raises(InvalidRequest, match="end_timestamp: "):
        EventFilter(end_timestamp=given)
    with pytest.raises(ValueError, match="start_timestamp: "):
        EventFilter(start_timestamp=given)
