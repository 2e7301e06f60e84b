"""Queues of our own and of others: made, used as they are, waited for, or refused."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from panko_ingest import __version__
from tests.bodies import body
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.ledger import Ledger
from tests.services import RabbitMQ
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

Start = Callable[[str], Daemon]


@pytest.fixture
def start(tmp_path: Path, broker_url: str, ledger: Ledger) -> Iterator[Start]:
    """Start the daemon with some [notification] options."""
    started: list[Daemon] = []

    def start(options: str) -> Daemon:
        more = f"[notification]\nworkers = 1\n{options}\n"
        started.append(Daemon(configuration(tmp_path, broker_url, ledger.url, more), "--only", "ingester"))
        started[-1].start()
        return started[-1]

    yield start
    for daemon in started:
        daemon.kill()


def test_a_pool_queue_is_made_and_bound_also_to_exchanges_that_come_later(
    broker_url: str, rabbitmq: RabbitMQ, ledger: Ledger, start: Start
) -> None:
    with Bus(broker_url) as bus:
        bus.declare(exchange="nova")
        start("pool = ours").wait_until_ready()
        bus.publish([body()], exchange="nova")
        wait_until(lambda: ledger.events() == 1, 30, "the event of nova")
        bus.declare(exchange="cinder")
        queue = f"queues/{broker_url.rpartition('/')[2]}/ours/bindings"
        wait_until(
            lambda: "cinder" in {item["source"] for item in rabbitmq.api("GET", queue)}, 30, "the binding"
        )
        bus.publish([body("volume.create.end")], exchange="cinder")
        wait_until(lambda: ledger.events() == 2, 30, "the event of cinder")
        assert bus.count() == 2, "the shared queue has its own copies"


@pytest.mark.parametrize("declare", ["passive", "never"])
def test_no_queue_is_declared_where_that_is_not_wanted(
    broker_url: str, ledger: Ledger, start: Start, declare: str
) -> None:
    with Bus(broker_url) as bus:
        bus.declare()
        service = start(f"pool = ours\ndeclare = {declare}")
        service.wait_for_log("waiting for queues that are not there: ours|NOT_FOUND - no queue 'ours'")
        assert bus.consumers("ours") == 0
        bus.declare("ours")
        wait_until(lambda: bus.consumers("ours") == 1, 40, "the consumer")


def test_a_queue_that_is_named_twice_has_one_consumer(broker_url: str, ledger: Ledger, start: Start) -> None:
    with Bus(broker_url) as bus:
        bus.declare()
        more = "[oslo_messaging_notifications]\ntopics = notifications,notifications"
        start(f"priorities = info,INFO\n{more}").wait_until_ready()
        bus.publish([body()])
        wait_until(lambda: ledger.events() == 1, 30, "the event")
        assert bus.consumers() == 1


def test_the_broker_is_told_who_reads(
    broker_url: str, rabbitmq: RabbitMQ, ledger: Ledger, start: Start
) -> None:
    with Bus(broker_url) as bus:
        bus.declare()
        start("").wait_until_ready()

        def readers() -> list[dict[str, str]]:
            found = rabbitmq.api("GET", f"vhosts/{broker_url.rpartition('/')[2]}/connections")
            properties = [connection.get("client_properties", {}) for connection in found]
            return [one for one in properties if one.get("product") == "panko-ingest"]

        (reader,) = wait_until(readers, 20, "a connection of the daemon", interval=0.2)
    assert reader["version"] == __version__
    assert reader["connection_name"] == f"panko-ingest worker 0 on {socket.gethostname()}"
