"""Durations in options: seconds as upstream has them, or a number with a unit."""

import pytest
from oslo_config import cfg

from panko_ingest import config


def time_to_live(text: str) -> float:
    conf = cfg.ConfigOpts()
    config.register_opts(conf)
    conf.set_override("event_time_to_live", text, "database")
    value: float = conf.database.event_time_to_live
    return value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90d", 7_776_000),
        ("36h", 129_600),
        ("15m", 900),
        ("30s", 30),
        ("2w", 1_209_600),
        ("1.5h", 5400),
        (" 90 d ", 7_776_000),
        ("3600", 3600),
        ("0.000001", 1e-6),
        ("0", 0),
        ("-1", -1),
    ],
)
def test_a_time_to_live_is_seconds_or_has_a_unit(text: str, seconds: float) -> None:
    assert time_to_live(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "90 days", "1y", "90D", "1h30m", "1e3", "inf", "nan"])
def test_text_that_is_no_duration_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="write seconds, or a number and s, m, h, d or w"):
        time_to_live(text)
