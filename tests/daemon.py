"""The daemon as a process of its own, run and watched as an operator would."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from tests import preloaded
from tests.services.server import DIES_WITH_PARENT
from tests.waiting import crowding, wait_until

SECRET = "PLANTED-SECRET"
"""No daemon of any test may ever print it, whichever password or message it was planted in."""

COMMAND: Sequence[str | Path] = (sys.executable, "-m", "panko_ingest")


def configuration(directory: Path, broker_url: str, database_url: str, more: str = "") -> Path:
    """Write a configuration file into a folder and return its path."""
    path = directory / "panko-ingest.conf"
    path.write_text(
        f"[DEFAULT]\ntransport_url = {broker_url}\ngraceful_shutdown_timeout = 20\n"
        f"[database]\nconnection = {database_url}\n[monitor]\nport = 0\n{more}\n"
    )
    return path


class Daemon:
    """``panko-ingest serve`` with a configuration file; its log is beside that file.

    :param command: how to call the program, by default from the tests' own environment.
    :param as_operators_do: run that command, also where a process that has the libraries loaded would do.
    """

    def __init__(
        self,
        conf: Path,
        *words: str,
        command: Sequence[str | Path] = COMMAND,
        environment: dict[str, str] | None = None,
        as_operators_do: bool = False,
    ) -> None:
        self.conf = conf
        self.log_path = conf.with_suffix(".log")
        self._words = words
        self._command = command
        self._environment = environment or {}
        self._preloaded = command is COMMAND and preloaded.can_run(self._environment) and not as_operators_do
        self._process: preloaded.Process | subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> None:
        """Start it, in a session of its own; does not wait for anything. It dies with its caller."""
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        words: list[str | Path] = ["--config-file", self.conf, "serve", *self._words]
        with self.log_path.open("ab") as log:
            if self._preloaded:
                self._process = preloaded.Process(
                    words, stdout=log, stderr=log, environment=self._environment
                )
                return
            self._process = subprocess.Popen(
                [*DIES_WITH_PARENT, *self._command, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )

    @property
    def process(self) -> psutil.Process:
        """The master process."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    @property
    def workers(self) -> list[psutil.Process]:
        """The ingest workers that are alive, and have begun their work."""
        found = []
        for child in self.process.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if (
                    child.status() != psutil.STATUS_ZOMBIE
                    and f" {child.pid} INFO panko_ingest.workers.ingester" in self.log
                ):
                    found.append(child)
        return found

    @property
    def log(self) -> str:
        """What it has written since it was started last."""
        return self.log_path.read_bytes()[self._log_start :].decode(errors="replace")

    def wait_for_log(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """Wait until the log holds a match of a regular expression."""
        return wait_until(
            lambda: re.search(pattern, self.log), timeout, f"{pattern!r} in the log:\n{self.log[-3000:]}"
        )

    def wait_until_ready(self, timeout: float = 30.0) -> None:
        """Wait until every worker consumes."""
        self.wait_for_log(r"Ready: all \d+ readers are consuming", timeout)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def wait(self, timeout: float = 40.0) -> int:
        """Wait for its end and return its exit code."""
        assert self._process is not None
        return self._process.wait(timeout * crowding())

    def stop(self, timeout: float = 40.0) -> int:
        """SIGTERM, then wait for its end; return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """SIGKILL every process of it."""
        if self._process is not None and self._process.poll() is None:
            family = [self.process, *self.process.children(recursive=True)]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait()

    @contextlib.contextmanager
    def running(self) -> Iterator["Daemon"]:
        """Start it for a ``with`` block, and leave nothing of it behind."""
        self.start()
        try:
            yield self
        finally:
            self.kill()
            assert SECRET not in self.log
