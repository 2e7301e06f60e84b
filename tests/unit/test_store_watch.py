"""What the log says of a store that keeps messages waiting, and of its end; or of the bus that is read."""

import logging
from pathlib import Path

import pytest

from panko_ingest import storage
from panko_ingest.metrics import Metrics
from panko_ingest.shared_metrics import Totals
from panko_ingest.storage import StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.workers import awake, store_watch
from panko_ingest.workers.store_watch import StoreWatch
from tests.waiting import wait_until


class Worker:
    """One whose metrics say what it has in hand and what it committed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (store_watch, awake):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.refusal: Exception | None = None
        self.store = Connection("sqlite://")
        self.in_hand: dict[tuple[str, ...], float] = {}
        self.committed: dict[tuple[str, ...], float] = {(): 0.0}
        figures = {"messages_in_flight": self.in_hand, "batch_messages_sum": self.committed}
        self.watch = StoreWatch(
            self.store, Metrics(), lambda: Totals(figures), lambda: False, lambda: self.refusal
        )

    def hold(self, messages: int, seconds: int) -> None:
        """Have so many messages in hand for so long."""
        self.in_hand["here",] = messages
        for _ in range(seconds):
            self.now += 1
            self.watch.look()


def test_messages_that_are_given_back_are_no_sign_that_the_store_takes_any(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(monkeypatch)
    worker.refusal = StorageUnavailable("1290: the server is read-only")
    with caplog.at_level(logging.INFO):
        worker.hold(20, seconds=10)
        wait_until(lambda: bool(caplog.messages), 5, "the cause")
        worker.hold(0, seconds=30)
        worker.hold(20, seconds=10)
        told = "Nothing was written to the event database for 5 s, 20 messages are in hand: "
        assert caplog.messages == [f"{told}1290: the server is read-only"]
        worker.committed[()] = 20
        worker.hold(0, seconds=1)
    assert caplog.messages[1:] == ["The event database takes what it was slow to take"]
    worker.store.close()


@pytest.mark.parametrize("idle", [True, False])
def test_the_store_is_told_to_be_slow_with_what_it_was_given_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, idle: bool
) -> None:
    monkeypatch.setattr(store_watch, "SLOW", 0.05)
    caplog.set_level(logging.INFO)
    connection = storage.get_connection(f"sqlite:///{tmp_path}/events.sqlite")
    committed: dict[tuple[str, ...], float] = {(): 0.0}
    in_hand: dict[tuple[str, ...], float] = {("vhost quiet",): 0.0, ("vhost nova",): 3.0}
    watch = store_watch.StoreWatch(
        connection,
        Metrics(),
        lambda: Totals({"messages_in_flight": in_hand, "batch_messages_sum": committed}),
        lambda: idle,
        lambda: None,
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
    committed[()] = 3.0
    watch.look()
    assert ("takes what it was slow to take" in caplog.text) != idle
    connection.close()
