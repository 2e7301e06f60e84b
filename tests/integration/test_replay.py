"""``panko-ingest dead-letters replay``, on every database."""

import contextlib
import os
import pty
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from panko_ingest import dead_letter
from panko_ingest.cli.main import main
from panko_ingest.delivery import Delivery
from panko_ingest.errors import ConvertError
from panko_ingest.storage import DeadLetterFilter
from tests.bodies import body
from tests.daemon import COMMAND
from tests.integration.storage.samples import legal_hold
from tests.ledger import Ledger

Run = Callable[..., tuple[int, str]]


def delivery(event_type: str = "compute.instance.update") -> Delivery:
    content = body(event_type, payload={"instance_id": "i-1", "adminPass": "s3cret"})
    return Delivery(content, content_type="application/json", queue="notifications.info")


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    ledger = Ledger(database_url)
    yield ledger
    ledger.close()


@pytest.fixture
def run(ledger: Ledger, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    conf = tmp_path / "panko-ingest.conf"
    conf.write_text(f"[database]\nconnection = {ledger.url}\n")

    def call(*words: str) -> tuple[int, str]:
        code = main(["--config-file", str(conf), "dead-letters", "replay", *words])
        return code, capfdbinary.readouterr().out.decode()

    return call


@pytest.fixture
def letters(ledger: Ledger) -> list[Delivery]:
    """Three that would become events today, and one that never will."""
    good = [delivery(), delivery(), delivery("volume.create.end")]
    failures = [*good, Delivery(b"{", queue="notifications.info")]
    error = ConvertError("a definition was wrong")
    ledger.connection.record_events(
        [], [dead_letter.from_delivery(item, error, stage="convert", event_type="x.y") for item in failures]
    )
    return good


def test_dead_letters_that_can_be_converted_now_become_events_and_the_rest_stay(
    run: Run, ledger: Ledger, letters: list[Delivery]
) -> None:
    assert ledger.dead_letters() == 4
    code, output = run("--all")
    assert code == 1
    assert "3 dead letters replayed, 1 left" in output
    assert "DecodeError" in output
    ledger.assert_holds([item.body for item in letters])
    assert ledger.dead_letters() == 1


def test_a_dead_letter_that_the_database_keeps_is_listed_and_keeps_no_other(
    run: Run, ledger: Ledger, letters: list[Delivery]
) -> None:
    found = ledger.connection.get_dead_letters(DeadLetterFilter())
    held = next(summary.id for summary in found if summary.size > len(b"{"))
    with legal_hold(ledger.connection, f"id = {held}", "dead_letter"):
        code, output = run("--all")
    assert code == 1
    assert "2 dead letters replayed, 2 left" in output
    assert "foreign key" in output.lower()
    assert (ledger.events(), ledger.dead_letters()) == (2, 2)


def test_replaying_dead_letters_again_changes_nothing(
    run: Run, ledger: Ledger, letters: list[Delivery]
) -> None:
    run("--all")
    ledger.connection.record_events(
        [], [dead_letter.from_delivery(letters[0], ConvertError("again"), stage="convert")]
    )
    assert run("--error", "again") == (0, "1 dead letters replayed, 0 left\n")
    ledger.assert_holds([item.body for item in letters])


def test_a_dry_run_stores_nothing(run: Run, ledger: Ledger, letters: list[Delivery]) -> None:
    code, output = run("--all", "--dry-run")
    assert code == 1
    assert "3 dead letters would be replayed, 1 would be left" in output
    assert (ledger.events(), ledger.dead_letters()) == (0, 4)


def test_only_dead_letters_that_the_filters_choose_are_replayed(
    run: Run, ledger: Ledger, letters: list[Delivery]
) -> None:
    chosen = next(iter(ledger.connection.get_dead_letters(DeadLetterFilter(), 1)))
    run("--id", str(chosen.id))
    assert ledger.events() + ledger.dead_letters() == 4
    assert main(["--config-file", "/dev/null", "dead-letters", "replay"]) == 2


def test_a_redacted_letter_is_replayed_as_it_is(run: Run, ledger: Ledger, letters: list[Delivery]) -> None:
    stored = [
        ledger.connection.get_dead_letter(item.id)
        for item in ledger.connection.get_dead_letters(DeadLetterFilter())
    ]
    assert sum(item.letter.redacted for item in stored if item) == 3
    run("--all")
    assert ledger.events() == 3


def test_on_a_terminal_many_that_are_replayed_tell_how_far_it_is(tmp_path: Path, sqlite_url: str) -> None:
    ledger = Ledger(sqlite_url)
    error = ConvertError("a definition was wrong")
    ledger.connection.record_events(
        [], [dead_letter.from_delivery(delivery(), error, stage="convert") for _ in range(200)]
    )
    conf = tmp_path / "panko-ingest.conf"
    conf.write_text(f"[database]\nconnection = {sqlite_url}\n")
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "--config-file", conf, "dead-letters", "replay", "--all"],
        stdout=subprocess.PIPE,
        stderr=end,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        text=True,
    ) as replaying:
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while more := os.read(terminal, 65536):
                shown += more
        os.close(terminal)
        assert replaying.stdout is not None
        assert replaying.stdout.read() == "200 dead letters replayed, 0 left\n"
    assert b"replaying" in shown
    assert b"100%" in shown
    ledger.close()
