"""Buses that kombu emulates: which of them are read, and what is no message on one costs but a reconnect."""

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from panko_ingest.amqp import Topology, parse
from panko_ingest.amqp.publisher import Publisher
from tests.daemon import Daemon, configuration
from tests.ledger import Ledger, load
from tests.reader import Reader
from tests.waiting import wait_until

# Of SQLAlchemy, on how kombu uses it.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

INFO = "notifications.info"

HALF_A_CHARACTER = {"content-type": "\ud800", "content-encoding": "\udc80\ud800"}


@pytest.fixture
def bus(tmp_path: Path) -> Path:
    return tmp_path / "bus.sqlite"


def publish(bus: Path, bodies: list[bytes]) -> None:
    publisher = Publisher(parse(f"sqla+sqlite:///{bus}"))
    for body in bodies:
        publisher.send(body, exchange="nova", routing_key=INFO)
    publisher.close()


def change_the_first(bus: Path, payload: str) -> None:
    """Put something else in the place of a message, as whoever writes to the same tables can."""
    with contextlib.closing(sqlite3.connect(bus)) as database, database:
        database.execute("UPDATE kombu_message SET payload = ? WHERE id = 1", (payload,))


def test_a_bus_that_nothing_is_read_from_is_refused_before_anything_starts(tmp_path: Path) -> None:
    more = "[notification]\nmessaging_urls = sqla+sqlite://\nmessaging_urls = kafka://u:SECRET@kafka1:9092/\n"
    daemon = Daemon(configuration(tmp_path, "sqla+sqlite://", f"sqlite:///{tmp_path}/events.sqlite", more))
    with daemon.running():
        assert daemon.wait() == 2
        assert daemon.log.startswith(
            "panko-ingest: [notification] messaging_urls, number 2 of 2: nothing is read from kafka://: "
        )
        assert daemon.log.count("\n") == 1


@pytest.mark.parametrize("payload", ["{}", "[]", "no JSON", '{"properties": {}}', '{"properties": 1}'])
def test_what_is_no_message_ends_the_connection_and_no_worker(
    bus: Path, sqlite_url: str, caplog: pytest.LogCaptureFixture, payload: str
) -> None:
    with contextlib.closing(Ledger(sqlite_url)) as ledger:
        bodies = load(5)
        publish(bus, bodies)
        change_the_first(bus, payload)
        reader = Reader(f"sqla+sqlite:///{bus}", Topology((INFO,)), ledger.connection)
        with reader.running():
            wait_until(lambda: ledger.events() == 4, 20, "what came after it")
        assert (reader.opened, reader.lost) == (2, 1)
        assert caplog.text.count("OperationalError: ") == 1


def test_half_a_character_in_the_properties_of_a_bad_message_costs_that_message_alone(
    bus: Path, sqlite_url: str
) -> None:
    with contextlib.closing(Ledger(sqlite_url)) as ledger:
        publish(bus, load(5))
        delivery = {"exchange": "nova", "routing_key": INFO}
        properties = {"delivery_info": delivery, "delivery_tag": "a", "body_encoding": None}
        message = {"body": "no JSON", "headers": {}, "properties": properties, **HALF_A_CHARACTER}
        change_the_first(bus, json.dumps(message))
        reader = Reader(f"sqla+sqlite:///{bus}", Topology((INFO,)), ledger.connection)
        with reader.running():
            wait_until(lambda: (ledger.events(), ledger.dead_letters()) == (4, 1), 20, "all of them")
        assert (reader.opened, reader.lost) == (1, 0)
