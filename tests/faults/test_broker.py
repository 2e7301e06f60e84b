"""What a broker does to its clients: it restarts, crashes, loses queues, throws them out, runs short."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from panko_ingest.amqp import parse, publisher
from panko_ingest.amqp.publisher import Publisher
from panko_ingest.errors import BrokerError
from tests.bus import Bus
from tests.daemon import configuration
from tests.faults.breaking import at_rest, hanging, limit_deliveries, memory_alarm
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene, bodies
from tests.services import PostgreSQL, RabbitMQ
from tests.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.postgresql, pytest.mark.timeout(900)]


@pytest.fixture
def broker_vhost(broker: RabbitMQ) -> Iterator[str]:
    """URL of an empty vhost of the broker to break."""
    url = broker.create_vhost()
    yield url
    broker.start()
    broker.drop_vhost(url)


@pytest.mark.parametrize("how", ["restarted", "killed"])
def test_the_broker_goes_and_comes_back(
    tmp_path: Path, broker: RabbitMQ, broker_vhost: str, postgresql_url: str, how: str
) -> None:
    scene = Scene(tmp_path, broker_vhost, postgresql_url)
    with scene.running():
        with scene.fault(f"the broker {how}"):
            (broker.stop if how == "restarted" else broker.kill)()
            assert not broker.running
            broker.start()
        assert scene.feed.failures


def test_an_administrator_and_a_memory_alarm_disturb_it(
    tmp_path: Path, broker: RabbitMQ, broker_vhost: str, postgresql_url: str
) -> None:
    scene = Scene(tmp_path, broker_vhost, postgresql_url)
    with scene.running():
        with scene.fault("connections closed by an administrator"):
            broker.close_connections(broker_vhost)
            scene.daemon.wait_for_log("CONNECTION_FORCED|closed by a test")
        with scene.fault("the queue deleted and made again"):
            scene.feed.pause()
            with Bus(broker_vhost) as bus:
                wait_until(lambda: scene.stored() >= scene.feed.confirmed, 30, "an empty queue")
                bus.delete()
                scene.daemon.wait_for_log("ConsumerCancelled|waiting for queues that are not there")
                bus.declare()
            scene.feed.resume()
        with scene.fault("a memory alarm"), memory_alarm(broker):
            blocked = wait_until(lambda: at_rest(lambda: scene.feed.confirmed), 30, "blocked publishers")
            # What the publishers got through before is still acknowledged while they wait.
            scene.wait_for(lambda: scene.stored() >= blocked, 30, "what is on the queue")


@pytest.mark.parametrize(
    ("outage", "consumer_timeout"),
    [
        (25, 10),
        pytest.param(180, 60, marks=pytest.mark.long),
        pytest.param(120, 1800, marks=pytest.mark.long),
    ],
)
def test_no_message_of_a_quorum_queue_is_dropped_at_its_delivery_limit_while_the_database_is_away(
    tmp_path: Path,
    broker: RabbitMQ,
    broker_vhost: str,
    postgresql: PostgreSQL,
    postgresql_url: str,
    outage: int,
    consumer_timeout: int,
) -> None:
    limit_deliveries(broker, broker_vhost, 3)
    broker.ctl("eval", f"application:set_env(rabbit, consumer_timeout, {consumer_timeout * 1000}).")
    more = f"[notification]\nconsumer_timeout = {consumer_timeout}\n"
    returns = 2 if outage > consumer_timeout else 0  # each worker gives back once, for the timeout's sake
    scene = Scene(tmp_path, broker_vhost, postgresql_url, more=more, quorum=True, rate=100)
    try:
        with scene.running():
            with scene.fault(f"the database away for {outage} s, consumer_timeout {consumer_timeout} s"):
                postgresql.stop()
                away = time.monotonic() + outage
                wait_until(lambda: time.monotonic() > away, outage + 1)
                assert scene.daemon.log.count("gave back what is not stored") == returns
                postgresql.start()
            assert "PRECONDITION_FAILED" not in scene.daemon.log, "the broker closed the channel first"
    finally:
        postgresql.start()
        broker.ctl("eval", "application:set_env(rabbit, consumer_timeout, 1800000).")
    assert scene.daemon.log.count("gave back what is not stored") == returns


@pytest.mark.long
def test_publishing_gives_up_when_the_broker_takes_nothing(
    tmp_path: Path, broker: RabbitMQ, broker_vhost: str
) -> None:
    conf = configuration(tmp_path, broker_vhost, "sqlite://")
    command = [sys.executable, "-m", "panko_ingest", "--config-file", str(conf), "publish", "--create", "-"]
    with memory_alarm(broker):
        done = subprocess.run(command, input=bodies(1)[0], capture_output=True, timeout=120, check=False)
    assert done.returncode == 3
    assert b"refuses to publish: it took nothing for 30 s" in done.stderr


def test_publishing_gives_up_when_a_queue_hangs_or_the_broker_does(
    broker: RabbitMQ, broker_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_PATIENCE", 1.0)
    route = {"exchange": "nova", "routing_key": "notifications.info"}
    with closing(Publisher(parse(broker_vhost), create=True)) as lasting:
        lasting.send(b"{}", **route)
        with (
            hanging(broker, broker_vhost, "notifications.info"),
            closing(Publisher(parse(broker_vhost))) as late,
            pytest.raises(BrokerError, match=r"says nothing about queue 'notifications\.info' for 1 s"),
        ):
            late.send(b"{}", **route)
    with Proxy(broker.port) as proxy, closing(Publisher(parse(proxy.url(broker_vhost)))) as silenced:
        proxy.silence()
        with pytest.raises(BrokerError, match=f"127.0.0.1:{proxy.port}.*says nothing about exchange 'nova'"):
            silenced.send(b"{}", **route)


def test_publishing_to_a_full_queue_that_refuses_says_so(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url)
    with Bus(broker_url) as bus, bus.channel() as channel:
        bounds = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare("notifications.info", durable=True, auto_delete=False, arguments=bounds)
        done = subprocess.run(
            [sys.executable, "-m", "panko_ingest", "--config-file", str(conf), "publish", "--create", "-"],
            input='{"event_type": "a", "payload": {}}\n' * 2,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout) == (3, "")
    assert "gives back what is published as notifications.info" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_transient_queue_is_refused_where_durable_ones_are_required(
    tmp_path: Path, broker_vhost: str, postgresql_url: str
) -> None:
    with Bus(broker_vhost, durable=False) as bus:
        bus.declare()
        scene = Scene(tmp_path, broker_vhost, postgresql_url, more="[notification]\nrequire_durable = true\n")
        with scene.daemon.running():
            scene.daemon.wait_for_log("'notifications.info' is transient")
            assert bus.consumers() == 0
    scene.ledger.close()
