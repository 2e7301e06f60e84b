"""What others wrote into a database is escaped wherever a command prints it, on both streams."""

import contextlib
import datetime
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from panko_ingest.cli.main import main
from panko_ingest.storage import DeadLetterFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import DeadLetter, Event

EVIL = "m\x1b]0;owned\x07\x1b[2J\x9b2J\u202e"
ACTIVE = {"\x1b", "\x9b", "\x07", "\r", "\x7f", "\0", "\u202e"}
SHOWN = r"m\x1b]0;owned\x07\x1b[2J\x9b2J\u202e"


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator["Command"]:
    command = Command(tmp_path, capsys)
    yield command
    command.store.close()


class Command:
    """Runs commands on a database; nothing that they print may do anything to a terminal."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._conf = folder / "panko-ingest.conf"
        self._conf.write_text(f"[database]\nconnection = sqlite:///{folder}/ours.sqlite\n")
        self.store = Connection(f"sqlite:///{folder}/ours.sqlite")
        self.store.upgrade()

    def __call__(self, *words: str) -> tuple[str, str]:
        """Return what a command prints on standard output and on standard error."""
        main(["--config-file", str(self._conf), *words])
        output, errors = self._capsys.readouterr()
        assert not (set(output) | set(errors)) & ACTIVE
        return output, errors


def rows(path: Path) -> AbstractContextManager[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(path, isolation_level=None))


def event(message_id: str) -> Event:
    return Event(message_id, "t", datetime.datetime(2026, 1, 1))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["events", "list", "--limit", "1"], f"there may be more: --marker '{SHOWN}'"),
        (["events", "list", "--type", EVIL], f"no events of a type like {SHOWN} are stored"),
        (["events", "show", "x" + EVIL], f"x{SHOWN}: no such event is stored"),
        (["events", "history", "x" + EVIL], f"x{SHOWN}: no event of it is stored"),
    ],
    ids=["list", "types", "show", "history"],
)
def test_what_events_tells_on_standard_error_is_escaped(
    command: Command, words: list[str], said: str
) -> None:
    command.store.record_events([event(EVIL)])
    _, errors = command(*words)
    assert errors == f"{said}\n"


def test_an_event_of_another_database_that_is_not_stored_is_told_escaped(
    command: Command, tmp_path: Path
) -> None:
    other = Connection(f"sqlite:///{tmp_path}/other.sqlite")
    other.upgrade()
    other.record_events([event(EVIL)])
    other.close()
    with rows(tmp_path / "other.sqlite") as theirs:
        theirs.execute("CREATE TABLE old AS SELECT * FROM event")
        theirs.execute("DROP TABLE event")
        theirs.execute("ALTER TABLE old RENAME TO event")
        theirs.execute("UPDATE event SET generated = NULL")
    output, _ = command("db", "merge", "--from", f"sqlite:///{tmp_path}/other.sqlite")
    assert output.splitlines()[-1] == f"not stored: {SHOWN}: it has no time"


@pytest.mark.parametrize("raw", ["[" * 50_000, *(f'{{"_salvaged": {odd}}}' for odd in ("5", '"x"', "[1]"))])
def test_what_another_program_stored_as_raw_keeps_no_event_from_being_shown(
    command: Command, tmp_path: Path, raw: str
) -> None:
    command.store.record_events([event("odd"), event("plain")])
    with rows(tmp_path / "ours.sqlite") as ours:
        ours.execute("UPDATE event SET raw = ? WHERE message_id = 'odd'", (raw,))
    output, errors = command("events", "list")
    assert {"odd", "plain"} <= set(output.split())
    assert not errors
    output, errors = command("events", "show", "odd", "plain")
    assert {"odd", "plain"} <= set(output.split())
    assert not errors


def test_the_body_of_a_dead_letter_is_escaped_on_a_terminal(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = DeadLetter(b"." * 32, b"\xff" + EVIL.encode(), "decode", "DecodeError", "is no JSON")
    command.store.record_events([], [letter])
    (stored,) = command.store.get_dead_letters(DeadLetterFilter(), 10)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output, _ = command("dead-letters", "show", str(stored.id), "--body")
    assert output == "\\xff" + SHOWN
