"""What is not at the broker, queues or exchanges, is told, and waited for in the right place."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bodies import body
from tests.bus import Bus
from tests.integration.test_monitor import Monitor, bus_name
from tests.ledger import Ledger
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

INFO, ERROR = "notifications.info", "notifications.error"


def status(monitor: Monitor) -> str:
    command = [sys.executable, "-m", "panko_ingest", "--config-file", str(monitor.daemon.conf), "status"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return " ".join(shown.stdout.split())


def test_queues_that_are_waited_for_are_told_wherever_one_looks(
    tmp_path: Path, broker_url: str, ledger: Ledger
) -> None:
    monitor = Monitor(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 2\n")

    def waiting(queue: str) -> float | None:
        return monitor.metric(f'absent_queues{{bus="{bus_name(broker_url)}",name="{queue}"}}')

    with Bus(broker_url) as bus, monitor.daemon.running():
        ready = monitor.daemon.wait_for_log("Ready: all 2 readers are consuming; waiting for .*: (.*)")
        assert ready[1] == f"{ERROR}, {INFO}"
        monitor.daemon.wait_for_log("Serving /metrics")
        wait_until(lambda: waiting(INFO) == waiting(ERROR) == 2, 20, "both, of both workers")
        told = [
            line for line in monitor.daemon.log.splitlines() if "none of them is: nothing was pub" in line
        ]
        assert sum(" WARNING " in line for line in told) == 1
        wait_until(lambda: monitor.says("/readyz", True), 30, "readiness")
        assert f"2 of 2 are consuming; waiting for queues that are not there: {ERROR}, {INFO}" in status(
            monitor
        )
        bus.declare(INFO)
        wait_until(lambda: waiting(INFO) == 0, 60, "the one that is there now")
        assert waiting(ERROR) == 2
        assert monitor.document("/readyz")["figures"]["absent_queues"] == [ERROR]


def test_a_pool_that_nothing_gets_into_is_told_and_not_ready_until_it_is_bound(
    tmp_path: Path, broker_url: str, ledger: Ledger
) -> None:
    exchanges = "".join(f"notification_control_exchanges = {name}\n" for name in ("nowa", "cindre"))
    more = f"[notification]\nworkers = 2\npool = audit\n{exchanges}"
    monitor = Monitor(tmp_path, broker_url, ledger.url, more)
    metric = f'unbound_pools{{bus="{bus_name(broker_url)}"}}'
    with Bus(broker_url) as bus, monitor.daemon.running():
        monitor.daemon.wait_for_log(
            "queue 'audit' of the pool is bound to nothing, .* is lost: .*: nowa, cindre"
        )
        monitor.daemon.wait_for_log("Serving /metrics")
        assert wait_until(lambda: monitor.metric(metric), 20, "the metric") == 1

        def why() -> str | None:
            found = monitor.document("/readyz").get("checks", {}).get("broker 1", {"ok": True, "text": ""})
            return None if found["ok"] else str(found["text"])

        assert "none of its control exchanges is there" in wait_until(why, 20, "the trouble of the bus")
        bus.declare(exchange="nowa")
        wait_until(lambda: monitor.says("/readyz", True), 70, "readiness")
        assert monitor.metric(metric) == 0
        bus.publish([body()], exchange="nowa")
        wait_until(lambda: ledger.events() == 1, 30, "the event")
        assert monitor.daemon.log.count("bound to nothing") == 1
