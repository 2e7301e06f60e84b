"""The service that tells others how the daemon is: /metrics, /healthz and /readyz."""

import logging
import threading
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

import orjson
from cotyledon.types import WorkerId

from panko_ingest import __version__, amqp, config
from panko_ingest.errors import BrokerError
from panko_ingest.metric_files import MetricFiles
from panko_ingest.progress import Board
from panko_ingest.storage import StorageUnavailable, get_connection
from panko_ingest.workers.endpoint import Endpoint, Page
from panko_ingest.workers.health import PROBE_INTERVAL, Health, Probe, Verdict
from panko_ingest.workers.settings import Settings
from panko_ingest.workers.sources import buses
from panko_ingest.workers.worker import Worker

LOG = logging.getLogger(__name__)

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TRY_AGAIN = 10.0


class MonitorService(Worker):
    """Serves three pages over HTTP to whoever asks; it never changes anything."""

    name = "monitor"

    def __init__(self, worker_id: WorkerId, settings: Settings, board: Board, files: MetricFiles) -> None:
        super().__init__(worker_id, board)
        self._conf = settings.conf
        self._files = files
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serve until :meth:`terminate`."""
        self._metrics = self._files.join(self.place(self.worker_id))
        self._metrics.build_info.labels(__version__).set(1)
        self._health = self._watch()
        endpoint = self._listen()
        if endpoint is None:
            return
        threading.Thread(target=endpoint.serve_forever, name="endpoint", daemon=True).start()
        while not self._stopping.wait(PROBE_INTERVAL):
            self._health.look()

    def terminate(self) -> None:
        """Stop looking; the process ends right after."""
        self._stopping.set()
        logging.shutdown()

    def _watch(self) -> Health:
        conf = self._conf
        ingests = conf.command.only != "expirer"
        url = config.database_url(conf) if ingests else config.expirer_database_url(conf)
        database = Probe(get_connection(url, conf).ping, (StorageUnavailable,))
        probes = {
            bus.name: Probe(partial(self._reach, bus), (BrokerError,))
            for bus in (buses(conf) if ingests else [])
        }
        for probe in (database, *probes.values()):
            probe.watch(self._stopping)
        return Health(self._board, self._files, database, probes, conf.monitor.max_lag)

    def _reach(self, bus: amqp.Bus) -> None:
        """Ask the broker only when no worker is connected to it."""
        if not dict(self._files.totals().by_label("broker_connections")).get(bus.name):
            amqp.reach(bus)

    def _listen(self) -> Endpoint | None:
        """Return the endpoint when its address is free; None when the daemon stops before."""
        host, port = self._conf.monitor.host, self._conf.monitor.port
        pages: dict[str, Callable[[], Page]] = {
            "/metrics": self._metrics_page,
            "/healthz": lambda: _json(self._health.alive()),
            "/readyz": lambda: _json(self._health.ready(), figures=self._health.figures()),
        }
        level = logging.WARNING
        while not self._stopping.is_set():
            try:
                endpoint = Endpoint(host, port, pages)
            except OSError as error:
                LOG.log(level, "[monitor] host, port: can't listen on %s:%d: %s", host, port, error.strerror)
                level = logging.DEBUG  # said once is enough
                self._stopping.wait(_TRY_AGAIN)
            else:
                LOG.info("Serving /metrics, /healthz and /readyz on %s:%d", host, port)
                return endpoint
        return None

    def _metrics_page(self) -> Page:
        readers, consuming = self._health.readers
        self._metrics.readers.set(readers)
        self._metrics.readers_consuming.set(consuming)
        return Page(HTTPStatus.OK, _METRICS_TYPE, self._files.exposition())


def _json(verdict: Verdict, **more: object) -> Page:
    status = HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return Page(status, "application/json", orjson.dumps({**verdict.document(), **more}) + b"\n")
