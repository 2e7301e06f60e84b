"""The list of metrics, and the files through which processes share them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import values

from panko_ingest import metrics
from panko_ingest.metric_files import MetricFiles
from panko_ingest.metrics import Metrics

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def files(tmp_path: Path) -> MetricFiles:
    return MetricFiles(str(tmp_path))


def in_a_process(work: Callable[[], None]) -> None:
    """Do something in a process that ends as cotyledon's workers do: at once."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_the_document_lists_every_metric() -> None:
    assert DOCUMENT.read_text() == metrics.document(), "run `make docs`"


def test_every_metric_has_a_name_of_ours_and_a_meaning() -> None:
    declared = Metrics().declared
    assert len({metric.name for metric in declared}) == len(declared)
    for metric in declared:
        assert metric.name.startswith("panko_ingest_")
        assert metric.meaning.endswith(".")


def test_a_process_goes_on_with_the_counters_of_the_one_in_its_place_before(files: MetricFiles) -> None:
    def work() -> None:
        own = files.join("ingester-0")
        own.recorded.inc(7)
        own.of_bus("here").messages_in_flight.set(5)

    in_a_process(work)
    first = sorted(path.name for path in files.path.iterdir())
    for _ in range(100):
        in_a_process(work)
        files.forget("ingester-0")
        assert files.totals()["messages_in_flight"] == 0
    assert files.totals()["events_recorded_total"] == 7 * 101
    in_a_process(work)
    assert sorted(path.name for path in files.path.iterdir()) == first
    assert files.totals()["messages_in_flight"] == 5


def test_processes_add_up(files: MetricFiles) -> None:
    def work(place: str, age: float) -> None:
        own = files.join(place)
        own.received.inc(10)
        own.of_bus("here").bytes_in_flight.set(100)
        own.of_bus("here").oldest_seconds.set(age)
        own.batch_messages.observe(10)

    for number in range(3):
        in_a_process(lambda: work(f"ingester-{number}", float(number)))  # noqa: B023 - called at once
    totals = files.totals()
    assert totals["messages_received_total"] == 30
    assert dict(totals.by_label("bytes_in_flight")) == {"here": 300}
    assert totals.largest("oldest_in_hand_seconds") == 2
    assert totals["batch_messages_count"] == 3
    text = files.exposition().decode()
    assert "panko_ingest_messages_received_total 30.0" in text
    assert 'pid="' not in text


def test_only_the_owner_may_read_the_files_and_old_ones_are_wiped(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir(mode=0o755)
    (tmp_path / "metrics" / "counter_ingester-9.db").write_bytes(b"old")
    files = MetricFiles(str(tmp_path))
    assert files.path.stat().st_mode & 0o777 == 0o700
    assert list(files.path.iterdir()) == []
    files.remove()
    assert not files.path.exists()


def test_a_file_that_is_just_being_made_is_waited_for(files: MetricFiles) -> None:
    path = files.path / "counter_ingester-0.db"
    path.touch()
    if os.fork() == 0:
        # Growing an empty file is how the library makes one.
        files.join("ingester-0").recorded.inc(3)
        os._exit(0)
    assert files.totals()["events_recorded_total"] in {0, 3}
    os.wait()


def test_an_empty_file_of_a_process_that_was_killed_is_no_hindrance(files: MetricFiles) -> None:
    in_a_process(lambda: files.join("ingester-0").recorded.inc(3))
    (files.path / "counter_ingester-1.db").touch()
    assert files.totals()["events_recorded_total"] == 3


def test_the_tests_themselves_write_no_files() -> None:
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
    assert counted["", ""] == 200
