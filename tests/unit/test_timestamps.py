"""Times as services write them."""

import datetime

import pytest
from hypothesis import given, strategies as st
from iso8601 import parse_date

from panko_ingest import timestamps

PLUS_FIVE = datetime.timezone(datetime.timedelta(hours=5))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23 13:16:34.317715", "2026-11-23T13:16:34.317715"),
        ("2026-11-23 13:16:34", "2026-11-23T13:16:34"),
        ("2026-11-23T13:16:34Z", "2026-11-23T13:16:34"),
        ("2026-11-23T13:16:34+00:00", "2026-11-23T13:16:34"),
        ("2026-11-23T13:16:34.317715+0000", "2026-11-23T13:16:34.317715"),
        ("2026-11-23T13:16:34+05:30", "2026-11-23T07:46:34"),
        ("2026-11-23T13:16:34-05", "2026-11-23T18:16:34"),
        ("2026-11-23T13:16:34.3177159", "2026-11-23T13:16:34.317715"),
        ("2026-11-23T13:16:34,5", "2026-11-23T13:16:34.500000"),
        ("2026-11-23T13:16", "2026-11-23T13:16:00"),
        ("2026-11-23", "2026-11-23T00:00:00"),
        ("20261123T131634Z", "2026-11-23T13:16:34"),
        ("2026-1-3", "2026-01-03T00:00:00"),
        ("2026", "2026-01-01T00:00:00"),
        ("1969-12-31T23:59:59.999999", "1969-12-31T23:59:59.999999"),
        ("9999-12-31T23:59:59+14:00", "9999-12-31T09:59:59"),
    ],
)
def test_iso_8601_is_read_into_naive_utc(text: str, expected: str) -> None:
    assert timestamps.parse(text).isoformat() == expected


@pytest.mark.parametrize(
    "value",
    [
        "", "now", "2015-09-24 12:47:.634363", "2016-11-04 16:31:36.264673   ", "2014-05-3107: 19: 43.463101",
        "Mon, 23 Nov 2026 13:16:34 GMT", "1795439794", "2026-11-23 13:16:34 UTC", "2026-11-23 13:16:60",
        "2026-11-23T24:00:00", "2026-02-30", "2026-W47-1T13:16:34", "2026-11-23 13:16:34:317715",
        "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-23T13:16:34+99:00", "202611",
        "\u0662\u0660\u0662\u0666-11-23", None, 1795439794, 1.5, True, [], {},
    ],
)  # fmt: skip
def test_a_timestamp_that_is_not_iso_8601_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        timestamps.parse(value)


def test_datetimes_are_brought_to_naive_utc() -> None:
    moment = datetime.datetime(2026, 11, 23, 13, 16, tzinfo=PLUS_FIVE)
    assert timestamps.parse(moment) == datetime.datetime(2026, 11, 23, 8, 16)
    assert timestamps.parse(moment.replace(tzinfo=None)) == moment.replace(tzinfo=None)


def by_iso8601(text: str) -> datetime.datetime | None:
    """What Ceilometer accepts: it reads times by the iso8601 library."""
    try:
        moment = parse_date(text)
        return moment.replace(tzinfo=None) - (moment.utcoffset() or datetime.timedelta(0))
    except (ValueError, OverflowError):
        return None


def ours(text: str) -> datetime.datetime | None:
    try:
        return timestamps.parse(text)
    except ValueError:
        return None


times = st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31)).map(str)


@given(
    times,
    st.sampled_from(["", "Z", "+00:00", "+0000", "+05:30", "-14", "+24:00", "z", " UTC"]),
    st.integers(0, 30),
    st.text("0123456789-:.,+ TZW", max_size=2),
    st.integers(0, 3),
)
def test_timestamps_are_read_as_the_library_iso8601_reads_them(
    base: str, zone: str, position: int, inserted: str, removed: int
) -> None:
    text = base + zone
    changed = text[:position] + inserted + text[position + removed :]
    for candidate in (text, changed):
        assert ours(candidate) == by_iso8601(candidate), candidate
