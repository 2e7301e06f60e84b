"""Processes of the daemon that are told to end while they are born."""

import subprocess
import sys

import pytest

BIRTH = """
import os, signal
from types import SimpleNamespace as Some
from panko_ingest import threads
from panko_ingest.shared_state import SharedState
from panko_ingest.workers.expirer import ExpirerService
from panko_ingest.workers.ingester import IngestService

start = threads.start
# As if the thread were always the faster one; it ends the process where it fails.
threads.start = lambda *arguments: start(*arguments).join(1)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.kill(os.getpid(), signal.SIGTERM)
settings = Some(conf=Some(graceful_shutdown_timeout=5), workers=0, buses=[])
service = KIND(0, Some(settings=settings, version=0), SharedState(1, 1), None)
print("born")
"""


@pytest.mark.parametrize("kind", ["IngestService", "ExpirerService"])
def test_a_process_that_is_told_to_end_while_it_is_born_is_born_first(kind: str) -> None:
    born = subprocess.run(
        [sys.executable, "-c", BIRTH.replace("KIND", kind)], capture_output=True, text=True, check=False
    )
    assert (born.returncode, born.stdout) == (0, "born\n"), born.stderr
