"""Processes of the daemon that die: killed from outside, or at the worst moment from inside."""

import random
import time
from pathlib import Path

import pytest

from tests.faults.breaking import kill_master
from tests.faults.scene import Scene
from tests.spoiled import spoiled
from tests.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.postgresql, pytest.mark.timeout(900)]


MASTERS_TURN = 5


def kill_processes(scene: Scene, seconds: float) -> tuple[int, int]:
    """SIGKILL a random worker every 2 s, and each fifth time the master; return how many of each."""
    chance, workers, masters = random.Random(1), 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        next_at = time.monotonic() + 2
        victims = wait_until(lambda: scene.daemon.workers, 30, "a worker")
        if (workers + masters) % MASTERS_TURN == MASTERS_TURN - 1:
            kill_master(scene.daemon)
            masters += 1
        else:
            victim = chance.choice(victims)
            victim.kill()
            victim.wait(5)
            workers += 1
        wait_until(lambda at=next_at: time.monotonic() >= at, 5)  # type: ignore[misc]
    return workers, masters


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.long)])
def test_workers_and_the_master_are_killed_under_load(
    tmp_path: Path, broker_url: str, postgresql_url: str, seconds: int
) -> None:
    scene = Scene(tmp_path, broker_url, postgresql_url)
    with scene.running():
        with scene.fault(f"a worker killed every 2 s, each fifth time the master, for {seconds} s"):
            workers, masters = kill_processes(scene, seconds)
            assert workers + masters >= seconds / 4
            assert masters >= seconds // 30
        with scene.fault("the master killed, and started again"):
            kill_master(scene.daemon)


SETTLE = "panko_ingest.amqp.queue_channel:QueueChannel.follow"
COMMITTED = "panko_ingest.pipeline.bus_pipeline:BusPipeline.settle"


@pytest.mark.parametrize(
    ("what", "function", "when"),
    [
        ("a worker killed between commit and ack", COMMITTED, "before"),
        ("a worker killed between ack and the next batch", SETTLE, "after"),
        ("a worker's consumer thread fails", SETTLE, "raise"),
        ("a worker's recording thread fails", COMMITTED, "raise"),
    ],
)
def test_a_worker_ends_at_the_worst_moment(
    tmp_path: Path, broker_url: str, postgresql_url: str, what: str, function: str, when: str
) -> None:
    tickets = tmp_path / "tickets"
    tickets.mkdir()
    for number in range(3):
        (tickets / str(number)).touch()
    hook = spoiled(
        FAULT_KILL=function, FAULT_KILL_WHEN=when, FAULT_KILL_CALL="5", FAULT_KILL_FOLDER=str(tickets)
    )
    scene = Scene(tmp_path, broker_url, postgresql_url, environment=hook, may_fail=when == "raise")
    with scene.running(), scene.fault(f"{what}, three times"):
        wait_until(lambda: not list(tickets.iterdir()), 60, "three times")
