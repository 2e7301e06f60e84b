"""A Prometheus that watches one daemon, with the alerts and the dashboard that ship."""

import json
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from panko_ingest import resources
from tests.services.server import free_port

RULES = resources.path("etc", "prometheus", "panko-ingest.rules.yaml")
DASHBOARD = resources.path("etc", "grafana", "panko-ingest.json")


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
        """End it."""
        self._process.kill()
        self._process.wait()

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an API call; an empty dict while it does not answer."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]
        except OSError:
            return {}

    def result(self, query: str) -> list[Any]:
        """Return what a query yields now."""
        found: list[Any] = self.ask("query", query=query).get("result", [])
        return found

    def over(self, query: str, start: float, end: float, step: float = 1.0) -> list[Any]:
        """Return what a query yields from one Unix time to another, every so many seconds."""
        times = {"start": str(start), "end": str(end), "step": str(step)}
        found: list[Any] = self.ask("query_range", query=query, **times).get("result", [])
        return found

    def pending(self) -> set[str]:
        """Return the names of the alerts that are pending or firing."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts").get("alerts", [])}
