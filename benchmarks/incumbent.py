"""Ceilometer's notification agent with its panko:// publisher, on the same servers and the same load.

Its harness lies beside this project, and isn't part of it; it needs a Python 3.8, which is looked for on
the PATH and in pyenv. Without either, figures that were recorded elsewhere are shown, and say so.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.rig import Rig, Sample
from tests.services import PostgreSQL

HARNESS = Path(__file__).parents[2] / "shared" / "bench" / "run_peer.sh"
RECORDED = {"shipped": 173.0, "tuned": 402.0}
"""Events/s on two cores with PostgreSQL 15, on the machine of the first measurements."""

WORDS = {
    "shipped": "as shipped: 1 worker, 64 threads, prefetch 100",
    "tuned": "its best tuning: 2 workers, 1 thread each, prefetch 1,000",
}
_SETTINGS = {"shipped": "pg 1 100 - - {count}", "tuned": "pg 2 100 1 1000 {count}"}
_VHOST = "peerbench"


def python() -> str | None:
    """Return a Python 3.8, if there is one."""
    on_path = shutil.which("python3.8")
    if on_path and _starts(on_path):
        return on_path
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(root.glob("versions/3.8*/bin/python3.8"))
    return str(found[-1]) if found else None


def _starts(program: str) -> bool:
    # pyenv's own stand-ins are on the PATH for versions that aren't chosen
    return subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0


def absent() -> str | None:
    """Return why it can't be measured here; None where it can."""
    if not HARNESS.exists():
        return "its harness is not beside this checkout"
    if python() is None:
        return "there is no Python 3.8"
    return None


class Incumbent:
    """The harness, set up for a rig's PostgreSQL and RabbitMQ.

    :param home: folder for its virtual environment, which is kept, and its files.
    """

    def __init__(self, rig: Rig, home: Path) -> None:
        assert isinstance(rig.server, PostgreSQL)
        home = home.resolve()
        home.mkdir(parents=True, exist_ok=True)
        rig.broker.api("PUT", f"vhosts/{_VHOST}")
        self._results = home / "results.jsonl"
        self._log = home / "harness.log"
        self._environment = {
            **os.environ,
            "PEER_HOME": str(home),
            "PEER_PYTHON": python() or "",
            "PEER_VENV": os.environ.get("PEER_VENV", str(home / "venv")),
            "PEER_DBS": "pg",
            "PEER_VHOST": _VHOST,
            "PEER_RABBIT": f"127.0.0.1:{rig.broker.port}",
            "PEER_PG_URL": f"postgresql+psycopg2://panko:panko@127.0.0.1:{rig.server.port}/panko",
            "PGPORT": str(rig.server.port),
            "PEER_REPEAT": "1",
        }

    def measure(self, setting: str, count: int) -> Sample:
        """Run its agent once: ``shipped`` or ``tuned``.

        The harness tells CPU by the names of processes: its figure for a server holds all servers of
        that name on the machine.

        :raises RuntimeError: the harness failed; the text names its log.
        """
        self._results.unlink(missing_ok=True)
        environment = self._environment | {
            "PEER_PARTS": "e2e",
            "PEER_E2E": _SETTINGS[setting].format(count=count),
        }
        with self._log.open("ab") as log:
            done = subprocess.run(
                ["bash", HARNESS],
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        result = self._last()
        if done.returncode or "events_per_s" not in result:
            raise RuntimeError(f"the incumbent's harness failed: see {self._log}")
        cpu = {
            "ours": result["cpu_s"]["agent"],
            "broker": result["cpu_s"]["broker"],
            "database": result["cpu_s"]["db"],
        }
        events = round(result["events_per_s"] * result["seconds"])
        more = {"stored": float(result["stored"]), "offered": float(result["count"])}
        return Sample(events, result["seconds"], cpu, 0.0, more)

    def _last(self) -> dict[str, Any]:
        if not self._results.exists():
            return {}
        lines = self._results.read_text().splitlines()
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return found
