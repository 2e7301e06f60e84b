"""Grafana's dashboard and Prometheus' alerts, tried on a real Prometheus that watches a real daemon."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from panko_ingest.metrics import Metrics
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.documents import blocks
from tests.ledger import Ledger, load
from tests.prometheus import DASHBOARD, RULES, Prometheus
from tests.services import PostgreSQL
from tests.services.server import free_port
from tests.waiting import wait_until


def dashboard_queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def metrics_in(queries: list[str]) -> set[str]:
    return {
        re.sub("_(bucket|sum|count)$", "", name)
        for query in queries
        for name in re.findall(r"panko_ingest_\w+", query)
    }


def test_dashboard_and_alerts_use_metrics_that_exist() -> None:
    declared = {metric.name for metric in Metrics().declared}
    used = metrics_in(dashboard_queries()) | metrics_in([alert["expr"] for alert in alerts()])
    assert used <= declared
    bucketless = {name for name in declared if name.endswith("_seconds")}
    assert bucketless & used


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert set(alert["annotations"]) == {"summary", "description"}


@pytest.fixture
def prometheus_installed() -> None:
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        reason = "Prometheus is not installed: apt-get install prometheus, or make services"
        if os.environ.get("PANKO_INGEST_REQUIRE_SERVICES") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture
def ledger(postgresql_url: str) -> Iterator[Ledger]:
    ledger = Ledger(postgresql_url)
    yield ledger
    ledger.close()


@pytest.mark.usefixtures("prometheus_installed")
def test_promtool_finds_no_fault_in_the_alerts() -> None:
    done = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("prometheus_installed")
def test_promtool_takes_the_configuration_that_the_documents_print(tmp_path: Path) -> None:
    (block,) = blocks("text", "prometheus")
    path = tmp_path / "prometheus.yml"
    path.write_text(f"{block.text}rule_files: [{RULES}]\n")
    done = subprocess.run(["promtool", "check", "config", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("prometheus_installed")
@pytest.mark.rabbitmq
@pytest.mark.postgresql
def test_every_panel_shows_data_and_an_outage_raises_its_alert(
    tmp_path: Path, broker_url: str, postgresql: PostgreSQL, ledger: Ledger
) -> None:
    port = free_port()
    more = f"[monitor]\nport = {port}\n[notification]\nworkers = 1\n"
    service = Daemon(configuration(tmp_path, broker_url, ledger.url, more))
    prometheus = Prometheus(tmp_path, f"127.0.0.1:{port}")
    try:
        with Bus(broker_url) as bus, service.running():
            bus.declare()
            service.wait_until_ready()
            wait_until(lambda: prometheus.result("panko_ingest_readers_consuming == 1"), 30, "a first scrape")
            queries = [
                query.replace("$instance", ".*").replace("$__rate_interval", "1m")
                for query in dashboard_queries()
            ]
            bodies = iter(load(10_000))
            for query in queries:
                wait_until(
                    partial(shows, prometheus, query, bus, bodies), 20, f"data for {query}", interval=1.0
                )
            wait_until(lambda: prometheus.pending() == set(), 10, "no alert")
            postgresql.stop()
            try:
                wait_until(lambda: "PankoIngestDatabaseAway" in prometheus.pending(), 60, "the alert")
            finally:
                postgresql.start()
            wait_until(lambda: "PankoIngestDatabaseAway" not in prometheus.pending(), 60, "its end")
    finally:
        prometheus.close()


def shows(prometheus: Prometheus, query: str, bus: Bus, bodies: Iterator[bytes]) -> bool:
    """Publish a little, and tell whether the query has figures to show."""
    bus.publish([next(bodies)])
    values = [series["value"][1] for series in prometheus.result(query)]
    return bool(values) and "NaN" not in values
