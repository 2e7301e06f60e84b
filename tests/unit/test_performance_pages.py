"""docs/performance says what its results say."""

from benchmarks import parts, report, results
from benchmarks.rig import Sample
from tests.documents import ROOT

FOLDER = ROOT / "docs" / "performance"


def test_the_performance_pages_are_those_of_the_results() -> None:
    steps = results.read_all(FOLDER / report.RESULTS)
    for name, text in report.pages(steps).items():
        assert (FOLDER / name).read_text() == text, "run `make bench-report`"


def test_the_pictures_of_the_performance_pages_are_there() -> None:
    steps = results.read_all(FOLDER / report.RESULTS)
    assert [name for name in report.drawn(steps) if not (FOLDER / f"{name}.png").exists()] == []


def test_the_performance_pages_can_be_written_before_anything_is_measured() -> None:
    assert "(not measured)" in report.pages({})["README.md"]


def test_the_best_possible_rate_is_cores_by_the_sum_of_all_costs() -> None:
    alone = {
        "drain": Sample(1000, 1.0, {"ours": 0.01, "broker": 0.02}),
        "convert": Sample(1000, 1.0, {"ours": 0.02}),
        "load": Sample(1000, 1.0, {"ours": 0.01, "database": 0.04}),
    }
    assert round(parts.best(alone, cores=2)) == 20_000
