"""A message that takes longer to be converted than heartbeats may be apart."""

import time
from collections.abc import Callable, Iterator

import pytest

from panko_ingest.amqp import Topology
from panko_ingest.delivery import Delivery
from tests.bus import Bus
from tests.faults.proxy import Proxy
from tests.ledger import Ledger, load
from tests.reader import Reader
from tests.services import RabbitMQ
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

INFO = "notifications.info"
# A broker hangs up within three heartbeats, of a second each here.
CONVERSION = 5.5


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[Ledger]:
    ledger = Ledger(sqlite_url)
    yield ledger
    ledger.close()


@pytest.fixture(params=["the URL", "the broker"])
def hasty_url(request: pytest.FixtureRequest, rabbitmq: RabbitMQ, broker_url: str) -> Iterator[str]:
    """A bus whose heartbeats are a second apart, by the word of one of the two sides."""
    if request.param == "the URL":
        yield f"{broker_url}?heartbeat=1"
        return
    before = rabbitmq.ctl("eval", "{ok, Seconds} = application:get_env(rabbit, heartbeat), Seconds.").strip()
    rabbitmq.ctl("eval", "application:set_env(rabbit, heartbeat, 1).")
    yield broker_url
    rabbitmq.ctl("eval", f"application:set_env(rabbit, heartbeat, {before}).")


def convert_slowly(
    reader: Reader, slow: bytes, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]
) -> None:
    """Let one message take long each time that it comes."""
    accept = reader.pipeline.accept

    def accept_slowly(delivery: Delivery) -> None:
        if delivery.body == slow:
            meanwhile()
            time.sleep(CONVERSION)
        accept(delivery)

    monkeypatch.setattr(reader.pipeline, "accept", accept_slowly)


def test_it_costs_no_connection(
    broker_url: str, hasty_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = load(20)
    with Bus(broker_url) as bus:
        bus.declare()
        bus.publish(bodies)
        reader = Reader(hasty_url, Topology((INFO,)), ledger.connection)
        convert_slowly(reader, bodies[5], monkeypatch, lambda: None)
        with reader.running():
            wait_until(lambda: ledger.events() == 20, 30, "all events")
        assert bus.count() == 0
    assert (reader.opened, reader.lost) == (1, 0)


def test_a_connection_that_is_lost_meanwhile_is_told_with_the_queue_of_the_message(
    rabbitmq: RabbitMQ,
    broker_url: str,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bodies = load(1)
    with Bus(broker_url) as bus, Proxy(rabbitmq.port) as proxy:
        bus.declare()
        bus.publish(bodies)
        reader = Reader(proxy.url(broker_url), Topology((INFO,)), ledger.connection)
        convert_slowly(reader, bodies[0], monkeypatch, lambda: None if proxy.cuts else proxy.cut())
        with reader.running():
            wait_until(lambda: ledger.events() == 1, 30, "the event")
    assert reader.lost == 1
    told = f"it was lost while a message of queue {INFO!r} was converted for 6 s"
    assert caplog.text.count(told) == 1
