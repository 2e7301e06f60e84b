"""What a database does to its clients: it restarts, crashes, refuses to write, waits, fills up."""

import contextlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.breaking import Database, locked, read_only, slots_taken
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene
from tests.services import MariaDB, PostgreSQL, RabbitMQ
from tests.services.server import open_to_servers
from tests.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(900)]

QUICK = "[database]\nlock_timeout = 2\nstatement_timeout = 5\n"


def test_the_database_restarts_and_crashes(
    tmp_path: Path, broker_url: str, database: Database, url: str
) -> None:
    scene = Scene(tmp_path, broker_url, url)
    with scene.running():
        for how, end in (("restarted", database.stop), ("killed", database.kill)):
            with scene.fault(f"{database.name} {how}"):
                end()
                assert not database.running
                assert scene.stored() < 0
                database.start()


@pytest.mark.parametrize("lock_held", [8, pytest.param(30, marks=pytest.mark.long)])
def test_the_database_refuses_to_write_or_makes_wait(
    tmp_path: Path, broker_url: str, database: Database, url: str, lock_held: int
) -> None:
    scene = Scene(tmp_path, broker_url, url, through=(broker_url, ordinary_role(database, url)), more=QUICK)
    no_slot = re.compile("Waiting for the event database: .*([Tt]oo many|slots)")
    with scene.running():
        with scene.fault(f"{database.name} read-only"), read_only(database, url):
            scene.daemon.wait_for_log("Waiting for the event database: .*read.only", timeout=60)
        with scene.fault(f"{database.name}: a table locked for {lock_held} s"), locked(url):
            stands_still(scene, lock_held)
        with (
            scene.fault(f"{database.name}: all connection slots taken"),
            slots_taken(url, lambda: bool(no_slot.search(scene.daemon.log))),
        ):
            pass


@pytest.mark.long
def test_the_bus_is_served_while_one_statement_takes_three_heartbeats(
    tmp_path: Path, broker_url: str, rabbitmq: RabbitMQ, database: Database, url: str
) -> None:
    heartbeat = 10
    patient = "[database]\nlock_timeout = 120\nstatement_timeout = 120\n"
    through = (f"{broker_url}?heartbeat={heartbeat}", url)
    scene = Scene(tmp_path, broker_url, url, through=through, more=patient)

    def links() -> set[str]:
        found = rabbitmq.api("GET", f"vhosts/{broker_url.rpartition('/')[2]}/connections")
        return {one["name"] for one in found if one["client_properties"].get("product") == "panko-ingest"}

    with scene.running():
        before = wait_until(lambda: len(links()) == scene.workers and links(), 30, "connections")
        with scene.fault(f"{database.name}: a statement of {3 * heartbeat} s"), locked(url):
            stands_still(scene, 3 * heartbeat)
        assert links() == before, "the broker heard of each worker all the time"
        assert "Waiting for the event database" not in scene.daemon.log, "it was one statement"


def ordinary_role(database: Database, url: str) -> str:
    """Return the URL for a role without the privilege to write to a read-only MariaDB."""
    if isinstance(database, PostgreSQL):
        return url
    name = url.rpartition("/")[2]
    database.execute(
        "CREATE OR REPLACE USER ingest@'127.0.0.1'", f"GRANT ALL ON {name}.* TO ingest@'127.0.0.1'"
    )
    return url.replace("root@", "ingest@")


def stands_still(scene: Scene, seconds: float) -> None:
    before = scene.feed.confirmed
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, seconds + 1)
    assert scene.feed.confirmed > before
    assert scene.daemon.workers, "it waits"


def test_the_answer_to_a_commit_is_cut_off(
    tmp_path: Path, broker_url: str, database: Database, url: str
) -> None:
    # The proxy reads along: no TLS, which MariaDB offers by itself from 11.4 on.
    plain = "?ssl_disabled=true" if isinstance(database, MariaDB) else ""
    with Proxy(database.port) as proxy:
        scene = Scene(tmp_path, broker_url, url, through=(broker_url, proxy.url(url) + plain))
        with scene.running():
            for number in range(1, 4):
                with scene.fault(f"{database.name}: the answer to a COMMIT cut off"):
                    proxy.swallow_answer_to(b"COMMIT")
                    wait_until(lambda at=number: proxy.swallowed >= at, 30, "a COMMIT")  # type: ignore[misc]
        assert proxy.swallowed == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(PostgreSQL, marks=pytest.mark.postgresql),
        pytest.param(MariaDB, marks=pytest.mark.mariadb),
    ],
)
def test_the_disk_of_the_database_is_full(
    tmp_path: Path, broker_url: str, kind: type[PostgreSQL] | type[MariaDB]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    open_to_servers(tmp_path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", disk], check=True)
    try:
        server = kind(directory=disk)
        server.log_file = tmp_path / "server.log"
        with server:
            scene = Scene(tmp_path, broker_url, server.create_database())
            # Starts a server again that ended for want of room, as systemd does: PostgreSQL where its log of
            # transactions can't grow; MariaDB, after a while without answers, where it can't even roll back.
            with scene.running(), scene.fault(f"{server.name}: disk full", meanwhile=server.start):
                ballast = disk / "ballast"
                fill(ballast)
                assert shutil.disk_usage(disk).free == 0
                # A server that hangs instead of saying so is given up by statement_timeout.
                scene.daemon.wait_for_log("Waiting for the event database", timeout=90)
                assert shutil.disk_usage(disk).free == 0
                ballast.unlink()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024 * 1024))
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
