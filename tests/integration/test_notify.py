"""What the daemon tells systemd, at a notify socket as systemd has it."""

import contextlib
import http.client
import itertools
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.ledger import Ledger, load
from tests.notify_socket import NotifySocket
from tests.services.server import free_port
from tests.spoiled import spoiled
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[NotifySocket]:
    notify = NotifySocket(tmp_path / "notify")
    yield notify
    notify.close()


def daemon(conf: Path, notify: NotifySocket, **environment: str) -> Daemon:
    return Daemon(conf, environment={"NOTIFY_SOCKET": str(notify.path), **environment})


def status(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_systemd_is_told_when_the_daemon_consumes_reloads_and_stops(
    tmp_path: Path, broker_url: str, sqlite_url: str, notify: NotifySocket
) -> None:
    bodies = load(300)
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 2\n")
    service = daemon(conf, notify)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_for_log("Waiting for the event database: .*db sync")
        notify.wait_for("EXTEND_TIMEOUT_USEC=")
        notify.wait_for("STATUS=0 of 2 readers consuming; .*")
        assert "READY" not in notify.states(), "the tables are not there yet"
        ledger = Ledger(sqlite_url)
        notify.wait_for("READY=1")
        assert bus.consumers() == 2
        bus.publish(bodies)
        notify.wait_for(r"STATUS=2 of 2 readers consuming; [1-9][\d.]* events/s, lag [\d.]+ s")
        notify.wait_for("STATUS=2 of 2 readers consuming; .*, waits for queues: notifications.error")
        wait_until(lambda: ledger.events() == 300, 30, "the events")

        before = len(notify.states())
        service.signal(signal.SIGHUP)
        wait_until(lambda: "READY" in notify.states()[before:], 40, "being ready again")
        told = [state for state in notify.states()[before:] if state in {"RELOADING", "READY"}]
        assert told == ["RELOADING", "READY"]
        assert notify.states()[notify.states().index("RELOADING") + 1] == "MONOTONIC_USEC"

        assert service.stop() == 0
        assert "STOPPING" in notify.states()
        assert notify.states().count("READY") == 2
        assert notify.received[-1][1].startswith("STATUS=stopping")
        ledger.close()


def test_a_worker_that_hangs_is_replaced_and_systemd_leaves_the_others_alone(
    tmp_path: Path, broker_url: str, sqlite_url: str, notify: NotifySocket
) -> None:
    ledger = Ledger(sqlite_url)
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 2\n")
    # Half of it is how long a worker may be silent.
    service = daemon(conf, notify, WATCHDOG_USEC="18000000")
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        notify.wait_for("WATCHDOG=1")
        victim = service.workers[0]
        stopped = time.monotonic()
        victim.send_signal(signal.SIGSTOP)
        service.wait_for_log(f"Worker process {victim.pid} .* made no progress for .*: killing it")
        assert time.monotonic() - stopped > 8
        victim.wait(5)
        wait_until(lambda: len(service.workers) == 2, 30, "another worker")
        assert notify.longest_silence(since=stopped) < 8, "systemd would have ended both"
        bus.publish(load(50))
        wait_until(lambda: ledger.events() == 50, 30, "the events")
        ledger.close()


def test_waiting_for_a_broker_is_no_hanging(tmp_path: Path, sqlite_url: str, notify: NotifySocket) -> None:
    ledger = Ledger(sqlite_url)
    ledger.close()
    conf = configuration(
        tmp_path, "amqp://guest:guest@127.0.0.1:9/", sqlite_url, "[notification]\nworkers = 1\n"
    )
    with daemon(conf, notify, WATCHDOG_USEC="60000000").running() as service:
        service.wait_for_log("127.0.0.1:9/: ConnectionRefusedError")
        seen = time.monotonic()
        wait_until(lambda: notify.watchdogs_since(seen) > 2, 15, "the watchdog fed")
        assert "READY" not in notify.states()
        assert service.stop() == 0


def test_a_new_bus_whose_broker_is_away_leaves_the_daemon_alive_while_workers_take_turns(
    tmp_path: Path, broker_url: str, sqlite_url: str, notify: NotifySocket
) -> None:
    port = free_port()
    conf = configuration(tmp_path, broker_url, sqlite_url, f"port = {port}\n[notification]\nworkers = 3\n")
    impatient = spoiled(
        "workers.health:_LONGEST_VACANT=7",
        "workers.master:_TURN_PATIENCE=6",
        "workers.master:_PATIENCE_AFTER_AN_ABSENCE=6",
    )
    Ledger(sqlite_url).close()
    # A turn takes 6 s, and the last worker's comes after two others: later than the 9 s of the watch.
    service = daemon(conf, notify, WATCHDOG_USEC="18000000", **impatient)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        before = {worker.pid for worker in service.workers}
        text = conf.read_text()
        urls = f"messaging_urls = {broker_url}\nmessaging_urls = amqp://guest:guest@127.0.0.1:9/\n"
        wait_until(lambda: status(port, "/healthz")[0] == 200, 30, "the monitor")
        conf.write_text(text.replace("[notification]\n", f"[notification]\n{urls}"))
        reloaded = time.monotonic()
        service.signal(signal.SIGHUP)
        answers = []

        def all_new() -> bool:
            with contextlib.suppress(ConnectionRefusedError):  # the monitor itself is replaced
                answers.append(status(port, "/healthz"))
            return len(service.workers) == 3 and not before & {worker.pid for worker in service.workers}

        wait_until(all_new, 60, "three new workers", interval=0.2)
        assert time.monotonic() - reloaded > 9
        assert {code for code, _ in answers} == {200}, answers
        assert notify.longest_silence(since=reloaded) < 8


def test_a_reload_is_done_though_a_broker_is_away_so_that_it_can_be_corrected_by_another(
    tmp_path: Path, broker_url: str, sqlite_url: str, notify: NotifySocket
) -> None:
    Ledger(sqlite_url).close()
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 2\n")
    good = conf.read_text()
    wrong = f"messaging_urls = {broker_url}\nmessaging_urls = amqp://guest:guest@127.0.0.1:9/\n"
    service = daemon(conf, notify, **spoiled("workers.master:_TURN_PATIENCE=2"))

    def reload(text: str, logged: str) -> None:
        before = len(notify.received)
        conf.write_text(text)
        service.signal(signal.SIGHUP)
        wait_until(lambda: "READY=1" in [state for _, state in notify.received[before:]], 30, "READY=1")
        told = [state.partition("=")[0] for _, state in notify.received[before:]]
        assert told.index("RELOADING") < told.index("READY")
        assert logged in service.log

    with Bus(broker_url) as bus, service.running():
        bus.declare()
        notify.wait_for("READY=1")
        before = {worker.pid for worker in service.workers}
        reload(f"{good}{wrong}", "The configuration was read again")
        now = {worker.pid for worker in service.workers}
        assert len(now) == 2
        assert not now & before, "it was said to be done before the last worker had made way"
        notify.wait_for("STATUS=2 of 4 readers consuming; .*")
        reload(f"{good}{wrong}batch_size = many\n", "is refused, the old one stays in force")
        assert {worker.pid for worker in service.workers} == now
        reload(good, "The configuration was read again")
        notify.wait_for("STATUS=2 of 2 readers consuming; .*")
        assert service.stop() == 0


def test_turns_are_quick_after_one_that_waited_in_vain_and_systemd_waits_for_them_all(
    tmp_path: Path, broker_url: str, sqlite_url: str, notify: NotifySocket
) -> None:
    Ledger(sqlite_url).close()
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 4\n")
    urls = f"messaging_urls = {broker_url}\nmessaging_urls = amqp://guest:guest@127.0.0.1:9/\n"
    # Three others wait for the first three: by the patience of each 60 s.
    service = daemon(conf, notify, **spoiled("workers.master:_TURN_PATIENCE=20"))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        notify.wait_for("READY=1")
        before = len(notify.received)
        conf.write_text(f"{conf.read_text()}{urls}")
        reloaded = time.monotonic()
        service.signal(signal.SIGHUP)
        told = notify.received[before:]

        def done() -> bool:
            told[:] = notify.received[before:]
            return "READY=1" in [state for _, state in told]

        wait_until(done, 90, "READY=1")
        assert 20 < time.monotonic() - reloaded < 50
        states = [state for _, state in told]
        extended = [at for at, state in told if state.startswith("EXTEND_TIMEOUT_USEC=")]
        gaps = [later - at for at, later in itertools.pairwise([reloaded, *extended, time.monotonic()])]
        assert max(gaps) < 10
        assert any(re.search("the reload waits for 3 processes", state) for state in states)
        service.wait_for_log(r"The reload is done: all processes work by it, after \d+ s")


def test_a_reload_whose_turns_do_not_get_on_is_told_and_keeps_no_other_from_being_tried(
    tmp_path: Path, broker_url: str, sqlite_url: str, notify: NotifySocket
) -> None:
    Ledger(sqlite_url).close()
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 2\n")
    service = daemon(conf, notify, **spoiled("workers.supervisor:_LONGEST_TURN=3"))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        notify.wait_for("READY=1")
        stuck = service.workers[0]
        stuck.send_signal(signal.SIGSTOP)  # for less than 30 s nobody takes it for hung
        before = len(notify.received)
        service.signal(signal.SIGHUP)
        wait_until(lambda: "READY=1" in [state for _, state in notify.received[before:]], 25, "READY=1")
        service.wait_for_log("The reload does not get on: [12] processes do not work by it yet")
        stuck.send_signal(signal.SIGCONT)
        service.wait_for_log("The configuration was read again")
        wait_until(lambda: stuck.pid not in {worker.pid for worker in service.workers}, 30, "its end")


def test_workers_that_die_of_a_new_configuration_again_and_again_keep_no_reload_open(
    tmp_path: Path, broker_url: str, sqlite_url: str, notify: NotifySocket
) -> None:
    Ledger(sqlite_url).close()
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 2\n")
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    # Who asks for totals, as a worker does every second, dies the third time, and so was seen at work.
    faults = {
        **spoiled("workers.supervisor:_LONGEST_TURN=12"),
        "FAULT_KILL": "panko_ingest.shared_metrics:SharedMetrics.totals",
        "FAULT_KILL_WHEN": "before",
        "FAULT_KILL_CALL": "3",
        "FAULT_KILL_FOLDER": str(deaths),
    }
    service = daemon(conf, notify, **faults)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        notify.wait_for("READY=1")
        survivor = service.workers[1].pid
        # It is told every five seconds: by then those that are to live have asked more often than thrice.
        seen = len(notify.received)
        wait_until(lambda: str(notify.received[seen:]).count("STATUS=") == 2, 30, "some time")
        for number in range(200):
            (deaths / str(number)).touch()
        urls = f"messaging_urls = {broker_url}\nmessaging_urls = amqp://guest:guest@127.0.0.1:9/\n"
        conf.write_text(f"{conf.read_text()}{urls}")
        before = len(notify.received)
        service.signal(signal.SIGHUP)
        wait_until(lambda: "READY=1" in [state for _, state in notify.received[before:]], 40, "READY=1")
        service.wait_for_log("The reload does not get on")
        assert survivor in {worker.pid for worker in service.workers}, "nobody would read"


def test_a_daemon_that_was_paused_as_a_whole_goes_on_with_all_its_workers(
    tmp_path: Path, broker_url: str, sqlite_url: str, notify: NotifySocket
) -> None:
    port = free_port()
    conf = configuration(tmp_path, broker_url, sqlite_url, f"port = {port}\n[notification]\nworkers = 2\n")
    limits = spoiled("workers.supervisor:HANG_LIMIT=7", "workers.health:_LONGEST_WITHOUT_HEARTBEAT=7")
    ledger = Ledger(sqlite_url)
    service = daemon(conf, notify, WATCHDOG_USEC="60000000", **limits)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        wait_until(lambda: status(port, "/healthz")[0] == 200, 30, "the monitor")
        wait_until(lambda: status(port, "/readyz")[0] == 200, 30, "readiness")
        pids = {child.pid for child in service.process.children()}
        paused = time.monotonic()
        os.killpg(service.process.pid, signal.SIGSTOP)
        wait_until(lambda: time.monotonic() > paused + 10, 15)
        os.killpg(service.process.pid, signal.SIGCONT)
        woken = time.monotonic()
        answers = [status(port, path) for path in ("/healthz", "/readyz")]
        assert [answer for answer in answers if answer[0] != 200] == []
        bus.publish(load(50))
        wait_until(lambda: ledger.events() == 50, 30, "the events")
        wait_until(lambda: notify.watchdogs_since(woken) > 2, 30, "the watch at work")
        assert {child.pid for child in service.process.children()} == pids
        assert "killing it" not in service.log
    ledger.close()
