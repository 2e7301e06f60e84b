"""The service under a real systemd: Debian 12 in a container, installed as the README says.

The tests are one story and run in their order, from the installation to the removal. Broker and database are
the tests' own servers; nothing else on the machine belongs to them.
"""

import datetime
import re
import signal
from collections.abc import Iterator
from functools import partial

import psutil
import pytest

from tests.bus import Bus
from tests.documents import ROOT, Block, blocks
from tests.ledger import Ledger, load
from tests.systemd.host import CONFIGURATION, CREDENTIALS, README, Host, tree_of, wheel_named
from tests.waiting import wait_until

pytestmark = [pytest.mark.long, pytest.mark.rabbitmq, pytest.mark.postgresql, pytest.mark.timeout(2400)]

LARGEST_EXPOSURE = 1.5
REFUSED = "The new configuration is refused, the old one stays in force: "


@pytest.fixture(scope="module")
def bus(host: Host) -> Iterator[Bus]:
    with Bus(host.rabbitmq.url) as bus:
        yield bus


@pytest.fixture(scope="module")
def ledger(host: Host) -> Iterator[Ledger]:
    ledger = Ledger(host.postgresql.database_url("panko"))
    yield ledger
    ledger.close()


@pytest.fixture(scope="module")
def published() -> list[bytes]:
    """Every body that was published so far."""
    return []


@pytest.fixture(scope="module")
def fresh_bodies() -> Iterator[bytes]:
    # Older ones would be deleted: the README's configuration has a time to live.
    yesterday = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - datetime.timedelta(days=1)
    return iter(load(30_000, start=yesterday))


@pytest.fixture
def publish(bus: Bus, published: list[bytes], fresh_bodies: Iterator[bytes]) -> "Publish":
    return Publish(bus, published, fresh_bodies)


class Publish:
    """Publishes so many notifications that were never published before."""

    def __init__(self, bus: Bus, published: list[bytes], fresh: Iterator[bytes]) -> None:
        self._bus = bus
        self._published = published
        self._fresh = fresh

    def __call__(self, count: int) -> None:
        bodies = [next(self._fresh) for _ in range(count)]
        self._published += bodies
        self._bus.publish(bodies)

    def wait_until_stored(self, ledger: Ledger, timeout: float = 60) -> None:
        wait_until(lambda: ledger.events() >= len(self._published), timeout, "the events", interval=0.2)
        ledger.assert_holds(self._published)


def test_the_service_is_started_when_it_consumes_and_not_before(host: Host, bus: Bus) -> None:
    bus.declare()
    host.machine.run("systemctl start --no-block panko-ingest")
    host.wait_for_log("Waiting for the event database: .*db sync")
    assert host.unit_property("ActiveState") == "activating"
    assert bus.consumers() == 0
    (tables,) = [block for block in blocks("bash", "quickstart", path=README) if "db sync" in block.text]
    host.follow(tables)
    host.wait_until_active()
    assert bus.consumers() == 2
    wait_until(
        lambda: host.unit_property("StatusText").startswith("2 of 2 readers consuming"), 15, "the status"
    )


def test_starting_the_service_by_the_readme_leads_to_events(
    host: Host, publish: Publish, ledger: Ledger
) -> None:
    host.machine.run("systemctl stop panko-ingest")
    (start,) = [block for block in blocks("bash", "host", path=README) if "enable --now" in block.text]
    host.follow(start)
    assert host.unit_property("ActiveState") == "active"
    publish(500)
    publish.wait_until_stored(ledger)
    for block in blocks("bash", "quickstart", "ready", path=README):
        wait_until(partial(followed, host, block), 30, "good news", interval=1.0)


def followed(host: Host, block: Block) -> bool:
    try:
        host.follow(block)
    except AssertionError:
        return False
    return True


def test_the_unit_leaves_little_to_an_attacker(host: Host) -> None:
    report = host.machine.run("systemd-analyze security --no-pager panko-ingest")
    exposure = re.search(r"Overall exposure level .*: ([\d.]+)", report)
    assert exposure
    assert float(exposure[1]) <= LARGEST_EXPOSURE, report


def test_a_reload_takes_effect_and_a_bad_one_changes_nothing(
    host: Host, bus: Bus, publish: Publish, ledger: Ledger
) -> None:
    pid, seen = host.pid, len(host.log())
    host.change("workers = 2", "workers = 3")
    publish(2_000)
    host.machine.run("systemctl reload panko-ingest")
    wait_until(lambda: bus.consumers() == 3, 60, "three consumers")
    host.wait_until_active()

    host.change("workers = 3", "workers = many")
    host.machine.run("systemctl reload panko-ingest")
    host.wait_for_log(REFUSED + ".* workers: is no number", since=seen)
    host.wait_until_active()
    assert bus.consumers() == 3
    publish(2_000)
    publish.wait_until_stored(ledger)

    host.change("workers = many", "workers = 2")
    host.machine.run("systemctl reload panko-ingest")
    wait_until(lambda: bus.consumers() == 2, 60, "two consumers")
    host.wait_until_active()
    assert host.pid == pid
    assert host.unit_property("NRestarts") == "0"


def test_a_reload_ends_while_a_broker_is_away_and_can_be_corrected_by_another(host: Host, bus: Bus) -> None:
    pid, wrong = host.pid, "messaging_urls = amqp://guest:guest@127.0.0.1:9/"
    host.change("workers = 2", f"workers = 2\n{wrong}")
    host.machine.run("timeout 120 systemctl reload panko-ingest")
    assert host.unit_property("ActiveState") == "active"
    host.change(f"\n{wrong}", "")
    host.machine.run("timeout 120 systemctl reload panko-ingest")
    wait_until(lambda: bus.consumers() == 2, 60, "two consumers")
    assert host.pid == pid


def test_a_worker_that_stands_still_is_replaced(host: Host, publish: Publish, ledger: Ledger) -> None:
    pid, seen = host.pid, len(host.log())
    before = host.workers()  # one of them rests since there are to be fewer
    victim = before[0]
    psutil.Process(host.machine.host_pid(victim)).send_signal(signal.SIGSTOP)
    publish(1_000)
    host.wait_for_log(f"Worker process {victim} .* made no progress for .*: killing it", 60, seen)
    publish.wait_until_stored(ledger)
    wait_until(
        lambda: len(host.workers()) == len(before) and victim not in host.workers(), 30, "another worker"
    )
    assert host.pid == pid
    assert host.unit_property("NRestarts") == "0"


def test_systemd_starts_the_daemon_anew_when_its_master_stands_still(
    host: Host, publish: Publish, ledger: Ledger
) -> None:
    pid, seen = host.pid, len(host.log())
    psutil.Process(host.machine.host_pid(pid)).send_signal(signal.SIGSTOP)
    host.wait_for_log("Watchdog timeout", 90, seen)
    publish(1_000)
    wait_until(lambda: host.unit_property("NRestarts") == "1", 60, "another start", interval=0.5)
    host.wait_until_active()
    publish.wait_until_stored(ledger)
    assert host.pid != pid


def test_a_stop_in_full_work_is_clean_and_loses_nothing(
    host: Host, bus: Bus, publish: Publish, ledger: Ledger, published: list[bytes]
) -> None:
    before, seen = ledger.events(), len(host.log())
    publish(10_000)
    wait_until(lambda: ledger.events() > before, 30, "the first of the events")
    host.machine.run("systemctl stop panko-ingest")
    assert host.unit_property("ActiveState") == "inactive"
    assert host.unit_property("Result") == "success"
    assert host.unit_property("ExecMainStatus") == "0"
    assert "has stopped because it was told to" in host.log()[seen:]
    assert ledger.events() + bus.count() == len(published)
    host.machine.run("systemctl start panko-ingest")
    publish.wait_until_stored(ledger)


def test_a_refused_configuration_ends_it_and_systemd_does_not_try_again(host: Host) -> None:
    host.machine.run("systemctl stop panko-ingest")
    host.change("workers = 2", "workers = many")
    assert host.machine.try_to("systemctl start panko-ingest").returncode != 0
    assert host.unit_property("ActiveState") == "failed"
    assert host.unit_property("ExecMainStatus") == "2"
    assert host.unit_property("NRestarts") == "0"
    host.change("workers = many", "workers = 2")
    host.machine.run("systemctl start panko-ingest")


def test_without_the_folder_of_credentials_systemd_says_what_is_missing(host: Host) -> None:
    host.machine.run(f"systemctl stop panko-ingest\nrmdir {CREDENTIALS}")
    assert host.machine.try_to("systemctl start panko-ingest").returncode != 0
    assert host.unit_property("ExecMainStatus") == "243"
    host.machine.run("systemd-tmpfiles --create\nsystemctl restart panko-ingest")
    assert host.unit_property("ActiveState") == "active"


def test_passwords_can_be_kept_from_all_but_root(host: Host, publish: Publish, ledger: Ledger) -> None:
    (credentials,) = blocks("ini", "credentials", path=ROOT / "docs" / "security.md")
    path = f"{CREDENTIALS}/passwords.conf"
    host.write(path, host.with_addresses(credentials.text))
    host.write(f"{CREDENTIALS}/client.key", "a key\n")
    host.machine.run(f"chmod 600 {CREDENTIALS}/*")
    text = host.machine.path(CONFIGURATION).read_text()
    host.write(CONFIGURATION, re.sub("^(transport_url|connection) = .*$", "", text, flags=re.MULTILINE))

    host.machine.run("systemctl restart panko-ingest")
    publish(500)
    publish.wait_until_stored(ledger)
    host.machine.run("panko-ingest check")
    as_daemon = "setpriv --reuid=panko-ingest --regid=panko-ingest --clear-groups cat"
    assert host.machine.try_to(f"{as_daemon} {path}").returncode != 0
    copied = "/run/credentials/panko-ingest.service/credentials_client.key"
    assert host.machine.run(f"{as_daemon} {copied}") == "a key\n"
    assert "_PASSWORD" not in host.machine.path(CONFIGURATION).read_text()
    told = host.log() + host.machine.run("systemctl show panko-ingest; ps -ef")
    assert "_PASSWORD" not in told


def test_a_newer_version_takes_over_from_the_old_one(host: Host, publish: Publish, ledger: Ledger) -> None:
    (upgrade,) = blocks("bash", "host", "upgrade", path=README)
    version = wheel_named(upgrade)
    host.build_version(version)
    seen = len(host.log())
    publish(10_000)
    host.follow(upgrade)
    host.wait_for_log(f"panko-ingest {re.escape(version)} starts", since=seen)
    publish(1_000)
    publish.wait_until_stored(ledger)


def test_the_service_comes_up_with_the_machine(host: Host, publish: Publish, ledger: Ledger) -> None:
    host.machine.shut_down()
    publish(500)
    host.machine.boot()
    host.wait_until_active()
    publish.wait_until_stored(ledger)


def test_nothing_is_left_of_the_service_when_it_is_removed(host: Host) -> None:
    (removal,) = blocks("bash", "host", "removal", path=README)
    host.follow(removal)
    left = {path for path in tree_of(host.machine.tree) if "panko" in path}
    assert left == set()
    assert "panko" not in host.machine.path("/etc/passwd").read_text()
    assert "panko" not in host.machine.path("/etc/group").read_text()
    assert host.machine.try_to("pgrep --full panko-ingest").returncode == 1
    assert host.machine.try_to("systemctl cat panko-ingest").returncode != 0
