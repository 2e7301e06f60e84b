"""One queue or exchange that the broker refuses, takes away or drops costs that one alone."""

import contextlib
import dataclasses
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import amqp
import amqp.spec
import pytest

from panko_ingest.amqp import Topology, amqp_link, bindings, consumer, pauses, queue_channel
from panko_ingest.amqp.amqp_link import AmqpLink
from panko_ingest.amqp.inspection import inspect, refused
from panko_ingest.amqp.link import LINK_ERRORS, Waker
from panko_ingest.amqp.topology import TopologyKeeper
from panko_ingest.amqp.urls import parse
from panko_ingest.pipeline.flow_control import FIRST_PREFETCH
from tests.bodies import body
from tests.bus import Bus
from tests.faults.breaking import costly_exchange, hanging, limit_deliveries
from tests.faults.proxy import Proxy
from tests.ledger import Ledger
from tests.reader import Reader
from tests.services import RabbitMQ
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

INFO, WARN = "notifications.info", "notifications.warn"
QUEUES = (INFO, WARN)


@pytest.fixture
def bus(broker_url: str) -> Iterator[Bus]:
    with Bus(broker_url, quorum=True) as bus:
        for queue in QUEUES:
            bus.declare(queue)
        yield bus


def account(rabbitmq: RabbitMQ, url: str, *, read: str) -> str:
    """Return the URL for an account that may read what a regular expression matches, and make pool queues."""
    name = f"user-{uuid.uuid4().hex[:8]}"
    vhost = url.rpartition("/")[2]
    rabbitmq.api("PUT", f"users/{name}", {"password": name, "tags": ""})
    permit(rabbitmq, url, name, read)
    return url.replace("guest:guest", f"{name}:{name}") if vhost else url


def permit(rabbitmq: RabbitMQ, url: str, name: str, read: str) -> None:
    rights = {"configure": "^ours$", "write": "^ours$", "read": read}
    rabbitmq.api("PUT", f"permissions/{url.rpartition('/')[2]}/{name}", rights)


def test_a_queue_that_the_account_may_not_read_costs_no_message_of_one_that_it_may(
    broker_url: str, rabbitmq: RabbitMQ, bus: Bus, ledger: Ledger
) -> None:
    limit_deliveries(rabbitmq, broker_url, 2)
    bodies = [body() for _ in range(500)]
    bus.publish(bodies)
    url = account(rabbitmq, broker_url, read="^notifications.info$")
    reader = Reader(url, Topology(QUEUES), ledger.connection)
    with reader.running():
        wait_until(lambda: ledger.events() == 500, 20, "the events")
        assert "ACCESS_REFUSED" in wait_until(lambda: reader.refusals.get(WARN), 10, "the refusal")
        bus.publish([body()], WARN)
        permit(rabbitmq, broker_url, url.partition("//")[2].partition(":")[0], ".*")
        wait_until(lambda: ledger.events() == 501, 20, "the event of the queue that is permitted now")
        assert not reader.refusals
    assert (reader.opened, reader.lost) == (1, 0)


def test_a_queue_that_another_reads_exclusively_is_read_when_it_no_longer_does(
    broker_url: str, ledger: Ledger
) -> None:
    with Bus(broker_url) as bus:
        for queue in QUEUES:
            bus.declare(queue)
        channel = bus.channel()
        channel.basic_consume(WARN, exclusive=True, no_ack=True)
        reader = Reader(broker_url, Topology(QUEUES), ledger.connection)
        with reader.running():
            bus.publish([body() for _ in range(100)])
            wait_until(lambda: ledger.events() == 100, 20, "the events of the other queue")
            assert "exclusive use" in wait_until(lambda: reader.refusals.get(WARN), 10, "the refusal")
            channel.close()
            bus.publish([body()], WARN)
            wait_until(lambda: ledger.events() == 101, 20, "the event of the queue that is free now")
        assert reader.lost == 0


@pytest.mark.parametrize("name", [WARN, "n" * 200])
def test_a_stream_is_refused_in_words_and_holds_up_no_other_queue(
    broker_url: str, bus: Bus, ledger: Ledger, name: str
) -> None:
    bus.delete(WARN)
    with bus.channel() as channel:
        channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-queue-type": "stream"})
    bus.publish([body()])
    topology = Topology((INFO, name))
    reader = Reader(broker_url, topology, ledger.connection)
    with reader.running():
        wait_until(lambda: ledger.events() == 1, 20, "the event of the other queue")
        told = wait_until(lambda: reader.refusals.get(name), 10, "the refusal")
        assert told.startswith("it is a stream")
        assert reader.lost == 0
    found = {finding.subject: finding for finding in inspect(parse(broker_url), topology, None, None)}
    assert found[f"queue {name}"].level == "failure"
    assert "it is a stream" in found[f"queue {name}"].text
    assert found[f"queue {INFO}"].level != "failure"


def test_a_transient_queue_where_durable_ones_are_required_holds_up_no_other(
    broker_url: str, ledger: Ledger
) -> None:
    with Bus(broker_url) as bus, Bus(broker_url, durable=False) as other:
        bus.declare(INFO)
        channel = other.channel()
        channel.queue_declare(WARN, durable=False, auto_delete=False)
        reader = Reader(broker_url, Topology(QUEUES, require_durable=True), ledger.connection)
        with reader.running():
            told = wait_until(lambda: reader.refusals.get(WARN), 20, "the refusal")
            assert told.startswith(f"queue '{WARN}' is transient")
            bus.publish([body()])
            wait_until(lambda: ledger.events() == 1, 20, "the event of the other queue")
            channel.queue_delete(WARN)
            bus.declare(WARN)
            bus.publish([body()], WARN)
            wait_until(lambda: ledger.events() == 2, 20, "the event of the queue that is durable now")
            assert not reader.refusals
    assert (reader.opened, reader.lost) == (1, 0)


def test_to_ask_what_a_queue_is_like_that_was_just_deleted_makes_none(broker_url: str) -> None:
    waker = Waker()
    link = AmqpLink(parse(broker_url).brokers[0], {}, waker)
    keeper = TopologyKeeper(Topology(QUEUES, require_durable=True), link)
    assert keeper.why_not_durable(WARN) is None
    assert keeper.deletes_itself(WARN) is None
    with Bus(broker_url) as bus, pytest.raises(amqp.exceptions.NotFound):
        bus.count(WARN)
    link.close()
    waker.close()


def test_a_queue_that_is_locked_holds_up_no_other(broker_url: str, ledger: Ledger) -> None:
    with Bus(broker_url) as bus, Bus(broker_url) as owner:
        bus.declare(INFO)
        owner.channel().queue_declare(WARN, exclusive=True)
        reader = Reader(broker_url, Topology(QUEUES), ledger.connection)
        with reader.running():
            bus.publish([body() for _ in range(100)])
            wait_until(lambda: ledger.events() == 100, 20, "the events of the other queue")
            assert "RESOURCE_LOCKED" in wait_until(lambda: reader.refusals.get(WARN), 10, "the refusal")
        assert reader.lost == 0
        topology = Topology(QUEUES)
        found = {finding.subject: finding for finding in inspect(parse(broker_url), topology, None, None)}
        assert found[f"queue {WARN}"].level == "failure"
        assert "RESOURCE_LOCKED" in found[f"queue {WARN}"].text
        assert found[f"queue {INFO}"].level == "ok"


@pytest.mark.parametrize("declare", ["auto", "never"])
@pytest.mark.parametrize("quorum", [True, False])
def test_a_queue_that_is_deleted_and_made_again_is_read_again_and_the_other_goes_on(
    broker_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, quorum: bool, declare: str
) -> None:
    monkeypatch.setattr(queue_channel, "_RENEW_AFTER", 1.0)
    reader = Reader(broker_url, Topology(QUEUES, declare=declare), ledger.connection)
    with Bus(broker_url, quorum=quorum) as bus:
        for queue in QUEUES:
            bus.declare(queue)
        with reader.running():
            for queue in QUEUES:
                bus.publish([body()], queue)
            wait_until(lambda: ledger.events() == 2, 20, "an event of both queues")
            bus.delete(WARN)
            bus.declare(WARN)  # at once: of a quorum queue RabbitMQ may then tell its consumer nothing
            for queue in QUEUES:
                bus.publish([body()], queue)
            wait_until(lambda: ledger.events() == 4, 20, "an event of both queues")
    assert (reader.opened, reader.lost) == (1, 0)


def test_a_queue_that_is_only_consumed_and_is_not_there_is_tried_again_over_the_same_connection(
    broker_url: str, ledger: Ledger
) -> None:
    reader = Reader(broker_url, Topology(QUEUES, declare="never"), ledger.connection)
    with Bus(broker_url) as bus, reader.running():
        bus.declare(INFO)
        bus.publish([body()], INFO)
        wait_until(lambda: ledger.events() == 1, 20, "the event of the queue that is there")
        assert "NOT_FOUND" in wait_until(lambda: reader.refusals.get(WARN), 10, "the refusal")
        bus.declare(WARN)
        bus.publish([body()], WARN)
        wait_until(lambda: ledger.events() == 2, 20, "the event of the queue that was made")
    assert (reader.opened, reader.lost) == (1, 0)


def test_an_exchange_that_is_deleted_and_made_again_is_bound_again(
    broker_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bindings, "_BIND_AGAIN", 0.2)
    topology = Topology((INFO,), exchanges=("cinder", "nova"), pool="ours")
    with Bus(broker_url) as bus:
        bus.declare(INFO, "nova")
        with Reader(broker_url, topology, ledger.connection).running() as reader:
            wait_until(lambda: bus.publish([body()], INFO, "nova") and ledger.events(), 20, "an event")
            channel = bus.channel()
            channel.exchange_delete("nova")
            bus.declare(INFO, "nova")
            before = ledger.events()
            wait_until(
                lambda: bus.publish([body()], INFO, "nova") and ledger.events() > before, 20, "an event"
            )
        assert reader.lost == 0


def test_an_exchange_that_may_not_be_bound_is_told_and_those_after_it_are_bound(
    broker_url: str, rabbitmq: RabbitMQ, ledger: Ledger
) -> None:
    topology = Topology((INFO,), exchanges=("cinder", "glance", "nova"), pool="ours")
    with Bus(broker_url) as bus:
        for exchange in topology.exchanges:
            bus.declare(INFO, exchange)
        url = account(rabbitmq, broker_url, read="^(ours|cinder|nova)$")
        with Reader(url, topology, ledger.connection).running() as reader:
            assert "'glance'" in wait_until(lambda: reader.refusals.get("glance"), 20, "the refusal")
            wait_until(
                lambda: rabbitmq.bound_exchanges(broker_url, "ours") == {"cinder", "nova"}, 20, "the bindings"
            )
            bus.publish([body()], INFO, "nova")
            wait_until(lambda: ledger.events() == 1, 20, "the event")
        assert (reader.opened, reader.lost) == (1, 0)


def test_a_pools_queue_that_a_limit_keeps_from_being_made_is_told_with_it_and_made_when_it_may_be(
    broker_url: str, rabbitmq: RabbitMQ, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    topology = Topology((INFO,), exchanges=("nova",), pool="ours")
    limit = f"vhost-limits/{broker_url.rpartition('/')[2]}/max-queues"
    rabbitmq.api("PUT", limit, {"value": 0})
    found = inspect(parse(broker_url), topology, None, None)
    told = [one.text for one in found if one.subject == "queue ours" and "queue limit" in one.text]
    assert told or rabbitmq.release >= (4, 1)  # which looks at the arguments of what we ask with first
    with Reader(broker_url, topology, ledger.connection).running() as reader:
        assert "queue limit" in str(wait_until(lambda: reader.refusals.get("ours"), 20, "the refusal"))
        assert "differs" not in caplog.text
        rabbitmq.api("DELETE", limit)
        wait_until(lambda: rabbitmq.queues(broker_url), 20, "the queue")
        wait_until(lambda: reader.refusals.get("ours") is None, 20, "its being read")


def test_an_absent_exchange_whose_name_the_broker_cuts_within_a_character_costs_no_other(
    broker_url: str, rabbitmq: RabbitMQ, ledger: Ledger
) -> None:
    # Whichever byte of 252 the broker cuts at, it is within a character of one of these.
    absent = [f"{'e' * length}{'é' * 20}" for length in (200, 201)]
    topology = Topology((INFO,), exchanges=(*absent, "nova"), pool="ours")
    started = time.monotonic()
    with Bus(broker_url) as bus:
        bus.declare(INFO, "nova")
        with Reader(broker_url, topology, ledger.connection).running() as reader:
            wait_until(lambda: rabbitmq.bound_exchanges(broker_url, "ours") == {"nova"}, 20, "the binding")
            bus.publish([body()], INFO, "nova")
            wait_until(lambda: ledger.events() == 1, 20, "the event")
    if rabbitmq.release < (4, 3):  # which ends the connection over one of them
        assert (reader.opened, reader.lost) == (1, 0)
    else:
        assert reader.lost <= len(absent) + (time.monotonic() - started) / pauses.READ_FIRST


def test_an_exchange_over_which_the_broker_ends_the_connection_costs_no_other(
    broker_url: str,
    rabbitmq: RabbitMQ,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pauses, "READ_FIRST", 1.0)
    topology = Topology((INFO,), exchanges=("cinder", "nova"), pool="ours")
    with Bus(broker_url) as bus:
        for exchange in topology.exchanges:
            bus.declare(INFO, exchange)
        with (
            costly_exchange(rabbitmq, broker_url, "cinder") as mend,
            Reader(broker_url, topology, ledger.connection).running() as reader,
        ):
            wait_until(lambda: rabbitmq.bound_exchanges(broker_url, "ours") == {"nova"}, 20, "the other one")
            bus.publish([body()], INFO, "nova")
            wait_until(lambda: ledger.events() == 1, 20, "the event of the other one")
            wait_until(lambda: reader.lost == 2, 30, "another loss, later")
            assert list(reader.refusals) == ["cinder"]
            assert "the connection was lost over it" in reader.refusals["cinder"]
            mend()
            wait_until(
                lambda: rabbitmq.bound_exchanges(broker_url, "ours") == {"cinder", "nova"}, 60, "both bound"
            )
            wait_until(lambda: not reader.refusals, 20, "nothing refused")
        assert caplog.text.count("refuses to bind the pool's queue to 'cinder': the connection was lost") == 1


def test_a_connection_that_is_closed_for_a_reason_in_latin_1_is_opened_anew(
    broker_url: str, rabbitmq: RabbitMQ, bus: Bus, ledger: Ledger
) -> None:
    others = {one["name"] for one in rabbitmq.connections(broker_url)}
    with Reader(broker_url, Topology((INFO,)), ledger.connection).running() as reader:
        reader.wait_until_consuming()
        (ours,) = {one["name"] for one in rabbitmq.connections(broker_url)} - others
        rabbitmq.close_connection(ours, "Wartung für heute")
        wait_until(lambda: reader.lost == 1, 20, "the loss of the connection")
        bus.publish([body()])
        wait_until(lambda: ledger.events() == 1, 20, "the event")


def test_asking_for_missing_exchanges_again_and_again_leaks_no_channel(
    broker_url: str, rabbitmq: RabbitMQ, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_FIRST_LOOK", 0.01)
    monkeypatch.setattr(pauses, "_LATER_LOOKS_FOR_EXCHANGES", 0.01)
    asked = 0
    bind = TopologyKeeper.bind

    def count(self: TopologyKeeper, exchange: str) -> bool:
        nonlocal asked
        asked += 1
        return bind(self, exchange)

    monkeypatch.setattr(TopologyKeeper, "bind", count)
    topology = Topology((INFO,), exchanges=[f"absent-{number}" for number in range(10)], pool="ours")
    with Reader(broker_url, topology, ledger.connection).running() as reader:
        wait_until(lambda: asked > 100, 20, "a hundred questions")
        assert max(one["channels"] for one in rabbitmq.connections(broker_url)) <= 3
    assert reader.lost == 0


@pytest.fixture
def sixteen_channels(rabbitmq: RabbitMQ) -> Iterator[None]:
    """Have the broker allow sixteen channels to a connection."""
    usual = rabbitmq.ctl("eval", "{ok, N} = application:get_env(rabbit, channel_max), N.").strip()
    rabbitmq.ctl("eval", "application:set_env(rabbit, channel_max, 16).")
    yield
    rabbitmq.ctl("eval", f"application:set_env(rabbit, channel_max, {usual}).")


@pytest.mark.usefixtures("sixteen_channels")
def test_forty_missing_exchanges_cost_nothing_where_a_connection_may_have_sixteen_channels(
    broker_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_FIRST_LOOK", 0.01)
    absent = [f"absent-{number}" for number in range(40)]
    topology = Topology((INFO,), exchanges=[*absent, "nova"], pool="ours")
    with Bus(broker_url) as bus:
        bus.declare(INFO, "nova")
        assert bus.channel().connection.channel_max == 16
        with Reader(broker_url, topology, ledger.connection).running() as reader:
            wait_until(lambda: bus.publish([body()], INFO, "nova") and ledger.events(), 20, "an event")
    assert (reader.opened, reader.lost) == (1, 0)


@pytest.mark.usefixtures("sixteen_channels")
def test_of_more_queues_than_a_connection_may_have_channels_those_that_fit_are_read_and_the_others_told(
    broker_url: str, ledger: Ledger
) -> None:
    queues = [f"notifications.{number}" for number in range(20)]
    with Bus(broker_url) as bus:
        for queue in queues:
            bus.declare(queue)
            bus.publish([body()], queue)
        with Reader(broker_url, Topology(queues), ledger.connection).running() as reader:
            wait_until(
                lambda: ledger.events() == 15, 20, "the events of those, beside one channel to ask over"
            )
            wait_until(lambda: len(reader.refusals) == 5, 10, "the others told")
            assert all("16 channels to a connection" in reason for reason in reader.refusals.values())
            bus.publish([body()], queues[0])
            wait_until(lambda: not bus.count(queues[0]), 20, "the queue read on")
    assert (reader.opened, reader.lost) == (1, 0)


def test_handshakes_that_fail_leak_no_file_descriptor(broker_url: str) -> None:
    wrong = parse(broker_url.replace("guest:guest", "guest:wrong")).brokers[0]
    waker = Waker()
    before = descriptors()
    for _ in range(5):
        with pytest.raises(LINK_ERRORS):
            AmqpLink(wrong, {}, waker)
    assert descriptors() == before
    waker.close()


def test_of_more_queues_than_a_user_may_have_channels_those_that_fit_are_read_and_the_others_in_their_time(
    broker_url: str, rabbitmq: RabbitMQ, ledger: Ledger
) -> None:
    url = account(rabbitmq, broker_url, read=".*")
    user = url.partition("//")[2].partition(":")[0]
    rabbitmq.api("PUT", f"user-limits/{user}/max-channels", {"value": 3})
    queues = [f"notifications.{number}" for number in range(4)]
    with Bus(broker_url) as bus:
        for queue in queues:
            bus.declare(queue)
            bus.publish((body() for _ in range(50)), queue)
        with Reader(url, Topology(queues), ledger.connection).running() as reader:
            wait_until(
                lambda: ledger.events() == 100, 60, "the events of those that fit, beside one to ask over"
            )
            wait_until(lambda: len(reader.refusals) == 2, 60, "the others told")
            told = re.compile(r"maximum allowed user limit of \(?3\)?")
            assert all(told.search(reason) for reason in reader.refusals.values())
            rabbitmq.api("DELETE", f"user-limits/{user}/max-channels")
            wait_until(lambda: ledger.events() == 200, 60, "the events of the others")
            wait_until(lambda: not reader.refusals, 10, "none told any more")
    assert reader.lost <= 4  # later each time


@pytest.mark.timeout(300)
def test_a_queue_whose_node_is_down_is_refused_and_not_taken_for_one_that_was_never_made(
    ledger: Ledger,
) -> None:
    with RabbitMQ() as node, RabbitMQ(cluster_with=node) as home:
        down = f"home node '{home.node}'" if node.release < (4, 3) else "process is stopped"
        with Bus(home.url) as bus:
            bus.declare(WARN)
        with Bus(node.url) as bus:
            bus.declare(INFO)
            home.stop()
            topology = Topology((*QUEUES, "notifications.never"))
            with Reader(node.url, topology, ledger.connection).running() as reader:
                bus.publish([body()])
                wait_until(lambda: ledger.events() == 1, 20, "the event of the other queue")
                told = wait_until(lambda: reader.refusals.get(WARN), 20, "the refusal")
                assert down in told
                assert list(reader.refusals) == [WARN]
            assert list(refused(parse(node.url), topology.names)) == [WARN]
            found = {finding.subject: finding for finding in inspect(parse(node.url), topology, None, None)}
        assert found[f"queue {WARN}"].level == "failure"
        assert down in found[f"queue {WARN}"].text
        assert "not there" in found["queue notifications.never"].text


def test_a_queue_whose_process_hangs_is_named_and_keeps_no_other_from_being_read(
    broker_url: str,
    rabbitmq: RabbitMQ,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(amqp_link, "IO_TIMEOUT", 1.0)
    monkeypatch.setattr(pauses, "READ_FIRST", 1.0)
    with Bus(broker_url) as bus:
        for queue in QUEUES:
            bus.declare(queue)
            bus.publish([body()], queue)
        reader = Reader(broker_url, Topology(QUEUES), ledger.connection)
        with hanging(rabbitmq, broker_url, INFO) as resume, reader.running():
            wait_until(lambda: ledger.events() == 1, 20, "the event of the other queue")
            wait_until(lambda: reader.lost == 2, 20, "another loss")
            assert "the connection was lost over it" in reader.refusals[INFO]
            assert list(reader.refusals) == [INFO]
            resume()
            wait_until(lambda: ledger.events() == 2, 30, "the event of the queue that answers again")
            assert not reader.refusals
        told = f"queue '{INFO}' is not read: the connection was lost over it: TimeoutError"
        assert caplog.text.count(told) == 1


@pytest.mark.timeout(300)
def test_a_broker_that_answers_slowly_makes_nobody_think_that_its_reader_hangs(
    broker_url: str, rabbitmq: RabbitMQ, ledger: Ledger
) -> None:
    queues = [f"notifications.{number}" for number in range(10)]
    with Bus(broker_url) as bus, Proxy(rabbitmq.port) as proxy:
        for queue in queues:
            bus.declare(queue)
            bus.publish([body()], queue)
        proxy.latency = 0.25
        reader = Reader(proxy.url(broker_url), Topology(queues), ledger.connection)
        with reader.running():
            # RabbitMQ 4.3 has more to be asked: each classic queue refuses a timeout of our own first.
            patience = 60 if rabbitmq.release < (4, 3) else 100
            wait_until(lambda: ledger.events() == 10, patience, "an event of each")
            proxy.latency = 0.0
        assert reader.longest_silence < 5
    assert (reader.opened, reader.lost) == (1, 0)


@pytest.mark.parametrize("wrong", [{"host": "rabbit..example.com"}, {"login_method": "plain"}])
def test_what_can_be_said_to_no_resolver_and_no_broker_is_a_link_that_fails(
    broker_url: str, wrong: dict[str, str]
) -> None:
    waker = Waker()
    with pytest.raises(LINK_ERRORS):
        AmqpLink(dataclasses.replace(parse(broker_url).brokers[0], **wrong), {}, waker)  # type: ignore[arg-type]
    waker.close()


def test_a_connection_that_is_lost_at_the_start_costs_few_messages_one_of_their_returns(
    broker_url: str, rabbitmq: RabbitMQ, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_FIRST_PAUSE", 60.0)
    with Bus(broker_url, quorum=True) as bus:
        bus.declare(INFO)
        bus.publish(body() for _ in range(500))
    reader = Reader(broker_url, Topology((INFO,)), ledger.connection)
    monkeypatch.setattr(reader.pipeline, "poll", lambda **_: ())  # nothing gets as far as a commit
    with reader.running():
        wait_until(lambda: reader.flow.messages == FIRST_PREFETCH, 20, "the first messages")
        rabbitmq.close_connections(broker_url)
        wait_until(lambda: reader.lost == 1, 20, "the loss of the connection")
    with Bus(broker_url) as again:
        wait_until(lambda: again.count() == 500, 20, "all messages back with the broker")
        assert sum(map(bool, returns(again, 500))) <= FIRST_PREFETCH


def returns_and_in_hand(reader: Reader) -> list[tuple[int, int]]:
    """Return a list that gets for each message how often it came back, and how many are in hand then."""
    seen = []
    received = reader.flow.received

    def look(queue: str, size: int, returns: int, redelivered: bool = False) -> bool:
        exceeded = received(queue, size, returns, redelivered)
        seen.append((returns, reader.flow.messages))
        return exceeded

    reader.flow.received = look  # type: ignore[method-assign]
    return seen


def test_messages_near_their_delivery_limit_are_read_one_by_one_and_none_is_dropped(
    broker_url: str, rabbitmq: RabbitMQ, bus: Bus, ledger: Ledger
) -> None:
    limit_deliveries(rabbitmq, broker_url, 4)
    bodies = [body() for _ in range(50)]
    bus.publish(bodies)
    for _ in range(3):
        with Bus(broker_url) as consumer_that_dies:
            returns(consumer_that_dies, 50)
    wait_until(lambda: bus.count() == 50, 20, "all messages back with the broker")
    reader = Reader(broker_url, Topology((INFO,)), ledger.connection)
    seen = returns_and_in_hand(reader)
    with reader.running():
        wait_until(lambda: ledger.events() == 50, 30, "all events")
    assert {times for times, _ in seen} == {3}
    assert {in_hand for _, in_hand in seen[FIRST_PREFETCH:]} == {1}


@pytest.mark.long
def test_messages_that_only_the_newer_counter_counts_are_read_one_by_one_and_none_is_dropped(
    newest_rabbitmq: RabbitMQ, ledger: Ledger
) -> None:
    url = newest_rabbitmq.create_vhost()
    headers = []

    def give_back(message: amqp.Message) -> None:
        headers.append(message.headers or {})
        message.channel.send_method(amqp.spec.Basic.Nack, "Lbb", (message.delivery_tag, False, True))

    with Bus(url, quorum=True) as bus:
        bus.declare(INFO)
        limit_deliveries(newest_rabbitmq, url, 4)
        bus.publish(body() for _ in range(30))
        channel = bus.channel()
        tag = channel.basic_consume(INFO, callback=give_back)
        while len(headers) < 30 * 4:
            channel.connection.drain_events(timeout=10)
        channel.basic_cancel(tag)
        channel.close()
        wait_until(lambda: bus.count() == 30, 20, "all messages back with the broker")
    assert max(one.get("x-acquired-count", 0) for one in headers) >= 3
    assert not any("x-delivery-count" in one for one in headers)
    reader = Reader(url, Topology((INFO,)), ledger.connection)
    seen = returns_and_in_hand(reader)
    with reader.running():
        wait_until(lambda: ledger.events() == 30, 30, "all events")
    assert min(times for times, _ in seen) >= 3
    assert {in_hand for _, in_hand in seen[FIRST_PREFETCH:]} == {1}
    newest_rabbitmq.drop_vhost(url)


def test_a_consumer_that_is_ended_again_and_again_is_told_once(
    broker_url: str, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    with Bus(broker_url) as bus:
        bus.declare(INFO)
        with Reader(broker_url, Topology((INFO,)), ledger.connection).running():
            for _ in range(4):
                wait_until(lambda: bus.consumers() == 1, 20, "a consumer")
                bus.delete(INFO)
                bus.declare(INFO)
            wait_until(lambda: bus.consumers() == 1, 20, "a consumer")
    assert caplog.text.count("is not read: ConsumerCancelled") == 1


def test_a_consumer_asks_for_the_time_that_the_operator_says(
    broker_url: str, rabbitmq: RabbitMQ, bus: Bus, ledger: Ledger
) -> None:
    del bus
    with Reader(broker_url, Topology((INFO,), consumer_timeout=77.5), ledger.connection).running() as reader:
        reader.wait_until_consuming()
        listed = rabbitmq.ctl("list_consumers", "--vhost", broker_url.rpartition("/")[2], "arguments")
        assert "77500" in listed


@contextlib.contextmanager
def set_otherwise(broker: RabbitMQ, name: str, value: int) -> Iterator[str]:
    """Give an empty vhost of a broker of which one setting is another one meanwhile."""
    broker.ctl("eval", f"application:set_env(rabbit, {name}, {value}).")
    url = broker.create_vhost()
    yield url
    broker.drop_vhost(url)
    broker.ctl("eval", f"application:unset_env(rabbit, {name}).")


@pytest.fixture
def frugal_url(newest_rabbitmq: RabbitMQ) -> Iterator[str]:
    """A vhost of a broker that lets a channel have one consumer."""
    with set_otherwise(newest_rabbitmq, "consumer_max_per_channel", 1) as url:
        yield url


@pytest.mark.long
@pytest.mark.parametrize("declare", ["auto", "never"])
def test_a_broker_that_lets_a_channel_have_one_consumer_is_read_all_the_same(
    frugal_url: str, ledger: Ledger, declare: str
) -> None:
    with Bus(frugal_url) as bus:
        bus.declare(INFO)
        bus.publish(body() for _ in range(1000))
        topology = Topology((INFO,), declare=declare)
        with Reader(frugal_url, topology, ledger.connection).running() as reader:
            wait_until(lambda: ledger.events() == 1000, 30, "all events")
        assert reader.lost == (declare == "never"), "once, where nobody tells whether it deletes itself"


@pytest.fixture
def impatient_url(newest_rabbitmq: RabbitMQ) -> Iterator[str]:
    """A vhost of a broker that waits for a second."""
    with set_otherwise(newest_rabbitmq, "consumer_timeout", 1000) as url:
        yield url


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("quorum", [True, False])
def test_a_message_stays_in_hand_for_as_long_as_was_asked_whatever_the_broker_is_set_to(
    impatient_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, quorum: bool
) -> None:
    other = "notifications.other"
    with Bus(impatient_url, quorum=quorum) as bus, Bus(impatient_url, quorum=True) as idle:
        bus.declare(INFO)
        idle.declare(other)
        bus.publish([body()])
        idle.publish([body()], other)
        reader = Reader(impatient_url, Topology((INFO,), consumer_timeout=600), ledger.connection)
        poll = reader.pipeline.poll
        monkeypatch.setattr(reader.pipeline, "poll", lambda **_: ())
        with reader.running():
            wait_until(lambda: reader.flow.messages == 1, 20, "the message in hand")
            channel = idle.channel()
            channel.basic_consume(other, callback=[].append)  # one that asks for nothing
            with pytest.raises(amqp.exceptions.ConsumerCancelled):
                listen(channel.connection)
            assert (bus.consumers(), reader.flow.messages) == (1, 1)
            monkeypatch.setattr(reader.pipeline, "poll", poll)
            wait_until(lambda: ledger.events() == 1, 20, "the event")
            wait_until(lambda: not bus.count(), 20, "an empty queue")
        assert not reader.refusals
    assert (reader.opened, reader.lost) == (1, 0)


def listen(connection: amqp.Connection) -> None:
    """Take what the broker sends until it tells of an error; once a minute it looks for what is overdue."""
    while True:
        connection.drain_events(timeout=100)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def returns(bus: Bus, count: int) -> list[int]:
    """Take so many messages and return how often each came back; closing the bus gives them back."""
    channel = bus.channel()
    found: list[int] = []

    def take(message: amqp.Message) -> None:
        found.append((message.headers or {}).get("x-delivery-count", 0))

    channel.basic_qos(0, count, False)
    channel.basic_consume(INFO, callback=take)
    while len(found) < count:
        channel.connection.drain_events(timeout=10)
    return found
