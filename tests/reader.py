"""The way from a bus to a database within the test's own process, each part of which a test can look at."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from panko_ingest.amqp import AmqpConsumer, Topology
from panko_ingest.amqp.urls import parse
from panko_ingest.batch import Batcher
from panko_ingest.breaker import FloodBreaker
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline import Budget, BusPipeline, FlowControl, MessageProcessor, RecordingThread
from panko_ingest.storage import Connection
from tests.waiting import wait_until


class Reader:
    """Reads one bus into a database; what its consumer tells is kept.

    ``open`` is how often a connection was opened, ``lost`` how often one was lost, ``refusals`` what the
    broker refuses now, ``beats`` how often its thread showed that it is alive, and
    ``longest_silence`` the most seconds in which it did not.
    """

    def __init__(
        self,
        url: str,
        topology: Topology,
        connection: Connection,
        *,
        prefetch: int = 2000,
        size: int = 10**9,
        hold_limit: float = 1000,
    ) -> None:
        self.opened = 0
        self.lost = 0
        self.refusals: dict[str, str] = {}
        self.consuming = False
        self.beats = 0
        self.longest_silence = 0.0
        self._beat_at = time.monotonic()
        self.flow = FlowControl(Budget(prefetch, size), time.monotonic)
        self.recording = RecordingThread(connection, Metrics())
        self.pipeline = BusPipeline(
            MessageProcessor(EventConverter([]), TypeFilter(["*"]), max_size=10**7, max_depth=50),
            Batcher(1000, 0.2, 10**9, time.monotonic),
            self.flow,
            self.recording,
            FloodBreaker(0.9, time.monotonic),
            self.recording.metrics,
            hold_limit=hold_limit,
        )
        self.consumer = AmqpConsumer(
            parse(url),
            topology,
            self.pipeline,
            beat=self._beat,
            on_open=self._count_opened,
            on_lost=self._count_lost,
            on_refusal=self._note_refusal,
            looks_after=True,
        )
        self._threads = [
            threading.Thread(target=run, daemon=True) for run in (self.consumer.run, self.recording.run)
        ]

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Read for a ``with`` block; what is in hand at its end is stored and acknowledged."""
        self._beat_at = time.monotonic()
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self.consumer.stop()
            self._threads[0].join(30)
            self.recording.hurry()
            self.recording.finish()
            self._threads[1].join(30)
        assert not any(thread.is_alive() for thread in self._threads)

    def wait_until_consuming(self) -> None:
        """Wait until messages would come."""
        wait_until(lambda: self.consuming, 20, "a consumer")

    def _beat(self, consuming: bool) -> None:
        self.consuming = consuming
        self.beats += 1
        now = time.monotonic()
        self.longest_silence, self._beat_at = max(self.longest_silence, now - self._beat_at), now

    def _count_opened(self, opened: bool) -> None:
        self.opened += opened

    def _count_lost(self) -> None:
        self.lost += 1

    def _note_refusal(self, name: str, reason: str | None) -> None:
        if reason is None:
            self.refusals.pop(name, None)
        else:
            self.refusals[name] = reason
