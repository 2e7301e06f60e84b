"""``panko-ingest serve``: the daemon."""

import logging
import sys
from typing import Any

from oslo_config import cfg

from panko_ingest import __version__, control_groups
from panko_ingest.cli.main import read
from panko_ingest.log_setup import set_up_logging
from panko_ingest.shared_metrics import SharedMetrics
from panko_ingest.shared_state import SharedState
from panko_ingest.workers import guru_report, live_config, log_writer
from panko_ingest.workers.expirer import ExpirerService
from panko_ingest.workers.ingester import IngestService
from panko_ingest.workers.live_config import LiveConfig
from panko_ingest.workers.master import Master
from panko_ingest.workers.monitor import MonitorService
from panko_ingest.workers.supervisor import Notifier, Supervisor
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
    """Run until told to stop."""
    log_writer.install()
    config = LiveConfig(conf, lambda: read(sys.argv[1:]), _set_up_logging)
    LOG.info("panko-ingest %s starts", __version__)
    live_config.tell(config.settings)
    if control_groups.die_together():
        LOG.warning("Memory: %s", control_groups.DIE_TOGETHER)
    guru_report.install(conf, lambda: config.settings.conf)
    try:
        return _serve(config)
    except Exception:
        LOG.critical("panko-ingest %s stops because of a fault of its own", __version__)
        raise


def _set_up_logging(conf: cfg.ConfigOpts) -> None:
    set_up_logging(conf)
    log_writer.install()


def _serve(config: LiveConfig) -> int:
    settings = config.settings
    shared = SharedState(settings.workers, len(settings.buses))
    shared_metrics = SharedMetrics()
    supervisor = Supervisor(shared, Notifier(), shared_metrics)
    others: list[type[Worker]] = [ExpirerService, MonitorService]
    code = Master(config, shared, shared_metrics, supervisor, IngestService, others).run()
    totals = shared_metrics.totals()
    LOG.log(
        logging.WARNING if code else logging.INFO,
        "panko-ingest %s has stopped because it was told to%s; since its start %d events were recorded, "
        "%d were stored already, %d messages became dead letters, %d were dropped",
        __version__,
        ", but not in good order" if code else "",
        totals["events_recorded_total"],
        totals["events_duplicate_total"],
        totals["dead_letters_total"],
        totals["messages_dropped_total"],
    )
    return code
