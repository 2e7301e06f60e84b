"""docs/runbook-move-from-ceilometer.md, followed with the published Ceilometer and Panko beside us."""

import contextlib
import datetime
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.make_load import lines
from panko_ingest.storage import DeadLetterFilter, EventFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.bus import Bus
from tests.compat.agent import Agent, definitions
from tests.compat.published import WITH_PANKO, panko, url_for_panko
from tests.daemon import Daemon, configuration
from tests.integration.test_runbook_of_the_move import run
from tests.services import MariaDB, PostgreSQL
from tests.waiting import wait_until

pytestmark = [*WITH_PANKO, pytest.mark.rabbitmq, pytest.mark.timeout(900)]

HOUR = datetime.datetime(2026, 3, 1, 10)
POOL = "panko-ingest"


class Cloud:
    """What publishes, and knows what it has published; all of it is dated within one hour."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.published: set[str] = set()
        self.begin(HOUR - datetime.timedelta(hours=1))

    def begin(self, hour: datetime.datetime) -> None:
        """Go on with another hour."""
        self._load = lines(1000, hour.hour, hour, 3500)

    def publish(self, count: int) -> None:
        self.publish_bodies([next(self._load).encode() for _ in range(count)])

    def publish_bodies(self, bodies: Sequence[bytes]) -> None:
        self._bus.publish(bodies)
        self.published |= {notification(body)["message_id"] for body in bodies}

    def changed(self, **fields: Any) -> bytes:
        """Return the next notification, with other fields."""
        inner = notification(next(self._load).encode()) | fields
        return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)}).encode()


def notification(body: bytes) -> dict[str, Any]:
    inner: dict[str, Any] = json.loads(json.loads(body)["oslo.message"])
    return inner


@contextlib.contextmanager
def stored(url: str) -> Iterator[Connection]:
    connection = Connection(url)
    yield connection
    connection.close()


def ids(url: str) -> list[str]:
    with stored(url) as connection:
        return sorted(event.message_id for event in connection.get_events(EventFilter()))


def wait_for_events(url: str, wanted: set[str]) -> None:
    """Wait until a database has just these events, each once."""
    wait_until(
        lambda: len(ids(url)) >= len(wanted), 90, f"{len(wanted)} events, of which there are {len(ids(url))}"
    )
    assert ids(url) == sorted(wanted)


def command(conf: Path, *words: str) -> str:
    called = [sys.executable, "-m", "panko_ingest", "--config-file", str(conf), *words]
    return subprocess.run(called, check=True, capture_output=True, text=True).stdout


def documents(url: str) -> dict[str, Any]:
    """Return type, time and traits of all events."""
    with stored(url) as connection:
        return {
            event.message_id: (event.event_type, event.generated, sorted(map(repr, event.traits)))
            for event in connection.get_events(EventFilter())
        }


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def server(request: pytest.FixtureRequest) -> PostgreSQL | MariaDB:
    found: PostgreSQL | MariaDB = request.getfixturevalue(request.param)
    return found


def test_the_whole_way_over_and_back_loses_nothing_and_doubles_nothing(
    server: PostgreSQL | MariaDB, broker_url: str, tmp_path: Path
) -> None:
    theirs, ours = server.create_database(), server.create_database()
    panko("record", url_for_panko(theirs), "0")
    agent = Agent(tmp_path, broker_url, url_for_panko(theirs))
    both_only = f"[event]\ndefinitions_cfg_file = {definitions()}\n[notification]\nworkers = 1\n"
    pool = f"{both_only}pool = {POOL}\n"
    conf = configuration(tmp_path, broker_url, ours, pool)
    daemon = Daemon(conf)
    with contextlib.ExitStack() as stack:
        bus = stack.enter_context(Bus(broker_url, durable=False))
        cloud = Cloud(bus)

        def agent_reads() -> bool:
            return bus.consumers() > 0

        with agent.running():
            wait_until(agent_reads, 60, "the agent")
            cloud.publish(200)
            wait_for_events(theirs, cloud.published)
            before = set(cloud.published)

            # 2. beside it, with a pool and a database of its own
            command(conf, "db", "sync")
            stack.enter_context(daemon.running())
            daemon.wait_until_ready()

            # 3. both
            cloud.begin(HOUR)
            cloud.publish(300)
            wait_for_events(theirs, cloud.published)
            wait_for_events(ours, cloud.published - before)
            found, expected = documents(ours), documents(theirs)
            assert found == {name: expected[name] for name in found}
            too_big = cloud.changed(event_type="compute.instance.update", payload={"memory_mb": 2**70})
            cloud.publish_bodies([too_big])
            bus.publish([cloud.changed(message_id=None)])
            only_ours = {notification(too_big)["message_id"]}
            wait_for_events(ours, cloud.published - before)
            with stored(ours) as connection:
                wait_until(
                    lambda: connection.count_dead_letters(DeadLetterFilter()) == 1, 30, "the dead letter"
                )
            compared = run("compare", tmp_path, theirs, ours, hours={})
            differences = sorted(line for line in compared.stdout.splitlines() if line[0] in "<>")
            without_id, failed_there = differences
            assert re.match(r"< [^,]*,[^,]*,,", without_id)
            assert re.match(
                f"> .*,compute.instance.update,{notification(too_big)['message_id']},", failed_there
            )

            # 4. their database
            dry = run("takeover", tmp_path, theirs, ours, slice(0, 1))
            (statement,) = re.findall("1 rows of event have no message_id.*: (UPDATE .*)", dry.stdout)
            with stored(theirs) as connection, connection.engine.begin() as transaction:
                transaction.exec_driver_sql(statement)
            cloud.published |= {name for name in ids(theirs) if name.startswith("no-message_id-")}
            sync = run("takeover", tmp_path, theirs, ours, slice(0, -1))
            assert sync.returncode == 0, sync.stdout + sync.stderr
            configuration(tmp_path, broker_url, theirs, pool)
            daemon.signal(signal.SIGHUP)
            daemon.wait_for_log("(?s)Ready.*Ready: all")
            merged = run("takeover", tmp_path, theirs, ours, slice(-1, None))
            assert merged.returncode == 0, merged.stdout + merged.stderr
            wait_for_events(theirs, cloud.published)
            cloud.publish(100)
            wait_for_events(theirs, cloud.published)
            wait_until(lambda: bus.count() == bus.count(POOL) == 0, 60, "both queues to be read")
            assert only_ours <= set(ids(theirs))

        # 5. the agent goes on with meters only, then goes
        with agent.running("meter"):
            wait_until(agent_reads, 60, "the agent")
            cloud.publish(50)
            wait_for_events(theirs, cloud.published)
        cloud.publish(100)
        wait_for_events(theirs, cloud.published)
        assert bus.count() >= 100
        configuration(tmp_path, broker_url, theirs, both_only)
        assert daemon.stop() == 0
        daemon.start()
        wait_until(lambda: bus.count() == 0 and agent_reads(), 60, "the shared queue to be read")
        cloud.publish(50)
        wait_for_events(theirs, cloud.published)

        # back
        assert daemon.stop() == 0
        with agent.running():
            wait_until(agent_reads, 60, "the agent")
            cloud.publish(50)
            wait_for_events(theirs, cloud.published)
