"""Stores for the tests of the write side."""

import datetime
from collections.abc import Iterator

import pytest

from panko_ingest.storage.database.engine import write_transaction
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.schema import partition_ddl
from tests import schema_copies

PARTITIONED_ON = datetime.date(2026, 3, 5)
"""The day on which the partitioned database was made, by month."""


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("partitioned", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a database, on each kind in turn: empty, or with partitioned tables."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def partitioned_url(postgresql_url: str) -> str:
    """URL of a PostgreSQL database whose tables are partitioned."""
    store = Connection(postgresql_url)
    schema_copies.make(store, _partitioned)
    store.close()
    return postgresql_url


def _partitioned(store: Connection) -> None:
    store.upgrade()
    with write_transaction(store.engine) as connection:
        partition_ddl.create(connection, "month", PARTITIONED_ON)


@pytest.fixture
def store(database_url: str) -> Iterator[Connection]:
    """An empty store, on each kind of database in turn."""
    connection = Connection(database_url)
    schema_copies.make(connection)
    yield connection
    connection.close()
