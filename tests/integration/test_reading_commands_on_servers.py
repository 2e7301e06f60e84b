"""Commands that show events, where a server does it otherwise than SQLite."""

import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from panko_ingest.cli.main import main
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from tests.services import PostgreSQL

pytestmark = pytest.mark.postgresql

MOMENT = datetime.datetime(2026, 3, 1, 12)


@pytest.fixture
def icu_url(postgresql: PostgreSQL) -> Iterator[str]:
    """An empty database that sorts as people do: a1 before B2."""
    url = postgresql.create_database("LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
    yield url
    postgresql.drop_database(url)


@pytest.fixture
def listed(icu_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Return the message_ids that a command shows."""
    conf = tmp_path / "panko-ingest.conf"
    conf.write_text(f"[database]\nconnection = {icu_url}\n")

    def run(*words: str) -> list[str]:
        assert main(["--config-file", str(conf), "events", *words, "--format", "json"]) == 0
        return [event["message_id"] for event in json.loads(capsys.readouterr().out)]

    return run


def test_a_history_shows_the_events_of_one_moment_once_whatever_the_order_of_the_database(
    icu_url: str, listed: Callable[..., list[str]]
) -> None:
    store = Connection(icu_url)
    store.upgrade()
    named = {"a1": ["resource_id"], "B2": ["resource_id", "instance_id"], "c3": ["instance_id"]}
    store.record_events(
        [Event(name, "x", MOMENT, [Trait(key, 1, "R") for key in keys]) for name, keys in named.items()]
    )
    store.record_events([Event("d4", "x", MOMENT + datetime.timedelta(1), [Trait("user_id", 1, "R")])])
    store.close()
    assert listed("history", "R") == ["a1", "B2", "c3", "d4"]
    assert listed("history", "R", "--limit", "2") == ["a1", "B2"]


def test_a_glob_may_stand_for_more_types_than_a_statement_has_parameters(
    icu_url: str, listed: Callable[..., list[str]]
) -> None:
    store = Connection(icu_url)
    store.upgrade()
    store.record_events([Event("a", "made.up", MOMENT, []), Event("b", "other", MOMENT, [])])
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO event_type (\"desc\") SELECT 'made.up.' || i FROM generate_series(1, 66000) AS i"
        )
    store.close()
    assert listed("list", "--type", "made.*") == ["a"]


def test_an_event_that_is_not_stored_is_told_by_the_code_beside_one_of_two_days(
    postgresql_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "panko-ingest.conf"
    conf.write_text(
        f"[database]\nconnection = {postgresql_url}\npartition_by = day\nevent_time_to_live = 7d\n"
    )
    assert main(["--config-file", str(conf), "db", "sync"]) == 0
    store = Connection(postgresql_url)
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    store.record_events([Event("same", "x", now - datetime.timedelta(days), []) for days in (0, 1)])
    store.close()
    show = ["--config-file", str(conf), "events", "show", "same"]
    assert main(show) == 0
    assert capsys.readouterr().out.count("same") == 2
    assert main([*show, "absent"]) == 1
    assert "absent: no such event is stored" in capsys.readouterr().err
