"""The master's own thread: ends workers that hang, and tells systemd how the daemon is."""

import logging
import os
import signal
import threading
import time

from panko_ingest.metric_files import MetricFiles
from panko_ingest.progress import Board, State
from panko_ingest.workers.rates import Rates
from panko_ingest.workers.systemd import Notifier

LOG = logging.getLogger(__name__)

HANG_LIMIT = 30.0
_INTERVAL = 1.0
_STATUS_INTERVAL = 5.0
# While we wait for a broker or a database, systemd is to wait with us.
_START_EXTENSION_USEC = 60_000_000


class Supervisor:
    """Watches the board.

    :param hang_limit: seconds without a pulse after which a worker is killed; cotyledon starts it
        again. By default 30, or half of what systemd's watchdog allows if that is less.
    """

    def __init__(
        self, board: Board, notifier: Notifier, files: MetricFiles, hang_limit: float | None = None
    ) -> None:
        self._board = board
        self._notifier = notifier
        self._rates = Rates(files)
        self._hang_limit = hang_limit or min(HANG_LIMIT, notifier.watchdog_interval / 2 or HANG_LIMIT)
        self._ready = False
        self._status = ""
        self._status_at = 0.0
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to watch, in a thread that ends with the process."""
        threading.Thread(target=self._run, name="supervisor", daemon=True).start()

    def stopping(self) -> None:
        """Note that the daemon is told to stop; who hangs now is ended all the same."""
        self._stopping.set()
        self._notifier.send("STOPPING=1", "STATUS=stopping: workers commit and acknowledge what they hold")

    def reloaded(self) -> None:
        """Say READY again, which ends systemd's wait for a reload."""
        self._ready = False

    def worker_died(self, worker: int, exit_code: int) -> None:
        """Take note of what the worker was converting."""
        self._board.bury(worker)
        if exit_code:
            self._board.count_death()

    def _run(self) -> None:
        while True:
            time.sleep(_INTERVAL)
            self._kill_hung()
            if not self._stopping.is_set():
                self._notify()

    def _kill_hung(self) -> None:
        for slot in self._board.slots():
            pid, silence = slot.pid, slot.silence
            if pid and silence > self._hang_limit:
                LOG.error("Worker process %d made no progress for %.0f s: killing it", pid, silence)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    slot.clear()

    def _making_progress(self) -> bool:
        """Whether every worker gave a sign of life lately, or was replaced."""
        patience = self._hang_limit / 3
        return all(
            slot.silence <= patience and slot.vacancy <= self._hang_limit for slot in self._board.slots()
        )

    def _notify(self) -> None:
        slots = self._board.slots()
        consuming = sum(slot.state is State.CONSUMING for slot in slots)
        states = []
        if consuming == len(slots) and not self._ready:
            self._ready = True
            self._status_at = 0.0
            LOG.info("Ready: all %d readers are consuming", consuming)
            states.append("READY=1")
        if not self._ready:
            states.append(f"EXTEND_TIMEOUT_USEC={_START_EXTENSION_USEC}")
        if time.monotonic() >= self._status_at:
            self._status_at = time.monotonic() + _STATUS_INTERVAL
            self._status = f"STATUS={consuming} of {len(slots)} readers consuming; {self._rates.look()}"
            states.append(self._status)
        if self._notifier.watchdog_interval and self._making_progress():
            states.append("WATCHDOG=1")
        if states:
            self._notifier.send(*states)
