"""Signals that come at a bad time: while it starts, while a worker hangs, or while nothing answers."""

import contextlib
import http.client
import json
import signal
import threading
from pathlib import Path

import psutil
import pytest

from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.services import PostgreSQL
from tests.services.server import free_port
from tests.spoiled import spoiled

pytestmark = pytest.mark.rabbitmq


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("milliseconds", [0, 100, 300])
def test_the_daemon_can_be_stopped_at_any_time_of_its_start(
    tmp_path: Path, broker_url: str, sqlite_url: str, milliseconds: int
) -> None:
    service = Daemon(configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 2\n"))
    with service.running():
        service.wait_for_log("panko-ingest .* starts")
        threading.Event().wait(milliseconds / 1000)  # the very moment that is tried
        children = service.process.children()
        service.signal(signal.SIGTERM)
        # Before it has looked after signals the kernel ends it, and there are no workers yet.
        assert service.wait(60) in {0, -signal.SIGTERM}
        assert_gone(children)


@pytest.mark.parametrize("hanging", [0, 1], ids=["the first", "the last"])
def test_a_worker_that_hangs_does_not_keep_the_daemon_from_ending(
    tmp_path: Path, broker_url: str, sqlite_url: str, hanging: int
) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 2\n")
    service = Daemon(conf, environment=spoiled("workers.supervisor:HANG_LIMIT=8"))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        # No database schema: the workers wait, which is work, too.
        service.wait_for_log("Worker 1 reads from")
        children = service.process.children()
        service.workers[hanging].suspend()
        service.signal(signal.SIGTERM)
        assert service.wait(60) == 1, "one did not end by itself"
        assert service.log.count("made no progress") == 1, "nobody hangs but the one"
        assert "has stopped because it was told to, but not in good order" in service.log
        assert_gone(children)


@pytest.mark.postgresql
def test_workers_that_do_not_end_in_time_are_told_and_seen_in_the_exit_code(
    tmp_path: Path, broker_url: str, postgresql: PostgreSQL, postgresql_url: str
) -> None:
    port = free_port()
    conf = configuration(
        tmp_path, broker_url, postgresql_url, f"port = {port}\n[notification]\nworkers = 2\n"
    )
    conf.write_text(conf.read_text().replace("timeout = 20", "timeout = 3"))
    service = Daemon(conf, "--only", "ingester")
    postgresql.pause()
    try:
        with service.running():
            for number in (0, 1):
                service.wait_for_log(f"Worker {number} reads from")
            service.wait_for_log("Serving /metrics")
            service.signal(signal.SIGHUP)
            service.wait_for_log("ingester-0 ended with exit code")
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                connection.request("GET", "/readyz")
                workers = json.loads(connection.getresponse().read())["checks"]["workers"]
            assert workers["text"] == "0 died within a minute", "who does as told is not counted"
            service.wait_for_log("(?s)Worker 0 reads from.*Worker 0 reads from")
            children = service.process.children()
            assert service.stop() == 1
            for number in (0, 1):
                assert f"ingester-{number} did not end in graceful_shutdown_timeout (3 s)" in service.log
            assert "has stopped because it was told to, but not in good order" in service.log
            assert_gone(children)
    finally:
        postgresql.resume()


def test_a_worker_that_nothing_ends_is_left_behind(tmp_path: Path, broker_url: str, sqlite_url: str) -> None:
    more = f"port = {free_port()}\n[notification]\nworkers = 2\n"
    conf = configuration(tmp_path, broker_url, sqlite_url, more)
    conf.write_text(conf.read_text().replace("timeout = 20", "timeout = 6"))
    # One that is stopped, and not killed, is as one that is stuck in the kernel. The monitor, which has ended
    # by then, would pass for one that hangs before the time is over.
    stuck = spoiled(
        "workers.process_manager:_KILL_AFTER=1000",
        "workers.supervisor:HANG_LIMIT=1000",
        "workers.monitor:_HANG_LIMIT=8",
    )
    service = Daemon(conf, environment=stuck)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_for_log("Worker 1 reads from")
        service.wait_for_log("Serving /metrics")
        left = service.workers[0]
        children = [child for child in service.process.children() if child != left]
        left.suspend()
        try:
            assert service.stop() == 1
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        assert f"Nothing ends process {left.pid} (ingester-" in service.log
        assert "made no progress" not in service.log
        assert_gone(children)


HANG_UP_AT_IMPORT = """
import os, signal, sys

class HangUp:
    def find_spec(self, name, *_):
        if name == "oslo_config":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGHUP)

sys.meta_path.insert(0, HangUp())
"""


def test_a_reload_that_is_asked_for_while_the_daemon_starts_is_done_when_it_has(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANG_UP_AT_IMPORT)
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 1\n")
    with Daemon(conf, environment={"PYTHONPATH": str(tmp_path)}).running() as service:
        service.wait_for_log("The configuration was read again")
        assert service.stop() == 0
