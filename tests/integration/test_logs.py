"""What the daemon writes: little, readable by programs, and never a secret."""

import itertools
import json
import re
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest

from tests import preloaded
from tests.bus import Bus
from tests.daemon import SECRET, Daemon, configuration
from tests.ledger import Ledger, load
from tests.services import PostgreSQL, RabbitMQ
from tests.services.server import free_port
from tests.unit import planted_secrets
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq


def test_every_line_is_json_where_that_is_asked_for(tmp_path: Path, broker_url: str, ledger: Ledger) -> None:
    more = "[DEFAULT]\nuse_json = true\n[notification]\nworkers = 1\n"
    service = Daemon(configuration(tmp_path, broker_url, ledger.url, more))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        bus.publish([*load(10), b"{"])
        wait_until(lambda: ledger.events() == 10 and ledger.dead_letters() == 1, 30, "the events")
        service.wait_for_log("Ready: all 1 readers are consuming")
        assert service.stop() == 0
    records = [json.loads(line) for line in service.log.splitlines()]
    assert {"message", "levelname", "name", "process"} <= set(records[0])
    assert any("has stopped because it was told to" in record["message"] for record in records)


def test_a_log_that_each_process_would_rotate_is_warned_of_and_one_that_logrotate_rotates_goes_on(
    tmp_path: Path, broker_url: str, ledger: Ledger
) -> None:
    path, rotated = tmp_path / "log", tmp_path / "log.1"
    log = f"[DEFAULT]\nlog_file = {path}\nlog_rotation_type = size\n"
    conf = configuration(tmp_path, broker_url, ledger.url, f"{log}[notification]\nworkers = 1\n")
    warned = r"\[DEFAULT\] log_rotation_type: .*: leave it out and use logrotate"
    assert re.search(f"warning +configuration +{warned}", output_of(conf, "check"))
    service = Daemon(conf)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 1, 30, "a consumer")
        assert re.search(f"WARNING .*{warned}", path.read_text())
        conf.write_text(conf.read_text().replace("log_rotation_type = size", ""))
        service.signal(signal.SIGHUP)
        wait_until(lambda: path.read_text().count("Worker 0 reads") == 2, 30, "its successor")
        path.rename(rotated)
        assert service.stop() == 0
    assert len(re.findall(warned, rotated.read_text())) == 1
    assert "Worker 0 has stopped; everything it took" in path.read_text()
    assert "has stopped because it was told to" in path.read_text()


def test_a_reload_changes_the_rate_of_lines(tmp_path: Path, broker_url: str, ledger: Ledger) -> None:
    rate = "[DEFAULT]\nrate_limit_interval = 1\nrate_limit_burst = 10000\n"
    service = Daemon(configuration(tmp_path, broker_url, ledger.url, f"{rate}[notification]\nworkers = 1\n"))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 1, 30, "a consumer")
        service.conf.write_text(service.conf.read_text().replace("burst = 10000", "burst = 20000"))
        service.signal(signal.SIGHUP)
        service.wait_for_log("The configuration was read again")
        assert service.stop() == 0


def test_steady_work_writes_hardly_a_line(tmp_path: Path, broker_url: str, ledger: Ledger) -> None:
    service = Daemon(configuration(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 2\n"))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        service.wait_for_log("Expiry: ", 20)  # the first round, at a random time within seconds
        before, started = len(service.log.splitlines()), time.monotonic()
        bodies = load(2000)
        for part in range(20):
            bus.publish([*bodies[part * 100 : (part + 1) * 100], b"{" + str(part).encode()])
            expected = (part + 1) * 100
            wait_until(lambda: ledger.events() == expected, 30, "the events")  # noqa: B023 - called at once
        lines = service.log.splitlines()[before:]
        assert len(lines) <= time.monotonic() - started, "\n".join(lines)


def test_a_report_of_what_it_is_doing_is_written_on_sigusr2(
    tmp_path: Path, broker_url: str, postgresql_url: str
) -> None:
    ledger = Ledger(postgresql_url)
    url = postgresql_url.replace("@", f":{SECRET}@")
    service = Daemon(configuration(tmp_path, broker_url, url, "[notification]\nworkers = 1\n"))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        for process in (service.process, *service.workers):
            process.send_signal(signal.SIGUSR2)
        wait_until(lambda: service.log.count("Configuration in force") == 2, 20, "two reports")
        wait_until(lambda: service.log.count("database.connection = ****") == 2, 20, "the configuration")
        report = service.wait_for_log(r"(?s)In hand from .*notifications.info = ")[0]
        assert "messages = 0" in report
        assert "Thread #" in service.log
        assert "in serve" in service.log or "consumer.py" in service.log, "no stack of a reader"
        assert SECRET not in service.log
        bus.publish(load(10))
        wait_until(lambda: ledger.events() == 10, 30, "work going on")
        assert service.stop() == 0
    ledger.close()


@pytest.mark.postgresql
def test_planted_secrets_are_nowhere_whatever_goes_wrong(
    tmp_path: Path, broker_url: str, rabbitmq: RabbitMQ, postgresql: PostgreSQL, postgresql_url: str
) -> None:
    """Passwords of broker and database, and credentials in messages, while everything breaks once."""
    ledger = Ledger(postgresql_url)
    vhost = broker_url.rpartition("/")[2]
    rabbitmq.api("PUT", "users/planted", {"password": f"{SECRET}-broker", "tags": ""})
    rabbitmq.api("PUT", f"permissions/{vhost}/planted", {"configure": ".*", "write": ".*", "read": ".*"})
    port = free_port()
    conf = configuration(
        tmp_path,
        broker_url.replace("guest:guest", f"planted:{SECRET}-broker"),
        postgresql_url.replace("@", f":{SECRET}-database@"),
        f"[DEFAULT]\ndebug = true\n[monitor]\nport = {port}\n[event]\nstore_raw = info\n"
        "[notification]\nworkers = 1\n"
        f"management_urls = http://planted:{SECRET}-management@127.0.0.1:{rabbitmq.management_port}\n",
    )
    service = Daemon(conf, as_operators_do=True)  # what others see of its command line is looked at
    seen: list[str] = []
    with service.running():
        with Bus(broker_url) as bus:
            bus.declare()
            service.wait_until_ready()
            bodies, cut = with_credentials()
            bus.publish([*bodies[1:], *cut])
            wait_until(
                lambda: (ledger.events(), ledger.dead_letters()) == (len(bodies) - 1, len(cut)),
                30,
                "the events",
            )
            postgresql.stop()
            bus.publish(bodies[:1])
            service.wait_for_log("Waiting for the event database", 40)
            seen.append(output_of(conf, "check"))
            seen.append(output_of(conf, "status", "--json"))
        postgresql.start()
        wait_until(lambda: ledger.events() == len(bodies), 60, "the event after the outage")
        rabbitmq.api("PUT", "users/planted", {"password": "another", "tags": ""})
        rabbitmq.close_connections(broker_url)
        service.wait_for_log("AccessRefused|ACCESS_REFUSED", 40)
        seen.append(output_of(conf, "check"))
        seen.append(output_of(conf, "upgrade", "check", module="panko_ingest.cli.upgrade_check"))
        for process in (service.process, *service.workers):
            process.send_signal(signal.SIGUSR2)
            seen.append(" ".join(process.cmdline()))
        wait_until(lambda: service.log.count("Configuration in force") == 2, 20, "two reports")
        conf.write_text(conf.read_text() + f"[database]\nconnection = nonsense-{SECRET}\n")
        service.signal(signal.SIGHUP)
        service.wait_for_log(r"The new configuration is refused, .*: \[database\] connection: is no URL")
        seen += [page(port, path) for path in ("/", "/metrics", "/healthz", "/readyz", "/none")]
        seen += [
            output_of(conf, *words) for words in (["status"], ["events", "list"], ["dead-letters", "list"])
        ]
        service.stop()
    ledger.close()
    seen += rows_of(postgresql_url)
    for text in [*seen, service.log]:
        assert text
        assert SECRET not in text, re.findall(f".*{SECRET}.*", text)[:3]
        assert SECRET.encode().hex() not in text, "the body of a dead letter"


def rows_of(url: str) -> list[str]:
    """Return all that is stored, a text for each table."""
    tables = [
        "event_type",
        "event",
        "trait_text",
        "trait_int",
        "trait_float",
        "trait_datetime",
        "dead_letter",
    ]
    with psycopg.connect(url) as connection:
        queries = {table: f"SELECT string_agg(one::text, chr(10)) FROM {table} AS one" for table in tables}
        return [str(connection.execute(query.encode()).fetchall()) for query in queries.values()]


def with_credentials() -> tuple[list[bytes], list[bytes]]:
    """Return notifications with a secret in every place and shape, and as many that are cut off."""
    names = itertools.cycle(planted_secrets.OSLO_NAMES + planted_secrets.OUR_NAMES)
    count = len(planted_secrets.every_value("", ""))
    bodies, cut = [], []
    for number, line in enumerate(load(count)):
        envelope = json.loads(line)
        message = json.loads(envelope["oslo.message"])
        value = planted_secrets.every_value(next(names), SECRET)[number]
        message["_context_request"] = message["payload"]["metadata"] = value
        text = json.dumps(message)
        bodies.append(json.dumps(envelope | {"oslo.message": text}).encode())
        cut.append(json.dumps(envelope | {"oslo.message": text[:-2]}).encode())
    return bodies, cut


def output_of(conf: Path, *words: str, module: str = "panko_ingest") -> str:
    done = preloaded.run_with(conf, *words, module=module)
    return done.stdout + done.stderr


def page(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()
