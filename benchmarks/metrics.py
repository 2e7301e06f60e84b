"""What the metrics cost: the pipeline with and without them: ``make bench-metrics``.

The store does nothing. Processor time of the process, the best of some rounds, the standard load in
batches of 1000 and in batches of one, as an idle worker makes them. ``--event`` is what an event costs
the daemon in all.
"""

import argparse
import sys
import threading
import time
from typing import Any

from benchmarks.convert import standard_load
from benchmarks.load import definitions
from panko_ingest.batch import Batcher
from panko_ingest.breaker import FloodBreaker
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.delivery import Delivery
from panko_ingest.pipeline import Budget, BusPipeline, FlowControl, MessageProcessor, RecordingThread
from panko_ingest.shared_metrics import SharedMetrics
from panko_ingest.storage import RecordResult, Statistics

_FRAME = 40  # messages that one look at the socket brings, with the standard load


class Nothing:
    """Stands for all metrics, and does nothing."""

    def __getattr__(self, name: str) -> "Nothing":
        return self

    def __call__(self, *_args: object) -> "Nothing":
        return self


class Store:
    """Takes everything at once, and keeps nothing."""

    def prove_rows(self) -> None:
        """Take rows."""

    def statistics(self) -> Statistics:
        return Statistics()

    def record_events(self, events: list[Any], *_more: object) -> RecordResult:
        return RecordResult(recorded=tuple(range(len(events))))


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="notifications (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="the best counts (default: %(default)s)")
    parser.add_argument(
        "--event", type=float, default=106.0, help="microseconds of processor an event (default: %(default)s)"
    )
    arguments = parser.parse_args()
    bodies = standard_load(arguments.count)
    real = SharedMetrics().join("ingester-0")
    sys.stdout.write(f"{'batch':>6}{'without':>12}{'with':>12}{'metrics':>12}{'share':>8}\n")
    for size in (1000, 1):
        sample = bodies if size > 1 else bodies[: arguments.count // 10]
        best = {True: float("inf"), False: float("inf")}
        for _ in range(arguments.rounds):
            for counts in (False, True):
                spent = run(sample, size, real if counts else Nothing())
                best[counts] = min(best[counts], spent / len(sample) * 1e6)
        cost = best[True] - best[False]
        share = cost / arguments.event
        sys.stdout.write(
            f"{size:>6}{best[False]:>9.2f} us{best[True]:>9.2f} us{cost:>9.2f} us{share:>8.1%}\n"
        )
    return 0


def run(bodies: list[bytes], size: int, metrics: Any) -> float:
    """Return the seconds of processor that the bodies took from delivery to settled."""
    store: Any = Store()
    recording = RecordingThread(store, metrics)
    intake = MessageProcessor(
        EventConverter.from_file(definitions()), TypeFilter(["*"]), max_size=1 << 24, max_depth=100
    )
    pipeline = BusPipeline(
        intake,
        Batcher(size, 10.0, 1 << 30, time.monotonic),
        FlowControl(Budget(2 * size, 1 << 30), time.monotonic),
        recording,
        FloodBreaker(0.9, time.monotonic),
        metrics,
        hold_limit=1000.0,
    )
    pipeline.opened("")
    deliveries = [Delivery(body, content_type="application/json", tag=tag) for tag, body in enumerate(bodies)]
    thread = threading.Thread(target=recording.run)
    thread.start()
    started = time.process_time()
    for number, delivery in enumerate(deliveries):
        pipeline.accept(delivery)
        if number % _FRAME == 0:
            pipeline.prefetch("")
            pipeline.poll(eager=False)
    while not pipeline.flush():
        pipeline.poll(eager=True)
    spent = time.process_time() - started
    recording.finish()
    thread.join()
    return spent


if __name__ == "__main__":
    sys.exit(main())
