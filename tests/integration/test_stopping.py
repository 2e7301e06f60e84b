"""Signals that come at a bad time: while it starts, or while a worker hangs."""

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.faults.conftest import HOOKS

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
    impatient = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HOOKS), os.environ.get("PYTHONPATH")])),
        "FAULT_SET": "panko_ingest.workers.supervisor:HANG_LIMIT=8",
    }
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 2\n")
    service = Daemon(conf, environment=impatient)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        # No database schema: the workers wait, which is work, too.
        service.wait_for_log("Worker 1 reads from")
        children = service.process.children()
        service.workers[hanging].suspend()
        service.signal(signal.SIGTERM)
        assert service.wait(60) == 0
        assert service.log.count("made no progress") == 1, "nobody hangs but the one"
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
