"""Two and more faults at a time, in any order, at any step of the delivery path; by seeds."""

import logging
from collections.abc import Callable, Iterator

import pytest

from panko_ingest.amqp import bindings, queue_channel
from panko_ingest.backoff import Backoff
from panko_ingest.pipeline import RecordingThread, flow_control
from panko_ingest.pipeline.recording_queue import Piece, RecordingQueue
from tests.simulation.runner import failures
from tests.simulation.scenario import Scenario, Violation

CHUNK = 50
WORLDS = 1000

KEPT = {
    361: "prefetches that changed back and forth added up while the store was slow",
    386: "a message came back too often while prefetches grew",
    8579: "queues with a backlog each got the whole prefetch once a store that had been away was back",
    13964: "the same once a slow store was quick again",
    70019942: "a pool's new queue was not bound for as long as the old one's exchange had been refused",
    70023200: "the same after a lost connection",
}
"""Seeds in which something broke once, and what it was."""


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, WORLDS, CHUNK))
def test_whatever_happens_at_once_nothing_is_lost_doubled_or_stopped(first: int) -> None:
    assert failures(range(first, first + CHUNK)) == []


@pytest.mark.parametrize("seed", KEPT)
def test_what_broke_a_world_once_does_so_no_more(seed: int) -> None:
    Scenario(seed).run()


def test_a_seed_always_gives_the_same_world() -> None:
    def trace(seed: int) -> list[str]:
        scenario = Scenario(seed)
        scenario.run()
        return [*scenario.world.trace, str(scenario.world.steps), str(scenario.acked)]

    assert trace(7) == trace(7)
    assert trace(7) != trace(8)


def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "due_in", 0.0)
    monkeypatch.setattr(flow_control, "_ALONE_AFTER", 10**9)
    monkeypatch.setattr(flow_control, "_FEW_AFTER", 10**9)


def no_second_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "_BIND_AGAIN", 10**9)


def refusals_cost_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, refusal: Exception) -> None:
        raise refusal

    monkeypatch.setattr(queue_channel.QueueChannel, "_refuse", refuse)
    monkeypatch.setattr(Backoff, "failed", lambda self: 0.0)


def bytes_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_control.Budget, "is_exceeded_by", lambda self, flow: False)
    monkeypatch.setattr("tests.simulation.scenario.PREFETCH", 10)


def batches_keep_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordingQueue, "refuse", lambda self, pieces: None)


def acknowledged_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    record = RecordingThread._record

    def settle_first(self: RecordingThread, pieces: list[Piece]) -> None:
        for piece in pieces:
            piece.waiting.owner.settle(piece.batch)
        record(self, pieces)

    monkeypatch.setattr(RecordingThread, "_record", settle_first)


@pytest.mark.parametrize(
    ("take_back", "faults"),
    [
        (no_patience, ["connections cut often"]),
        (no_second_binding, ["exchange deleted"]),
        (refusals_cost_the_connection, ["queue refused"]),
        (bytes_do_not_count, ["store frozen", "big messages", "big messages"]),
        (batches_keep_their_size, ["store takes few rows"]),
        (acknowledged_before_the_commit, ["store away", "workers killed"]),
    ],
)
def test_what_was_mended_breaks_worlds_again_when_the_mending_is_taken_back(
    monkeypatch: pytest.MonkeyPatch, take_back: Callable[[pytest.MonkeyPatch], None], faults: list[str]
) -> None:
    take_back(monkeypatch)
    for seed in range(60):
        try:
            Scenario(seed, faults).run()
        except (Violation, AssertionError):
            return
    pytest.fail("no world broke")
