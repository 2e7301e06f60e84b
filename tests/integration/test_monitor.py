"""The monitor of a running daemon, asked over HTTP."""

import contextlib
import datetime
import http.client
import json
import re
import signal
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from panko_ingest import resources
from panko_ingest.converter import EventConverter
from panko_ingest.storage.models import Event
from panko_ingest.timestamps import utc_now
from tests import preloaded
from tests.bodies import decode
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.integration.storage.samples import make_letter
from tests.ledger import Ledger, load
from tests.services import PostgreSQL, RabbitMQ
from tests.services.server import free_port
from tests.spoiled import spoiled
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq


class Monitor:
    """A daemon with a monitor, and what its pages say."""

    def __init__(
        self,
        tmp_path: Path,
        broker_url: str,
        database_url: str,
        more: str = "",
        *words: str,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        conf = configuration(
            tmp_path,
            broker_url,
            database_url,
            f"[monitor]\nport = {self.port}\n{more}",
        )
        self.daemon = Daemon(conf, *words, environment=environment)

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a page."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def document(self, path: str) -> dict[str, Any]:
        """Return a page of JSON; an empty one while nobody serves it."""
        try:
            found: dict[str, Any] = json.loads(self.get(path)[1])
        except OSError:
            return {}
        return found

    def says(self, path: str, ok: bool) -> bool:
        return self.document(path).get("ok") is ok

    def wait_until_ready(self) -> None:
        self.daemon.wait_until_ready()
        wait_until(lambda: self.says("/readyz", True), 30, "readiness")

    def metrics(self) -> dict[str, float]:
        """Return the samples of /metrics, without the prefix."""
        status, body = self.get("/metrics")
        assert status == 200
        samples = re.findall(r"^panko_ingest_(\S+) (\S+)$", body.decode(), re.MULTILINE)
        return {name: float(value) for name, value in samples}

    def metric(self, name: str) -> float:
        return self.metrics().get(name, 0.0)


@pytest.fixture
def ledger(postgresql_url: str) -> Iterator[Ledger]:
    ledger = Ledger(postgresql_url)
    yield ledger
    ledger.close()


@pytest.fixture
def sqlite_ledger(sqlite_url: str) -> Iterator[Ledger]:
    ledger = Ledger(sqlite_url)
    yield ledger
    ledger.close()


def test_gauges_of_a_bus_that_a_reload_takes_away_are_not_shown_any_more(
    tmp_path: Path, rabbitmq: RabbitMQ, sqlite_ledger: Ledger
) -> None:
    kept, gone = rabbitmq.create_vhost(), rabbitmq.create_vhost()
    urls = f"messaging_urls = {kept}\nmessaging_urls = {gone}\n"
    monitor = Monitor(tmp_path, kept, sqlite_ledger.url, f"[notification]\nworkers = 1\n{urls}")
    service = monitor.daemon

    def connections() -> dict[str, float]:
        """Return them by vhost; none while nobody serves the page."""
        with contextlib.suppress(OSError):
            samples = monitor.metrics().items()
            return {
                name.rpartition("/")[2].rstrip('"}'): value
                for name, value in samples
                if name.startswith("broker_connections{")
            }
        return {}

    names = [url.rpartition("/")[2] for url in (kept, gone)]
    with Bus(kept) as bus, Bus(gone) as other, service.running():
        bus.declare()
        other.declare()
        wait_until(lambda: connections() == dict.fromkeys(names, 1.0), 30, "both buses")
        service.conf.write_text(service.conf.read_text().replace(f"messaging_urls = {gone}\n", ""))
        service.signal(signal.SIGHUP)
        wait_until(lambda: connections() == {names[0]: 1.0}, 30, "the bus that is left, alone")
        assert len(monitor.document("/readyz")["figures"]["in_hand"]) == 1
    for url in (kept, gone):
        rabbitmq.drop_vhost(url)


@pytest.mark.postgresql
def test_metrics_tell_the_truth_through_restarts_of_workers(
    tmp_path: Path, broker_url: str, ledger: Ledger
) -> None:
    good = load(8_000, seed=7)
    bad = [b"{" + str(number).encode() for number in range(50)]
    monitor = Monitor(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 2\n")
    service = monitor.daemon
    in_hand = f'messages_in_flight{{bus="{bus_name(broker_url)}"}}'
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        bus.publish(good[:1000] + bad)
        wait_until(lambda: ledger.events() == 1000 and ledger.dead_letters() == 50, 60, "the first of them")
        bus.publish(good[:100])  # once more
        wait_until(lambda: monitor.metric("events_duplicate_total") == 100, 30, "the duplicates")
        for part in range(1, 4):
            wait_until(lambda: len(service.workers) == 2, 30, "two workers")
            # Idle, so that no commit is cut off from being counted or acknowledged.
            wait_until(lambda: monitor.metric(in_hand) == 0, 30, "nothing in hand")
            victim = Random(part).choice(service.workers)
            victim.send_signal(signal.SIGRTMIN + part)  # of which most have no name
            victim.wait(5)
            bus.publish(good[1000 + (part - 1) * 2000 : 1000 + part * 2000])
            wait_until(partial(holds, ledger, 1000 + part * 2000), 60, "more of them")
        bus.publish(good[7_000:])
        wait_until(partial(holds, ledger, 8_000), 60, "all of them")
        wait_until(lambda: monitor.metric("events_recorded_total") == 8_000, 10, "the last batch's count")
        metrics = monitor.metrics()
        assert metrics["messages_received_total"] == 8_150
        assert metrics["events_duplicate_total"] == 100
        assert metrics['dead_letters_total{stage="decode"}'] == 50
        assert metrics['workers_lost_total{kind="ingester"}'] == 3
        assert f"ended by signal {signal.SIGRTMIN + 1}" in service.log
        assert metrics["batch_messages_sum"] == 8_150
        # Batches that wait for the store are recorded together.
        assert 0 < metrics["record_seconds_count"] <= metrics["commit_seconds_count"]
        assert metrics["readers"] == metrics["readers_consuming"] == 2
        wait_until(lambda: monitor.metric(in_hand) == 0, 5, "nothing in hand")
        assert metrics[f'broker_connections{{bus="{bus_name(broker_url)}"}}'] == 2
        assert service.stop() == 0
        assert re.search(
            r"has stopped because it was told to; since its start 8000 events were recorded, "
            r"100 were stored already, 50 messages became dead letters, 0 were dropped$",
            service.log.strip().splitlines()[-1],
        )


def holds(ledger: Ledger, count: int) -> bool:
    return ledger.events() == count


def bus_name(url: str) -> str:
    return url.rpartition("@")[2]


@pytest.mark.postgresql
def test_readiness_says_what_is_broken_and_that_it_is_mended(
    tmp_path: Path, broker_url: str, ledger: Ledger, postgresql: PostgreSQL
) -> None:
    more = "max_lag = 3650000d\n[notification]\nworkers = 1\n"
    # An expirer whose first round falls into the outage would be named beside the database.
    monitor = Monitor(tmp_path, broker_url, ledger.url, more, "--only", "ingester")
    with Bus(broker_url) as bus, monitor.daemon.running():
        bus.declare()
        monitor.wait_until_ready()
        assert monitor.get("/healthz")[0] == 200
        postgresql.stop()
        try:
            wait_until(lambda: monitor.says("/readyz", False), 30, "unreadiness")
            status, body = monitor.get("/readyz")
            assert status == 503
            checks = json.loads(body)["checks"]
            assert [name for name, check in checks.items() if not check["ok"]] == ["database"]
            assert "panko-ingest status" in checks["database"]["text"]
            shown = body.decode()
            assert not any(
                word in shown for word in ("refused", "127.0.0.1", "postgres", bus_name(broker_url))
            )
            assert monitor.get("/healthz")[0] == 200, "a daemon that waits is alive"
        finally:
            postgresql.start()
        wait_until(lambda: monitor.says("/readyz", True), 30, "readiness")


def test_a_refused_queue_and_a_lost_bus_are_named_by_readiness_status_and_page_but_no_host_is(
    tmp_path: Path, rabbitmq: RabbitMQ, sqlite_ledger: Ledger
) -> None:
    lost, url = rabbitmq.create_vhost(), rabbitmq.create_vhost()
    lost_vhost, vhost = lost.rpartition("/")[2], url.rpartition("/")[2]
    rights = {"configure": "^$", "write": "^$", "read": "^notifications.info$"}
    rabbitmq.api("PUT", "users/reader", {"password": "reader", "tags": ""})
    rabbitmq.api("PUT", f"permissions/{vhost}/reader", rights)
    ours = url.replace("guest:guest", "reader:reader")
    more = f"[notification]\nworkers = 1\nmessaging_urls = {lost}\nmessaging_urls = {ours}\n"
    monitor = Monitor(tmp_path, "rabbit://nowhere", sqlite_ledger.url, more)
    with Bus(url) as bus, monitor.daemon.running():
        for queue in ("notifications.info", "notifications.error"):
            bus.declare(queue)
        monitor.daemon.wait_for_log("Serving /metrics")
        with Bus(lost) as other:
            other.declare()
            wait_until(lambda: monitor.metric(f'broker_connections{{bus="{bus_name(lost)}"}}'), 30, "the bus")
        rabbitmq.drop_vhost(lost)
        bus.publish(load(100))
        wait_until(lambda: sqlite_ledger.events() == 100, 30, "the events of the queue that may be read")

        def told() -> bytes | None:
            body = monitor.get("/readyz")[1]
            checks = json.loads(body)["checks"]
            down = checks["broker 1"]["text"].endswith("`panko-ingest status` tells why")
            return body if down and "refuses" in checks["broker 2"]["text"] else None

        body = wait_until(told, 40, "both faults")
        checks = json.loads(body)["checks"]
        assert [name for name, check in checks.items() if not check["ok"]] == ["broker 1", "broker 2"]
        assert checks["broker 1"]["text"].startswith(f"vhost {lost_vhost}: ")
        refused = f"vhost {vhost}: 1 connections, 0 messages in hand; the broker refuses notifications.error"
        assert checks["broker 2"]["text"].startswith(refused)
        assert not any(word in body for word in (b"127.0.0.1", b"ACCESS_REFUSED", b"NOT_ALLOWED"))
        assert refused in monitor.get("/")[1].decode()
        shown = preloaded.run(["--config-file", monitor.daemon.conf, "status"])
        assert shown.returncode == 3
        text = " ".join(shown.stdout.split())
        assert refused in text
        assert bus_name(lost) in text, "status tells the host"
        rabbitmq.api("PUT", f"permissions/{vhost}/reader", {**rights, "read": ".*"})
        wait_until(
            lambda: monitor.document("/readyz")["checks"]["broker 2"]["ok"], 60, "the end of the refusal"
        )
    rabbitmq.drop_vhost(url)


def asked(monitor: Monitor) -> dict[str, Any] | None:
    document = monitor.document("/readyz")
    database = document.get("checks", {}).get("database", {"text": "not asked yet"})
    return None if database["text"] == "not asked yet" else document


def test_readiness_tells_of_a_missing_schema_and_that_no_bus_is_read(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    monitor = Monitor(tmp_path, broker_url, sqlite_url, "max_lag = 1h\n[notification]\nworkers = 1\n")
    with Bus(broker_url) as bus, monitor.daemon.running():
        bus.declare()
        document = wait_until(partial(asked, monitor), 30, "an answer of the database")
        assert not document["checks"]["database"]["ok"]
        assert document["figures"]["readers_consuming"] == 0, "nothing is read before"
        wait_until(lambda: bus.consumers() == 1, 30, "a consumer, lest the queue expire")
        assert monitor.document("/readyz")["figures"]["readers_consuming"] == 0
        assert monitor.says("/readyz", False)


def test_readiness_says_no_while_what_is_in_hand_is_older_than_max_lag(
    tmp_path: Path, broker_url: str, sqlite_ledger: Ledger
) -> None:
    monitor = Monitor(tmp_path, broker_url, sqlite_ledger.url, "max_lag = 1h\n[notification]\nworkers = 1\n")
    with Bus(broker_url) as bus, monitor.daemon.running():
        bus.declare()
        monitor.wait_until_ready()
        blocker = sqlite3.connect(sqlite_ledger.url.removeprefix("sqlite:///"), isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        bus.publish(load(10))  # of the year 2024
        wait_until(lambda: "max_lag (3600 s)" in str(monitor.document("/readyz")), 30, "the lag")
        assert monitor.says("/readyz", False)
        blocker.execute("ROLLBACK")
        blocker.close()
        wait_until(lambda: monitor.says("/readyz", True), 60, "readiness")
        assert sqlite_ledger.events() == 10


def test_the_monitor_refuses_what_it_does_not_serve(
    tmp_path: Path, broker_url: str, sqlite_ledger: Ledger
) -> None:
    monitor = Monitor(tmp_path, broker_url, sqlite_ledger.url, "[notification]\nworkers = 1\n")
    with monitor.daemon.running():
        monitor.daemon.wait_for_log("Serving /metrics, /healthz and /readyz")
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"):
            assert request(monitor.port, method, "/metrics").status == 405
        assert request(monitor.port, "GET", "/etc/passwd").status == 404
        assert request(monitor.port, "HEAD", "/healthz").read() == b""
        with socket.create_connection(("127.0.0.1", monitor.port), 10) as client:
            client.sendall(b"GET /" + b"x" * 8000 + b"x" * 8000)
            assert client.recv(100).startswith(b"HTTP/1.0 431 ")
        idle = [socket.create_connection(("127.0.0.1", monitor.port), 10) for _ in range(50)]
        wait_until(partial(answers, monitor), 15, "an answer beside 50 clients that say nothing")
        for client in idle:
            client.close()
        assert monitor.daemon.stop() == 0


def answers(monitor: Monitor) -> bool:
    try:
        return monitor.get("/metrics")[0] == 200
    except OSError:
        return False


def request(port: int, method: str, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    return connection.getresponse()


def test_a_port_in_use_is_no_reason_to_stop(tmp_path: Path, broker_url: str, sqlite_ledger: Ledger) -> None:
    monitor = Monitor(tmp_path, broker_url, sqlite_ledger.url, "[notification]\nworkers = 1\n")
    with socket.create_server(("127.0.0.1", monitor.port)), monitor.daemon.running():
        monitor.daemon.wait_for_log(r"\[monitor\] host, port: can't listen on 127.0.0.1:\d+: Address already")
        with Bus(broker_url) as bus:
            bus.declare()
            monitor.daemon.wait_until_ready()
        assert monitor.daemon.stop() == 0


def test_a_reload_turns_the_monitor_on_and_off(
    tmp_path: Path, broker_url: str, sqlite_ledger: Ledger
) -> None:
    monitor = Monitor(tmp_path, broker_url, sqlite_ledger.url, "[notification]\nworkers = 1\n")
    service = monitor.daemon
    serving = service.conf.read_text()
    silent = serving.replace(f"port = {monitor.port}", "port = 0")
    assert silent != serving

    def reload(text: str) -> None:
        service.conf.write_text(text)
        service.signal(signal.SIGHUP)

    service.conf.write_text(silent)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        assert len(service.process.children()) == 2, "nobody else is there than a worker and the expirer"
        reload(serving)
        wait_until(lambda: monitor.says("/healthz", True), 30, "the monitor that was turned on")
        reload(silent)
        service.wait_for_log("The monitor rests")
        listening = [
            connection.laddr
            for child in service.process.children()
            for connection in child.net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening == []
        reload(serving)
        wait_until(lambda: monitor.says("/healthz", True), 30, "the monitor that was turned on again")
        assert service.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_who_has_begun_to_ask_is_answered_before_the_monitor_ends(
    number: signal.Signals, tmp_path: Path, sqlite_ledger: Ledger
) -> None:
    environment = spoiled("workers.endpoint:_PATIENCE_FOR_HEAD=20", "workers.monitor:_ANSWER_WITHIN=20")
    monitor = Monitor(
        tmp_path,
        "amqp://guest:guest@127.0.0.1:9/",
        sqlite_ledger.url,
        "[notification]\nworkers = 1\n",
        environment=environment,
    )

    def hears_nobody() -> bool:
        try:
            socket.create_connection(("127.0.0.1", monitor.port), 10).close()
        except OSError:
            return True
        return False

    with monitor.daemon.running():
        wait_until(lambda: monitor.says("/healthz", True), 30, "the monitor")
        with socket.create_connection(("127.0.0.1", monitor.port), 10) as client:
            client.sendall(b"GET /healthz HTTP/1.0\r\n")
            monitor.daemon.signal(number)
            wait_until(hears_nobody, 30, "an end of listening", interval=0.002)
            client.sendall(b"\r\n")
            assert client.recv(100).startswith(b"HTTP/1.0 200 ")


def test_a_stopped_worker_is_not_alive(tmp_path: Path, broker_url: str, sqlite_ledger: Ledger) -> None:
    monitor = Monitor(tmp_path, broker_url, sqlite_ledger.url, "[notification]\nworkers = 1\n")
    with Bus(broker_url) as bus, monitor.daemon.running():
        bus.declare()
        monitor.wait_until_ready()
        (worker,) = monitor.daemon.workers
        worker.send_signal(signal.SIGSTOP)
        wait_until(lambda: monitor.says("/healthz", False), 20, "no sign of life")
        text = monitor.document("/healthz")["checks"]["reader 0"]["text"]
        assert f"process {worker.pid} gave no sign of life" in text


def test_an_expirer_of_its_own_has_a_monitor_too(
    tmp_path: Path, broker_url: str, sqlite_ledger: Ledger
) -> None:
    more = "[database]\nevent_time_to_live = 1d\n[expirer]\ninterval = 1\n"
    stays = utc_now()
    events = [*events_of(load(100)), Event("stays", "volume.create.end", stays, [])]
    sqlite_ledger.connection.record_events(events)
    monitor = Monitor(tmp_path, broker_url, sqlite_ledger.url, more, "--only", "expirer")
    with monitor.daemon.running():
        monitor.daemon.wait_for_log("Serving /metrics")
        wait_until(lambda: monitor.metric('expired_total{kind="events"}') == 100, 30, "the expired events")
        assert sqlite_ledger.events() == 1
        oldest = stays.replace(tzinfo=datetime.UTC).timestamp()
        wait_until(lambda: monitor.metric("oldest_event_timestamp_seconds") == oldest, 10, "the oldest event")
        assert monitor.metric("expiry_last_success_timestamp_seconds") > 0
        wait_until(lambda: monitor.says("/readyz", True), 10, "readiness")
        assert monitor.document("/readyz")["figures"]["last_expiry"]


@pytest.mark.postgresql
def test_why_an_expirer_can_not_work_is_told_by_status_on_the_host_and_not_by_the_monitor(
    tmp_path: Path, broker_url: str, ledger: Ledger, postgresql: PostgreSQL
) -> None:
    postgresql.execute("CREATE ROLE powerless LOGIN")
    url = ledger.url.replace("postgres@", "powerless@")
    more = f"[database]\nevent_time_to_live = 1d\n[expirer]\ninterval = 1\nconnection = {url}\n"
    monitor = Monitor(tmp_path, broker_url, ledger.url, more, "--only", "expirer")
    with monitor.daemon.running():
        monitor.daemon.wait_for_log("Expiry has to wait for the event database")
        wait_until(lambda: monitor.says("/readyz", False), 10, "unreadiness")
        page = monitor.document("/readyz")
        assert "panko-ingest status" in page["checks"]["expirer"]["text"]
        assert not any(word in str(page) for word in ("powerless", "permission", "127.0.0.1"))
        done = preloaded.run(["--config-file", monitor.daemon.conf, "status", "--json"])
        assert "DELETE on event" in str(json.loads(done.stdout)["expirer"])


def test_an_expirer_whose_round_fails_for_an_unforeseen_reason_tells_it_and_tries_again(
    tmp_path: Path, broker_url: str, sqlite_ledger: Ledger
) -> None:
    now = Event("now", "volume.create.end", utc_now(), [])
    sqlite_ledger.connection.record_events([*events_of(load(10)), now], [make_letter("old")])
    more = "[database]\nevent_time_to_live = 1d\n[expirer]\ninterval = 1\ndead_letter_time_to_live = 1\n"
    with closing(sqlite3.connect(sqlite_ledger.url.removeprefix("sqlite:///"))) as database:
        database.execute("CREATE TABLE hold (id REFERENCES event (id) DEFERRABLE INITIALLY DEFERRED)")
        database.execute("INSERT INTO hold SELECT min(id) FROM event")
        database.commit()
        # No pause can be shorter than none: the round fails where it looks for what is held.
        faulty = spoiled("storage.expiry.batches:_TURN=-1")
        monitor = Monitor(
            tmp_path, broker_url, sqlite_ledger.url, more, "--only", "expirer", environment=faulty
        )
        with monitor.daemon.running():
            monitor.daemon.wait_for_log("A round of expiry failed")
            wait_until(lambda: monitor.says("/readyz", False), 10, "unreadiness")
            assert not monitor.document("/readyz")["checks"]["expirer"]["ok"]
            wait_until(lambda: sqlite_ledger.dead_letters() == 0, 30, "dead letters to expire all the same")
            database.execute("DROP TABLE hold")
            wait_until(lambda: sqlite_ledger.events() == 1, 30, "the events to expire")
            wait_until(lambda: monitor.says("/readyz", True), 10, "readiness")


def events_of(bodies: list[bytes]) -> list[Event]:
    converter = EventConverter.from_file(str(resources.path("etc", "event_definitions.yaml")))
    events = []
    for body in bodies:
        notification = decode(body)
        event = converter.to_event(notification.message, notification.priority)
        assert event is not None
        events.append(event)
    return events
