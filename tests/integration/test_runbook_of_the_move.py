"""docs/runbook-move-from-ceilometer.md: its commands, run on databases of Panko's and ours."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from panko_ingest.storage import EventFilter
from panko_ingest.storage.database.engine import make_engine
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.settings import StorageSettings
from tests import legacy
from tests.documents import ROOT, blocks, commands, run_script
from tests.integration.storage.samples import make_event, make_letter

PAGE = ROOT / "docs" / "runbook-move-from-ceilometer.md"
HOURS = {"2026-03-01T10:00": "2019-04-01T04:00", "2026-03-01T11:00": "2019-04-01T09:00"}


@pytest.fixture
def theirs(database_url: str) -> str:
    """URL of a database of Panko's, on each kind in turn."""
    engine = make_engine(database_url, StorageSettings())
    with engine.begin() as connection:
        legacy.make(connection, "panko")
        legacy.fill(connection, "panko")
    engine.dispose()
    return database_url


@pytest.fixture
def ours(theirs: str, tmp_path: Path) -> Iterator[Connection]:
    """A store with the same events, but one, and with one more and a dead letter."""
    store = Connection(f"sqlite:///{tmp_path}/ours.sqlite")
    store.upgrade()
    store.merge(theirs, lambda _done, _total: None)
    with store.engine.begin() as connection:
        legacy.forget(connection, "8f7c3a1e-0000-4000-8000-000000000020")
    missed = make_event(1)
    missed.generated = legacy.START.replace(hour=6)
    store.record_events([missed], [make_letter("one")])
    yield store
    store.close()


def run(
    kind: str,
    folder: Path,
    theirs: str,
    ours: str = "",
    lines: slice = slice(None),
    hours: Mapping[str, str] = HOURS,
) -> "subprocess.CompletedProcess[str]":
    """Run a block of the page, or some of its lines, with its files in a folder.

    :param hours: what to write for the times that are printed there.
    """
    (block,) = blocks("bash", kind, path=PAGE)
    files = {"panko.conf": theirs, "before.conf": ours or f"sqlite:///{folder}/ours.sqlite"}
    files[".panko-ingest/panko-ingest.conf"] = files["before.conf"]
    for name, url in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"[database]\nconnection = {url}\n")
    script = "\n".join(commands(block)[lines]).replace("/etc/panko-ingest/", f"{folder}/")
    for printed, wanted in hours.items():
        script = script.replace(printed, wanted)
    return run_script(script, folder)


def test_the_comparison_shows_what_one_of_the_two_databases_lacks(
    theirs: str, ours: Connection, tmp_path: Path
) -> None:
    done = run("compare", tmp_path, theirs)
    assert done.returncode == 1, done.stderr
    (missing, more) = sorted(line for line in done.stdout.splitlines() if line[0] in "<>")
    assert "8f7c3a1e-0000-4000-8000-000000000020" in missing
    assert missing.startswith("< ")
    assert "m0001" in more


def test_after_the_take_over_the_database_of_panko_has_all_that_either_had(
    theirs: str, ours: Connection, tmp_path: Path
) -> None:
    done = run("takeover", tmp_path, theirs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 events there: 1 are new here, 199 were here already" in done.stdout
    assert "1 dead letters there: 1 are new here" in done.stdout
    adopted = Connection(theirs)
    found = {event.message_id for event in adopted.get_events(EventFilter())}
    assert len(found) == 201
    assert "m0001" in found
    adopted.close()
