"""Whatever a publisher can write ends as an event or as a dead letter, and costs its neighbours nothing."""

import itertools
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from panko_ingest.amqp import Topology
from panko_ingest.storage import DeadLetterFilter, tables
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.ledger import Ledger
from tests.odd_properties import ODD, random_properties
from tests.raw_frames import RawPublisher
from tests.reader import Reader
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

QUEUE = b"notifications.info"


def body() -> bytes:
    return json.dumps(
        {
            "message_id": str(uuid.uuid4()),
            "publisher_id": "p",
            "event_type": "compute.instance.update",
            "priority": "INFO",
            "payload": {},
            "timestamp": "2026-11-23 13:16:34.317715",
        }
    ).encode()


@pytest.fixture
def daemon(broker_url: str, sqlite_url: str, tmp_path: Path) -> Iterator[Daemon]:
    Connection(sqlite_url).upgrade()
    daemon = Daemon(configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 1\n"))
    yield daemon
    daemon.kill()


def stored(url: str) -> int:
    """Return how many events and dead letters there are; a repeated dead letter counts again."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        events = connection.scalar(sa.select(sa.func.count()).select_from(tables.Event)) or 0
        letters = connection.scalar(sa.select(sa.func.sum(tables.DeadLetter.attempts))) or 0
    engine.dispose()
    return int(events) + int(letters)


def return_all(url: str) -> None:
    """Let all messages of the queue come back once, as after a lost connection."""
    with Bus(url) as bus:
        waiting = bus.count()
        reader = Bus(url)
        reader.channel().basic_consume(QUEUE.decode())
        wait_until(lambda: bus.count() == 0, 10, "all of them on their way")
        reader.drop()
        wait_until(lambda: bus.count() == waiting, 10, "all of them back")


@pytest.mark.parametrize("quorum", [False, True], ids=["classic", "quorum"])
def test_any_properties_end_as_an_event_or_a_dead_letter(
    daemon: Daemon, broker_url: str, sqlite_url: str, quorum: bool
) -> None:
    taken = 0
    with Bus(broker_url, quorum=quorum) as bus:
        bus.declare()
    with RawPublisher(broker_url) as publisher:
        cases = itertools.chain(ODD.values(), map(random_properties, range(60)))
        for properties in cases:
            for text in (body(), body() + b"\xff"):
                taken += publisher.publish(properties, text, routing_key=QUEUE)
        assert taken > 80, "the broker refuses too much for this test to mean anything"
        taken += publisher.publish(b"\0\0", b"", routing_key=QUEUE)
    return_all(broker_url)
    daemon.start()
    wait_until(lambda: stored(sqlite_url) >= taken, 30, "everything stored")
    with Bus(broker_url, quorum=quorum) as bus:
        wait_until(lambda: bus.count() == 0, 10, "everything acknowledged")
    assert stored(sqlite_url) == taken
    assert "Traceback" not in daemon.log
    assert " died" not in daemon.log
    assert daemon.stop() == 0


def test_a_routing_key_and_an_exchange_of_control_characters_do_no_harm(
    daemon: Daemon, broker_url: str, sqlite_url: str
) -> None:
    exchange = "\x1b[2J\0"
    with Bus(broker_url) as bus:
        bus.declare(exchange=exchange)
        channel = bus.channel()
        channel.queue_bind(QUEUE.decode(), exchange, "#")
    with RawPublisher(broker_url) as publisher:
        for text in (body(), b"{"):
            assert publisher.publish(b"\0\0", text, routing_key=b"\x1b[2J\r\n\0", exchange=exchange.encode())
        # Some releases of the broker refuse a key that is no UTF-8.
        taken = sum(
            publisher.publish(b"\0\0", text, routing_key=b"\xff", exchange=exchange.encode())
            for text in (body(), b"{")
        )
    daemon.start()
    wait_until(lambda: stored(sqlite_url) == 2 + taken, 30, "all stored that the broker took")
    assert daemon.stop() == 0
    assert "\x1b" not in daemon.log


def test_of_a_body_that_is_too_large_no_more_is_gathered_than_is_kept(
    broker_url: str, ledger: Ledger
) -> None:
    topology = Topology((QUEUE.decode(),), largest_body=1000)
    with Bus(broker_url) as bus, Reader(broker_url, topology, ledger.connection).running():
        bus.declare()
        bus.publish([b"x" * 300_000, b"x" * 299_999 + b"y"])
        wait_until(lambda: ledger.dead_letters() == 2, 30, "two dead letters")
        wait_until(lambda: bus.count() == 0, 10, "both acknowledged")
    assert ledger.letters() == [b"x" * 1000] * 2
    for letter in ledger.connection.get_dead_letters(DeadLetterFilter()):
        assert letter.error.endswith("(the body is cut: 1000 of 300000 bytes are kept)")
