"""Packets that get lost between network namespaces: for a moment, which TCP bears, and for too long."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import COMMAND
from tests.faults.breaking import Database
from tests.faults.namespace import Namespace
from tests.faults.scene import Scene
from tests.services import MariaDB, PostgreSQL, RabbitMQ
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.rabbitmq,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

SHORT = 3.0
# Within which a loss of 3 s and what TCP then needs to try again fit, and a test can wait.
HEARTBEAT = 10
STATEMENT_TIMEOUT = 10


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """Where the daemon runs; the servers are here."""
    with Namespace() as namespace:
        yield namespace


@pytest.fixture
def broker(namespace: Namespace) -> Iterator[RabbitMQ]:
    """A broker that can be reached from the namespace."""
    server = RabbitMQ({"loopback_users": "none"})
    server.settings["listeners.tcp.2"] = f"{namespace.here}:{server.port}"
    with server:
        yield server


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def database(request: pytest.FixtureRequest, namespace: Namespace) -> Iterator[Database]:
    """A database server that can be reached from the namespace, of each kind in turn."""
    addresses = f"127.0.0.1,{namespace.here}"
    if request.param == "mariadb":
        with MariaDB({"bind-address": addresses, "skip-name-resolve": "1"}) as mariadb:
            mariadb.execute(
                f"CREATE USER root@'{namespace.there}'", f"GRANT ALL ON *.* TO root@'{namespace.there}'"
            )
            yield mariadb
        return
    server = PostgreSQL({"listen_addresses": addresses})
    access = server.directory / "pg_hba.conf"
    access.write_text("".join(f"host all all {host}/32 trust\n" for host in ("127.0.0.1", namespace.there)))
    server.give_away(access)
    server.settings["hba_file"] = str(access)
    with server:
        yield server


def sessions_at(database: Database, namespace: Namespace) -> Callable[[], set[Any]]:
    """Return what tells which sessions of the daemon a database knows."""
    if isinstance(database, PostgreSQL):
        query = f"SELECT pid FROM pg_stat_activity WHERE client_addr = '{namespace.there}'"
    else:
        query = f"SELECT id FROM information_schema.processlist WHERE host LIKE '{namespace.there}:%'"
    return lambda: set(database.execute(query))


def test_a_short_loss_is_survived_and_a_long_one_noticed(
    tmp_path: Path, namespace: Namespace, broker: RabbitMQ, database: Database
) -> None:
    vhost, url = broker.create_vhost(), database.create_database()
    there = [each.replace("127.0.0.1", namespace.here) for each in (vhost, url)]
    scene = Scene(
        tmp_path,
        vhost,
        url,
        through=(f"{there[0]}?heartbeat={HEARTBEAT}", there[1]),
        more=f"[database]\nstatement_timeout = {STATEMENT_TIMEOUT}\nlock_timeout = 5\n",
        command=(*namespace.prefix, *COMMAND),
    )

    def links() -> set[Any]:
        found = broker.api("GET", f"vhosts/{vhost.rpartition('/')[2]}/connections")
        names = (connection["name"] for connection in found)
        return {name for name in names if name.startswith(f"{namespace.there}:")}

    sessions = sessions_at(database, namespace)
    with scene.running():
        for name, port, connected in (
            ("broker", broker.port, links),
            (database.name, database.port, sessions),
        ):
            before = wait_until(lambda look=connected: stable(look), 30, "quiet connections")  # type: ignore[misc]
            with scene.fault(f"{name}: packets lost for {SHORT:g} s"), namespace.loss(port):
                lasts(SHORT)
            assert connected() == before, "a short loss costs no connection"
        with scene.fault("broker: packets lost until it is noticed"), namespace.loss(broker.port):
            scene.daemon.wait_for_log("Too many heartbeats missed|TimeoutError", timeout=60)
            wait_until(lambda: not links(), 120, "a broker that notices, too", interval=1)
        scene.wait_for_readers(2)
        with (
            scene.fault(f"{database.name}: packets lost until it is noticed"),
            namespace.loss(database.port),
        ):
            scene.daemon.wait_for_log("Waiting for the event database", timeout=90)


def stable(look: Callable[[], set[Any]]) -> set[Any] | None:
    """Return what is there now and was two seconds ago."""
    before = look()
    lasts(2)  # the broker tells of its connections every second
    return before if look() == before else None


def lasts(seconds: float) -> None:
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, seconds + 5)
