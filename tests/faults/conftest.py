"""What the fault tests share. Servers are those of the session: who breaks one mends it again."""

from collections.abc import Iterator

import pytest

from tests.services import Galera, HAProxy, MariaDB, PostgreSQL, RabbitMQ


@pytest.fixture
def broker(rabbitmq: RabbitMQ) -> Iterator[RabbitMQ]:
    """A broker to break: it runs again for the next test."""
    yield rabbitmq
    rabbitmq.start()


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def database(request: pytest.FixtureRequest) -> Iterator[PostgreSQL | MariaDB]:
    """A database server to break, of each kind in turn: it runs again for the next test."""
    server: PostgreSQL | MariaDB = request.getfixturevalue(request.param)
    yield server
    server.start()


@pytest.fixture
def url(database: PostgreSQL | MariaDB) -> Iterator[str]:
    """URL of an empty database of the server to break."""
    url = database.create_database()
    yield url
    database.start()
    database.drop_database(url)


@pytest.fixture(scope="session")
def cluster_of_session() -> Iterator[Galera]:
    """Three nodes of MariaDB Galera."""
    with Galera() as cluster:
        yield cluster


@pytest.fixture
def galera(cluster_of_session: Galera) -> Iterator[Galera]:
    """A Galera cluster to break: all its nodes run again for the next test."""
    yield cluster_of_session
    cluster_of_session.start()
    cluster_of_session.wait_until_whole()


@pytest.fixture
def galera_proxy(galera: Galera) -> Iterator[HAProxy]:
    """An HAProxy before the cluster, whose active node is the first."""
    with HAProxy(galera) as proxy:
        yield proxy


@pytest.fixture
def galera_url(galera: Galera) -> Iterator[str]:
    """URL of an empty database on the last node, which no test breaks."""
    url = galera.create_database()
    yield url
    galera.nodes[-1].drop_database(url)
