"""Random faults for as long as asked for, under load; counts at the end.

    python -m tests.faults.soak MINUTES

Starts a broker and a PostgreSQL of its own, and a new daemon whenever its master was killed. Prints what
it broke, the memory of each worker, and whether all is accounted for; exit code 1 if it is not.
"""

import contextlib
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.faults import scene as scenes
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene
from tests.services import PostgreSQL, RabbitMQ, Server
from tests.waiting import wait_until

_RATE = 280.0  # a million messages in an hour
_QUIET = 20.0


def main(minutes: float) -> None:
    """Run it."""
    scenes.MOST = int(minutes * 60 * _RATE * 1.1) + 10_000
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(RabbitMQ())
        database = stack.enter_context(PostgreSQL())
        broker_proxy = stack.enter_context(Proxy(broker.port))
        database_proxy = stack.enter_context(Proxy(database.port))
        url = database.create_database()
        through = (broker_proxy.url(broker.url), database_proxy.url(url))
        scene = Scene(folder, broker.url, url, through=through, rate=_RATE)
        faults: dict[str, Callable[[], object]] = {
            "a worker killed": lambda: random.choice(scene.daemon.workers).kill(),
            "the master killed": lambda: kill_master(scene),
            "the configuration read again": lambda: scene.daemon.signal(signal.SIGHUP),
            "the broker restarted": broker.restart,
            "the broker killed": lambda: crash(broker),
            "connections closed by an administrator": lambda: broker.close_connections(broker.url),
            "the database restarted": database.restart,
            "the database killed": lambda: crash(database),
            "the broker's connections cut": broker_proxy.cut,
            "the database's connections cut": database_proxy.cut,
            "the database's connections half-open": database_proxy.silence,
            "the answer to a COMMIT cut off": lambda: database_proxy.swallow_answer_to(b"COMMIT"),
        }
        with scene.running():
            end = time.monotonic() + minutes * 60
            while time.monotonic() < end:
                name, fault = random.choice(list(faults.items()))
                with scene.fault(f"soak: {name}"):
                    fault()
                report(f"{name}; {scene.stored():,} events; workers: {memory(scene)}")
                pause_until = time.monotonic() + random.uniform(1, _QUIET)
                wait_until(lambda at=pause_until: time.monotonic() >= at, _QUIET + 1)  # type: ignore[misc]
        report(f"{scene.ledger.events():,} events, each message once: all is accounted for")


def crash(server: Server) -> None:
    """SIGKILL a server, and start it again."""
    server.kill()
    server.start()


def kill_master(scene: Scene) -> None:
    """SIGKILL the master, see its workers end, and start the daemon again."""
    family = scene.daemon.process.children(recursive=True)
    scene.daemon.signal(signal.SIGKILL)
    scene.daemon.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, "workers outlive their master"
    scene.daemon.start()


def memory(scene: Scene) -> str:
    """Return the resident memory of each worker."""
    sizes = []
    for worker in scene.daemon.workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            sizes.append(f"{worker.memory_info().rss / 2**20:.0f} MiB")
    return ", ".join(sizes)


def report(text: str) -> None:
    """Print a line with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]))
