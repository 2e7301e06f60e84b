"""Runs docs/walk-through.sh with servers of its own: ``python -m tests.walk_through FOLDER WHEEL``.

The script takes the database away, and brings it back, by signals to this process.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.documents import ROOT
from tests.services import PostgreSQL, RabbitMQ

SCRIPT = ROOT / "docs" / "walk-through.sh"


def walk(folder: Path, wheel: str, broker_url: str, postgresql: PostgreSQL) -> int:
    """Run the script on a broker and an empty database; return its exit code.

    To be called in the main thread, which the signals reach.
    """

    def on(number: signal.Signals, action: Callable[[], None], what: str) -> str:
        signal.signal(number, lambda *_: action())
        return f"kill -{number.name} {os.getpid()}  # {what}"

    database = postgresql.create_database()
    environment = {
        "TRANSPORT_URL": broker_url,
        "DATABASE_URL": database,
        "BREAK": on(signal.SIGUSR1, postgresql.stop, "stops the private PostgreSQL"),
        "MEND": on(signal.SIGUSR2, postgresql.start, "starts it again"),
    }
    try:
        return subprocess.run(
            [SCRIPT, folder, wheel],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            check=False,
        ).returncode
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        postgresql.start()
        postgresql.drop_database(database)


if __name__ == "__main__":
    with RabbitMQ() as rabbitmq, PostgreSQL() as postgresql:
        sys.exit(walk(Path(sys.argv[1]), sys.argv[2], rabbitmq.create_vhost(), postgresql))
