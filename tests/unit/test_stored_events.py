"""Whether a stored event is the one that comes: by its type, and its time as far as the column kept it."""

import datetime

import pytest

from panko_ingest.storage.recording.stored_events import StoredEvent, is_same, taken_by

TYPE = "compute.instance.update"


def at(time: str, day: str = "2026-03-01") -> datetime.datetime:
    return datetime.datetime.fromisoformat(f"{day} {time}")


def kept(time: datetime.datetime | None, event_type: str | None = TYPE) -> StoredEvent:
    return StoredEvent(7, None if event_type is None else 3, event_type, time)


@pytest.mark.parametrize(
    ("stored", "same", "others"),
    [
        ("12:00:00.123457", ["12:00:00.123457"], ["12:00:00.123456", "12:00:00.123458", "12:00:01.123457"]),
        ("12:00:00.123000", ["12:00:00.122501", "12:00:00.123999"], ["12:00:00.122", "12:00:00.124"]),
        ("12:00:00", ["12:00:00", "12:00:00.999999", "11:59:59.5"], ["12:00:01", "11:59:59"]),
    ],
    ids=["microseconds", "milliseconds", "seconds"],
)
def test_a_time_is_another_if_rounding_to_the_digits_that_were_kept_does_not_explain_it(
    stored: str, same: list[str], others: list[str]
) -> None:
    assert all(is_same(kept(at(stored)), TYPE, at(time)) for time in same)
    assert not any(is_same(kept(at(stored)), TYPE, at(time)) for time in others)


def test_before_1970_a_fraction_of_a_second_may_have_been_dropped_on_either_side() -> None:
    landing = at("20:17:40.5", "1969-07-20")
    assert is_same(kept(landing), TYPE, landing.replace(microsecond=0))
    assert is_same(kept(landing.replace(microsecond=0)), TYPE, landing)
    assert not is_same(kept(landing), TYPE, at("20:17:42", "1969-07-20"))


def test_a_type_is_another_unless_its_name_or_its_id_is_the_same() -> None:
    time = at("12:00:00")
    assert is_same(kept(time), TYPE, time, 4)
    assert is_same(kept(time), TYPE.upper(), time, 3)
    assert not is_same(kept(time), TYPE.upper(), time, 4)
    assert not is_same(kept(time), TYPE.upper(), time)


def test_what_is_missing_proves_no_difference() -> None:
    time = at("12:00:00")
    assert is_same(kept(None), TYPE, time)
    assert not is_same(kept(None), "another", time)
    assert is_same(kept(time, None), TYPE, time)
    assert not is_same(kept(time, None), TYPE, at("13:00:00"))
    assert str(taken_by(kept(None, None))) == (
        "the message_id is another event's: an event without a type is stored under it"
    )
