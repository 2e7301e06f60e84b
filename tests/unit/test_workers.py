"""Processes of the daemon that are told to end while they are born, or while they can't."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from panko_ingest.workers.supervisor import Notifier
from panko_ingest.workers.worker import LEFT
from tests.notify_socket import NotifySocket

BIRTH = """
import os, signal
from types import SimpleNamespace as Some
from panko_ingest import threads
from panko_ingest.shared_state import SharedState
from panko_ingest.workers.expirer import ExpirerService
from panko_ingest.workers.ingester import IngestService

start = threads.start
# As if the thread were always the faster one; it ends the process where it fails.
threads.start = lambda *arguments: start(*arguments).join(1)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.kill(os.getpid(), signal.SIGTERM)
settings = Some(conf=Some(graceful_shutdown_timeout=5), workers=0, buses=[])
service = KIND(0, Some(settings=settings, version=0), SharedState(1, 1), None)
print("born")
"""


@pytest.mark.parametrize("kind", ["IngestService", "ExpirerService"])
def test_a_process_that_is_told_to_end_while_it_is_born_is_born_first(kind: str) -> None:
    born = subprocess.run(
        [sys.executable, "-c", BIRTH.replace("KIND", kind)], capture_output=True, text=True, check=False
    )
    assert (born.returncode, born.stdout) == (0, "born\n"), born.stderr


TOO_LATE = """
import os, signal
from types import SimpleNamespace as Some
from panko_ingest.shared_state import SharedState
from panko_ingest.workers.ingester import IngestService

shared, message = SharedState(1, 1), b"d" * 32
worker = os.fork()
if not worker:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    settings = Some(conf=Some(graceful_shutdown_timeout=1), workers=1, buses=[])
    service = IngestService(0, Some(settings=settings, version=0), shared, None)
    # As its threads do, of which one waits for a database that is silent.
    for slot in (shared.bus_slot(0, 0), shared.recording_slot(0)):
        slot.occupy(os.getpid())
    slot.hold(message)
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
        signal.pause()
_, status = os.waitpid(worker, 0)
shared.record_death(0)
print(os.waitstatus_to_exitcode(status), shared.is_suspect(message))
"""


def test_no_message_is_to_blame_for_a_worker_that_does_not_end_in_time() -> None:
    ended = subprocess.run([sys.executable, "-c", TOO_LATE], capture_output=True, text=True, check=False)
    assert ended.stdout == f"{LEFT} False\n", ended.stderr
    assert "did not end in graceful_shutdown_timeout (1 s)" in ended.stderr


def test_a_notify_socket_that_is_not_there_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    notifier = Notifier()
    for told in (1, 2):
        notifier.send("STATUS=a")
        notifier.send("STATUS=b")
        assert caplog.text.count("notify socket refuses") == told
        with closing(NotifySocket(path)) as systemd:
            notifier.send("STATUS=c")
            systemd.wait_for("STATUS=c")
        path.unlink()


@pytest.mark.parametrize(
    ("microseconds", "seconds", "told"),
    [
        ("18000000", 18.0, 0),
        ("0", 0.0, 0),
        ("", 0.0, 0),
        ("-5", 0.0, 0),
        ("3min", 0.0, 1),
        ("9" * 400, 0.0, 1),
    ],
)
def test_what_is_no_time_of_a_watchdog_is_told_and_nobody_is_watched_by_it(
    microseconds: str,
    seconds: float,
    told: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "")  # is none
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    notifier = Notifier()
    notifier.send("STATUS=a")
    assert notifier.watchdog_interval == seconds
    assert len(caplog.records) == told, caplog.text
