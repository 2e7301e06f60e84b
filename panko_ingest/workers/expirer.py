"""The service that deletes what is older than its time to live."""

import logging
import random
import threading
import time

import cotyledon
from cotyledon.types import WorkerId
from oslo_config import cfg

from panko_ingest import config
from panko_ingest.storage import Connection, StorageUnavailable, get_connection
from panko_ingest.workers.settings import Settings

LOG = logging.getLogger(__name__)

_TRY_AGAIN = 60.0
_BATCH_SIZE = 1000


class ExpirerService(cotyledon.Service):
    """Runs one round of expiry every ``[expirer] interval``."""

    name = "expirer"

    def __init__(self, worker_id: WorkerId, settings: Settings) -> None:
        super().__init__(worker_id)
        self._conf = settings.conf
        self._stopping = threading.Event()
        self._finished = threading.Event()

    def run(self) -> None:
        """Work until :meth:`terminate`."""
        try:
            self._work()
        finally:
            self._finished.set()

    def terminate(self) -> None:
        """Finish the transaction in hand, then return: the process ends right after."""
        self._stopping.set()
        self._finished.wait()
        logging.shutdown()

    def _work(self) -> None:
        interval = self._conf.expirer.interval
        connection = get_connection(config.expirer_database_url(self._conf), self._conf)
        # Hosts that were started together need not begin together.
        pause = random.uniform(0, min(interval, 10.0))
        while not self._stopping.wait(pause):
            started = time.monotonic()
            try:
                run_round(connection, self._conf, self._stopping)
            except StorageUnavailable as error:
                LOG.warning("Expiry has to wait for the event database: %s", error)
                pause = min(interval, _TRY_AGAIN)
            else:
                pause = max(0.0, interval - (time.monotonic() - started))
        connection.close()


def run_round(connection: Connection, conf: cfg.ConfigOpts, stopping: threading.Event | None = None) -> int:
    """Delete every expired event and dead letter; return how many events went.

    :param stopping: ends the round between two batches when it is set.
    :raises StorageUnavailable: the store is away; what was deleted so far stays deleted.
    """
    deleted = 0
    ttl = conf.database.event_time_to_live
    batch_size = conf.database.events_delete_batch_size or _BATCH_SIZE
    while ttl > 0 and not (stopping and stopping.is_set()):
        count = connection.clear_expired_data(ttl, batch_size)
        deleted += count
        if not count:
            break
    if conf.expirer.dead_letter_time_to_live > 0:
        connection.clear_expired_dead_letters(conf.expirer.dead_letter_time_to_live)
    LOG.info("Expiry: %d events deleted", deleted)
    return deleted
