"""Commands that show events of adopted tables, of which a row may lack what ours always have."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from panko_ingest.cli.main import main
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from tests import legacy

START = datetime.datetime(2026, 3, 1, 12)
WITHOUT = {
    "no time": "generated",
    "no time either": "generated",
    "no id": "message_id",
    "none either": "message_id",
}

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on what happened to a server; return what it says."""
    store = Connection(database_url)
    with store.engine.begin() as session:
        legacy.make(session, "panko")
    store.upgrade("0001")
    names = ["first", *WITHOUT, "last"]
    events = [
        Event(name, "x", START, [Trait("resource_id", 1, "R"), Trait("name", 1, name)]) for name in names
    ]
    events[-1].generated += datetime.timedelta(1)
    for event in (events[0], events[1], events[-1]):
        event.traits.append(Trait("instance_id", 1, "R"))
    store.record_events(events)
    with store.engine.begin() as session:
        for name, column in WITHOUT.items():
            session.exec_driver_sql(f"UPDATE event SET {column} = NULL WHERE message_id = '{name}'")
    store.close()
    conf = tmp_path / "panko-ingest.conf"
    conf.write_text(f"[database]\nconnection = {database_url}\n")

    def call(*words: str) -> tuple[str, str]:
        assert main(["--config-file", str(conf), "events", *words]) == 0
        said = capsys.readouterr()
        return said.out, said.err

    return call


def shown(output: str) -> list[str]:
    return [
        trait["value"] for event in json.loads(output) for trait in event["traits"] if trait["name"] == "name"
    ]


@pytest.mark.parametrize(
    "database_url",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
    indirect=True,
)
def test_events_without_a_time_or_an_id_are_shown_each_once(run: Run) -> None:
    everything = sorted(["first", *WITHOUT, "last"])
    output, _ = run("list", "--format", "json")
    assert sorted(shown(output)) == everything
    assert {event["generated"] for event in json.loads(output)} == {
        None, "2026-03-01T12:00:00", "2026-03-02T12:00:00"
    }  # fmt: skip
    assert sorted(shown(run("history", "R", "--format", "json")[0])) == everything
    assert shown(run("show", "no time", "--format", "json")[0]) == ["no time"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_page_that_ends_with_an_event_without_an_id_names_no_marker(run: Run) -> None:
    _, errors = run("list", "--oldest-first", "--limit", "4")
    assert errors == "there may be more: --limit 0 lists all\n"
