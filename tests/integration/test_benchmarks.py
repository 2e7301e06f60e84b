"""The benchmark suite measures what it says, in small; its figures mean nothing here."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import expire, results, suite
from benchmarks.rig import Rig

SIZES = suite.Sizes(runs=1, count=120, seconds=0.05, stored=300, backlog=1500, spread=120)

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig("postgresql", SIZES.count) as servers:
        yield servers


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "name",
    [
        "postgresql",
        "by-hand",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("latency", "backlog", "queues", "buses", "bus-delays")
        ),
    ],
)
def test_a_round_of_a_benchmark_measures_all_that_its_step_compares(rig: Rig, name: str) -> None:
    found = next(suite.STEPS[name].rounds(rig, SIZES))
    assert all(sample.events > 0 and sample.wall > 0 for sample in found.values())
    if name in {"latency", "bus-delays"}:
        assert all(0 < sample.more["p50"] <= sample.more["p99"] for sample in found.values())
    if name == "postgresql":
        assert found["workers_2"].events == SIZES.count
        # Times come in ticks of 10 ms: of so few events, one party may need less.
        cpu = found["workers_2"].cpu
        assert sum(cpu[party] for party in ("ours", "broker", "database")) > 0
        assert found["workers_2"].more["pss_bytes"] > 1e6


def test_an_interrupted_benchmark_goes_on_and_the_pages_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--step", "broker", "--count", "120", "--runs"]
    assert suite.main([*words, "1"]) == 0
    first = json.loads((results.FOLDER / "broker.json").read_text())["rounds"]
    assert suite.main([*words, "2"]) == 0
    rounds = json.loads((results.FOLDER / "broker.json").read_text())["rounds"]
    assert len(rounds) == 2
    assert rounds[0] == first[0]
    assert suite.main([*words, "2"]) == 0
    assert "measured before" in capsys.readouterr().out
    written = {path.name for path in Path("docs/performance").iterdir()}
    assert {"README.md", "sizing.md", "results.json"} <= written


def test_a_benchmark_without_the_disk_that_it_needs_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert suite.main(["--step", "stored", "--stored", "1000000000000", "--no-report"]) == 0
    assert "free disk are needed" in " ".join(capsys.readouterr().out.split())
    assert not results.FOLDER.exists()


@pytest.mark.parametrize(
    "part",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=[pytest.mark.mariadb, pytest.mark.long]),
        pytest.param("partitions", marks=pytest.mark.postgresql),
        pytest.param("days", marks=[pytest.mark.postgresql, pytest.mark.long]),
    ],
)
def test_retention_is_measured(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expire.main(["--part", part, "--events", "400", "--seconds", "0.1"]) == 0
    assert f"{part}: " in capsys.readouterr().out
