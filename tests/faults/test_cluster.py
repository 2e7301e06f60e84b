"""A broker of three nodes with a quorum queue, and a PostgreSQL with a synchronous standby."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bus import Bus
from tests.faults.scene import Scene
from tests.services import PostgreSQL, RabbitMQ, broker_cluster
from tests.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.postgresql, pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture
def cluster() -> Iterator[list[RabbitMQ]]:
    """Three nodes of one cluster."""
    with broker_cluster() as nodes:
        yield nodes


def leader(nodes: list[RabbitMQ]) -> RabbitMQ:
    """Return the node that leads the queue, as the first of these nodes knows it."""

    def look() -> RabbitMQ | None:
        described = next(node for node in nodes if node.running).api("GET", "queues/%2F/notifications.info")
        return next((one for one in nodes if one.node == described.get("leader")), None)

    return wait_until(look, 60, "a leader", interval=0.5)


def test_a_cluster_loses_its_leader_a_minority_and_each_node_in_turn(
    tmp_path: Path, cluster: list[RabbitMQ], postgresql_url: str
) -> None:
    places = ",".join(f"guest:guest@127.0.0.1:{node.port}" for node in cluster)
    with Bus(cluster[0].url, quorum=True) as bus:
        bus.declare()
    scene = Scene(
        tmp_path,
        cluster[0].url,
        postgresql_url,
        through=(f"rabbit://{places}/", postgresql_url),
        publish_to=[node.url for node in cluster],
        quorum=True,
        rate=100,
    )
    with scene.running():
        with scene.fault("quorum queue: the leader killed"):
            victim = leader(cluster)
            victim.kill()
            others = [node for node in cluster if node is not victim]
            wait_until(lambda: leader(others) is not victim, 60, "another leader")
        victim.start()
        with scene.fault("quorum queue: a minority cut off until another leads"):
            lonely = leader(cluster)
            lonely.pause()
            others = [node for node in cluster if node is not lonely]
            wait_until(lambda: leader(others) is not lonely, 60, "another leader")
            scene.wait_for_more(100)
        lonely.resume()
        for number, node in enumerate(cluster, 1):
            with scene.fault(f"quorum queue: node {number} of 3 restarted"):
                node.restart()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[PostgreSQL, PostgreSQL]]:
    """A primary that waits with each COMMIT until its standby has it, too."""
    settings = {"synchronous_standby_names": "*", "wal_level": "replica", "synchronous_commit": "on"}
    with PostgreSQL() as primary:
        standby = PostgreSQL({"synchronous_standby_names": ""})
        try:
            copy(primary, standby)
            standby.start()
            primary.settings.update(settings)
            primary.restart()
            wait_until(
                lambda: primary.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"),
                30,
                "a synchronous standby",
            )
            yield primary, standby
        finally:
            standby.close()


def copy(primary: PostgreSQL, standby: PostgreSQL) -> None:
    """Make a standby of a server that was never started."""
    program = primary._postgres.with_name("pg_basebackup")
    connection = f"host=127.0.0.1 port={primary.port} user=postgres"
    standby.run([program, "--dbname", connection, "--pgdata", standby._data, "--write-recovery-conf"])
    standby._prepared = True


def test_the_standby_is_promoted_when_the_primary_dies(
    tmp_path: Path, broker_url: str, pair: tuple[PostgreSQL, PostgreSQL]
) -> None:
    primary, standby = pair
    url = primary.create_database()
    name = url.rpartition("/")[2]
    hosts = f"host=127.0.0.1:{primary.port}&host=127.0.0.1:{standby.port}&target_session_attrs=read-write"
    both = f"postgresql://postgres@/{name}?{hosts}"
    scene = Scene(tmp_path, broker_url, both)
    with scene.running(), scene.fault("PostgreSQL: the primary killed, its synchronous standby promoted"):
        primary.kill()
        standby.execute("SELECT pg_promote()")
        wait_until(lambda: standby.execute("SELECT NOT pg_is_in_recovery()") == [(True,)], 30, "promotion")
    assert not primary.running
