"""Changing the schema beneath those who write and read: nothing is lost, nothing stays broken."""

import datetime
import threading
from collections.abc import Iterator

import pytest

from panko_ingest.storage import EventFilter, StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.schema import revisions
from tests import legacy
from tests.waiting import wait_until

BATCH = 20


class Writer(threading.Thread):
    """Records batch after batch, and a refused one again, as a worker does."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.store = Connection(url)
        self.done = threading.Event()
        self.batches = 0
        self.refusals: list[StorageUnavailable] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.done.is_set():
                self._record(self.batches)
                list(self.store.get_events(EventFilter(), {"limit": 3}))
                self.batches += 1
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.error = error

    def _record(self, number: int) -> None:
        moment = datetime.datetime(2026, 7, 1) + datetime.timedelta(seconds=number)
        events = [
            Event(
                f"{self.name}-{number}-{index}",
                f"type.{number % 5}",
                moment,
                [Trait("project_id", Trait.TEXT_TYPE, self.name), Trait("index", Trait.INT_TYPE, index)],
            )
            for index in range(BATCH)
        ]
        while True:
            try:
                result = self.store.record_events(events, on_failure=lambda _, error: pytest.fail(str(error)))
                assert len(result.recorded) + len(result.duplicates) == BATCH
            except StorageUnavailable as error:
                self.refusals.append(error)
                self.done.wait(0.05)
            else:
                return

    def past(self, batch: int) -> bool:
        """Tell whether this batch is recorded."""
        if self.error is not None:
            raise self.error
        return self.batches > batch

    def finish(self) -> None:
        self.done.set()
        self.join(60)
        self.store.close()
        if self.error is not None:
            raise self.error


@pytest.fixture
def writers(database_url: str) -> Iterator[list[Writer]]:
    store = Connection(database_url)
    with store.engine.begin() as connection:
        legacy.make(connection, "panko")
        legacy.fill(connection, "panko", events=2000)
    store.upgrade(postpone_rewrites=True)
    store.close()
    started = [Writer(database_url, f"w{number}") for number in range(2)]
    yield started
    for writer in started:
        writer.done.set()


def test_writers_and_readers_go_on_through_a_rewrite_of_every_table(
    writers: list[Writer], database_url: str
) -> None:
    for writer in writers:
        writer.start()
    wait_until(lambda: all(writer.past(20) for writer in writers), 30, "writers to be at work")
    store = Connection(database_url)
    store.upgrade()
    assert store.schema_state() == (revisions.head(), revisions.head())
    marks = [writer.batches for writer in writers]
    wait_until(
        lambda: all(writer.past(mark + 20) for writer, mark in zip(writers, marks, strict=True)),
        30,
        "writers to go on after the rewrite",
    )
    for writer in writers:
        writer.finish()
    assert not [error for writer in writers for error in writer.refusals if error.operator]
    for writer in writers:
        having = [{"key": "project_id", "string": writer.name}]
        events = list(store.get_events(EventFilter(traits_filter=having)))
        assert len(events) == len({event.message_id for event in events}) == writer.batches * BATCH
        assert all(len(event.traits) == 2 for event in events)
    store.close()
