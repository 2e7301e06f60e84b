"""The daemon between a real broker and real databases."""

import json
import logging
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import psutil
import pytest

from tests.bodies import body, envelope, notification
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.ledger import Ledger, load
from tests.services import PostgreSQL, RabbitMQ
from tests.waiting import wait_until

LOG = logging.getLogger(__name__)

pytestmark = pytest.mark.rabbitmq


def daemon(tmp_path: Path, broker_url: str, database_url: str, more: str = "") -> Daemon:
    return Daemon(configuration(tmp_path, broker_url, database_url, more))


@pytest.fixture
def open_ledger() -> Iterator[Callable[[str], Ledger]]:
    ledgers: list[Ledger] = []

    def open_one(url: str) -> Ledger:
        ledgers.append(Ledger(url))
        return ledgers[-1]

    yield open_one
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def ledger(database_url: str, open_ledger: Callable[[str], Ledger]) -> Ledger:
    return open_ledger(database_url)


@pytest.fixture
def sqlite_ledger(sqlite_url: str, open_ledger: Callable[[str], Ledger]) -> Ledger:
    return open_ledger(sqlite_url)


@pytest.fixture
def postgresql_ledger(postgresql_url: str, open_ledger: Callable[[str], Ledger]) -> Ledger:
    return open_ledger(postgresql_url)


@pytest.mark.parametrize("count", [10_000, pytest.param(20_000, marks=pytest.mark.long)])
def test_every_notification_of_a_busy_day_is_stored_once_through_a_restart(
    tmp_path: Path, broker_url: str, ledger: Ledger, count: int
) -> None:
    bodies = load(count)
    service = daemon(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 2\n")
    with Bus(broker_url) as bus:
        bus.declare()
        bus.publish(bodies)
        with service.running():
            wait_until(lambda: ledger.events() > 1000, 30, "a part of the events")
            assert service.stop() == 0
            assert ledger.events() < len(bodies), "nothing was left for the second run"
            assert bus.count() + ledger.events() == len(bodies), (
                "a clean stop leaves no doubt about any message"
            )
            started, before = time.monotonic(), ledger.events()
            service.start()
            wait_until(lambda: ledger.events() >= len(bodies), 60, "all events")
            seconds = time.monotonic() - started
            assert service.stop() == 0
        assert bus.count() == 0
    LOG.info("%.0f events/s, start included", (len(bodies) - before) / seconds)
    ledger.assert_holds(bodies)
    assert ledger.dead_letters() == 0


def test_nothing_is_lost_or_doubled_when_workers_are_killed(
    tmp_path: Path, broker_url: str, postgresql_ledger: Ledger
) -> None:
    bodies = load(12_000, seed=2)
    service = daemon(tmp_path, broker_url, postgresql_ledger.url, "[notification]\nworkers = 2\n")
    random = Random(1)
    killed = 0
    with Bus(broker_url) as bus:
        bus.declare()
        bus.publish(bodies)
        with service.running():
            for _ in range(3):
                before = postgresql_ledger.events()
                wait_until(partial(grown, postgresql_ledger, before + 2000), 60, "2000 more events")
                victim = random.choice(service.workers)
                victim.kill()
                victim.wait(5)
                killed += 1
            wait_until(lambda: postgresql_ledger.events() >= len(bodies), 60, "all events")
            assert service.stop() == 0
        assert bus.count() == 0
    assert killed == 3
    postgresql_ledger.assert_holds(bodies)


def grown(ledger: Ledger, wanted: int) -> bool:
    return ledger.events() >= wanted


def malformed() -> list[bytes]:
    good = notification()
    inner = json.dumps(good)
    return [
        b"",
        b"{",
        b"null",
        b"[]",
        b"42",
        b'"text"',
        b"\xff\xfe\x00",
        b"\x80\x04\x95",
        b"--- !!python/object/apply:os.system ['true']",
        b"{}",
        b"[" * 5000,
        json.dumps({"oslo.version": "2.0"}).encode(),
        json.dumps({"oslo.version": "3.0", "oslo.message": inner}).encode(),
        json.dumps({"oslo.version": "2.0", "oslo.message": inner[:-5]}).encode(),
        json.dumps({"oslo.version": "2.0", "oslo.message": good}).encode(),
        json.dumps({"oslo.version": "2.0", "oslo.message": "[]"}).encode(),
        json.dumps({"oslo.version": "2.0", "oslo.message": None}).encode(),
        json.dumps({"oslo.version": None, "oslo.message": inner}).encode(),
        *(
            envelope({key: value for key, value in notification().items() if key != missing})
            for missing in ("message_id", "event_type", "timestamp")
        ),
        body(message_id=None),
        body(message_id=""),
        body(message_id="x" * 300),
        body(message_id={"a": 1}),
        body(event_type=None),
        body(event_type=[]),
        body(timestamp="yesterday"),
        body(timestamp={}),
        body(timestamp="0000-00-00 00:00:00"),
    ]


def test_malformed_messages_become_dead_letters_and_the_others_events(
    tmp_path: Path, broker_url: str, ledger: Ledger
) -> None:
    good = load(1000, seed=3)
    bad = malformed()
    assert len(set(bad)) == len(bad) == 30
    mixed: list[bytes] = good + bad
    Random(4).shuffle(mixed)
    service = daemon(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 1\n")
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        bus.publish(mixed)
        service.wait_until_ready()
        (worker,) = service.workers
        wait_until(
            lambda: ledger.events() + ledger.dead_letters() == len(mixed), 30, "an end for each message"
        )
        assert worker.is_running()
        assert service.stop() == 0
        assert bus.count() == 0
    ledger.assert_holds(good)
    assert ledger.dead_letters() == 30
    assert set(ledger.stages()) <= {"decode", "convert", "record"}


def test_the_same_malformed_message_again_is_the_same_dead_letter(
    tmp_path: Path, broker_url: str, sqlite_ledger: Ledger
) -> None:
    with Bus(broker_url) as bus, daemon(tmp_path, broker_url, sqlite_ledger.url).running():
        bus.declare()
        bus.publish([b"{"] * 3)
        wait_until(lambda: sqlite_ledger.dead_letters() == 1, 30, "the dead letter")
        wait_until(lambda: bus.count() == 0, 10, "an empty queue")
        bus.publish([b"{", b"["])
        wait_until(lambda: sqlite_ledger.dead_letters() == 2, 30, "the other dead letter")


def test_a_lone_message_is_committed_and_acknowledged_at_once(
    tmp_path: Path, broker_url: str, sqlite_ledger: Ledger
) -> None:
    service = daemon(
        tmp_path, broker_url, sqlite_ledger.url, "[notification]\nworkers = 1\nbatch_timeout = 30\n"
    )
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        started = time.monotonic()
        bus.publish([body()])
        wait_until(lambda: sqlite_ledger.events() == 1, 10, "the event")
        assert time.monotonic() - started < 10  # a third of batch_timeout


def test_the_ingest_role_needs_no_right_to_change_the_schema(
    tmp_path: Path, broker_url: str, postgresql: PostgreSQL, postgresql_ledger: Ledger
) -> None:
    role = f"ingest_{uuid.uuid4().hex[:8]}"
    with postgresql_ledger.connection.engine.begin() as connection:
        for statement in (
            f"CREATE ROLE {role} LOGIN",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        ):
            connection.exec_driver_sql(statement)
    url = postgresql_ledger.connection.engine.url.set(username=role).render_as_string(hide_password=False)
    bodies = load(200, seed=5)
    service = daemon(tmp_path, broker_url, url)
    try:
        with Bus(broker_url) as bus, service.running():
            bus.declare()
            bus.publish([*bodies, b"{"])
            wait_until(
                lambda: postgresql_ledger.events() == 200 and postgresql_ledger.dead_letters() == 1,
                30,
                "all events",
            )
            assert service.stop() == 0
        postgresql_ledger.assert_holds(bodies)
    finally:
        with postgresql_ledger.connection.engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")


def test_the_daemon_warns_of_consumers_that_are_not_its_own(
    tmp_path: Path, broker_url: str, rabbitmq: RabbitMQ, sqlite_ledger: Ledger
) -> None:
    with Bus(broker_url) as bus, Bus(broker_url) as agent:
        bus.declare()
        agent._channel.basic_consume("notifications.info")
        service = daemon(tmp_path, broker_url, sqlite_ledger.url, "[notification]\nworkers = 2\n")
        with service.running():
            service.wait_until_ready()
            found = service.wait_for_log(
                r"queue 'notifications.info' has (\d+) consumers that are not of this daemon"
            )
            assert found[1] == "1"
            assert "[notification] pool" in service.log


def test_the_daemon_waits_for_queues_that_are_made_later(
    tmp_path: Path, broker_url: str, sqlite_ledger: Ledger
) -> None:
    service = daemon(tmp_path, broker_url, sqlite_ledger.url, "[notification]\nworkers = 1\n")
    with Bus(broker_url) as bus, service.running():
        service.wait_for_log("waiting for queues that are not there: notifications.error, notifications.info")
        for priority in ("info", "error"):
            bus.declare(f"notifications.{priority}")
            bus.publish([body()], queue=f"notifications.{priority}")
        wait_until(lambda: sqlite_ledger.events() == 2, 30, "both events")


def test_the_daemon_consumes_again_after_the_broker_closed_its_connections(
    tmp_path: Path, broker_url: str, rabbitmq: RabbitMQ, sqlite_ledger: Ledger
) -> None:
    service = daemon(tmp_path, broker_url, sqlite_ledger.url, "[notification]\nworkers = 1\n")
    with service.running():
        with Bus(broker_url) as bus:
            bus.declare()
            bus.publish([body()])
            wait_until(lambda: sqlite_ledger.events() == 1, 30, "the first event")
        rabbitmq.close_connections(broker_url)
        service.wait_for_log("CONNECTION_FORCED|closed by a test")
        with Bus(broker_url) as bus:
            bus.publish([body()])
            wait_until(lambda: sqlite_ledger.events() == 2, 30, "the event after the cut")


def test_the_daemon_starts_before_its_database_is_there_and_begins_when_it_is(
    tmp_path: Path, broker_url: str, sqlite_url: str, open_ledger: Callable[[str], Ledger]
) -> None:
    service = daemon(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 1\n")
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        bus.publish([body()])
        service.wait_for_log("Waiting for the event database: .*db sync")
        assert bus.consumers() == 0
        ledger = open_ledger(sqlite_url)
        wait_until(lambda: ledger.events() == 1, 30, "the event")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_daemon_stops_cleanly(
    tmp_path: Path, broker_url: str, sqlite_ledger: Ledger, number: signal.Signals
) -> None:
    service = daemon(tmp_path, broker_url, sqlite_ledger.url, "[notification]\nworkers = 2\n")
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        children = service.process.children()
        service.signal(number)
        assert service.wait(10) == 0
        assert not [
            child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        ]
        assert service.log.count("has stopped; everything it took is committed") == 2


def test_no_worker_outlives_the_master(tmp_path: Path, broker_url: str, sqlite_ledger: Ledger) -> None:
    service = daemon(tmp_path, broker_url, sqlite_ledger.url, "[notification]\nworkers = 2\n")
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        children = service.process.children()
        assert len(children) == 3
        service.process.kill()
        psutil.wait_procs(children, timeout=20)
        assert not [child for child in children if child.is_running()]
        wait_until(lambda: bus.consumers() == 0, 10, "no consumer")
