"""Runs the walk-throughs of docs/ on private servers: ``python -m tests.walk_through FORM FOLDER WHEEL``.

FORM is ``alone`` or ``cluster``. The scripts take servers away and bring them back by signals to this
process.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.bus import Bus
from tests.documents import ROOT
from tests.services import Galera, HAProxy, PostgreSQL, RabbitMQ, broker_cluster

_SIGNALS = [signal.SIGRTMIN + number for number in range(4)]


def walk(
    script: str,
    folder: Path,
    wheel: str,
    environment: Mapping[str, str],
    actions: Mapping[str, Callable[[], None]],
) -> int:
    """Run a script of docs/; return its exit code.

    To be called in the main thread, which the signals reach.

    :param actions: what the script has done by a command in an environment variable, by its name.
    """
    commands = {}
    for number, (name, action) in zip(_SIGNALS, actions.items(), strict=False):
        signal.signal(number, lambda *_, action=action: action())
        commands[name] = f"kill -{number} {os.getpid()}  # {name.lower().replace('_', ' ')}: a private server"
    try:
        return subprocess.run(
            [ROOT / "docs" / script, folder, wheel],
            env={**os.environ, **environment, **commands},
            stdin=subprocess.DEVNULL,
            check=False,
        ).returncode
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)


def walk_alone(folder: Path, wheel: str, broker_url: str, postgresql: PostgreSQL) -> int:
    """Walk with one broker and one database."""
    database = postgresql.create_database()
    environment = {"TRANSPORT_URL": broker_url, "DATABASE_URL": database}
    try:
        return walk(
            "walk-through.sh",
            folder,
            wheel,
            environment,
            {"BREAK": postgresql.stop, "MEND": postgresql.start},
        )
    finally:
        postgresql.start()
        postgresql.drop_database(database)


def walk_cluster(
    folder: Path, wheel: str, galera: Galera, proxy: HAProxy, brokers: Sequence[RabbitMQ]
) -> int:
    """Walk with three nodes of each, a vhost for each of three services, and quorum queues."""
    url = galera.create_database()
    written = galera.nodes[0]
    environment = {"DATABASE_URL": proxy.through(url), "MESSAGING_URLS": " ".join(_vhosts(brokers))}
    actions = {
        "BREAK_NODE": written.kill,
        "MEND_NODE": written.start,
        "BREAK_BROKER": brokers[0].kill,
        "MEND_BROKER": brokers[0].start,
    }
    code = walk("walk-through-cluster.sh", folder, wheel, environment, actions)
    first, *others = galera.contents(url)
    if any(other != first for other in others):
        sys.stderr.write("The nodes of the database do not hold the same.\n")
        return 1
    return code


def _vhosts(brokers: Sequence[RabbitMQ]) -> Iterator[str]:
    for _ in range(3):
        url = brokers[0].create_vhost()
        vhost = url.rpartition("/")[2]
        with Bus(url, quorum=True) as bus:
            for priority in ("info", "error"):
                bus.declare(f"notifications.{priority}", "openstack")
        places = ",".join(f"guest:guest@127.0.0.1:{broker.port}" for broker in brokers)
        yield f"rabbit://{places}/{vhost}"


if __name__ == "__main__":
    form, place, wheel_file = sys.argv[1:]
    if form == "cluster":
        with broker_cluster() as rabbits, Galera() as nodes, HAProxy(nodes) as haproxy:
            sys.exit(walk_cluster(Path(place), wheel_file, nodes, haproxy, rabbits))
    with RabbitMQ() as rabbitmq, PostgreSQL() as database:
        sys.exit(walk_alone(Path(place), wheel_file, rabbitmq.create_vhost(), database))
