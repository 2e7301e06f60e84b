"""A queue that is deleted when its last consumer goes (oslo's amqp_auto_delete) is never without one."""

import uuid
from collections.abc import Iterator

import pytest

from panko_ingest import breaker
from panko_ingest.amqp import Topology, queue_channel
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.bodies import body
from tests.bus import Bus
from tests.ledger import Ledger
from tests.reader import Reader
from tests.services import RabbitMQ
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

INFO = "notifications.info"
TOPOLOGY = Topology((INFO,))


@pytest.fixture
def bus(broker_url: str) -> Iterator[Bus]:
    with Bus(broker_url) as bus:
        channel = bus.channel()
        channel.exchange_declare("nova", "topic", durable=True, auto_delete=False)
        channel.queue_declare(INFO, durable=False, auto_delete=True)
        channel.queue_bind(INFO, "nova", INFO)
        yield bus


def reading_alone(broker_url: str, rabbitmq: RabbitMQ) -> str:
    """Return the URL for an account that has the right to read alone."""
    name = f"user-{uuid.uuid4().hex[:8]}"
    rabbitmq.api("PUT", f"users/{name}", {"password": name, "tags": ""})
    rights = {"configure": "^$", "write": "^$", "read": ".*"}
    rabbitmq.api("PUT", f"permissions/{broker_url.rpartition('/')[2]}/{name}", rights)
    return broker_url.replace("guest:guest", f"{name}:{name}")


@pytest.fixture(params=["all rights", "the right to read alone"])
def url(request: pytest.FixtureRequest, broker_url: str, rabbitmq: RabbitMQ) -> str:
    """URL for an account to which the broker tells that the queue is such a one, and for one to which not."""
    return broker_url if request.param == "all rights" else reading_alone(broker_url, rabbitmq)


def test_nothing_that_it_holds_is_lost_while_prefetches_grow(url: str, bus: Bus, ledger: Ledger) -> None:
    bus.publish(body() for _ in range(3000))
    with Reader(url, TOPOLOGY, ledger.connection).running() as reader:
        wait_until(lambda: ledger.events() == 3000, 30, "all events")
        wait_until(lambda: reader.flow.prefetches[INFO] == 2000, 10, "the largest prefetch")
        assert bus.consumers() == 1
    assert (reader.opened, reader.lost) == (1, 0)


def test_a_count_that_a_publisher_wrote_does_not_make_it_one_that_stays(
    broker_url: str, bus: Bus, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    topology = Topology((INFO,), declare="never")
    with (
        ledger.other_writer() as other,
        Reader(broker_url, topology, ledger.connection, hold_limit=2.0).running() as reader,
    ):
        reader.wait_until_consuming()
        other.execute("BEGIN EXCLUSIVE")
        bus.publish((body() for _ in range(100)), application_headers={"x-delivery-count": 1})
        wait_until(lambda: caplog.text.count("gave back") == 3, 30, "them given back again and again")
        wait_until(lambda: bus.count() == 99, 20, "all but one back with the broker")
        other.execute("ROLLBACK")
        wait_until(lambda: ledger.events() == 100, 30, "all events")
    assert (reader.opened, reader.lost) == (1, 0)


def test_a_quorum_queue_of_several_messages_is_left_alone_before_one_of_them_is_dropped(
    broker_url: str, bus: Bus, ledger: Ledger, impatient: Connection
) -> None:
    topology = Topology(("quorum",), declare="never")
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 6}
    bus.channel().queue_declare("quorum", durable=True, auto_delete=False, arguments=arguments)
    with (
        ledger.other_writer() as other,
        Reader(broker_url, topology, impatient, hold_limit=1.0).running() as reader,
    ):
        reader.wait_until_consuming()
        other.execute("BEGIN EXCLUSIVE")
        bus.publish((body() for _ in range(3)), "quorum", exchange="")
        # While messages are given back the queue has no consumer for a moment, either.
        alone = "nobody who would be given one of them"
        wait_until(lambda: not any(bus.consumers("quorum") for _ in range(100)), 30, alone)
        other.execute("ROLLBACK")
        wait_until(lambda: ledger.events() == 3, 30, "all events")


def test_a_classic_queue_with_a_single_active_consumer_is_read_to_its_end(
    url: str, broker_url: str, ledger: Ledger
) -> None:
    with Bus(broker_url) as bus, bus.channel() as channel:
        bus.declare("notifications.other")
        arguments = {"x-single-active-consumer": True}
        channel.queue_declare(INFO, durable=True, auto_delete=False, arguments=arguments)
        channel.queue_bind(INFO, "nova", INFO)
        bus.publish(body() for _ in range(1000))
        with Reader(url, TOPOLOGY, ledger.connection).running() as reader:
            wait_until(lambda: ledger.events() == 1000, 30, "all events")
    assert (reader.opened, reader.lost) == (1, 0)


def test_it_is_not_deleted_while_nothing_comes(
    url: str, bus: Bus, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_channel, "_RENEW_AFTER", 0.1)
    with Reader(url, TOPOLOGY, ledger.connection).running() as reader:
        for number in range(1, 4):
            bus.publish([body()])
            wait_until(lambda number=number: ledger.events() == number, 20, "the event")  # type: ignore[misc]
            beats = reader.beats
            wait_until(lambda: reader.beats > beats + 10, 20, "some turns without a message")  # noqa: B023
        assert bus.consumers() == 1


@pytest.mark.parametrize("declare", ["auto", "never"])
@pytest.mark.parametrize("room", [0, 1])
def test_none_is_deleted_over_a_renewal_where_an_account_may_hardly_have_a_channel_more_than_queues(
    broker_url: str,
    rabbitmq: RabbitMQ,
    bus: Bus,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
    declare: str,
) -> None:
    monkeypatch.setattr(queue_channel, "_RENEW_AFTER", 0.1)
    queues = [INFO, "notifications.warn", "notifications.error"]
    for queue in queues:
        bus.channel().queue_declare(queue, durable=False, auto_delete=True)
    url = reading_alone(broker_url, rabbitmq)
    user = url.partition("//")[2].partition(":")[0]
    channels = len(queues) + room + (declare == "auto")  # one to ask over
    rabbitmq.api("PUT", f"user-limits/{user}/max-channels", {"value": channels})
    with Reader(url, Topology(queues, declare=declare), ledger.connection).running() as reader:
        wait_until(lambda: [bus.consumers(queue) for queue in queues] == [1, 1, 1], 60, "all read")
        beats, lost = reader.beats, reader.lost
        wait_until(lambda: reader.beats > beats + 15, 30, "some turns without a message")
        for queue in queues:
            bus.publish([body()], queue, exchange="")
        wait_until(lambda: ledger.events() == 3, 20, "the event of each")
        assert not reader.refusals
        assert reader.lost == lost


def test_it_is_not_deleted_while_more_bytes_are_in_hand_than_may_be(
    url: str, bus: Bus, ledger: Ledger
) -> None:
    bodies = [body().ljust(20_000) for _ in range(300)]
    bus.publish(bodies)
    with Reader(url, TOPOLOGY, ledger.connection, size=100_000).running() as reader:
        largest = 0

        def all_stored() -> bool:
            nonlocal largest
            largest = max(largest, reader.flow.bytes)
            return ledger.events() == 300

        wait_until(all_stored, 30, "all events", interval=0.001)
        assert largest < 100_000 + 17 * 20_000
        assert bus.consumers() == 1


def test_it_is_not_deleted_by_the_flood_breaker_which_lets_one_message_come(
    url: str, bus: Bus, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "PROBE_INTERVAL", 15.0)
    bus.publish(b"no notification" for _ in range(1000))
    with Reader(url, TOPOLOGY, ledger.connection).running() as reader:
        wait_until(reader.pipeline.probing, 30, "the flood breaker open")
        wait_until(lambda: not any(reader.flow.prefetches.values()), 10, "no more reading than has to be")
        wait_until(lambda: not reader.flow.messages, 10, "nothing in hand")
        wait_until(lambda: bus.consumers() == 1, 10, "one consumer")
        bus.publish(body() for _ in range(100))
        assert bus.count() >= 99
        wait_until(lambda: ledger.events() == 100, 45, "the events, after a probe")


def test_it_is_not_deleted_when_its_messages_are_given_back_until_the_store_answers(
    url: str, bus: Bus, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        ledger.other_writer() as other,
        Reader(url, TOPOLOGY, ledger.connection, hold_limit=11.0).running() as reader,
    ):
        reader.wait_until_consuming()
        other.execute("BEGIN EXCLUSIVE")
        bus.publish(body() for _ in range(100))
        wait_until(lambda: reader.flow.messages > 1, 20, "messages in hand")
        wait_until(lambda: "gave back" in caplog.text, 30, "them given back")
        wait_until(lambda: bus.count() == 99, 20, "all but one back with the broker")
        assert bus.consumers() == 1
        other.execute("ROLLBACK")
        wait_until(lambda: ledger.events() == 100, 30, "all events")
    assert (reader.opened, reader.lost) == (1, 0)
