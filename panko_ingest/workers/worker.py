"""What all processes of the daemon but the master have in common."""

import logging
import os
import signal
import threading

import cotyledon
from cotyledon.types import WorkerId

from panko_ingest import threads
from panko_ingest.shared_metrics import SharedMetrics
from panko_ingest.shared_state import SharedState, Slot
from panko_ingest.workers.live_config import LiveConfig, Settings

LOG = logging.getLogger(__name__)

LEFT = 3
"""The exit code of a worker that was told to end, and left what it could not bring to an end in time."""


class Worker(cotyledon.Service):
    """A process with a place in the daemon, which outlives it.

    Everything is built in :meth:`run`, in the process itself: neither connections nor threads survive a fork.

    :param live_config: what was in force in the master when this process was forked.
    """

    name = "worker"

    def __init__(
        self,
        worker_id: WorkerId,
        live_config: LiveConfig,
        shared: SharedState,
        shared_metrics: SharedMetrics,
    ) -> None:
        super().__init__(worker_id)
        self.settings = live_config.settings
        self._config_version = live_config.version
        self._conf = self.settings.conf
        self._shared = shared
        self._shared_metrics = shared_metrics
        self._stopping = threading.Event()
        # What can't be brought to an end in time is left: the broker delivers it again.
        type(self).graceful_shutdown_timeout = self._conf.graceful_shutdown_timeout
        # cotyledon would end it without a word.
        signal.signal(signal.SIGALRM, self._leave)
        self._prepare()
        # cotyledon would want a thread when the end comes, when there may be none to be had.
        threads.start(self._end_when_told, "end")

    def _prepare(self) -> None:
        """Set what this kind has of its own; only then it may be told to end."""

    def _end_when_told(self) -> None:
        signal.sigwait({signal.SIGTERM})  # which the master has blocked where it forks
        signal.alarm(self._conf.graceful_shutdown_timeout)
        try:
            self.terminate()
        except Exception:
            LOG.exception("%s could not end in good order", self.place(self.worker_id))
            os._exit(1)
        os._exit(0)

    def _leave(self, *_: object) -> None:
        LOG.error(
            "%s did not end in graceful_shutdown_timeout (%d s): it leaves what it is doing",
            self.place(self.worker_id),
            self._conf.graceful_shutdown_timeout,
        )
        # A server is silent: the message that it was given last would pass for what it died of.
        self._shared.acquit(os.getpid())
        os._exit(LEFT)

    def terminate(self) -> None:
        """Return when all is in order: the process ends right after."""
        self._stopping.set()

    def _occupy(self, slot: Slot, hang_limit: float = 0.0) -> None:
        slot.occupy(os.getpid(), hang_limit, self._config_version)

    @classmethod
    def number(cls, settings: Settings) -> int:
        """Return how many of this kind there are to be: one, where the settings have no say in it."""
        del settings
        return 1

    @classmethod
    def place(cls, worker_id: int) -> str:
        """Return what the metrics call the process of this kind that has this number."""
        return f"{cls.name}-{worker_id}"
