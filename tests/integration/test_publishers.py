"""The publishers that are really out there, and the queues they make."""

from collections.abc import Callable
from pathlib import Path

import pytest

from panko_ingest.config import CONTROL_EXCHANGES
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.ledger import Ledger, load
from tests.notifier import publish
from tests.services import RabbitMQ
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

DURABLE = "oslo_messaging_rabbit.amqp_durable_queues=true"
QUORUM = "oslo_messaging_rabbit.rabbit_quorum_queue=true"


@pytest.fixture
def make_daemon(tmp_path: Path, broker_url: str, ledger: Ledger) -> Callable[[str], Daemon]:
    def make(more: str = "") -> Daemon:
        return Daemon(configuration(tmp_path, broker_url, ledger.url, f"[notification]\nworkers = 1\n{more}"))

    return make


@pytest.mark.parametrize("options", [(), (DURABLE,), (QUORUM,)], ids=["transient", "durable", "quorum"])
@pytest.mark.parametrize("daemon_first", [True, False], ids=["daemon-first", "publisher-first"])
def test_notifications_that_oslo_messaging_publishes_arrive(
    broker_url: str,
    ledger: Ledger,
    make_daemon: Callable[[], Daemon],
    options: tuple[str, ...],
    daemon_first: bool,
) -> None:
    daemon = make_daemon()
    if not daemon_first:
        publish(broker_url, "nova", 3, *options)
    with daemon.running():
        daemon.wait_until_ready()
        if daemon_first:
            publish(broker_url, "nova", 3, *options)
        wait_until(lambda: ledger.events() == 3, 30, "the events")
        assert daemon.stop() == 0
    assert list(ledger.connection.get_event_types()) == ["nova.tested"]


def test_a_pool_gets_a_copy_from_every_exchange(
    broker_url: str, rabbitmq: RabbitMQ, ledger: Ledger, make_daemon: Callable[[str], Daemon]
) -> None:
    early, late = CONTROL_EXCHANGES[::2], CONTROL_EXCHANGES[1::2]
    assert "openstack" in CONTROL_EXCHANGES
    daemon = make_daemon("pool = audit\n")
    with Bus(broker_url) as bus, daemon.running():
        for exchange in early:
            bus.declare(exchange=exchange)
        daemon.wait_until_ready()
        for exchange in late:
            bus.declare(exchange=exchange)
        bodies = load(len(CONTROL_EXCHANGES))
        routes = zip(CONTROL_EXCHANGES, bodies, strict=True)
        wait_until(
            lambda: rabbitmq.bound_exchanges(broker_url, "audit") == set(CONTROL_EXCHANGES),
            30,
            "every exchange to be bound",
        )
        for exchange, body in routes:
            bus.publish([body], exchange=exchange)
        wait_until(lambda: ledger.events() == len(bodies), 30, "an event of each exchange")
        assert daemon.stop() == 0
        assert bus.count("notifications.info") == len(bodies), "the shared queue keeps its own copies"
        assert bus.count("audit") == 0
    ledger.assert_holds(bodies)


def test_the_real_publisher_reaches_a_pool_on_the_openstack_exchange(
    broker_url: str, rabbitmq: RabbitMQ, ledger: Ledger, make_daemon: Callable[[str], Daemon]
) -> None:
    publish(broker_url, "openstack")
    daemon = make_daemon("pool = audit\n")
    with daemon.running():
        wait_until(lambda: rabbitmq.bound_exchanges(broker_url, "audit"), 30, "the binding")
        publish(broker_url, "openstack", 2)
        wait_until(lambda: ledger.events() == 2, 30, "both events")


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_the_pool_queue_is_durable_and_of_the_wanted_type(
    broker_url: str, rabbitmq: RabbitMQ, make_daemon: Callable[[str], Daemon], queue_type: str
) -> None:
    with make_daemon(f"pool = audit\nqueue_type = {queue_type}\n").running() as daemon:
        daemon.wait_until_ready()
        (queue,) = rabbitmq.queues(broker_url)
    assert (queue["name"], queue["durable"], queue["type"]) == ("audit", True, queue_type)


def test_a_pool_queue_that_differs_is_used_as_it_is_and_the_difference_named(
    broker_url: str, ledger: Ledger, make_daemon: Callable[[str], Daemon]
) -> None:
    with Bus(broker_url, durable=False) as bus:
        bus.declare("audit", "nova")
        bus.publish(load(1), queue="audit")
        with make_daemon("pool = audit\n").running() as daemon:
            wait_until(lambda: ledger.events() == 1, 30, "the event")
            daemon.wait_for_log(
                "Using queue 'audit' as it is, although it differs: durable: wanted .true., there is .false."
            )


def test_a_passive_daemon_makes_nothing(
    broker_url: str, rabbitmq: RabbitMQ, make_daemon: Callable[[str], Daemon]
) -> None:
    with make_daemon("pool = audit\ndeclare = passive\n").running() as daemon:
        daemon.wait_for_log("waiting for queues that are not there: audit")
        assert rabbitmq.queues(broker_url) == []


def test_a_daemon_that_never_declares_consumes_what_is_there(
    broker_url: str, ledger: Ledger, make_daemon: Callable[[str], Daemon]
) -> None:
    with Bus(broker_url) as bus, make_daemon("declare = never\n").running():
        bus.declare()
        bus.publish(load(5))
        wait_until(lambda: ledger.events() == 5, 60, "the events")


@pytest.mark.parametrize("topic", ["notifications", "n" * 160], ids=["short", "long"])
def test_require_durable_refuses_a_transient_queue(
    broker_url: str, ledger: Ledger, make_daemon: Callable[[str], Daemon], topic: str
) -> None:
    """Of a long name, the broker's answer is cut before it says what the queue is."""
    options = f"require_durable = true\n[oslo_messaging_notifications]\ntopics = {topic}\n"
    with Bus(broker_url, durable=False) as bus, make_daemon(options).running() as daemon:
        bus.declare(f"{topic}.info")
        bus.publish(load(1), queue=f"{topic}.info")
        daemon.wait_for_log(f"queue '{topic}.info' is transient")
        assert ledger.events() == 0


def test_only_the_configured_queues_are_read(
    broker_url: str, ledger: Ledger, make_daemon: Callable[[str], Daemon]
) -> None:
    info, sample = load(2)
    with Bus(broker_url) as bus, make_daemon("").running() as daemon:
        bus.declare()
        bus.declare("notifications.sample")
        bus.publish([sample], queue="notifications.sample")
        bus.publish([info])
        wait_until(lambda: ledger.events() == 1, 30, "the event")
        assert daemon.stop() == 0
        assert bus.count("notifications.sample") == 1
