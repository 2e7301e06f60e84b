"""Whether the daemon is alive and ready is told by its board, its metrics and its probes."""

import os
from pathlib import Path

import pytest

from panko_ingest.metric_files import MetricFiles
from panko_ingest.progress import Board
from panko_ingest.storage import StorageUnavailable
from panko_ingest.workers import health
from panko_ingest.workers.health import Health, Probe


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (health, __import__("panko_ingest.progress", fromlist=["time"])):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def answer() -> None:
    pass


def refuse() -> None:
    raise StorageUnavailable("the disk is full")


def health_of(board: Board, files: MetricFiles, database: Probe, max_lag: float = 0.0) -> Health:
    database.look()
    bus = Probe(answer, ())
    bus.look()
    return Health(board, files, database, {"here": bus}, max_lag)


def reasons(verdict: health.Verdict) -> dict[str, str]:
    return {name: text for name, (ok, text) in verdict.subjects.items() if not ok}


def test_a_probe_tells_what_it_was_told(clock: Clock) -> None:
    probe = Probe(refuse, (StorageUnavailable,))
    assert probe.verdict() == (False, "not asked yet")
    probe.look()
    assert probe.verdict() == (False, "the disk is full")
    good = Probe(answer, ())
    good.look()
    assert good.verdict() == (True, "answers")
    clock.now += 60
    assert good.verdict() == (False, "no answer for 60 s")


def test_a_worker_that_is_just_being_replaced_is_alive_and_one_that_stays_away_is_not(
    clock: Clock, tmp_path: Path
) -> None:
    board = Board(workers=1, buses=1)
    verdicts = health_of(board, MetricFiles(str(tmp_path)), Probe(answer, ()))
    (slot,) = board.slots()
    slot.occupy(os.getpid())
    assert verdicts.alive().ok
    slot.clear()
    clock.now += 5
    assert verdicts.alive().ok
    clock.now += 30
    assert reasons(verdicts.alive()) == {"reader 0": "no process for 35 s"}
    slot.occupy(42)
    clock.now += 20
    assert reasons(verdicts.alive()) == {"reader 0": "process 42 gave no sign of life for 20 s"}


def in_files(files: MetricFiles, lag: float, connections: int, breakers: int) -> None:
    if os.fork() == 0:
        bus = files.join("ingester-0").of_bus("here")
        bus.oldest_seconds.set(lag)
        bus.connections.set(connections)
        bus.breaker_open.set(breakers)
        os._exit(0)
    os.wait()


def test_readiness_names_everything_that_is_not_as_it_should_be(clock: Clock, tmp_path: Path) -> None:
    files = MetricFiles(str(tmp_path))
    verdicts = health_of(Board(1, 1), files, Probe(refuse, (StorageUnavailable,)), max_lag=60.0)
    in_files(files, lag=61.0, connections=0, breakers=1)
    found = reasons(verdicts.ready())
    assert found["database"] == "the disk is full"
    assert found["broker here"] == "no connection (answers)"
    assert found["lag"] == "61.0 s, more than [monitor] max_lag (60 s)"
    assert "dead-letters list" in found["flood breaker"]

    verdicts = health_of(Board(1, 1), files, Probe(answer, ()), max_lag=60.0)
    in_files(files, lag=59.0, connections=1, breakers=0)
    assert verdicts.ready().ok
