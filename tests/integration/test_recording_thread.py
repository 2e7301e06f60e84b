"""The thread that records, on real servers: what is too much for one transaction goes in several."""

import threading
from collections.abc import Iterator
from functools import partial

import pytest
import sqlalchemy as sa

from panko_ingest.batch import Batch
from panko_ingest.delivery import Delivery
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline.recording_thread import RecordingThread
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from tests.integration.storage.samples import (
    another_writer_of,
    connect,
    count,
    make_events,
    make_letter,
    rows,
)
from tests.waiting import wait_until

SLOW = {
    "postgresql": (
        (
            "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(0.02); RETURN new; END $$"
        ),
        "CREATE TRIGGER slow BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION slowly()",
    ),
    "mysql": ("CREATE TRIGGER slow BEFORE INSERT ON event FOR EACH ROW SET @slept = SLEEP(0.02)",),
}


class Bus:
    """What a bus is to the thread."""

    session = 0

    def __init__(self) -> None:
        self.settled: list[Batch] = []

    def settle(self, batch: Batch) -> None:
        self.settled.append(batch)

    def wake(self) -> None:
        pass


@pytest.fixture(
    params=[pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in ("postgresql", "mariadb")]
)
def store(request: pytest.FixtureRequest) -> Iterator[Connection]:
    connection = connect(request.getfixturevalue(f"{request.param}_url"), statement_timeout=1.0)
    connection.upgrade()
    yield connection
    connection.close()


@pytest.fixture
def thread(store: Connection) -> Iterator[RecordingThread]:
    recording = RecordingThread(store, Metrics())
    worker = threading.Thread(target=recording.run)
    worker.start()
    yield recording
    recording.hurry()
    recording.finish()
    worker.join(60)


def batch_of(events: list[Event], letters: int = 0) -> Batch:
    deliveries = [Delivery(b"{}", tag=number) for number in range(len(events) + letters)]
    dead = [make_letter(f"{events[0].message_id} {number}") for number in range(letters)]
    return Batch(0.0, deliveries, events, deliveries[: len(events)], dead)


def test_a_batch_too_big_for_the_time_limit_is_stored_in_parts_and_none_is_lost(
    store: Connection, thread: RecordingThread
) -> None:
    bus = Bus()
    store.record_events(make_events(1))
    with store.engine.begin() as connection:
        for statement in SLOW[store.engine.dialect.name]:
            connection.exec_driver_sql(statement)
    # Twenty milliseconds each: two hundred take four times as long as they may.
    thread.submit(bus, batch_of(make_events(200, first=1), letters=30))
    wait_until(lambda: bus.settled, 60, "the batch")

    assert count(store, "event") == 201
    assert count(store, "trait_text") == 201
    assert count(store, "dead_letter") == 30
    assert thread.metrics.duplicates._value.get() == 0

    with store.engine.begin() as connection:
        where = " ON event" if connection.dialect.name == "postgresql" else ""
        connection.execute(sa.text(f"DROP TRIGGER slow{where}"))
    for number in range(1, 7):
        thread.submit(bus, batch_of(make_events(200, first=1000 * number)))
    wait_until(lambda: len(bus.settled) == 7, 60, "the others")
    if store.engine.dialect.name == "postgresql":
        statement = "SELECT count(DISTINCT xmin::text) FROM event WHERE message_id >= 'm6000'"
        assert rows(store, statement) == [(1,)], "the last batch is one transaction again"
    assert count(store, "event") == 201 + 6 * 200


def has_settled(bus: Bus, batches: int) -> bool:
    return len(bus.settled) == batches


@pytest.mark.postgresql
@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_a_batch_whose_rows_another_transaction_holds_is_told_and_holds_up_no_other_bus(
    store: Connection, thread: RecordingThread
) -> None:
    held, free = Bus(), Bus()
    store.record_events(make_events(1))
    with another_writer_of("m0005", store):
        thread.submit(held, batch_of(make_events(10, first=1)))
        wait_until(lambda: thread.refuses(held), 20, "the refusal")
        for number in range(1, 4):
            thread.submit(free, batch_of(make_events(10, first=100 * number)))
            wait_until(partial(has_settled, free, number), 10, "the batch of the other bus")
        assert not thread.refuses(free)
        assert not thread.is_ready_for(held), "nothing more of it is read"
        assert not held.settled
    wait_until(lambda: held.settled, 30, "the batch that was held up")
    assert not thread.refuses(held)
    assert count(store, "event") == 1 + 10 + 3 * 10
