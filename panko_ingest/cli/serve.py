"""``panko-ingest serve``: the daemon."""

import multiprocessing
import os
import signal
import threading
from typing import Any

import cotyledon
from oslo_config import cfg

from panko_ingest import config
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.storage import get_connection_from_config
from panko_ingest.workers.expirer import ExpirerService
from panko_ingest.workers.ingester import IngestService, buses


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "serve",
        help="run the daemon",
        description="Read notifications from the bus, store their events, and expire old ones, "
        "until SIGTERM or Ctrl-C.",
    )
    parser.add_argument("--only", choices=["ingester", "expirer"], help="run only this kind of worker")
    parser.set_defaults(run=run)


def run(conf: cfg.ConfigOpts) -> int:
    """Run until told to stop; the exit code is cotyledon's.

    :raises ConfigError: something is wrong that no waiting will mend.
    """
    validate(conf)
    _stop_on_interrupt()
    manager = cotyledon.ServiceManager(
        graceful_shutdown_timeout=conf.graceful_shutdown_timeout,
        # Workers inherit the configuration, which does not pickle.
        mp_context=multiprocessing.get_context("fork"),
    )
    if conf.command.only != "expirer":
        manager.add(IngestService, workers=conf.notification.workers, args=(conf,))
    if conf.command.only != "ingester":
        manager.add(ExpirerService, args=(conf,))
    manager.run()
    return 0


def validate(conf: cfg.ConfigOpts) -> None:
    """Build once what the workers will build, so that a mistake shows before anything starts.

    :raises ConfigError: naming what is wrong.
    """
    buses(conf)
    get_connection_from_config(conf)
    TypeFilter(conf.event.types)
    EventConverter.from_file(
        config.find_definitions(conf),
        store_raw=conf.event.store_raw,
        drop_unmatched=conf.event.drop_unmatched_notifications,
    )


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
