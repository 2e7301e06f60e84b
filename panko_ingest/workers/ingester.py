"""The service that moves events from the buses to the database."""

import contextlib
import ctypes
import gc
import logging
import math
import random
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial

from oslo_config import cfg

from panko_ingest import __version__, amqp
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline import Budget, PoisonGuard, RecordingThread, Solitude
from panko_ingest.shared_state import Slot, State
from panko_ingest.storage import get_connection_from_config
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.workers import guru_report
from panko_ingest.workers.from_config import budget, bus_pipeline, message_processor, topology
from panko_ingest.workers.live_config import Settings
from panko_ingest.workers.store_watch import StoreWatch
from panko_ingest.workers.supervisor import HANG_LIMIT
from panko_ingest.workers.worker import Worker

LOG = logging.getLogger(__name__)

# Workers of a host that connect in a second, so that a broker is not asked by all of them at once.
_STARTS_A_SECOND = 20.0
_MEASURE_INTERVAL = 1.0
_M_ARENA_MAX = -8  # malloc.h of glibc


class IngestService(Worker):
    """One ingest worker: a thread for each bus, and one that records."""

    name = "ingester"

    @classmethod
    def number(cls, settings: Settings) -> int:
        """Return how many of this kind there are to be."""
        return settings.workers

    def _prepare(self) -> None:
        self._finished = threading.Event()
        self._consumers: list[amqp.AmqpConsumer] = []
        self._recording: RecordingThread | None = None

    def run(self) -> None:
        """Work until :meth:`terminate`; an end for any other reason ends the process."""
        recording_slot = self._shared.recording_slot(self.worker_id)
        if self.worker_id >= self.settings.workers:  # cotyledon would start it again and again if it went
            LOG.info("Worker %d rests: there are to be fewer workers", self.worker_id)
            self._occupy(recording_slot, math.inf)
            self._finished.set()
            self._stopping.wait()
            recording_slot.clear()
            return
        slots = [self._shared.bus_slot(self.worker_id, bus) for bus in range(len(self.settings.buses))]
        self._occupy(recording_slot, _recording_hang_limit(self._conf))
        for slot in slots:
            self._occupy(slot)
        try:
            self._work(slots, recording_slot)
        finally:
            for slot in (*slots, recording_slot):
                slot.clear()
            self._finished.set()
        if not self._stopping.is_set():
            raise RuntimeError("the ingest threads ended although nobody stopped them")

    def terminate(self) -> None:
        """Commit and acknowledge what is in hand, then return: the process ends right after."""
        self._stopping.set()
        self._stop_threads()
        self._finished.wait()

    @staticmethod
    def _spare_memory() -> None:
        """Have all threads allocate from one heap: the GIL lets one at a time do so, nearly always."""
        with contextlib.suppress(AttributeError, OSError):  # there is another C library than glibc
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)

    @staticmethod
    def _spare_the_collector() -> None:
        """Keep the cyclic garbage collector from looking at every event in hand, again and again.

        Events are many small objects that die by their reference counts; cycles are rare here.
        """
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)

    def _stop_threads(self) -> None:
        for consumer in self._consumers:
            consumer.stop()
        if self._recording is not None:
            self._recording.hurry()

    def _work(self, slots: list[Slot], recording_slot: Slot) -> None:
        conf = self._conf
        connection = get_connection_from_config(conf)
        metrics = self._shared_metrics.join(self.place(self.worker_id))
        recording = self._recording = RecordingThread(
            connection, metrics, slot=recording_slot, most=conf.notification.batch_size
        )
        shared_budget, solitude = budget(conf), Solitude(time.monotonic)
        for number, slot in enumerate(slots):
            self._consumers.append(self._consumer(number, slot, shared_budget, solitude, recording, metrics))
        watch = StoreWatch(
            connection,
            metrics,
            lambda: self._shared_metrics.totals(self.place(self.worker_id)),
            lambda: recording.idle,
            lambda: recording.refusal,
        )
        self._spare_the_collector()
        self._spare_memory()
        spread = conf.notification.workers / _STARTS_A_SECOND
        if self._stopping.wait(self.worker_id and random.uniform(0, spread)):
            self._stop_threads()
        LOG.info("Worker %d reads from %s", self.worker_id, ", ".join(c.bus.name for c in self._consumers))
        with ThreadPoolExecutor(len(self._consumers) + 1) as threads:
            reading: list[Future[None]] = []
            try:  # also where there is a thread for some of them only
                writing = threads.submit(recording.run)
                for consumer, slot in zip(self._consumers, slots, strict=True):
                    reading.append(threads.submit(self._read, consumer, slot))
                self._wait_for_end(reading, writing, watch.look)
            finally:
                self._stop_threads()
                wait(reading)
                recording.finish()
        connection.close()
        LOG.info(
            "Worker %d has stopped; everything it took is committed or back with the broker", self.worker_id
        )

    @staticmethod
    def _read(consumer: amqp.AmqpConsumer, slot: Slot) -> None:
        consumer.run()
        slot.clear()  # another bus may need longer to stop; nobody is to take this one for hung

    @staticmethod
    def _wait_for_end(
        reading: list[Future[None]], writing: Future[None], measure: Callable[[], None]
    ) -> None:
        """Wait until all buses are done, or a thread has failed.

        :param measure: called every second meanwhile.
        :raises Exception: what the thread failed with.
        """
        open_ends = set(reading)
        while open_ends:
            done, _ = wait({*open_ends, writing}, _MEASURE_INTERVAL, FIRST_COMPLETED)
            measure()
            for future in done:
                future.result()
            if writing in done:
                raise RuntimeError("the recording thread ended before the buses")
            open_ends -= done

    def _consumer(
        self,
        number: int,
        slot: Slot,
        budget: Budget,
        solitude: Solitude,
        recording: RecordingThread,
        metrics: Metrics,
    ) -> amqp.AmqpConsumer:
        bus = self.settings.buses[number]
        processor = message_processor(self._conf, self.settings.converter, PoisonGuard(self._shared, slot))
        deaths = lambda: self._shared.deaths  # noqa: E731 - read anew each time
        pipeline = bus_pipeline(self._conf, processor, bus, budget, recording, metrics, deaths, solitude)
        gauges = metrics.of_bus(bus.name)
        consumer = amqp.AmqpConsumer(
            bus,
            topology(self._conf),
            pipeline,
            client_properties={
                "connection_name": f"panko-ingest worker {self.worker_id} on {socket.gethostname()}",
                "version": __version__,
            },
            beat=slot.beat,
            siblings=partial(self._siblings, number) if self.worker_id == 0 else None,
            looks_after=self.worker_id == 0,
            on_refusal=gauges.note_refusal,
            on_absence=gauges.note_absence,
            on_unbound=gauges.unbound_pools.set,
            on_open=gauges.connections.set,
            on_lost=gauges.lost_connections.inc,
        )
        guru_report.add_section(f"In hand from {bus.name}", pipeline.in_hand)
        return consumer

    def _siblings(self, bus: int) -> int | None:
        workers = self.settings.workers
        consuming = sum(
            self._shared.bus_slot(worker, bus).state is State.CONSUMING for worker in range(workers)
        )
        return workers if consuming == workers else None


def _recording_hang_limit(conf: cfg.ConfigOpts) -> float:
    """Return the seconds that the storage may lawfully take for one batch; for ever where it may."""
    options = StorageSettings.from_conf(conf)
    if not options.statement_timeout:
        return math.inf
    longest_try = 2 * options.statement_timeout + options.pool_timeout + options.retry_interval
    return float(HANG_LIMIT + (1 + options.max_retries) * longest_try)
