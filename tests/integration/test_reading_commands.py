"""The commands that show what is stored: events, dead letters, the state of the schema."""

import csv
import datetime
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from panko_ingest.cli.main import main
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import DeadLetter, Event, Trait

NOW = datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    def lines(self) -> list[str]:
        return self.out.splitlines()


Run = Callable[..., Answer]


@pytest.fixture
def run(sqlite_url: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command against a database without tables, and return what it said."""
    config = tmp_path / "panko-ingest.conf"
    config.write_text(f"[database]\nconnection = {sqlite_url}\n")

    def call(*arguments: str) -> Answer:
        try:
            code = main(["--config-file", str(config), *arguments])
        except SystemExit as error:  # argparse leaves like this
            code = int(error.code or 0)
        out, err = capfdbinary.readouterr()
        return Answer(code, out.decode(), err.decode())

    return call


@pytest.fixture
def stored(run: Run, sqlite_url: str) -> Run:
    """The same with ten events in the database, an hour apart, the newest half an hour old."""
    assert run("db", "sync").code == 0
    store = Connection(sqlite_url)
    events = []
    for number in range(10):
        kind = ("compute.instance.create.end", "compute.instance.delete.end", "volume.create.end")[number % 3]
        traits = [
            Trait("project_id", Trait.TEXT_TYPE, f"p{number % 2}"),
            Trait("disk_gb", Trait.INT_TYPE, number * 10),
            Trait("display_name", Trait.TEXT_TYPE, "a [bold]name\nof two lines"),
        ]
        raw = {"_salvaged": [{"trait": "memory_mb", "reason": "'lots' is no integer"}]} if number == 4 else {}
        generated = NOW - datetime.timedelta(hours=number, minutes=30)
        events.append(Event(f"m{number}", kind, generated, traits, raw))
    store.record_events(events)
    store.close()
    return run


def ids(answer: Answer) -> list[str]:
    assert answer.code == 0, answer.err
    return [word for line in answer.lines() for word in line.split() if word[0] == "m" and word[1:].isdigit()]


def test_a_database_is_synced_once_and_then_left_alone(run: Run) -> None:
    before = run("db", "current")
    assert before.code == 1
    assert "run `panko-ingest db sync`" in before.out
    assert "is at revision" in run("db", "sync").out
    assert "already" in run("db", "sync").out
    current = run("db", "current")
    assert (current.code, "the newest" in current.out) == (0, True)
    check = run("db", "check")
    assert check.code == 0
    assert "revision" in check.out


def test_reading_from_a_database_without_tables_ends_with_one_line_and_3(run: Run) -> None:
    answer = run("events", "list")
    assert answer.code == 3
    assert "db sync" in answer.err
    assert "Traceback" not in answer.err


def test_events_are_listed_the_newest_first(stored: Run) -> None:
    answer = stored("events", "list")
    assert ids(answer) == [f"m{number}" for number in range(10)]
    assert answer.lines()[0].split() == ["generated", "event_type", "message_id", "project_id", "resource_id"]
    assert ids(stored("events", "list", "--oldest-first", "--limit", "2")) == ["m9", "m8"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--since", "2h"], "m0 m1"),
        (["--since", "2 hours ago"], "m0 m1"),
        (["--since", "3h", "--until", "90m"], "m1 m2"),
        (["--until", "2000-01-01"], ""),
        (["--since", (NOW - datetime.timedelta(hours=1)).isoformat() + "+00:00"], "m0"),
        (["--type", "volume.*"], "m2 m5 m8"),
        (["--type", "*.delete.end", "--type", "volume.*", "--limit", "0"], "m1 m2 m4 m5 m7 m8"),
        (["-t", "project_id=p1", "-t", "disk_gb>20"], "m3 m5 m7 m9"),
        (["-t", "disk_gb <= 10"], "m0 m1"),
        (["-t", "integer:disk_gb==30"], "m3"),
        (["-t", "disk_gb!=0", "--since", "3h"], "m1 m2"),
        (["--salvaged"], "m4"),
    ],
)
def test_events_are_found_by_what_people_know_of_them(
    stored: Run, arguments: list[str], expected: str
) -> None:
    assert ids(stored("events", "list", *arguments)) == expected.split()


def test_a_full_page_says_how_to_get_the_next(stored: Run) -> None:
    collected: list[str] = []
    marker: list[str] = []
    while page := ids(answer := stored("events", "list", "--limit", "4", *marker)):
        collected += page
        if "--marker" not in answer.err:
            break
        marker = ["--marker", answer.err.split()[-1]]
    assert collected == [f"m{number}" for number in range(10)]


def test_events_come_as_json_and_csv_with_nothing_lost(stored: Run) -> None:
    documents = json.loads(stored("events", "list", "--format", "json", "--limit", "3").out)
    assert [document["message_id"] for document in documents] == ["m0", "m1", "m2"]
    assert ["display_name", 1, "a [bold]name\nof two lines"] in documents[0]["traits"]
    text = stored("events", "list", "--format", "csv", "--columns", "disk_gb,display_name").out
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[2]["disk_gb"] == "20"
    assert rows[2]["display_name"] == "a [bold]name\nof two lines"
    assert json.loads(stored("events", "list", "--format", "json", "-t", "disk_gb=7").out) == []


def test_a_row_of_a_table_stays_one_line(stored: Run) -> None:
    answer = stored("events", "list", "--columns", "display_name")
    assert len(answer.lines()) == 11
    assert "a [bold]name of two lines" in answer.lines()[1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--since", "soon"], "'soon' is no time"),
        (["-t", "disk_gb"], "'disk_gb' is no filter"),
        (["-t", "integer:disk_gb=much"], "'much' is no integer"),
        (["--type", "nothing.*"], "no events of a type like nothing.*"),
        (["--marker", "m77"], "'m77'"),
        (["--limit", "-1"], "no number"),
        (["--since", "1h", "--until", "2h"], "is later than --until"),
    ],
)
def test_what_makes_no_sense_is_refused_with_2_and_named(
    stored: Run, arguments: list[str], complaint: str
) -> None:
    answer = stored("events", "list", *arguments)
    assert answer.code == 2
    assert complaint in answer.err
    assert "Traceback" not in answer.err


def test_an_event_is_shown_in_full(stored: Run) -> None:
    answer = stored("events", "show", "m4")
    assert answer.code == 0
    for words in ("compute.instance.delete.end", "disk_gb", "integer", "memory_mb", "'lots' is no integer"):
        assert words in answer.out
    (document,) = json.loads(stored("events", "show", "m4", "--format", "json").out)
    assert document["message_id"] == "m4"
    missing = stored("events", "show", "m0", "nope")
    assert missing.code == 1
    assert "nope: no such event" in missing.err


def test_types_are_listed_with_their_traits(stored: Run) -> None:
    assert stored("events", "types").lines()[1:] == [
        "compute.instance.create.end",
        "compute.instance.delete.end",
        "volume.create.end",
    ]
    lines = stored("events", "types", "volume.*", "--traits").lines()[1:]
    assert [line.split() for line in lines] == [
        ["volume.create.end", "display_name", "string"],
        ["volume.create.end", "project_id", "string"],
        ["volume.create.end", "disk_gb", "integer"],
    ]


@pytest.fixture
def dead(run: Run, sqlite_url: str) -> Run:
    """A database with two dead letters."""
    run("db", "sync")
    store = Connection(sqlite_url)
    store.record_events(
        [],
        [
            DeadLetter(
                digest=hashlib.sha256(body).digest(),
                body=body,
                stage=stage,
                error_class="DecodeError",
                error="no JSON",
                queue="notifications.info",
                event_type=event_type,
                headers={"x": 1},
            )
            for body, stage, event_type in (
                (b"\xff\x00", "decode", None),
                (b"{}", "convert", "volume.create.end"),
            )
        ],
    )
    store.close()
    return run


def test_dead_letters_are_listed_shown_and_purged(dead: Run) -> None:
    listed = json.loads(dead("dead-letters", "list", "--format", "json").out)
    assert {one["stage"] for one in listed} == {"decode", "convert"}
    (found,) = json.loads(dead("dead-letters", "list", "--stage", "decode", "--format", "json").out)
    assert dead("dead-letters", "list", "--type", "volume.*").out.count("\n") == 2
    assert dead("dead-letters", "list", "--older-than", "1h").out.count("\n") == 1
    shown = dead("dead-letters", "show", str(found["id"]))
    assert "DecodeError" in shown.out
    assert '"x": 1' in shown.out
    assert dead("dead-letters", "show", "999").code == 1
    refused = dead("dead-letters", "purge")
    assert refused.code == 2
    assert "--all" in refused.err
    assert "1 dead letters would be" in dead("dead-letters", "purge", "--stage", "decode", "--dry-run").out
    assert "1 dead letters deleted" in dead("dead-letters", "purge", "--stage", "decode").out
    assert "1 dead letters deleted" in dead("dead-letters", "purge", "--all").out


def test_the_body_of_a_dead_letter_comes_byte_for_byte(
    dead: Run, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (found,) = json.loads(dead("dead-letters", "list", "--stage", "decode", "--format", "json").out)
    config = str(tmp_path / "panko-ingest.conf")
    assert main(["--config-file", config, "dead-letters", "show", str(found["id"]), "--body"]) == 0
    assert capfdbinary.readouterr().out == b"\xff\x00"
