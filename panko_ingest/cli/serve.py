"""``panko-ingest serve``: the daemon."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from typing import Any

import cotyledon
from oslo_config import cfg

from panko_ingest import __version__, unread_options
from panko_ingest.cli.main import prepare
from panko_ingest.progress import Board
from panko_ingest.workers.expirer import ExpirerService
from panko_ingest.workers.ingester import IngestService
from panko_ingest.workers.settings import Settings, validate
from panko_ingest.workers.sources import buses
from panko_ingest.workers.supervisor import Supervisor
from panko_ingest.workers.systemd import Notifier

LOG = logging.getLogger(__name__)


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "serve",
        help="run the daemon",
        description="Read notifications from the bus, store their events, and expire old ones, "
        "until SIGTERM or Ctrl-C. SIGHUP reads the configuration again.",
    )
    parser.add_argument("--only", choices=["ingester", "expirer"], help="run only this kind of worker")
    parser.set_defaults(run=run)


def run(conf: cfg.ConfigOpts) -> int:
    """Run until told to stop.

    :raises ConfigError: something is wrong that no waiting will mend.
    """
    validate(conf)
    LOG.info("panko-ingest %s starts", __version__)
    unread_options.warn(conf)
    notifier = Notifier()
    _stop_on_interrupt()
    manager = cotyledon.ServiceManager(
        graceful_shutdown_timeout=conf.graceful_shutdown_timeout,
        # Workers inherit the configuration, which does not pickle.
        mp_context=multiprocessing.get_context("fork"),
    )
    _Daemon(manager, conf, notifier).run()
    return 0


class _Daemon:
    """The master process: which workers there are, and what happens on a signal."""

    def __init__(self, manager: cotyledon.ServiceManager, conf: cfg.ConfigOpts, notifier: Notifier) -> None:
        self._manager = manager
        self._notifier = notifier
        self._settings = Settings(conf, lambda: prepare(sys.argv[1:]))
        only = conf.command.only
        workers = 0 if only == "expirer" else conf.notification.workers
        self._board = Board(workers, len(buses(conf)) if workers else 0)
        self._supervisor = Supervisor(self._board, notifier)
        self._ingesters = (
            manager.add(IngestService, workers=workers, args=(self._settings, self._board))
            if workers
            else None
        )
        if only != "ingester":
            manager.add(ExpirerService, args=(self._settings,))
        manager.register_hooks(
            on_terminate=self._supervisor.stopping,
            on_reload=self._reload,
            on_dead_worker=self._worker_died,
        )

    def run(self) -> None:
        """Run until told to stop."""
        self._supervisor.start()
        self._manager.run()

    def _reload(self) -> None:
        self._notifier.reloading()
        if self._settings.reload():
            self._board.generation += 1
        self._supervisor.reloaded()

    def _worker_died(self, service_id: Any, worker_id: int, _exit_code: int) -> None:
        if service_id == self._ingesters:
            self._supervisor.worker_died(worker_id)


def _stop_on_interrupt() -> None:
    """Make Ctrl-C stop the daemon as SIGTERM does; cotyledon would end it at once.

    A blocked signal never reaches cotyledon's handlers, and the workers inherit the block: only the
    thread here takes it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    master = os.getpid()

    def wait() -> None:
        while True:
            signal.sigwait({signal.SIGINT})
            os.kill(master, signal.SIGTERM)

    threading.Thread(target=wait, name="interrupt", daemon=True).start()
