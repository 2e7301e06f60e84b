"""Grafana's dashboard and Prometheus' alerts, tried on a real Prometheus that watches a real daemon."""

import json
import os
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from panko_ingest import resources
from panko_ingest.metrics import Metrics
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.ledger import Ledger, load
from tests.services import PostgreSQL
from tests.services.server import free_port
from tests.waiting import wait_until

RULES = resources.path("etc", "prometheus", "panko-ingest.rules.yaml")
DASHBOARD = resources.path("etc", "grafana", "panko-ingest.json")


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


class Prometheus:
    """A Prometheus that scrapes one address every second and knows our alerts."""

    def __init__(self, directory: Path, target: str) -> None:
        self.port = free_port()
        config = directory / "prometheus.yml"
        config.write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(RULES)],
                    "scrape_configs": [
                        {"job_name": "panko-ingest", "static_configs": [{"targets": [target]}]}
                    ],
                }
            )
        )
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=error",
            ]
        )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an API call; an empty list while it does not answer."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]
        except OSError:
            return {}

    def result(self, query: str) -> list[Any]:
        found: list[Any] = self.ask("query", query=query).get("result", [])
        return found

    def pending(self) -> set[str]:
        """Return the names of the alerts that are pending or firing."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts").get("alerts", [])}


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
