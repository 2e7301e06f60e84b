"""The service that moves events from the buses to the database."""

import gc
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from cotyledon.types import WorkerId

from panko_ingest import __version__, amqp, config
from panko_ingest.batch import Batcher
from panko_ingest.breaker import FloodBreaker
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.metric_files import MetricFiles
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline import CrashGuard, Intake, Lane, Writer
from panko_ingest.progress import Board, Slot, State
from panko_ingest.storage import get_connection_from_config
from panko_ingest.workers import report
from panko_ingest.workers.settings import Settings
from panko_ingest.workers.sources import buses, topology
from panko_ingest.workers.worker import Worker

LOG = logging.getLogger(__name__)

# Of the broker's consumer_timeout, as messages are older there than here.
_HOLD_SHARE = 0.7
# Workers of a host that connect in a second, so that a broker is not asked by all of them at once.
_STARTS_A_SECOND = 20.0
_MEASURE_INTERVAL = 1.0


class IngestService(Worker):
    """One ingest worker: a thread for each bus, and one that writes.

    Everything is built in :meth:`run`, in the worker's own process: neither connections nor threads
    survive a fork.
    """

    name = "ingester"

    def __init__(self, worker_id: WorkerId, settings: Settings, board: Board, files: MetricFiles) -> None:
        super().__init__(worker_id, board)
        self._conf = settings.conf
        self._files = files
        self._stopping = threading.Event()
        self._finished = threading.Event()
        self._consumers: list[amqp.AmqpConsumer] = []
        self._writer: Writer | None = None

    def run(self) -> None:
        """Work until :meth:`terminate`; an end for any other reason ends the process."""
        slots = self._board.slots(self.worker_id)
        try:
            if self.worker_id < self._conf.notification.workers:
                for slot in slots:
                    slot.occupy(os.getpid())
                self._work(slots)
            else:  # cotyledon would start it again and again if it went
                LOG.info("Worker %d rests: there are to be fewer workers", self.worker_id)
                self._stopping.wait()
        finally:
            for slot in slots:
                slot.clear()
            self._finished.set()
        if not self._stopping.is_set():
            raise RuntimeError("the ingest threads ended although nobody stopped them")

    def terminate(self) -> None:
        """Commit and acknowledge what is in hand, then return: the process ends right after."""
        self._stopping.set()
        self._stop_threads()
        self._finished.wait()
        logging.shutdown()

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
        if self._writer is not None:
            self._writer.hurry()

    def _work(self, slots: list[Slot]) -> None:
        conf = self._conf
        connection = get_connection_from_config(conf)
        metrics = self._files.join(self.place(self.worker_id))
        writer = self._writer = Writer(connection, metrics)
        converter = EventConverter.from_file(
            config.find_definitions(conf),
            store_raw=conf.event.store_raw,
            drop_unmatched=conf.event.drop_unmatched_notifications,
        )
        for bus, slot in zip(buses(conf), slots, strict=True):
            intake = Intake(
                converter,
                TypeFilter(conf.event.types),
                max_size=conf.notification.max_message_size,
                max_depth=conf.notification.max_depth,
                guard=CrashGuard(self._board, slot),
            )
            self._consumers.append(self._consumer(bus, intake, writer, metrics, slot))
        self._spare_the_collector()
        spread = conf.notification.workers / _STARTS_A_SECOND
        if self._stopping.wait(self.worker_id and random.uniform(0, spread)):
            self._stop_threads()
        LOG.info("Worker %d reads from %s", self.worker_id, ", ".join(c.bus.name for c in self._consumers))
        with ThreadPoolExecutor(len(self._consumers) + 1) as threads:
            reading = [
                threads.submit(self._read, consumer, slot)
                for consumer, slot in zip(self._consumers, slots, strict=True)
            ]
            writing = threads.submit(writer.run)
            try:
                self._wait_for_end(
                    reading,
                    writing,
                    lambda: metrics.pool_in_use.set(connection.statistics().connections_in_use),
                )
            finally:
                self._stop_threads()
                wait(reading)
                writer.finish()
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
                raise RuntimeError("the writer ended before the buses")
            open_ends -= done

    def _consumer(
        self, bus: amqp.Bus, intake: Intake, writer: Writer, metrics: Metrics, slot: Slot
    ) -> amqp.AmqpConsumer:
        options = self._conf.notification
        prefetch = options.prefetch_count or 2 * options.batch_size
        lane = Lane(
            intake,
            Batcher(
                options.batch_size, options.batch_timeout, options.max_bytes_in_flight // 2, time.monotonic
            ),
            writer,
            FloodBreaker(options.dead_letter_limit, time.monotonic),
            metrics,
            prefetch=prefetch,
            max_bytes=options.max_bytes_in_flight,
            hold_limit=options.consumer_timeout * _HOLD_SHARE,
            bus=bus.name,
            deaths=lambda: self._board.deaths,
        )
        gauges = metrics.of_bus(bus.name)
        consumer = amqp.AmqpConsumer(
            bus,
            topology(self._conf),
            lane,
            client_properties={
                "connection_name": f"panko-ingest worker {self.worker_id} on {socket.gethostname()}",
                "version": __version__,
            },
            beat=slot.beat,
            siblings=self._siblings if self.worker_id == 0 else None,
            on_open=gauges.connections.set,
            on_lost=gauges.lost_connections.inc,
        )
        lane.wake = consumer.wake
        report.add_section(f"In hand from {bus.name}", lane.in_hand)
        return consumer

    def _siblings(self) -> int:
        return sum(slot.state is State.CONSUMING for slot in self._board.slots())
