"""The list of metrics, and the memory through which processes share them."""

import os
import signal
import time
from collections.abc import Callable

import pytest
from prometheus_client import values

from panko_ingest.metrics import Metrics
from panko_ingest.shared_metrics import SharedMetrics
from panko_ingest.shared_state import MAX_BUSES
from tests.waiting import wait_until


def in_a_process(work: Callable[[], None]) -> None:
    """Do something in a process that ends as workers do: at once."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_every_metric_has_a_name_of_ours_and_a_meaning() -> None:
    declared = Metrics().declared
    assert len({metric.name for metric in declared}) == len(declared)
    for metric in declared:
        assert metric.name.startswith("panko_ingest_")
        assert metric.meaning.endswith(".")


def test_a_process_goes_on_with_the_counters_of_the_one_in_its_place_before() -> None:
    def work() -> None:
        own = shared.join("ingester-0")
        own.recorded.inc(7)
        own.of_bus("here").messages_in_flight.set(5)

    shared = SharedMetrics()
    in_a_process(work)
    for _ in range(100):
        in_a_process(work)
        shared.forget("ingester-0")
        assert shared.totals()["messages_in_flight"] == 0
    assert shared.totals()["events_recorded_total"] == 7 * 101
    in_a_process(work)
    assert shared.totals()["messages_in_flight"] == 5


def test_a_queue_that_nobody_reads_any_more_is_not_told_to_be_there() -> None:
    def work(place: str, queue: str) -> None:
        shared.join(place).of_bus("here").note_absence(queue, absent=True)

    shared = SharedMetrics()
    for queue in ("old", "new", "new"):
        for place in ("ingester-0", "ingester-1"):
            in_a_process(lambda: work(place, queue))  # noqa: B023 - called at once
    assert list(shared.totals().by_labels("absent_queues")) == [(("here", "new"), 2.0)]
    assert '"old"' not in shared.exposition().decode()
    shared.forget("ingester-0")
    assert shared.totals().absent_queues() == [("here", "new")]


def test_metrics_of_several_processes_add_up() -> None:
    def work(place: str, age: float) -> None:
        own = shared.join(place)
        own.received.inc(10)
        own.of_bus("here").bytes_in_flight.set(100)
        own.of_bus("here").oldest_seconds.set(age)
        own.batch_messages.observe(10)

    shared = SharedMetrics()
    for number in range(3):
        in_a_process(lambda: work(f"ingester-{number}", float(number)))  # noqa: B023 - called at once
    totals = shared.totals()
    assert totals["messages_received_total"] == 30
    assert totals.by_label("bytes_in_flight") == {"here": 300}
    assert totals.largest("oldest_in_hand_seconds") == 2
    assert totals["batch_messages_count"] == 3
    text = shared.exposition().decode()
    assert "panko_ingest_messages_received_total 30.0" in text
    assert 'pid="' not in text


def test_a_process_that_was_killed_in_the_middle_leaves_whole_metrics_behind() -> None:
    shared = SharedMetrics()

    def work() -> None:
        own = shared.join("ingester-0")
        own.recorded.inc(3)
        while True:
            own.count_salvaged("a.type", str(time.monotonic()))

    child = os.fork()
    if child == 0:
        work()
    try:
        wait_until(lambda: shared.totals()["traits_salvaged_total"] > 100, 10, "a process that counts")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert shared.totals()["events_recorded_total"] == 3


def test_a_value_that_is_being_written_is_read_as_the_one_before_or_the_one_after() -> None:
    shared = SharedMetrics()

    def work() -> None:
        own = shared.join("ingester-0")
        while True:
            own.recorded.inc()

    child = os.fork()
    if child == 0:
        work()
    fell, before = [], 0.0
    try:
        wait_until(lambda: shared.totals()["events_recorded_total"], 10, "a process that counts")
        part = shared._part("ingester-0")
        (at,) = [at for key, at in part.records() if b"events_recorded_total" in key]
        while before < 500_000:
            value = part.read(at)
            if value < before:
                fell.append((before, value))
            before = value
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not fell


def test_metrics_for_which_there_is_no_room_are_left_out_and_cost_nothing_else() -> None:
    shared = SharedMetrics()

    def work() -> None:
        own = shared.join("ingester-0")
        for number in range(1000):
            own.refused.labels("t" * 255, f"{number:0255}").set(1)
        own.recorded.inc(3)

    in_a_process(work)
    totals = shared.totals()
    assert totals["events_recorded_total"] == 3
    assert 300 < totals["broker_refusals"] < 1000


@pytest.mark.parametrize("character", ["a", "😀"])
def test_names_of_publishers_leave_room_for_all_other_metrics(character: str) -> None:
    shared = SharedMetrics()

    def work() -> None:
        own = shared.join("ingester-0")
        for number in range(2000):
            own.count_salvaged(character * 250, f"{os.getpid()}{number}")
        for number in range(100):
            own.refused.labels("bus", f"queue {number}").set(1)

    for _ in range(20):  # a worker that is started anew goes on with what is there
        in_a_process(work)
    totals = shared.totals()
    assert totals["traits_salvaged_total"] == 20 * 2000
    assert totals["broker_refusals"] == 100


@pytest.mark.parametrize("character", ["a", "é", "\x1f", "😀"])
def test_short_names_of_publishers_leave_room_for_all_queues_of_as_many_buses_as_there_may_be(
    character: str,
) -> None:
    shared = SharedMetrics()

    def work() -> None:
        own = shared.join("ingester-0")
        for number in range(5000):
            own.count_salvaged(f"{number}", character)
        for bus in range(MAX_BUSES):
            gauges = own.of_bus(f"{'rabbit1.internal:5671,' * 3}/service{bus}")
            for number in range(14):
                gauges.note_refusal(f"versioned_notifications.{number}", "locked")
                gauges.note_absence(f"versioned_notifications.{number}", absent=True)

    in_a_process(work)
    assert shared.totals()["traits_salvaged_total"] == 5000
    assert shared.totals()["broker_refusals"] == MAX_BUSES * 14
    assert len(shared.totals().absent_queues()) == MAX_BUSES * 14


def test_histograms_count_up_over_their_buckets() -> None:
    shared = SharedMetrics()

    def work() -> None:
        own = shared.join("ingester-0")
        for size in (1, 40, 40, 100_000):
            own.batch_messages.observe(size)

    in_a_process(work)
    in_a_process(work)
    text = shared.exposition().decode()
    for line in (
        'batch_messages_bucket{le="1.0"} 2.0',
        'batch_messages_bucket{le="50.0"} 6.0',
        'batch_messages_bucket{le="5000.0"} 6.0',
        'batch_messages_bucket{le="+Inf"} 8.0',
        "batch_messages_count 8.0",
        "batch_messages_sum 200162.0",
    ):
        assert f"panko_ingest_{line}" in text
    assert "# TYPE panko_ingest_events_recorded_total counter" in text


def test_the_tests_themselves_share_nothing() -> None:
    assert values.ValueClass._multiprocess is False


def test_salvaged_traits_are_counted_by_event_type_and_trait_within_bounds() -> None:
    metrics = Metrics()
    for number in range(1200):
        metrics.count_salvaged("compute.instance.update", f"trait{number}")
    metrics.count_salvaged("compute.instance.update", "trait7")
    counted = {
        (sample.labels["event_type"], sample.labels["trait"]): sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "panko_ingest_traits_salvaged_total" and sample.labels["stage"] == "convert"
    }
    assert counted["compute.instance.update", "trait7"] == 2
    assert sum(counted.values()) == 1201
    assert counted["", ""] > 0
    assert 100 < len(counted) < 1200
