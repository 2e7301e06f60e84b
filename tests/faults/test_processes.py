"""Processes of the daemon that die: killed from outside, or at the worst moment from inside."""

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import HOOKS
from tests.faults.scene import Scene
from tests.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.postgresql, pytest.mark.timeout(240)]


def kill_workers(scene: Scene, seconds: float) -> int:
    chance, killed = random.Random(1), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        next_at = time.monotonic() + 2
        victim = chance.choice(wait_until(lambda: scene.daemon.workers, 20, "a worker"))
        victim.kill()
        victim.wait(5)
        killed += 1
        wait_until(lambda at=next_at: time.monotonic() >= at, 5)  # type: ignore[misc]
    return killed


def kill_master(scene: Scene) -> None:
    family = scene.daemon.process.children(recursive=True)
    scene.daemon.signal(signal.SIGKILL)
    scene.daemon.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, "workers outlive their master"
    scene.daemon.start()


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
def test_workers_and_the_master_are_killed_under_load(
    tmp_path: Path, broker_url: str, postgresql_url: str, seconds: int
) -> None:
    scene = Scene(tmp_path, broker_url, postgresql_url)
    with scene.running():
        with scene.fault(f"a worker killed every 2 s, for {seconds} s"):
            assert kill_workers(scene, seconds) >= seconds / 4
        with scene.fault("the master killed, and started again"):
            kill_master(scene)


@pytest.mark.parametrize(
    ("moment", "function", "when"),
    [
        ("between commit and ack", "panko_ingest.pipeline.lane:Lane.settle", "before"),
        ("between ack and the next batch", "panko_ingest.amqp.consumer:_Session._settle", "after"),
    ],
)
def test_a_worker_is_killed_at_the_worst_moment(
    tmp_path: Path, broker_url: str, postgresql_url: str, moment: str, function: str, when: str
) -> None:
    tickets = tmp_path / "tickets"
    tickets.mkdir()
    for number in range(3):
        (tickets / str(number)).touch()
    hook = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HOOKS), os.environ.get("PYTHONPATH")])),
        "FAULT_KILL": function,
        "FAULT_KILL_WHEN": when,
        "FAULT_KILL_CALL": "5",
        "FAULT_KILL_FOLDER": str(tickets),
    }
    scene = Scene(tmp_path, broker_url, postgresql_url, environment=hook)
    with scene.running(), scene.fault(f"a worker killed {moment}, three times"):
        wait_until(lambda: not list(tickets.iterdir()), 60, "three kills")
