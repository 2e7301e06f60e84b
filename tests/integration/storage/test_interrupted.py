"""Commands that an operator stops in the middle: what is done stays, and the next run does the rest, once."""

import re
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from panko_ingest import dead_letter
from panko_ingest.delivery import Delivery
from panko_ingest.errors import ConvertError
from panko_ingest.storage import DeadLetterFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import DeadLetter
from tests import preloaded
from tests.bodies import body
from tests.integration.storage.samples import count, counts, make_events, make_letter
from tests.waiting import wait_until

INTERRUPTED = "panko-ingest: interrupted: what is done stays, and the same command does the rest\n"


def command(folder: Path, url: str, *arguments: str) -> preloaded.Process:
    configuration = folder / "panko-ingest.conf"
    configuration.write_text(f"[database]\nconnection = {url}\n")
    return preloaded.Process(["--config-file", configuration, *arguments])


def stop(process: preloaded.Process, number: signal.Signals) -> None:
    """Send a signal; check how the command ends, and what it says."""
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    ended, said = (130, INTERRUPTED) if number is signal.SIGINT else (-number, "")
    assert (process.returncode, output, errors) == (ended, "", said)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_a_replay_that_is_stopped_is_ended_by_the_next(
    store: Connection, tmp_path: Path, number: signal.Signals
) -> None:
    url = store.engine.url.render_as_string(hide_password=False)
    letters = 2000
    store.record_events([], [letter(one) for one in range(letters)])
    process = command(tmp_path, url, "dead-letters", "replay", "--all")
    wait_until(lambda: count(store, "event") > 0, 60, "the first events")
    stop(process, number)
    done = count(store, "event")
    assert 0 < done < letters
    assert store.count_dead_letters(DeadLetterFilter()) == letters - done

    process = command(tmp_path, url, "dead-letters", "replay", "--all")
    output, errors = process.communicate(timeout=120)

    assert (process.returncode, errors) == (0, "")
    assert output == f"{letters - done} dead letters replayed, 0 left\n"
    assert count(store, "event") == letters
    assert store.count_dead_letters(DeadLetterFilter()) == 0


def letter(number: int) -> DeadLetter:
    content = body(message_id=f"m{number:04}")
    delivery = Delivery(content, content_type="application/json", queue="notifications.info")
    return dead_letter.from_delivery(delivery, ConvertError("a definition was wrong"), stage="convert")


def test_a_merge_that_is_stopped_is_ended_by_the_next(store: Connection, tmp_path: Path) -> None:
    url = store.engine.url.render_as_string(hide_password=False)
    other = Connection(f"sqlite:///{tmp_path}/other.sqlite")
    other.upgrade()
    for first in range(0, 20_000, 2000):
        other.record_events(make_events(2000, first), [make_letter(f"letter {first}")])
    wanted = counts(other)
    other.close()
    process = command(tmp_path, url, "db", "merge", "--from", f"sqlite:///{tmp_path}/other.sqlite")
    wait_until(lambda: count(store, "event") > 0, 60, "the first events")
    stop(process, signal.SIGINT)
    assert 0 < count(store, "event") < 20_000

    process = command(tmp_path, url, "db", "merge", "--from", f"sqlite:///{tmp_path}/other.sqlite")
    output, errors = process.communicate(timeout=120)

    assert (process.returncode, errors) == (0, "")
    new, here = map(int, re.findall(r"(\d+) (?:are new|were here)", output.splitlines()[0]))
    assert new + here == 20_000
    assert counts(store) == wanted


def test_an_interruption_in_the_middle_of_a_batch_is_no_broken_connection(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else Ctrl-C would be told as a fault of the database, or the batch tried again."""
    store = Connection(postgresql_url)
    store.upgrade()

    def interrupt(cursor: psycopg.Cursor[Any], *_: object) -> None:
        cursor.connection.pgconn.send_query(b"SELECT pg_sleep(1)")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Cursor, "copy", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.record_events(make_events(300))
    assert counts(store)["event"] == 0
    assert len(store.record_events(make_events(300)).recorded) == 300
    store.close()
