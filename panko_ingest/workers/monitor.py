"""The service that tells others how the daemon is: /metrics, /healthz and /readyz."""

import logging
import math
import threading
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

import orjson

from panko_ingest import __version__, amqp, threads
from panko_ingest.storage import get_connection_from_config
from panko_ingest.workers.endpoint import Endpoint, Page
from panko_ingest.workers.from_config import topology
from panko_ingest.workers.health import PROBE_INTERVAL, Health, Probe, WatchedBus
from panko_ingest.workers.live_config import Settings
from panko_ingest.workers.readiness import Verdict
from panko_ingest.workers.status_page import StatusPage
from panko_ingest.workers.worker import Worker

LOG = logging.getLogger(__name__)

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HTML_TYPE = "text/html; charset=utf-8"
_TRY_AGAIN = 10.0
_HANG_LIMIT = 60.0
_ANSWER_WITHIN = 1.0
"""Seconds that who has asked already may take to read the answer when this ends."""

_END_WITHIN = 1.0
"""Seconds beyond that which the endpoint may take to hear of the end."""


class MonitorService(Worker):
    """Serves a few pages over HTTP to anybody who asks; it never changes anything."""

    name = "monitor"

    @classmethod
    def number(cls, settings: Settings) -> int:
        """Return how many of this kind there are to be."""
        return 1 if settings.conf.monitor.port else 0

    def _prepare(self) -> None:
        self._finished = threading.Event()

    def run(self) -> None:
        """Serve until :meth:`terminate`."""
        try:
            self._serve()
        finally:
            self._finished.set()

    def terminate(self) -> None:
        """Answer who has asked, then return, at the latest in two seconds: the process ends right after."""
        super().terminate()
        self._finished.wait(_ANSWER_WITHIN + _END_WITHIN)

    def _serve(self) -> None:
        slot = self._shared.service_slot(self.name)
        if not self.number(self.settings):  # cotyledon would start it again and again if it went
            LOG.info("The monitor rests: [monitor] port is 0")
            self._occupy(slot, math.inf)
            self._stopping.wait()
            return
        self._occupy(slot, _HANG_LIMIT)
        self._metrics = self._shared_metrics.join(self.place(self.worker_id))
        self._shared_metrics.show_only(bus.name for bus in self.settings.buses)
        self._metrics.build_info.labels(__version__).set(1)
        self._health = self._watch()
        endpoint = self._listen(slot.beat)
        if endpoint is None:
            return
        threads.start(endpoint.serve_forever, "endpoint")
        while not self._stopping.wait(PROBE_INTERVAL):
            slot.beat()
            self._health.look()
        endpoint.close(_ANSWER_WITHIN)

    def _watch(self) -> Health:
        conf = self._conf
        ingests = conf.command.only != "expirer"
        connection = get_connection_from_config(conf, expires=not ingests)
        database = Probe(connection.ping)
        watched = {
            bus.name: WatchedBus(bus.title, Probe(partial(self._reach, bus))) for bus in self.settings.buses
        }
        for probe in (database, *(bus.probe for bus in watched.values())):
            probe.watch(self._stopping)
        health = Health(
            self._shared,
            self._shared_metrics,
            database,
            watched,
            conf.monitor.max_lag,
            expires=conf.command.only != "ingester",
        )
        queues = topology(conf).names if ingests else []
        self._status_page = StatusPage(health, connection, self.settings.buses, queues)
        return health

    def _reach(self, bus: amqp.Bus) -> None:
        """Ask the broker only when no worker is connected to it."""
        if not self._shared_metrics.totals().by_label("broker_connections").get(bus.name):
            amqp.reach(bus)

    def _listen(self, beat: Callable[[], None]) -> Endpoint | None:
        """Return the endpoint when its address is free; None when the daemon stops before."""
        host, port = self._conf.monitor.host, self._conf.monitor.port
        pages: dict[str, Callable[[], Page]] = {
            "/": lambda: Page(HTTPStatus.OK, _HTML_TYPE, self._status_page.html().encode()),
            "/metrics": self._metrics_page,
            "/healthz": lambda: _json(self._health.alive()),
            "/readyz": lambda: _json(self._health.readiness()),
        }
        level = logging.WARNING
        while not self._stopping.is_set():
            beat()
            try:
                endpoint = Endpoint(host, port, pages, slow={"/", "/metrics"})
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
        return Page(HTTPStatus.OK, _METRICS_TYPE, self._shared_metrics.exposition())


def _json(verdict: Verdict) -> Page:
    status = HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return Page(status, "application/json", orjson.dumps(verdict) + b"\n")
