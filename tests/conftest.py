"""Servers of the tests' own, started when the first test asks for one.

Each pytest-xdist worker has its own, so a test may stop, freeze or kill a server without another
test noticing.
"""

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.services import MariaDB, NotInstalledError, PostgreSQL, RabbitMQ
from tests.services.server import FORKY, debian

# In CI the same cases every time: what is new there is the change, not the luck.
hypothesis.settings.register_profile("project", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("project")


# What a shell starts in the background ignores SIGINT, and so would every program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _skip_what_is_not_installed() -> Generator[None, None, None]:
    try:
        yield
    except NotInstalledError as error:
        reason = str(error)
    else:
        return
    if os.environ.get("PANKO_INGEST_REQUIRE_SERVICES") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    """Skip a test whose fixtures need a program that is not installed, or fail it where all are required."""
    yield from _skip_what_is_not_installed()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Skip a test that needs a program that is not installed, or fail it where all are required."""
    yield from _skip_what_is_not_installed()


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A running RabbitMQ; a test that stops it starts it again."""
    with RabbitMQ() as server:
        yield server


@pytest.fixture(scope="session")
def newest_rabbitmq() -> Iterator[RabbitMQ]:
    """A running RabbitMQ 4.3, the one of Debian forky; a test that stops it starts it again."""
    if debian() != "forky" and not FORKY.is_dir():
        raise NotInstalledError(f"needs RabbitMQ 4.3: make forky, which makes {FORKY}")
    with RabbitMQ(tree=None if debian() == "forky" else FORKY) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A running PostgreSQL; a test that stops it starts it again."""
    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A running MariaDB; a test that stops it starts it again."""
    with MariaDB() as server:
        yield server


@pytest.fixture
def broker_url(rabbitmq: RabbitMQ) -> Iterator[str]:
    """URL of an empty vhost."""
    url = rabbitmq.create_vhost()
    yield url
    rabbitmq.drop_vhost(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of an SQLite file that holds nothing yet."""
    path = tmp_path / "events.sqlite"
    path.touch(0o600)
    return f"sqlite:///{path}"


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> Iterator[str]:
    """URL of an empty PostgreSQL database."""
    url = postgresql.create_database()
    yield url
    postgresql.drop_database(url)


@pytest.fixture
def mariadb_url(mariadb: MariaDB) -> Iterator[str]:
    """URL of an empty MariaDB database."""
    url = mariadb.create_database()
    yield url
    mariadb.drop_database(url)


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database, on each kind of database in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url
