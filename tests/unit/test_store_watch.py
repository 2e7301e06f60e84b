"""Who is told to be slow: the store with what it was given only, else the bus that is read."""

import logging
from pathlib import Path

import pytest

from panko_ingest import storage
from panko_ingest.metrics import Metrics
from panko_ingest.shared_metrics import Totals
from panko_ingest.workers import store_watch
from tests.waiting import wait_until


@pytest.mark.parametrize("idle", [True, False])
def test_the_store_is_told_to_be_slow_with_what_it_was_given_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, idle: bool
) -> None:
    monkeypatch.setattr(store_watch, "SLOW", 0.05)
    caplog.set_level(logging.INFO)
    connection = storage.get_connection(f"sqlite:///{tmp_path}/events.sqlite")
    in_hand: dict[tuple[str, ...], float] = {("vhost quiet",): 0.0, ("vhost nova",): 3.0}
    watch = store_watch.StoreWatch(
        connection, Metrics(), lambda: Totals({"messages_in_flight": in_hand}), lambda: idle
    )

    def said(what: str) -> bool:
        watch.look()
        return what in caplog.text

    given = "Nothing was given to the event database for"
    written = "Nothing was written to the event database for"
    wait_until(lambda: said(given if idle else written), 10, "the log")
    for _ in range(20):
        watch.look()
    assert caplog.text.count("Nothing was") == 1
    if idle:
        assert "those of vhost nova are still converted" in caplog.text
    in_hand["vhost nova",] = 0.0
    watch.look()
    assert ("takes what it was slow to take" in caplog.text) != idle
    connection.close()
