"""What commands understand of times, and what they refuse rather than take for something else."""

import argparse
import datetime

import pytest

from panko_ingest.cli import arguments


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90s", {"seconds": 90}),
        ("15m", {"minutes": 15}),
        ("15 min", {"minutes": 15}),
        ("1.5h", {"hours": 1.5}),
        ("2 Hours", {"hours": 2}),
        ("1d12h", {"days": 1, "hours": 12}),
        ("3 days ago", {"days": 3}),
        ("1w", {"weeks": 1}),
        ("2 wks 1 day", {"weeks": 2, "days": 1}),
    ],
)
def test_an_age_is_a_number_with_a_whole_word_for_its_unit(text: str, length: dict[str, float]) -> None:
    assert arguments.age(text) == datetime.timedelta(**length)


@pytest.mark.parametrize(
    "text",
    [
        "1 month",
        "2mo",
        "500ms",
        "1 mount",
        "3 dozen",
        "1 second-hand",
        "5",
        "",
        "h",
        "-1h",
        "1h-",
        "nan",
        "1e3s",
    ],
)
def test_what_only_begins_like_a_unit_is_no_age(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no age"):
        arguments.age(text)
    with pytest.raises(argparse.ArgumentTypeError, match="is no time"):
        arguments.moment(text)


@pytest.mark.parametrize(("text", "length"), [("90", 90), ("0.5", 0.5), ("90s", 90), ("2m", 120)])
def test_seconds_may_have_a_unit(text: str, length: float) -> None:
    assert arguments.seconds(text) == length


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e9", "soon", ""])
def test_what_is_no_length_of_time_is_no_number_of_seconds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no length of time: write for example 90,"):
        arguments.seconds(text)


@pytest.mark.parametrize("text", ["0", "0s", "2d", "9" * 20])
def test_nobody_asks_a_database_without_a_pause_or_with_one_that_never_ends(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no pause"):
        arguments.interval(text)


@pytest.mark.parametrize("text", ["2000000d", "99999999999w"])
def test_an_age_that_begins_before_any_calendar_is_refused(text: str) -> None:
    for understand in (arguments.age, arguments.moment):
        with pytest.raises(argparse.ArgumentTypeError, match="begins before any calendar"):
            understand(text)


@pytest.mark.parametrize("text", ["-1", "1.5", "many", str(2**63), "9" * 5000])
def test_what_nothing_can_be_counted_to_is_no_number(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no number from 0 upwards"):
        arguments.count(text)
    assert arguments.count(str(2**63 - 1)) == 2**63 - 1


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e-300", "fast"])
def test_a_rate_that_would_be_none_or_let_everything_through_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no number of times a second"):
        arguments.rate(text)
    assert arguments.rate("0.5") == 0.5
