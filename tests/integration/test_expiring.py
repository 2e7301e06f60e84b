"""A queue that expires without a consumer is not left without one while the store is away."""

import sqlite3
from collections.abc import Iterator

import pytest

from panko_ingest.amqp import Topology
from tests.bodies import body
from tests.bus import Bus
from tests.ledger import Ledger
from tests.reader import Reader
from tests.services import RabbitMQ
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

INFO = "notifications.info"
TOPOLOGY = Topology((INFO,))
EXPIRES = 12000


class Expiring:
    """A bus whose queues expire."""

    def __init__(self, rabbitmq: RabbitMQ, url: str, bus: Bus, arguments: dict[str, object]) -> None:
        self.bus = bus
        self._rabbitmq = rabbitmq
        self._url = url
        self._arguments = arguments

    def declare_read(self) -> None:
        """Make the queue that is read."""
        self.bus.channel().exchange_declare("nova", "topic", durable=True, auto_delete=False)
        self.declare(INFO)
        self.bus.channel().queue_bind(INFO, "nova", INFO)

    def declare(self, queue: str) -> None:
        self.bus.channel().queue_declare(queue, durable=True, auto_delete=False, arguments=self._arguments)

    def wait_until_one_expired(self) -> None:
        """Wait for as long as a queue that nobody reads is kept."""
        self.declare(
            "unread"
        )  # and ask the broker about neither: on a classic queue its time begins anew then
        wait_until(lambda: "unread" in self._queues(), 20, "a queue that nobody reads", interval=0.5)
        wait_until(lambda: "unread" not in self._queues(), 60, "the end of it", interval=0.5)

    def _queues(self) -> set[str]:
        return {queue["name"] for queue in self._rabbitmq.queues(self._url)}


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def expiring(
    request: pytest.FixtureRequest, kind: str, broker_url: str, rabbitmq: RabbitMQ
) -> Iterator[Expiring]:
    arguments: dict[str, object] = {"x-queue-type": kind}
    if request.param == "argument":
        arguments["x-expires"] = EXPIRES
    else:
        policy = {"pattern": ".*", "definition": {"expires": EXPIRES}, "apply-to": "queues"}
        rabbitmq.api("PUT", f"policies/{broker_url.rpartition('/')[2]}/expiring", policy)
    with Bus(broker_url) as bus:
        yield Expiring(rabbitmq, broker_url, bus, arguments)


@pytest.fixture
def locked(ledger: Ledger) -> Iterator[sqlite3.Connection]:
    """A connection that keeps everybody else from writing until it rolls back."""
    with ledger.other_writer() as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other


# Not a quorum queue that expires by a policy: nobody tells us of that, and held it might drop messages.
@pytest.mark.parametrize(
    ("kind", "expiring"),
    [
        ("classic", "policy"),
        ("quorum", "argument"),
        pytest.param("classic", "argument", marks=pytest.mark.long),
    ],
    indirect=True,
)
def test_it_is_there_after_an_outage_in_which_its_messages_were_given_back(
    broker_url: str,
    expiring: Expiring,
    ledger: Ledger,
    locked: sqlite3.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    locked.execute("ROLLBACK")
    with Reader(broker_url, TOPOLOGY, ledger.connection, hold_limit=4.0).running() as reader:
        expiring.declare_read()
        wait_until(lambda: expiring.bus.consumers() and reader.consuming, 30, "a consumer that reads")
        locked.execute("BEGIN EXCLUSIVE")
        expiring.bus.publish(body() for _ in range(100))
        wait_until(lambda: "gave back" in caplog.text, 60, "them given back")
        expiring.wait_until_one_expired()
        assert expiring.bus.consumers() == 1
        assert expiring.bus.count() == 99
        assert not reader.consuming
        locked.execute("ROLLBACK")
        wait_until(lambda: ledger.events() == 100, 60, "all events")
    assert (reader.opened, reader.lost) == (1, 0)


@pytest.mark.parametrize(
    ("kind", "expiring"),
    [
        ("classic", "argument"),
        ("quorum", "policy"),
        pytest.param("classic", "policy", marks=pytest.mark.long),
        pytest.param("quorum", "argument", marks=pytest.mark.long),
    ],
    indirect=True,
)
def test_it_is_there_after_an_outage_in_which_the_daemon_was_started(
    broker_url: str, expiring: Expiring, ledger: Ledger, locked: sqlite3.Connection
) -> None:
    with Reader(broker_url, TOPOLOGY, ledger.connection).running() as reader:
        expiring.declare_read()
        expiring.bus.publish(body() for _ in range(100))
        wait_until(expiring.bus.consumers, 30, "a consumer")
        expiring.wait_until_one_expired()
        assert expiring.bus.count() == 99
        assert not reader.consuming
        locked.execute("ROLLBACK")
        wait_until(lambda: ledger.events() == 100, 60, "all events")
    assert (reader.opened, reader.lost) == (1, 0)


@pytest.mark.parametrize(("kind", "expiring"), [("classic", "policy")], indirect=True)
def test_it_is_there_though_a_flood_of_dead_letters_has_reading_all_but_stop(
    broker_url: str, expiring: Expiring, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    with Reader(broker_url, TOPOLOGY, ledger.connection).running() as reader:
        expiring.declare_read()
        wait_until(lambda: expiring.bus.consumers() and reader.consuming, 30, "a consumer that reads")
        expiring.bus.publish(b"{%d" % number for number in range(1100))
        wait_until(lambda: "taking one probing batch a minute" in caplog.text, 60, "the open breaker")
        expiring.bus.publish(body() for _ in range(100))
        expiring.wait_until_one_expired()
        assert expiring.bus.consumers() == 1
        assert expiring.bus.count() >= 99
    assert (reader.opened, reader.lost) == (1, 0)
