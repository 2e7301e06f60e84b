"""What is not at the broker, queues or exchanges, is told, and waited for in the right place."""

import contextlib
import dataclasses
from pathlib import Path

import pytest
from amqp.exceptions import ChannelError

from panko_ingest.amqp import Topology, consumer, parse
from panko_ingest.amqp.amqp_link import AmqpLink
from panko_ingest.amqp.link import Waker
from panko_ingest.amqp.topology import TopologyKeeper
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests import preloaded
from tests.bodies import body
from tests.bus import Bus
from tests.integration.test_monitor import Monitor, bus_name
from tests.ledger import Ledger
from tests.reader import Reader
from tests.services import RabbitMQ
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

INFO, ERROR = "notifications.info", "notifications.error"


def status(monitor: Monitor) -> str:
    shown = preloaded.run(["--config-file", monitor.daemon.conf, "status"])
    return " ".join(shown.stdout.split())


def test_queues_that_are_waited_for_are_told_wherever_one_looks(
    tmp_path: Path, broker_url: str, ledger: Ledger
) -> None:
    monitor = Monitor(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 2\n")

    def waiting(queue: str) -> float | None:
        return monitor.metric(f'absent_queues{{bus="{bus_name(broker_url)}",name="{queue}"}}')

    with Bus(broker_url) as bus, monitor.daemon.running():
        ready = monitor.daemon.wait_for_log("Ready: all 2 readers are consuming; waiting for .*: (.*)")
        assert ready[1] == f"{ERROR}, {INFO}"
        monitor.daemon.wait_for_log("Serving /metrics")
        wait_until(lambda: waiting(INFO) == waiting(ERROR) == 2, 20, "both, of both workers")
        told = [
            line for line in monitor.daemon.log.splitlines() if "none of them is: nothing was pub" in line
        ]
        assert sum(" WARNING " in line for line in told) == 1
        wait_until(lambda: monitor.says("/readyz", True), 30, "readiness")
        assert f"2 of 2 are consuming; waiting for queues that are not there: {ERROR}, {INFO}" in status(
            monitor
        )
        bus.declare(INFO)
        wait_until(lambda: waiting(INFO) == 0, 60, "the one that is there now")
        assert waiting(ERROR) == 2
        assert monitor.document("/readyz")["figures"]["absent_queues"] == [ERROR]


def test_a_pool_that_nothing_gets_into_is_told_and_not_ready_until_it_is_bound(
    tmp_path: Path, broker_url: str, ledger: Ledger
) -> None:
    exchanges = "".join(f"notification_control_exchanges = {name}\n" for name in ("nowa", "cindre"))
    more = f"[notification]\nworkers = 2\npool = audit\n{exchanges}"
    monitor = Monitor(tmp_path, broker_url, ledger.url, more)
    metric = f'unbound_pools{{bus="{bus_name(broker_url)}"}}'
    with Bus(broker_url) as bus, monitor.daemon.running():
        monitor.daemon.wait_for_log(
            "queue 'audit' of the pool is bound to nothing, .* is lost: .*: nowa, cindre"
        )
        monitor.daemon.wait_for_log("Serving /metrics")
        assert wait_until(lambda: monitor.metric(metric), 20, "the metric") == 1

        def why() -> str | None:
            found = monitor.document("/readyz").get("checks", {}).get("broker 1", {"ok": True, "text": ""})
            return None if found["ok"] else str(found["text"])

        assert "none of its control exchanges is there" in wait_until(why, 20, "the trouble of the bus")
        bus.declare(exchange="nowa")
        wait_until(lambda: monitor.says("/readyz", True), 70, "readiness")
        assert monitor.metric(metric) == 0
        bus.publish([body()], exchange="nowa")
        wait_until(lambda: ledger.events() == 1, 30, "the event")
        assert monitor.daemon.log.count("bound to nothing") == 1


def test_a_pools_queue_that_is_waited_for_tells_nothing_of_exchanges(
    broker_url: str, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    topology = Topology((INFO,), exchanges=("nova", "cinder"), pool="ours", declare="passive")
    with Bus(broker_url) as bus:
        bus.declare()
        with Reader(broker_url, topology, ledger.connection).running() as reader:
            wait_until(lambda: "waiting for queues that are not there: ours" in caplog.text, 20, "the wait")
            beats = reader.beats
            wait_until(lambda: reader.beats > beats + 10, 20, "some turns")
            bus.channel().queue_declare("ours", durable=True, auto_delete=False)
            wait_until(lambda: bus.consumers("ours"), 30, "a consumer")
            beats = reader.beats
            wait_until(lambda: reader.beats > beats + 2, 20, "one more turn")
            bus.publish([body()])
            wait_until(ledger.events, 20, "the event")
    assert "bound to nothing" not in caplog.text


def test_a_queue_that_goes_while_it_is_bound_makes_no_exchange_absent(broker_url: str) -> None:
    topology = Topology((INFO,), exchanges=("nova",), pool="ours")
    (broker,) = parse(broker_url).brokers
    with Bus(broker_url) as bus, contextlib.closing(AmqpLink(broker, {}, Waker())) as link:
        bus.declare()
        keeper = TopologyKeeper(topology, link)
        with pytest.raises(ChannelError, match="no queue 'ours'"):
            keeper.bind("nova")
        assert keeper.find("ours")
        assert keeper.bind("nova")
        assert not keeper.bind("cinder")


def test_an_exchange_is_bound_also_when_the_store_is_away_and_nobody_reads_the_pools_queue(
    rabbitmq: RabbitMQ, broker_url: str, ledger: Ledger, impatient: Connection
) -> None:
    topology = Topology((INFO,), exchanges=("nova", "cinder"), pool="ours", queue_type="quorum")
    bindings = f"queues/{broker_url.rpartition('/')[2]}/ours/bindings"
    with (
        Bus(broker_url) as bus,
        ledger.other_writer() as other,
        Reader(broker_url, topology, impatient, hold_limit=1.0).running() as reader,
    ):
        reader.wait_until_consuming()
        other.execute("BEGIN EXCLUSIVE")
        bus.publish([body()], "ours", exchange="")
        # While its message is given back it has no consumer for a moment, either.
        wait_until(lambda: not any(bus.consumers("ours") for _ in range(100)), 30, "it left alone")
        bus.declare(exchange="cinder")
        wait_until(
            lambda: "cinder" in {item["source"] for item in rabbitmq.api("GET", bindings)}, 30, "the binding"
        )
        bus.publish([body()], exchange="cinder")
        wait_until(lambda: not bus.consumers("ours"), 30, "nobody who reads it")
        other.execute("ROLLBACK")
        wait_until(lambda: ledger.events() == 2, 30, "the events")
    assert (reader.opened, reader.lost) == (1, 0)


def test_a_broker_that_has_none_of_the_queues_is_left_for_the_next_one_of_its_bus(
    rabbitmq: RabbitMQ, broker_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_ASTRAY_AFTER", 3.0)
    stray_url = rabbitmq.create_vhost()
    (full,), (stray,) = parse(broker_url).brokers, parse(stray_url).brokers
    with Bus(broker_url) as bus:
        bus.declare()
        bus.publish(body() for _ in range(10))
        reader = Reader(broker_url, Topology((INFO, ERROR)), ledger.connection)
        reader.consumer.bus = dataclasses.replace(reader.consumer.bus, brokers=(stray, full))
        reader.consumer._brokers = [full, stray]
        with reader.running():
            wait_until(lambda: ledger.events() == 10, 30, "the events of the broker that has them")
    assert (reader.opened, reader.lost) == (2, 0)
    rabbitmq.drop_vhost(stray_url)


def test_a_broker_at_which_nothing_gets_into_the_pools_queue_is_left_for_the_next_one_of_its_bus(
    rabbitmq: RabbitMQ, broker_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_ASTRAY_AFTER", 3.0)
    stray_url = rabbitmq.create_vhost()
    (full,), (stray,) = parse(broker_url).brokers, parse(stray_url).brokers
    topology = Topology((INFO,), exchanges=("nova", "made later"), pool="ours")
    with Bus(broker_url) as bus:
        reader = Reader(broker_url, topology, ledger.connection)
        reader.consumer.bus = dataclasses.replace(reader.consumer.bus, brokers=(stray, full))
        reader.consumer._brokers = [full, stray]
        with reader.running():
            reader.wait_until_consuming()
            bus.declare()
            wait_until(lambda: bus.consumers("ours"), 30, "a consumer where there is an exchange")
            beats = reader.beats
            wait_until(lambda: reader.beats > beats + 10, 20, "some turns without a message")
            bus.publish([body()])
            wait_until(ledger.events, 30, "the event of the broker that has it")
    assert (reader.opened, reader.lost) == (2, 0)
    rabbitmq.drop_vhost(stray_url)


def test_the_only_broker_of_a_bus_is_not_left_for_what_it_has_not(
    broker_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_ASTRAY_AFTER", 0.5)
    with Bus(broker_url) as bus, Reader(broker_url, Topology((INFO,)), ledger.connection).running() as reader:
        reader.wait_until_consuming()
        beats = reader.beats
        wait_until(lambda: reader.beats > beats + 6, 20, "some turns")
        bus.declare()
        bus.publish([body()])
        wait_until(lambda: ledger.events() == 1, 60, "the event")
    assert (reader.opened, reader.lost) == (1, 0)
