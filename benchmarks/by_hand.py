"""Runs the hand-written script beside the daemon, on the same servers and the same load."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.end_to_end import clock
from benchmarks.rig import Rig, Rows, Sample
from tests.services.server import DIES_WITH_PARENT

_SCRIPT = str(Path(__file__).with_name("handwritten.py"))


def by_hand(rig: Rig, tables: str, processes: int) -> Sample:
    """Take a full queue into the script's tables, by so many of its processes.

    :param tables: ``bare``, ``searchable`` or ``panko``, as the script has them, or ``granted``: Panko's,
        where it may leave references of traits unproved as the daemon may.
    """
    options, tables = (["--granted"], "panko") if tables == "granted" else ([], tables)
    database = rig.store() if tables == "panko" else rig.database()
    with rig.full_queue() as broker_url, database as url:
        command = [sys.executable, _SCRIPT, broker_url, url, "--tables", tables, *options]
        if tables != "panko":
            subprocess.run([*command, "--make"], check=True)
        rows = Rows(url, "event" if tables == "panko" else "notification")
        with _running(command, processes) as family:
            sample = clock(rig, [broker_url], rows, len(rig.bodies), family)
        rows.close()
    return sample


@contextlib.contextmanager
def _running(command: list[str], processes: int) -> Iterator[psutil.Process]:
    """Start the script so many times, below one process that ends them all with itself."""
    each = " ".join(["setpriv --pdeathsig KILL --", *command])
    line = " & ".join([each] * processes) + " & wait"
    shell = subprocess.Popen([*DIES_WITH_PARENT, "sh", "-c", line])
    try:
        yield psutil.Process(shell.pid)
    finally:
        shell.kill()
        shell.wait()
