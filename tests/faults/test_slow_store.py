"""A store that is blocked, frozen or slow is told at once: by the log, by ``status`` and by /readyz."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.bus import Bus
from tests.daemon import COMMAND, Daemon, configuration
from tests.faults.breaking import locked
from tests.ledger import Ledger, load
from tests.services import MariaDB
from tests.services.server import free_port
from tests.waiting import crowding, wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(300)]

STATUS_WITHIN = 5.0
LOG_WITHIN = 10.0


def start(tmp_path: Path, broker_url: str, database_url: str) -> Daemon:
    conf = configuration(tmp_path, broker_url, database_url, "[notification]\nworkers = 1\n")
    conf.write_text(conf.read_text().replace("port = 0", f"port = {free_port()}"))
    return Daemon(conf, "--only", "ingester")


def status(service: Daemon, *words: str) -> tuple[int, str]:
    """Return exit code and text of ``status``, which must not take long."""
    started = time.monotonic()
    done = subprocess.run(
        [*COMMAND, "--config-file", service.conf, "status", *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert time.monotonic() - started < STATUS_WITHIN * crowding(), "status did not answer in time"
    return done.returncode, done.stdout


def says(service: Daemon, pattern: str, code: int) -> bool:
    found, text = status(service)
    return found == code and re.search(pattern, " ".join(text.split())) is not None


@pytest.mark.postgresql
def test_who_locks_the_table_and_since_when_is_told_by_log_and_status(
    tmp_path: Path, broker_url: str, postgresql_url: str
) -> None:
    ledger = Ledger(postgresql_url)
    bodies = load(20, seed=3)
    service = start(tmp_path, broker_url, postgresql_url)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        with locked(postgresql_url):
            bus.publish(bodies)
            published = time.monotonic()
            service.wait_for_log(
                r"Nothing was written to the event database for \d+ s, \d+ messages are in hand: "
                r"process \d+ of .* holds a lock, in a transaction that began \d+ s ago"
            )
            assert time.monotonic() - published < LOG_WITHIN * crowding()
            wait_until(
                lambda: says(service, r"nothing written for \d+ s, \d+ messages in hand", 1), 30, "status"
            )
            code, text = status(service, "--json")
            document = json.loads(text)
            assert code == 1
            assert sum(document["daemon"]["figures"]["in_hand"]) > 0
            assert "holds a lock" in document["database"]["waits_for"][0]
            assert not document["daemon"]["checks"]["recording"]["ok"]
        wait_until(lambda: ledger.events() == 20, 60, "the events")
        wait_until(lambda: says(service, "recording 0 messages in hand", 0), 30, "a status that is well")
        assert service.log.count("Nothing was written") == 1
        assert service.stop() == 0
    ledger.close()


@pytest.mark.mariadb
@pytest.mark.timeout(600)
def test_a_database_that_only_reads_is_told_while_nothing_comes_and_no_broker_is_blamed_for_it(
    tmp_path: Path, broker_url: str, mariadb: MariaDB, mariadb_url: str
) -> None:
    ledger = Ledger(mariadb_url)
    name = mariadb_url.rpartition("/")[2]
    mariadb.execute("CREATE USER demoted", f"GRANT ALL ON {name}.* TO demoted")  # root may always write
    conf = configuration(
        tmp_path,
        broker_url,
        mariadb_url.replace("root@", "demoted@"),
        "[notification]\nworkers = 1\nconsumer_timeout = 12\n",
    )
    conf.write_text(conf.read_text().replace("port = 0", f"port = {free_port()}"))
    service = Daemon(conf, "--only", "ingester")
    refused = r"daemon: database answers, but takes no rows.* database: refuses .*1290: .*read-only"
    try:
        with Bus(broker_url) as bus, service.running():
            bus.declare()
            service.wait_until_ready()
            mariadb.execute("SET GLOBAL read_only = 1")
            wait_until(lambda: says(service, refused, 1), 60, "a status that tells it")
            bus.publish(load(20, seed=3))
            service.wait_for_log(r"Nothing was written .* messages are in hand: 1290: .*read-only")
            service.wait_for_log("gave back what is not stored", 60)
            assert "takes what it was slow to take" not in service.log
            mariadb.execute("SET GLOBAL read_only = 0")
            wait_until(lambda: ledger.events() == 20, 60, "the events")
            service.wait_for_log("takes what it was slow to take")
            wait_until(lambda: says(service, "database answers", 0), 30, "a status that is well")
            assert service.stop() == 0
    finally:
        mariadb.execute("SET GLOBAL read_only = 0", "DROP USER demoted")
        ledger.close()


@pytest.mark.mariadb
def test_a_lock_on_a_whole_table_of_mariadb_is_told(
    tmp_path: Path, broker_url: str, mariadb_url: str
) -> None:
    ledger = Ledger(mariadb_url)
    service = start(tmp_path, broker_url, mariadb_url)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        with locked(mariadb_url):
            bus.publish(load(5, seed=4))
            published = time.monotonic()
            service.wait_for_log(r"\d+ messages are in hand: somebody holds a lock on a whole table")
            assert time.monotonic() - published < LOG_WITHIN * crowding()
        wait_until(lambda: ledger.events() == 5, 60, "the events")
        assert service.stop() == 0
    ledger.close()


@pytest.mark.mariadb
def test_a_frozen_mariadb_is_told_within_seconds_and_keeps_nobody_from_asking(
    tmp_path: Path, broker_url: str, mariadb: MariaDB, mariadb_url: str
) -> None:
    ledger = Ledger(mariadb_url)
    service = start(tmp_path, broker_url, mariadb_url)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        mariadb.pause()
        try:
            bus.publish(load(7, seed=5))
            published = time.monotonic()
            service.wait_for_log(r"\d+ messages are in hand: the database: no answer within 3 s")
            assert time.monotonic() - published < LOG_WITHIN * crowding()
            wait_until(
                lambda: says(service, r"nothing written for \d+ s, \d+ messages in hand", 3), 30, "status"
            )
            assert says(service, r"database: no answer within \d s", 3)
        finally:
            mariadb.resume()
        wait_until(lambda: ledger.events() == 7, 120, "the events")
        assert service.stop() == 0
    ledger.close()
