"""What the fault tests share. Servers are those of the session: who breaks one mends it again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import MariaDB, PostgreSQL, RabbitMQ

HOOKS = Path(__file__).parent / "hooks"


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
