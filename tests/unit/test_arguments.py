"""What commands understand of times, and what they refuse rather than take for something else."""

import argparse
import datetime
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

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


@pytest.mark.parametrize("first", [b'{"a": 1}', b'"cut": 1}', b"\x1f\x8b\x08"])
def test_notifications_of_one_a_line_are_not_read_as_a_whole(tmp_path: Path, first: bytes) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)  # which has no end for who reads it
    found: list[tuple[str, bytes]] = []

    def read() -> None:
        source: Iterator[tuple[str, bytes]] = arguments.notifications([str(pipe)])
        found.extend([next(source), next(source)])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    os.write(writer, b"\n" + first + b'\n\n{"a": 2}\n')
    reader.join(10)
    os.close(writer)
    assert found == [(f"{pipe}:2", first), (f"{pipe}:4", b'{"a": 2}')]


def test_empty_lines_at_the_beginning_cost_no_more_than_others(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\n" * 2_000_000 + b'{"a": 1}\n' * 2)
    started = time.process_time()
    assert [place for place, _ in arguments.notifications([str(path)])] == [
        f"{path}:2000001",
        f"{path}:2000002",
    ]
    assert time.process_time() - started < 10  # where each copied all lines before it, it took far longer


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b"\n \n", []),
        (b'\n{"a": 1}', [("", b'{"a": 1}')]),
        (b'\n{\n"a": 1}\n', [("", b'\n{\n"a": 1}\n')]),
        (b'[{"a": 1},\n{"a": 2}]', [("#1", b'{"a": 1}'), ("#2", b'{"a": 2}')]),
        (b'{"a": 1}\r{"a": 2}', [(":1", b'{"a": 1}'), (":2", b'{"a": 2}')]),
        (b'{"a": 1}\r\n{"a": 2}\r\n', [(":1", b'{"a": 1}'), (":2", b'{"a": 2}')]),
        (b'{\n{"a": 2}', [(":1", b"{"), (":2", b'{"a": 2}')]),
        (b'{"a": 1}\n{', [(":1", b'{"a": 1}'), (":2", b"{")]),
        (b"{", [(":1", b"{")]),
        (b"null\n", [("", b"null")]),
        (b'\xef\xbb\xbf{"a": 1}\n{"a": 2}', [(":1", b'\xef\xbb\xbf{"a": 1}'), (":2", b'{"a": 2}')]),
        ("{\n}".encode("utf-16"), [("", "{\n}".encode("utf-16"))]),
        ("[\n5]".encode("utf-16-be"), [("#1", b"5")]),
    ],
)
def test_a_file_is_one_notification_a_list_or_one_a_line(
    tmp_path: Path, content: bytes, found: list[tuple[str, bytes]]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert list(arguments.notifications([str(path)])) == [(f"{path}{place}", body) for place, body in found]
