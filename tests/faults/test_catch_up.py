"""A backlog as after an outage of a weekend, while the cloud goes on."""

import time
from pathlib import Path

import pytest

from tests.bus import Bus
from tests.faults.scene import Scene, bodies, record
from tests.ledger import load
from tests.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.postgresql, pytest.mark.long, pytest.mark.timeout(900)]

BACKLOG = 200_000
ARRIVING = 500.0


def test_a_backlog_is_drained_at_nearly_full_speed_in_flat_memory(
    tmp_path: Path, broker_url: str, postgresql_url: str
) -> None:
    backlog = load(BACKLOG, seed=21)
    bodies(60_000)
    scene = Scene(tmp_path, broker_url, postgresql_url, rate=ARRIVING)
    with Bus(broker_url) as bus:
        bus.declare()
        bus.publish(backlog)
    sizes: list[int] = []

    def drained() -> bool:
        sizes.append(sum(worker.memory_info().rss for worker in scene.daemon.workers))
        return scene.stored() >= BACKLOG + scene.feed.confirmed - ARRIVING

    with scene.daemon.running(), scene.feed:
        scene.daemon.wait_until_ready(60)
        started = time.monotonic()
        wait_until(drained, 600, "a drained queue", interval=1)
        seconds = time.monotonic() - started
        arrived = scene.feed.stop()
        scene.wait_for(lambda: scene.stored() >= BACKLOG + len(arrived), 60, "the last events")
        assert scene.daemon.stop() == 0
    scene.ledger.assert_holds([*backlog, *arrived])
    scene.ledger.close()
    early, late = max(sizes[: len(sizes) // 2]), max(sizes[len(sizes) // 2 :])
    assert late < early * 1.15, f"memory grew from {early} to {late} bytes"
    total = BACKLOG + len(arrived)
    record(f"a backlog of {BACKLOG:,} with {ARRIVING:.0f}/s arriving, drained", seconds, total, total, 0)
