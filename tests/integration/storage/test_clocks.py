"""A host whose clock is wrong expires nothing too early."""

import datetime
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from panko_ingest import timestamps
from panko_ingest.cli.main import main
from panko_ingest.storage import StorageUnavailable
from panko_ingest.storage.database import base as databases, leases
from panko_ingest.storage.database.engine import read_transaction
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from panko_ingest.storage.recording import dead_letters
from panko_ingest.storage.schema import partitions
from panko_ingest.storage.settings import StorageSettings
from tests.integration.storage.samples import ON_SERVERS, count, make_letter
from tests.waiting import wait_until

YEAR = 365 * 86400.0

# SQLite's clock is the host's.
pytestmark = ON_SERVERS


@pytest.fixture
def served(store: Connection) -> Connection:
    """A store with an event and a dead letter of now."""
    store.record_events([Event("now", "a", timestamps.utc_now(), [], {})], [make_letter("now")])
    return store


def set_clock(monkeypatch: pytest.MonkeyPatch, years: int) -> None:
    ahead = timestamps.utc_now() + years * datetime.timedelta(days=365)
    monkeypatch.setattr(timestamps, "utc_now", lambda: ahead)


def test_a_host_whose_clock_is_years_ahead_deletes_nothing_of_now(
    served: Connection,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    conf = tmp_path / "panko-ingest.conf"
    conf.write_text(
        f"[database]\nconnection = {database_url}\nevent_time_to_live = 365d\n"
        "[expirer]\ndead_letter_time_to_live = 365d\n"
    )
    set_clock(monkeypatch, years=10)

    assert main(["--config-file", str(conf), "expire", "--dry-run"]) == 0
    assert "0 dead letters last seen before" in capsys.readouterr().out
    assert main(["--config-file", str(conf), "dead-letters", "purge", "--older-than", "365d"]) == 0
    assert main(["--config-file", str(conf), "expire"]) == 0
    assert served.forecast_expiry(YEAR).events == 0
    assert served.clear_expired_data(YEAR) == 0
    assert (count(served, "event"), count(served, "dead_letter")) == (1, 1)
    with read_transaction(served.engine) as connection:
        starts = [one.start for one in partitions.found(connection) if one.start]
    assert all(start < timestamps.utc_now().date() - datetime.timedelta(days=3000) for start in starts)


def test_a_worker_whose_clock_is_behind_makes_no_dead_letter_expire(
    served: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = timestamps.utc_now() - datetime.timedelta(days=60)
    monkeypatch.setattr(dead_letters, "utc_now", lambda: behind)
    served.record_events([], [make_letter("new"), make_letter("now")])
    assert served.clear_expired_dead_letters(30 * 86400.0) == 0
    assert count(served, "dead_letter") == 2


def test_clocks_that_differ_are_told_once(
    served: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_clock(monkeypatch, years=10)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            served.expire(YEAR)
    (told,) = [text for text in caplog.messages if "clock" in text]
    assert "s ahead of that of the database server" in told


def test_a_host_whose_clock_is_years_behind_deletes_less(
    served: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, years=-1)
    assert served.clear_expired_data(0) == 0
    monkeypatch.undo()
    wait_until(lambda: served.clear_expired_data(0) == 1, 10, "the event to be of the past")


def test_a_lease_given_while_the_servers_clock_was_years_ahead_keeps_no_expirer_out(
    served: Connection,
) -> None:
    now = databases.of(served.engine).now
    for ahead, stood_by in ((5.0, True), (YEAR, False)):
        with served.engine.begin() as connection:
            connection.exec_driver_sql(
                f"UPDATE panko_ingest_lease SET holder = 'another', ends = {now} + {ahead}"
            )
        assert served.expire(YEAR).stood_by is stood_by


def test_nobody_waits_for_a_lease_whose_row_was_deleted_meanwhile(
    served: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    now = databases.of(served.engine).now

    def wait() -> None:
        with leases.waited_for(served.engine, StorageSettings(), leases.MIGRATION):
            pass

    with served.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE panko_ingest_lease SET holder = 'another', ends = {now} + 15")
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(wait)
        wait_until(lambda: "Waiting for the lease 'migration'" in caplog.text, 10, "the wait")
        with served.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM panko_ingest_lease")
        with pytest.raises(StorageUnavailable, match="the row 'migration' was deleted: try again"):
            waiting.result(10)
