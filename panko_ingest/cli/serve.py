"""``panko-ingest serve``: the daemon."""

import gc
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
from panko_ingest.metric_files import MetricFiles
from panko_ingest.progress import Board
from panko_ingest.workers import report, sources
from panko_ingest.workers.expirer import ExpirerService
from panko_ingest.workers.ingester import IngestService
from panko_ingest.workers.monitor import MonitorService
from panko_ingest.workers.settings import Settings, validate
from panko_ingest.workers.supervisor import Supervisor
from panko_ingest.workers.systemd import Notifier
from panko_ingest.workers.worker import Worker

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
    sources.warn(conf)
    notifier = Notifier()
    files = MetricFiles(os.environ.get("RUNTIME_DIRECTORY"))
    _stop_on_interrupt()
    manager = cotyledon.ServiceManager(
        graceful_shutdown_timeout=conf.graceful_shutdown_timeout,
        # Workers inherit the configuration, which does not pickle.
        mp_context=multiprocessing.get_context("fork"),
    )
    try:
        _Daemon(manager, conf, notifier, files).run()
    except SystemExit:  # so cotyledon ends on SIGTERM, when the workers have
        _say_goodbye(files)
        raise
    except Exception:
        LOG.critical("panko-ingest %s stops because of a fault of its own", __version__)
        raise
    finally:
        files.remove()
    return 0


def _say_goodbye(files: MetricFiles) -> None:
    totals = files.totals()
    LOG.info(
        "panko-ingest %s has stopped because it was told to; since its start %d events were recorded, "
        "%d were stored already, %d messages became dead letters, %d were dropped",
        __version__,
        totals["events_recorded_total"],
        totals["events_duplicate_total"],
        totals["dead_letters_total"],
        totals["messages_dropped_total"],
    )


class _Daemon:
    """The master process: which workers there are, and what happens on a signal."""

    def __init__(
        self,
        manager: cotyledon.ServiceManager,
        conf: cfg.ConfigOpts,
        notifier: Notifier,
        files: MetricFiles,
    ) -> None:
        self._manager = manager
        self._files = files
        self._metrics = files.join("master-0")
        self._notifier = notifier
        self._settings = Settings(conf, lambda: prepare(sys.argv[1:]))
        report.install(conf, lambda: self._settings.conf)
        only = conf.command.only
        workers = 0 if only == "expirer" else conf.notification.workers
        self._board = Board(workers, len(sources.buses(conf)) if workers else 0)
        self._supervisor = Supervisor(self._board, notifier, files)
        self._services: dict[Any, type[Worker]] = {}
        self._most_workers = workers
        if workers:
            self._add(IngestService, workers, self._settings, self._board, files)
        if only != "ingester":
            self._add(ExpirerService, 1, self._settings, self._board, files)
        if conf.monitor.port:
            self._add(MonitorService, 1, self._settings, self._board, files)
        manager.register_hooks(
            on_terminate=self._supervisor.stopping,
            on_reload=self._reload,
            on_dead_worker=self._worker_died,
        )

    def _add(self, service: type[Worker], workers: int, *args: Any) -> None:
        self._services[self._manager.add(service, workers=workers, args=args)] = service

    def run(self) -> None:
        """Run until told to stop."""
        self._supervisor.start()
        # What is there now the workers share with us, until a collection writes its marks into it.
        gc.collect()
        gc.freeze()
        self._manager.run()

    def _reload(self) -> None:
        self._notifier.reloading()
        if self._settings.reload():
            self._resize()
            self._board.generation += 1
        self._supervisor.reloaded()

    def _resize(self) -> None:
        """Have as many workers as the configuration says now."""
        conf = self._settings.conf
        workers = conf.notification.workers
        for service_id, service in self._services.items():
            if service is IngestService:
                self._board.resize(workers, len(sources.buses(conf)))
                # Those that are too many rest: cotyledon starts again whatever ends.
                self._most_workers = max(self._most_workers, workers)
                self._manager.reconfigure(service_id, self._most_workers)

    def _worker_died(self, service_id: Any, worker_id: int, exit_code: int) -> None:
        service = self._services[service_id]
        self._files.forget(service.place(worker_id))
        if exit_code:
            self._metrics.lost_workers.labels(service.name).inc()
        if service is IngestService:
            self._supervisor.worker_died(worker_id, exit_code)


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
