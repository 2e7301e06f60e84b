"""A backlog as after an outage of a weekend, while the cloud goes on."""

import time
from pathlib import Path

import pytest

from tests.bus import Bus
from tests.faults.long_scene import LongScene
from tests.faults.repeats import Repeats
from tests.faults.scene import bodies, record
from tests.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.postgresql, pytest.mark.long, pytest.mark.timeout(1800)]

ALONE = 50_000
BACKLOG = 200_000
ARRIVING = 500.0
SETTLING = 5_000
# The cloud that goes on publishing is on this machine, too, and so is the broker that takes it in.
NEARLY_FULL = 0.6


def test_a_backlog_is_drained_at_nearly_full_speed_in_flat_memory(
    tmp_path: Path, broker_url: str, postgresql_url: str
) -> None:
    load = Repeats(bodies(10_000), 1_000_000)
    before = ALONE + BACKLOG
    scene = LongScene(tmp_path, broker_url, postgresql_url, rate=ARRIVING, load=load[before:], look_every=0.5)
    sizes: list[int] = []

    def rate(first: int, last: int) -> float:
        """Return events stored in a second, from when so many are stored until all but a second's are."""
        wait_until(lambda: scene.stored() >= first, 300, f"{first} events", interval=0.5)
        counted, started = scene.stored(), time.monotonic()

        def drained() -> bool:
            sizes.append(sum(worker.memory_info().rss for worker in scene.daemon.workers))
            return scene.stored() >= last + scene.feed.confirmed - ARRIVING

        wait_until(drained, 600, "a drained queue", interval=0.5)
        return (scene.stored() - counted) / (time.monotonic() - started)

    with Bus(broker_url) as bus:
        bus.declare()
        bus.publish(load[:ALONE])
        with scene.daemon.running():
            alone = rate(SETTLING, ALONE)
            assert scene.daemon.stop() == 0
        bus.publish(load[ALONE:before])
    sizes.clear()
    with scene.daemon.running(), scene.feed:
        started = time.monotonic()
        busy = rate(ALONE + SETTLING, before)
        seconds = time.monotonic() - started
        arrived = len(scene.feed.stop())
        scene.wait_for(lambda: scene.stored() >= before + arrived, 60, "the last events")
        assert scene.daemon.stop() == 0
    scene.assert_holds(load[: before + arrived])
    scene.ledger.close()
    early, late = max(sizes[: len(sizes) // 2]), max(sizes[len(sizes) // 2 :])
    assert late < early * 1.15, f"memory grew from {early} to {late} bytes"
    assert busy > NEARLY_FULL * alone, f"{busy:.0f} events/s instead of {alone:.0f}"
    total = before + arrived
    share = f"{busy / alone:.0%} of the full rate"
    what = f"a backlog of {BACKLOG:,} drained at {share} while {ARRIVING:.0f}/s arrive"
    record(what, seconds, total, total, 0)
