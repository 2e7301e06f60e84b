"""The commands that show what is stored: events, dead letters, the state of the schema."""

import concurrent.futures
import contextlib
import csv
import datetime
import fcntl
import hashlib
import io
import json
import os
import pty
import re
import socket
import socketserver
import struct
import subprocess
import sys
import termios
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from panko_ingest.cli.main import main
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import DeadLetter, Event, Trait
from tests import legacy


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    def lines(self) -> list[str]:
        return self.out.splitlines()


Run = Callable[..., Answer]


def ago(**length: float) -> datetime.datetime:
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)
    return now - datetime.timedelta(**length)


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
        generated = ago(hours=number, minutes=30)
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


def test_events_are_found_since_a_point_in_time_with_an_offset(stored: Run) -> None:
    assert ids(stored("events", "list", "--since", ago(hours=1).isoformat() + "+00:00")) == ["m0"]
    assert ids(stored("events", "list", "--since", ago(hours=-1).isoformat() + "+02:00")) == ["m0"]


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
    assert {"name": "display_name", "type": "string", "value": "a [bold]name\nof two lines"} in documents[0][
        "traits"
    ]
    text = stored("events", "list", "--format", "csv", "--columns", "disk_gb,display_name").out
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[2]["disk_gb"] == "20"
    assert rows[2]["display_name"] == "a [bold]name\nof two lines"
    assert json.loads(stored("events", "list", "--format", "json", "-t", "disk_gb=7").out) == []


def test_a_row_of_a_printed_table_stays_one_line(stored: Run) -> None:
    answer = stored("events", "list", "--columns", "display_name")
    assert len(answer.lines()) == 11
    assert r"a [bold]name\nof two lines" in answer.lines()[1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--since", "soon"], "'soon' is no time"),
        (["-t", "disk_gb"], "'disk_gb' is no filter"),
        (["-t", "integer:disk_gb=much"], "'much' is no integer"),
        (["--marker", "m77"], "'m77'"),
        (["--limit", "-1"], "no number"),
        (["--since", "1h", "--until", "2h"], "is later than --until"),
    ],
)
def test_filters_that_make_no_sense_are_refused_with_2_and_named(
    stored: Run, arguments: list[str], complaint: str
) -> None:
    answer = stored("events", "list", *arguments)
    assert answer.code == 2
    assert complaint in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(("output", "code"), [(">/dev/full", 3), (">&-", 0), (">&- 2>&- <&-", 0)])
def test_output_that_goes_nowhere_ends_no_command_with_a_traceback(
    stored: Run, tmp_path: Path, output: str, code: int
) -> None:
    done = subprocess.run(
        [
            "sh",
            "-c",
            f'exec "$0" -m panko_ingest --config-file panko-ingest.conf events list {output}',
            sys.executable,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    full = "panko-ingest: what is printed can't be written: No space left on device\n"
    assert (done.returncode, done.stdout, done.stderr) == (code, "", full if code else "")


@pytest.mark.parametrize("encoding", ["iso-8859-1", "ascii", "utf-8"])
def test_characters_that_the_output_lacks_are_escaped_and_json_stays_json(
    run: Run, sqlite_url: str, tmp_path: Path, encoding: str
) -> None:
    assert run("db", "sync").code == 0
    with contextlib.closing(Connection(sqlite_url)) as store:
        store.record_events([Event("m1", "é.☃.\N{GRINNING FACE}", ago(hours=1), [])])

    def written(form: str) -> str:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "panko_ingest", "--config-file", "panko-ingest.conf"),
                *("events", "list", "--format", form),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode(encoding)

    (event,) = json.loads(written("json"))
    assert event["event_type"] == "é.☃.\N{GRINNING FACE}"
    snowman = "☃" if encoding == "utf-8" else "\\u2603"
    assert snowman in written("table")


@pytest.mark.parametrize("arguments", [["show"], ["replay", "--id"], ["purge", "--id"]])
def test_a_number_of_a_dead_letter_that_can_not_be_is_refused_in_one_line(
    stored: Run, arguments: list[str]
) -> None:
    answer = stored("dead-letters", *arguments, "9" * 30)
    assert answer.code == 2
    assert answer.err.startswith("panko-ingest: ")
    assert "beyond 64 bits" in answer.err


def test_a_type_that_no_event_has_gives_an_empty_list_and_says_so(stored: Run) -> None:
    answer = stored("events", "list", "--type", "nothing.*", "--format", "csv")
    assert answer.code == 0
    assert len(answer.lines()) == 1, "the names of the columns"
    assert "no events of a type like nothing.* are stored" in answer.err


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


@pytest.mark.parametrize("kept", ["x", 7, [1, None], {"a": 1}])
def test_what_another_program_kept_under_our_key_is_shown_as_it_is(
    run: Run, sqlite_url: str, kept: object
) -> None:
    assert run("db", "sync").code == 0
    store = Connection(sqlite_url)
    store.record_events([Event("m", "x", ago(hours=1), [], {"_salvaged": kept})])
    store.close()
    answer = run("events", "show", "m")
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out[answer.out.index("{") :]) == {"_salvaged": kept}


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


SERVER, USER = "5e7f0a4c-server", "u1"


@pytest.fixture
def storied(run: Run, sqlite_url: str) -> Run:
    """The same with what happened to a server: by two requests, one of which also made a volume."""
    assert run("db", "sync").code == 0
    store = Connection(sqlite_url)
    told = [
        (
            "compute.instance.create.start",
            "building",
            "req-1",
            {"instance_id": SERVER, "resource_id": SERVER},
        ),
        ("volume.create.end", "available", "req-1", {"resource_id": "a volume"}),
        ("compute.instance.create.end", "active", "req-1", {"resource_id": SERVER}),
        ("compute.instance.delete.end", "deleted", "req-2", {"instance_id": SERVER}),
        ("image.update", "active", "req-3", {"resource_id": "an image"}),
    ]
    for number, (kind, state, request, named) in enumerate(told):
        texts = {**named, "user_id": USER, "state": state, "request_id": request}
        traits = [Trait(name, Trait.TEXT_TYPE, value) for name, value in texts.items()]
        store.record_events([Event(f"m{number}", kind, ago(hours=9 - number), traits)])
    store.close()
    return run


def test_the_history_of_a_resource_is_told_from_its_beginning(storied: Run) -> None:
    answer = storied("events", "history", SERVER)
    assert ids(answer) == ["m0", "m2", "m3"]
    header, first, *_ = answer.lines()
    assert header.split() == [
        "generated", "event_type", "result", "user", "request_id", "resource_id", "message_id",
    ]  # fmt: skip
    assert first.split()[2:] == ["compute.instance.create.start", "building", "u1", "req-1", SERVER, "m0"]
    assert ids(storied("events", "history", USER)) == ["m0", "m1", "m2", "m3", "m4"]
    assert ids(storied("events", "history", USER, "--limit", "2")) == ["m0", "m1"]
    assert ids(storied("events", "history", USER, "--since", "7h30m", "--until", "5h30m")) == ["m2", "m3"]
    (document, *_) = json.loads(storied("events", "history", SERVER, "--format", "json").out)
    assert {"name": "state", "type": "string", "value": "building"} in document["traits"]
    nobody = storied("events", "history", "nobody")
    assert (nobody.code, nobody.out, nobody.err) == (1, "", "nobody: no event of it is stored\n")


def test_the_events_of_a_request_are_told_over_all_services(storied: Run) -> None:
    assert ids(storied("events", "request", "req-1")) == ["m0", "m1", "m2"]
    rows = list(csv.DictReader(io.StringIO(storied("events", "request", "req-2", "--format", "csv").out)))
    assert [(row["event_type"], row["result"]) for row in rows] == [
        ("compute.instance.delete.end", "deleted")
    ]
    assert storied("events", "request", "req-9").code == 1


def test_event_types_are_counted_within_a_time(storied: Run) -> None:
    counted = json.loads(storied("events", "types", "--count", "--format", "json").out)
    assert counted == [
        {"event_type": name, "events": 1}
        for name in (
            "compute.instance.create.end", "compute.instance.create.start", "compute.instance.delete.end",
            "image.update", "volume.create.end",
        )
    ]  # fmt: skip
    recent = storied("events", "types", "compute.*", "--count", "--since", "7h30m")
    assert [line.split() for line in recent.lines()] == [
        ["event_type", "events"],
        ["compute.instance.create.end", "1"],
        ["compute.instance.delete.end", "1"],
    ]
    assert storied("events", "types", "--until", "8h30m").lines()[1:] == ["compute.instance.create.start"]
    assert storied("events", "types", "--traits", "--count").code == 2
    assert storied("events", "types", "--since", "1h", "--until", "2h").code == 2


def follow(run: Run, store: Connection, *arguments: str) -> Answer:
    """Follow while events are stored."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(run, "events", "follow", "--interval", "0.05", *arguments)
        number = 0
        while not answer.done():
            kind = ("compute.instance.create.end", "volume.create.end")[number % 2]
            traits = [Trait("project_id", Trait.TEXT_TYPE, f"p{number % 3}")]
            store.record_events([Event(f"m{number:04}", kind, ago(), traits)])
            number += 1
            concurrent.futures.wait([answer], 0.02)
        return answer.result()


def test_events_are_shown_as_they_are_stored(run: Run, sqlite_url: str) -> None:
    assert run("db", "sync").code == 0
    store = Connection(sqlite_url)
    shown = follow(run, store, "--count", "6", "--type", "volume.*")
    numbers = [int(one[1:]) for one in ids(shown)]
    assert numbers == list(range(numbers[0], numbers[0] + 12, 2)), "each one, and no other type"
    lines = follow(run, store, "--count", "3", "--trait", "project_id=p1", "--format", "json").lines()
    documents = [json.loads(line) for line in lines]
    assert {"name": "project_id", "type": "string", "value": "p1"} in documents[0]["traits"]
    assert len(documents) == 3
    store.close()
    refused = run("events", "follow", "--trait", "integer:x=lots")
    assert (refused.code, "'lots' is no integer" in refused.err) == (2, True)


def test_an_adopted_event_type_without_a_name_is_passed_over_by_who_follows_others(
    run: Run, sqlite_url: str
) -> None:
    store = Connection(sqlite_url)
    with store.engine.begin() as session:
        legacy.make(session, "panko")
    store.upgrade("0001")
    store.record_events([Event("first", "volume.create.end", ago(), [])])
    with store.engine.begin() as session:
        session.exec_driver_sql("UPDATE event_type SET desc = NULL WHERE desc = 'volume.create.end'")
    shown = follow(run, store, "--count", "3", "--type", "*")
    numbers = [int(one[1:]) for one in ids(shown)]
    assert numbers == list(range(numbers[0], numbers[0] + 6, 2))
    store.close()


def on_a_terminal(config: Path, columns: int, *arguments: str) -> list[str]:
    """Run a command on a terminal of so many columns, and return the lines that it shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    command = [sys.executable, "-m", "panko_ingest", "--config-file", str(config), *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    environment |= {"TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal is gone when the command is
            while part := os.read(ours, 4096):
                shown += part
        assert process.wait(30) == 0, shown
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()


@pytest.mark.parametrize("columns", [120, 200])
def test_a_list_takes_one_line_an_event_on_a_terminal_and_keeps_ids_of_events_whole(
    stored: Run, tmp_path: Path, sqlite_url: str, columns: int
) -> None:
    store = Connection(sqlite_url)
    names = [str(uuid.uuid4()) for _ in range(3)]
    traits = [Trait(name, Trait.TEXT_TYPE, str(uuid.uuid4())) for name in ("project_id", "resource_id")]
    generated = ago()
    store.record_events([Event(name, "compute.instance.create.start", generated, traits) for name in names])
    store.close()
    lines = on_a_terminal(tmp_path / "panko-ingest.conf", columns, "events", "list", "--limit", "3")
    header, *rows = [line for line in lines if line.strip() and "there may be more" not in line]
    assert header.split() == ["generated", "event_type", "message_id", "project_id", "resource_id"]
    assert len(rows) == 3
    for row, name in zip(rows, sorted(names, reverse=True), strict=True):
        assert f"{generated} " in row
        assert "compute.instance.create.start" in row
        assert name in row
        assert len(row) <= columns
        assert (str(traits[0].value) in row) == (columns == 200), "an id is whole, or cut where that is seen"
        assert ("…" in row) == (columns == 120)


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


@pytest.mark.parametrize("blank", ["", " "])
@pytest.mark.parametrize("action", ["list", "purge", "replay"])
@pytest.mark.parametrize("name", ["--type", "--error"])
def test_a_blank_filter_chooses_no_dead_letters(dead: Run, action: str, name: str, blank: str) -> None:
    answer = dead("dead-letters", action, name, blank)
    assert answer.code == 2
    assert f"argument {name}: is blank" in answer.err
    assert len(json.loads(dead("dead-letters", "list", "--format", "json").out)) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", ""],
        ["show", "m1", ""],
        ["history", ""],
        ["request", " "],
        ["list", "--type", ""],
        ["list", "--marker", ""],
        ["follow", "--count", "0", "--type", ""],
        ["types", ""],
    ],
)
def test_what_is_blank_stands_for_no_events(stored: Run, arguments: list[str]) -> None:
    answer = stored("events", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert "is blank" in answer.err


def test_the_body_of_a_dead_letter_comes_byte_for_byte(
    dead: Run, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (found,) = json.loads(dead("dead-letters", "list", "--stage", "decode", "--format", "json").out)
    config = str(tmp_path / "panko-ingest.conf")
    assert main(["--config-file", config, "dead-letters", "show", str(found["id"]), "--body"]) == 0
    assert capfdbinary.readouterr().out == b"\xff\x00"


def test_what_a_server_says_does_nothing_to_the_terminal(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    said = b"\xff\x10\x04no\x1b]0;owned\x07\x1b[2J"
    config = tmp_path / "panko-ingest.conf"
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:

        def refuse(connection: socket.socket, _address: object) -> None:
            with connection:
                connection.sendall(len(said).to_bytes(3, "little") + b"\0" + said)
                connection.recv(1000)

        server.process_request = refuse  # type: ignore[method-assign, assignment]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        config.write_text(f"[database]\nconnection = mysql://u:p@127.0.0.1:{server.server_address[1]}/d\n")
        assert main(["--config-file", str(config), "events", "list"]) == 3
        server.shutdown()
    out, err = capfdbinary.readouterr()
    assert b"owned" in err
    assert not set(out + err) & set(b"\x07\x1b")
