"""Stores for the tests of the write side."""

from collections.abc import Iterator

import pytest

from panko_ingest.storage.impl_sqlalchemy import Connection


@pytest.fixture
def store(database_url: str) -> Iterator[Connection]:
    """An empty store, on each kind of database in turn."""
    connection = Connection(database_url)
    connection.upgrade()
    yield connection
    connection.close()
