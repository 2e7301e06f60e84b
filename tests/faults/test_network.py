"""What a network does: it is slow, it cuts, it swallows packets."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.faults.scene import Scene
from tests.services import MariaDB, PostgreSQL, RabbitMQ
from tests.waiting import crowding, wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(900)]

MID_FRAME = 70_001


@pytest.fixture
def proxied_broker(rabbitmq: RabbitMQ, broker_url: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy before the broker, and the URL that goes through it."""
    with Proxy(rabbitmq.port) as proxy:
        # As short a heartbeat as there is, with which silence is noticed after 24 s.
        yield proxy, proxy.url(broker_url) + "?heartbeat=3"


@pytest.mark.postgresql
def test_the_way_to_the_broker_is_slow_hangs_and_is_cut(
    tmp_path: Path, proxied_broker: tuple[Proxy, str], broker_url: str, postgresql_url: str
) -> None:
    proxy, slow_url = proxied_broker
    scene = Scene(tmp_path, broker_url, postgresql_url, through=(slow_url, postgresql_url))
    with scene.running():
        with scene.fault("broker: 100 ms of latency for 4 s"):
            proxy.latency = 0.1
            scene.wait_for_more(500)
            proxy.latency = 0.0
        with scene.fault("broker: connections cut in mid-frame"):
            proxy.cut_after(MID_FRAME)
            scene.wait_for(lambda: proxy.cuts >= 2, 30, "two cuts")
        scene.wait_for_readers(2)
        with scene.fault("broker: connections half-open"):
            proxy.silence()
            assert proxy.silenced >= 2
            scene.daemon.wait_for_log(r"Too many heartbeats missed|TimeoutError", timeout=60)
        scene.wait_for_readers(2)
        with scene.fault("broker: every connection cut at once"):
            before = proxy.cuts
            proxy.cut()
            assert proxy.cuts > before


def test_the_way_to_the_database_is_slow_hangs_and_is_cut(
    tmp_path: Path, broker_url: str, database: PostgreSQL | MariaDB, url: str
) -> None:
    patience = round(3 * crowding())  # a batch takes longer on a busy machine, too
    quick = f"[database]\nstatement_timeout = {patience}\nlock_timeout = {patience}\n"
    with Proxy(database.port) as proxy:
        scene = Scene(tmp_path, broker_url, url, through=(broker_url, proxy.url(url)), more=quick)
        with scene.running():
            with scene.fault(f"{database.name}: 50 ms of latency"):
                proxy.latency = 0.05
                scene.wait_for_more(500)
                proxy.latency = 0.0
            with scene.fault(f"{database.name}: connections cut in mid-answer"):
                proxy.cut_after(5)
                scene.wait_for(lambda: proxy.cuts >= 2, 30, "two cuts")
            with scene.fault(f"{database.name}: connections half-open"):
                silent_since = time.monotonic()
                proxy.silence()
                assert proxy.silenced >= 1
                wait_until(lambda: time.monotonic() > silent_since + 1, 2)
            with scene.fault(f"{database.name}: every connection cut at once"):
                before = proxy.cuts
                proxy.cut()
                assert proxy.cuts > before
