"""MariaDB Galera behind HAProxy: nodes die, hang, leave and come back, and several are written to at once."""

import datetime
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from panko_ingest.storage import StorageUnavailable, models
from panko_ingest.storage.base import RecordResult
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene
from tests.services import Galera, GaleraNode, HAProxy
from tests.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.mariadb, pytest.mark.timeout(600)]

PATIENT = "[database]\nlock_timeout = 2\nstatement_timeout = 3\n"
NOW = datetime.datetime(2026, 5, 1, 12)


class GaleraScene(Scene):
    """A scene whose daemon reaches the cluster through a proxy; at the end all nodes must hold the same."""

    def __init__(self, folder: Path, broker_url: str, galera: Galera, url: str, proxy: HAProxy) -> None:
        through = (broker_url, proxy.through(url))
        super().__init__(folder, broker_url, url, through=through, more=PATIENT, rate=100)
        self._galera = galera

    def assert_holds(self, published: Sequence[bytes]) -> None:
        """Assert that one node holds what was published, and the others what it holds."""
        super().assert_holds(published)
        assert_equal_nodes(self._galera, self.ledger.url)


def assert_equal_nodes(galera: Galera, url: str) -> None:
    """Assert that each node holds the same."""
    first, *others = galera.contents(url)
    assert all(other == first for other in others)


def on(node: GaleraNode, url: str) -> str:
    """Return the URL of a database on another node."""
    return node.database_url(url.rpartition("/")[2])


def test_the_active_node_is_killed_and_comes_back_by_state_transfer(
    tmp_path: Path, broker_url: str, galera: Galera, galera_url: str, galera_proxy: HAProxy
) -> None:
    active, backup, _ = galera.nodes
    scene = GaleraScene(tmp_path, broker_url, galera, galera_url, galera_proxy)
    with scene.running():
        with scene.fault("Galera: the active node killed"):
            active.kill()
            wait_until(lambda: galera_proxy.active is backup, 30, "the backup to become active")
        with scene.fault("Galera: it comes back by state transfer"):
            active.start()
            wait_until(lambda: galera_proxy.active is active, 30, "the first node to be active again")


def test_the_active_node_leaves_the_cluster_and_its_sessions_are_given_up_though_it_goes_on_answering(
    tmp_path: Path, broker_url: str, galera: Galera, galera_url: str, galera_proxy: HAProxy
) -> None:
    left, backup, _ = galera.nodes
    scene = GaleraScene(tmp_path, broker_url, galera, galera_url, galera_proxy)
    alone = galera.create_database()
    with (
        Proxy(left.port) as proxy,
        closing(Connection(f"{proxy.url(on(left, alone))}?ssl_disabled=true")) as connection,
        scene.running(),
    ):
        connection.upgrade()
        connection.record_events([event(1)], (), refuse)
        with left.cut_off():
            with scene.fault("Galera: the active node out of the cluster (1047)"):
                scene.daemon.wait_for_log("Waiting for the event database: (1047|1180)", timeout=30)
                wait_until(lambda: galera_proxy.active is backup, 30, "the backup to become active")
            with pytest.raises(StorageUnavailable, match="1047"):
                connection.record_events([event(2)], (), refuse)
            proxy.target = backup.port  # and the session that there is stays as it is
            assert connection.record_events([event(2)], (), refuse).recorded == (0,)
            assert proxy.cuts == 0
            wait_until(lambda: galera_proxy.sessions(left) == 0, 30, "no session to the node that left")
    assert_equal_nodes(galera, alone)


def test_the_active_node_hangs(
    tmp_path: Path, broker_url: str, galera: Galera, galera_url: str, galera_proxy: HAProxy
) -> None:
    active, backup, _ = galera.nodes
    scene = GaleraScene(tmp_path, broker_url, galera, galera_url, galera_proxy)
    with scene.running():
        active.pause()
        try:
            with scene.fault("Galera: the active node frozen"):
                wait_until(lambda: galera_proxy.active is backup, 30, "the backup to become active")
        finally:
            active.resume()
        galera.wait_until_whole()


def test_the_proxy_cuts_idle_sessions_and_nobody_notices(
    tmp_path: Path, broker_url: str, galera: Galera, galera_url: str
) -> None:
    with HAProxy(galera, {"timeout client": "1s", "timeout server": "1s"}) as proxy:
        scene = GaleraScene(tmp_path, broker_url, galera, galera_url, proxy)
        with scene.running():
            scene.feed.pause()
            wait_until(lambda: proxy.sessions(galera.nodes[0]) == 0, 30, "idle sessions to be cut")
            with scene.fault("Galera: the proxy cut idle sessions"):
                scene.feed.resume()
            assert "Waiting for the event database" not in scene.daemon.log


def test_the_proxy_cuts_all_sessions_again_and_again(
    tmp_path: Path, broker_url: str, galera: Galera, galera_url: str, galera_proxy: HAProxy
) -> None:
    scene = GaleraScene(tmp_path, broker_url, galera, galera_url, galera_proxy)
    with scene.running():
        for _ in range(3):
            with scene.fault("Galera: the proxy cut all sessions"):
                wait_until(galera_proxy.cut_sessions, 10, "sessions to cut")


def at_once(*calls: Callable[[], object]) -> None:
    """Run all in threads of their own; what one of them raises is raised."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        barrier.wait(30)
        call()

    with ThreadPoolExecutor(len(calls)) as threads:
        for done in [threads.submit(run, call) for call in calls]:
            done.result()


def event(number: int, round_number: int = 0, age: datetime.timedelta = datetime.timedelta()) -> models.Event:
    traits = [models.Trait("number", models.Trait.INT_TYPE, number), models.Trait("who", 1, "x" * 20)]
    return models.Event(
        f"{round_number:04}-{number:06}", f"type.{round_number}.{number % 7}", NOW - age, traits, {}
    )


def conflicts(galera: Galera) -> int:
    """Return how many transactions of clients lost against one of another node so far."""
    counters = ("wsrep_local_cert_failures", "wsrep_local_bf_aborts")
    return sum(int(node.status(name)) for node in galera.nodes for name in counters)


def refuse(index: int, error: Exception) -> models.DeadLetter:
    raise AssertionError(f"event {index} can be stored: {error}")


@pytest.mark.parametrize("rounds", [20, pytest.param(300, marks=pytest.mark.long)])
def test_writers_on_two_nodes_record_the_same_new_events_and_types_at_once(
    galera: Galera, galera_url: str, rounds: int
) -> None:
    first, second = (Connection(on(node, galera_url)) for node in galera.nodes[:2])
    first.upgrade()
    before = conflicts(galera)
    results: dict[Connection, list[RecordResult]] = {first: [], second: []}

    def write(connection: Connection, number: int) -> None:
        events = [event(one, number) for one in range(1 if number % 3 == 0 else 40)]
        results[connection].append(connection.record_events(events, (), refuse))

    number = 0
    with closing(first), closing(second):
        while number < rounds or conflicts(galera) == before:
            assert number < 50 * rounds, "no two transactions ever met"
            at_once(partial(write, first, number), partial(write, second, number))
            number += 1
    for one, other in zip(*results.values(), strict=True):
        assert sorted(one.recorded + other.recorded) == sorted(one.recorded + one.duplicates)
        assert set(one.duplicates) == set(other.recorded)
    assert_equal_nodes(galera, galera_url)


@pytest.mark.parametrize("rounds", [30, pytest.param(300, marks=pytest.mark.long)])
def test_a_session_that_moves_to_a_node_behind_stores_events_of_types_that_are_new_there(
    galera: Galera, galera_url: str, rounds: int
) -> None:
    leading, lagging, _ = galera.nodes
    busy = threading.Event()
    loader = Connection(on(leading, galera_url))
    loader.upgrade()

    def load() -> None:
        number = 10_000
        while busy.is_set():
            loader.record_events([event(one, number) for one in range(1000)], (), refuse)
            number += 1

    with (
        Proxy(leading.port) as proxy,
        closing(loader),
        closing(Connection(f"{proxy.url(on(leading, galera_url))}?ssl_disabled=true")) as moved,
    ):
        busy.set()
        thread = threading.Thread(target=load)
        thread.start()
        try:
            for number in range(rounds):
                for node, one in ((leading, 7), (lagging, 14)):
                    proxy.target = node.port
                    proxy.cut()
                    assert moved.record_events([event(one, number)], (), refuse).recorded == (0,)
        finally:
            busy.clear()
            thread.join()
    assert_equal_nodes(galera, galera_url)


@pytest.mark.parametrize("events", [2_000, pytest.param(50_000, marks=pytest.mark.long)])
def test_expirers_on_two_nodes_and_a_writer_on_the_third_get_on_with_each_other(
    galera: Galera, galera_url: str, events: int
) -> None:
    first, second, writer = (Connection(on(node, galera_url)) for node in galera.nodes)
    writer.upgrade()
    old = [event(number, age=datetime.timedelta(days=90)) for number in range(events)]
    for start in range(0, events, 1000):
        writer.record_events(old[start : start + 1000])
    expired: list[int] = []
    ttl = 30 * 86400

    def expire(connection: Connection) -> None:
        expired.append(connection.clear_expired_data(ttl, 0))

    def write() -> None:
        for number in range(1, 20):
            now = [event(one, number, -datetime.timedelta(days=3650)) for one in range(50)]
            assert len(writer.record_events(now, (), refuse).recorded) == 50

    with closing(first), closing(second), closing(writer):
        at_once(lambda: expire(first), lambda: expire(second), write)
    assert sum(expired) == events
    assert_equal_nodes(galera, galera_url)
    ((left,),) = galera.nodes[0].execute(f"SELECT count(*) FROM {galera_url.rpartition('/')[2]}.event")
    assert left == 19 * 50
