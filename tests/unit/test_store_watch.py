"""What the log says of a store that keeps messages waiting, and of its end."""

import logging

import pytest

from panko_ingest.shared_metrics import SharedMetrics
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
        shared = SharedMetrics()
        self.metrics = shared.join("ingester-0")
        self.watch = StoreWatch(
            self.store, self.metrics, lambda: shared.totals("ingester-0"), lambda: self.refusal
        )

    def hold(self, messages: int, seconds: int) -> None:
        """Have so many messages in hand for so long."""
        self.metrics.of_bus("here").messages_in_flight.set(messages)
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
        worker.metrics.batch_messages.observe(20)
        worker.hold(0, seconds=1)
    assert caplog.messages[1:] == ["The event database takes what it was slow to take"]
    worker.store.close()
