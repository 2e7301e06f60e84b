"""Notes down with which versions a run of the tests ran, and makes docs/compatibility.md of it.

A plugin of pytest: ``pytest -p tests.compatibility``, with ``PANKO_INGEST_RUN`` as the name of the run.
``python -m tests.compatibility`` takes over what runs noted down, and writes the page anew.
"""

import json
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.services.server import tree_of_servers

ROOT = Path(__file__).parents[1]
NOTED = ROOT / "test-results" / "compatibility"
RESULTS = ROOT / "docs" / "compatibility.json"
PAGE = ROOT / "docs" / "compatibility.md"

_SERVERS = {
    "RabbitMQ": "rabbitmq-server",
    "PostgreSQL": "postgresql-[0-9]*",
    "PgBouncer": "pgbouncer",
    "MariaDB": "mariadb-server",
    "Galera": "galera-4",
    "HAProxy": "haproxy",
    "Prometheus": "prometheus",
}
_HEAD = """\
# With which versions it was tested

Each run of the tests notes down here which versions it met; the make target that makes a run is in the
first table. `make test` takes the newest versions of all libraries (constraints.txt), the other runs what is
in use elsewhere: the upper constraints of OpenStack's branches, and the lowest versions that pyproject.toml
accepts. Linters run in `make lint` only. Tests marked `long` have targets of their own.

"""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Note down what a run ran with and what it left out."""
    run = os.environ.get("PANKO_INGEST_RUN")
    if not run:
        return
    stats = terminalreporter.stats
    skipped = Counter(_reason(report) for report in stats.get("skipped", []))
    noted = {
        "command": os.environ.get("PANKO_INGEST_RUN_COMMAND", ""),
        "tests": " ".join(config.invocation_params.args),
        "passed": len(stats.get("passed", [])),
        "failed": len(stats.get("failed", [])) + len(stats.get("error", [])),
        "skipped": dict(sorted(skipped.items())),
        "system": _system(),
        "python": platform.python_version(),
        "servers": {name: found for name, package in _SERVERS.items() if (found := _package(package))},
        "libraries": _libraries(),
    }
    NOTED.mkdir(parents=True, exist_ok=True)
    (NOTED / f"{run}.json").write_text(json.dumps(noted, indent=1) + "\n")


def _reason(report: Any) -> str:
    _, _, reason = report.longrepr
    # Where a test's own folders are says nothing.
    return re.sub(r"/\S+/", "", str(reason).removeprefix("Skipped: "))


def _system() -> str:
    described = platform.freedesktop_os_release()
    return f"{described['NAME'].split()[0]} {described.get('VERSION_ID') or described['VERSION_CODENAME']}"


def _package(pattern: str) -> str:
    """Return the version of an installed Debian package, of the newest where several match."""
    tree = tree_of_servers() or Path("/")
    command = [
        "dpkg-query",
        f"--admindir={tree}/var/lib/dpkg",
        "-Wf",
        "${db:Status-Status} ${Version}\\n",
        pattern,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    installed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("installed ")]
    # An epoch and the Debian revision are no part of the version.
    return max((one.rpartition(":")[2].rpartition("-")[0].partition("+")[0] for one in installed), default="")


def _libraries() -> dict[str, str]:
    """Return the versions of what the package requires, its extras included."""
    names = {Requirement(one).name for one in requires("panko-ingest") or []}
    return {name: version(name) for name in sorted(names, key=str.lower)}


def page(results: dict[str, dict[str, Any]]) -> str:
    """Return the page with one column a run."""
    lines = [_HEAD, "| run | by | passed | failed |", "|---|---|---:|---:|"]
    for run, noted in results.items():
        lines.append(f"| {run} | `{noted['command']}` | {noted['passed']:,} | {noted['failed']:,} |")
    lines += ["", "## Systems and servers", "", *_table(results, _places)]
    lines += ["", "## Libraries", "", *_table(results, lambda noted: noted["libraries"])]
    lines += ["", "## What was left out", "", "By the words of pytest, and because of what a test needs:", ""]
    for run, noted in results.items():
        lines.append(f"- {run}: `pytest {noted['tests']}`")
        lines += [f"  - {count}: {reason}" for reason, count in noted["skipped"].items()]
    return "\n".join(lines) + "\n"


def _places(noted: dict[str, Any]) -> dict[str, str]:
    return {"System": noted["system"], "Python": noted["python"], **noted["servers"]}


def _table(results: dict[str, dict[str, Any]], rows: Any) -> list[str]:
    columns = {run: rows(noted) for run, noted in results.items()}
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    return [
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
        *(
            f"| {name} | {' | '.join(column.get(name, '-') for column in columns.values())} |"
            for name in names
        ),
    ]


def main() -> None:
    """Take over what runs noted down, and write the page anew."""
    results = json.loads(RESULTS.read_text())
    for path in NOTED.glob("*.json"):
        results[path.stem] = json.loads(path.read_text())
        path.unlink()
    results = dict(sorted(results.items()))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(results))
    sys.stdout.write(f"{PAGE} is current\n")


if __name__ == "__main__":
    main()
