"""Ceilometer's notification agent with its panko:// publisher, as a process of the environment for Panko."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.compat.published import PYTHON
from tests.services.server import DIES_WITH_PARENT
from tests.waiting import wait_until

_PIPELINE = """\
sources: [{{name: all, {wanted}: ["*"], sinks: [store]}}]
sinks: [{{name: store, publishers: ["{to}"]}}]
"""
_DEFINITIONS = "import ceilometer, os; print(os.path.join(*ceilometer.__path__, 'pipeline', 'data'))"


def definitions() -> Path:
    """Return the event definitions that come with Ceilometer."""
    found = subprocess.run(
        [PYTHON, "-W", "ignore", "-c", _DEFINITIONS], check=True, capture_output=True, text=True
    )
    return Path(found.stdout.strip()) / "event_definitions.yaml"


class Agent:
    """The agent, on one vhost, with its files in a folder.

    :param database_url: of Panko, in the words of its days.
    """

    def __init__(self, folder: Path, broker_url: str, database_url: str) -> None:
        self._home = folder / "ceilometer"
        self._log = self._home / "agent.log"
        self._broker_url = broker_url
        (self._home / ".panko").mkdir(parents=True)
        (self._home / ".panko" / "panko.conf").write_text(f"[database]\nconnection = {database_url}\n")
        events = _PIPELINE.format(wanted="events", to="panko://")
        (self._home / "event_pipeline.yaml").write_text(events)
        samples = _PIPELINE.format(wanted="meters", to=f"file://{self._home}/samples")
        (self._home / "pipeline.yaml").write_text(samples)

    @contextlib.contextmanager
    def running(self, pipelines: str = "event") -> Iterator[None]:
        """Run it for a ``with`` block, from when it reads all its queues."""
        conf = self._home / "ceilometer.conf"
        conf.write_text(
            f"[DEFAULT]\ntransport_url = {self._broker_url.replace('amqp:', 'rabbit:')}\n"
            f"log_file = {self._log}\ndebug = true\n"
            f"event_pipeline_cfg_file = {self._home}/event_pipeline.yaml\n"
            f"pipeline_cfg_file = {self._home}/pipeline.yaml\n"
            f"[notification]\npipelines = {pipelines}\nworkers = 1\n"
        )
        program = Path(PYTHON).with_name("ceilometer-agent-notification")
        with (self._home / "output").open("ab") as output:
            process = subprocess.Popen(
                [*DIES_WITH_PARENT, program, "--config-file", conf],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "HOME": str(self._home), "PYTHONWARNINGS": "ignore", "PYTHONPATH": ""},
                start_new_session=True,
            )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            wait_until(lambda: not _alive(process.pid), 10, "the end of the agent")


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
