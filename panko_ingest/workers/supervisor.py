"""The master's own thread: ends workers that hang, and tells systemd how the daemon is."""

import logging
import os
import signal
import threading

from panko_ingest.progress import Board, State
from panko_ingest.workers.systemd import Notifier

LOG = logging.getLogger(__name__)

HANG_LIMIT = 30.0
_INTERVAL = 1.0
# While we wait for a broker or a database, systemd is to wait with us.
_START_EXTENSION_USEC = 60_000_000


class Supervisor:
    """Watches the board.

    :param hang_limit: seconds without a pulse after which a worker is killed; cotyledon starts it again.
    """

    def __init__(self, board: Board, notifier: Notifier, hang_limit: float = HANG_LIMIT) -> None:
        self._board = board
        self._notifier = notifier
        self._hang_limit = hang_limit
        self._ready = False
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to watch, in a thread that ends with the process."""
        threading.Thread(target=self._run, name="supervisor", daemon=True).start()

    def stopping(self) -> None:
        """Note that the daemon is told to stop: silence is expected from now on."""
        self._stopping.set()
        self._notifier.send("STOPPING=1")

    def reloaded(self) -> None:
        """Say READY again, which ends systemd's wait for a reload."""
        self._ready = False

    def worker_died(self, worker: int) -> None:
        """Take note of what the worker was converting."""
        self._board.bury(worker)

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL):
            hung = self._kill_hung()
            self._notify(hung)

    def _kill_hung(self) -> bool:
        hung = False
        for slot in self._board.slots():
            pid, silence = slot.pid, slot.silence
            if pid and silence > self._hang_limit:
                hung = True
                LOG.error("Worker process %d made no progress for %.0f s: killing it", pid, silence)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    slot.clear()
        return hung

    def _notify(self, hung: bool) -> None:
        slots = self._board.slots()
        consuming = sum(slot.state is State.CONSUMING for slot in slots)
        status = f"STATUS={consuming} of {len(slots)} readers consuming"
        if consuming == len(slots) and not self._ready:
            self._ready = True
            LOG.info("Ready: all %d readers are consuming", consuming)
            self._notifier.send("READY=1", status)
        states = [status]
        if not self._ready:
            states.append(f"EXTEND_TIMEOUT_USEC={_START_EXTENSION_USEC}")
        if self._notifier.watchdog_interval and not hung:
            states.append("WATCHDOG=1")
        self._notifier.send(*states)
