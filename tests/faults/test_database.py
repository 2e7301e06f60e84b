"""What a database does to its clients: it restarts, crashes, refuses to write, waits, fills up."""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pymysql
import pytest

from tests.faults.proxy import Proxy
from tests.faults.scene import Scene
from tests.services import MariaDB, PostgreSQL
from tests.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(240)]

Database = PostgreSQL | MariaDB
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


def test_the_database_refuses_to_write_or_makes_wait(
    tmp_path: Path, broker_url: str, database: Database, url: str
) -> None:
    scene = Scene(tmp_path, broker_url, url, through=(broker_url, ordinary_role(database, url)), more=QUICK)
    no_slot = re.compile("Waiting for the event database: .*([Tt]oo many|slots)")
    with scene.running():
        with scene.fault(f"{database.name} read-only"), read_only(database, url):
            scene.daemon.wait_for_log("Waiting for the event database: .*read.only", timeout=60)
        with scene.fault(f"{database.name}: a table locked for 8 s"), locked(url):
            stands_still(scene, 8)
        with (
            scene.fault(f"{database.name}: all connection slots taken"),
            slots_taken(url, lambda: bool(no_slot.search(scene.daemon.log))),
        ):
            pass


def ordinary_role(database: Database, url: str) -> str:
    """Return the URL for a role without the privilege to write to a read-only MariaDB."""
    if isinstance(database, PostgreSQL):
        return url
    name = url.rpartition("/")[2]
    database.execute(
        "CREATE OR REPLACE USER ingest@'127.0.0.1'", f"GRANT ALL ON {name}.* TO ingest@'127.0.0.1'"
    )
    return url.replace("root@", "ingest@")


@contextlib.contextmanager
def read_only(database: Database, url: str) -> Iterator[None]:
    if isinstance(database, PostgreSQL):
        name = url.rpartition("/")[2]
        database.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        kick(database.execute, url)  # the sessions of now don't know
        yield
        database.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    else:
        database.execute("SET GLOBAL read_only = ON")
        yield
        database.execute("SET GLOBAL read_only = OFF")


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    with session(url) as execute:
        if url.startswith("mysql"):
            execute("LOCK TABLES event WRITE")
        else:
            execute("BEGIN")
            execute("LOCK TABLE event IN EXCLUSIVE MODE")
        yield


def stands_still(scene: Scene, seconds: float) -> None:
    before = scene.feed.confirmed
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, seconds + 1)
    assert scene.feed.confirmed > before
    assert scene.daemon.workers, "it waits"


@contextlib.contextmanager
def slots_taken(url: str, notices: Callable[[], bool]) -> Iterator[None]:
    """Take every slot, also those that the daemon leaves when it is thrown out, until it notices."""
    with contextlib.ExitStack() as stack:
        administrator = stack.enter_context(session(url))

        def take_all() -> bool:
            with contextlib.suppress(psycopg.OperationalError, pymysql.OperationalError):
                for _ in range(500):
                    stack.enter_context(session(url))
            kick(administrator, url)
            return notices()

        wait_until(take_all, 90, "a daemon that finds no slot")
        yield


def kick(execute: Callable[[str], Sequence[tuple[int, ...]]], url: str) -> None:
    """Throw the daemon out of a database."""
    name = url.rpartition("/")[2]
    if not url.startswith("mysql"):
        execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{name}' AND application_name = 'panko-ingest'"
        )
        return
    listed = f"SELECT id FROM information_schema.processlist WHERE db = '{name}' AND user = 'ingest'"
    for (connection_id,) in execute(listed):
        with contextlib.suppress(pymysql.OperationalError):  # it left by itself
            execute(f"KILL {connection_id}")


@contextlib.contextmanager
def session(url: str) -> Iterator[Callable[[str], Sequence[tuple[int, ...]]]]:
    """Open a session of our own, and give the function that runs a statement in it."""
    port, name = int(url.rpartition(":")[2].partition("/")[0]), url.rpartition("/")[2]
    if url.startswith("mysql"):
        with (
            pymysql.connect(
                host="127.0.0.1", port=port, user="root", database=name, autocommit=True, connect_timeout=5
            ) as connection,
            connection.cursor() as cursor,
        ):

            def execute(statement: str) -> Sequence[tuple[int, ...]]:
                cursor.execute(statement)
                return cursor.fetchall()

            yield execute
    else:
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as pg:

            def run(statement: str) -> Sequence[tuple[int, ...]]:
                answer = pg.execute(statement.encode())
                return answer.fetchall() if answer.description else ()

            yield run


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
    for folder in (tmp_path, *tmp_path.parents[:3]):  # with pytest-xdist there is one more
        folder.chmod(0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", disk], check=True)
    try:
        with kind(directory=disk) as server:
            scene = Scene(tmp_path, broker_url, server.create_database())
            with scene.running(), scene.fault(f"{server.name}: disk full"):
                ballast = disk / "ballast"
                fill(ballast)
                assert shutil.disk_usage(disk).free == 0
                # A server that hangs for want of room instead of saying so is given up by statement_timeout.
                scene.daemon.wait_for_log("Waiting for the event database", timeout=90)
                assert shutil.disk_usage(disk).free == 0
                ballast.unlink()
                if not server.running:  # PostgreSQL ends where its log of transactions can't grow
                    server.start()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024 * 1024))
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
