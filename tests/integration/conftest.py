"""What most tests of the daemon need; where a module has other needs it has a fixture of that name."""

from collections.abc import Iterator

import pytest

from tests.ledger import Ledger


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[Ledger]:
    """What is stored in an SQLite file."""
    ledger = Ledger(sqlite_url)
    yield ledger
    ledger.close()
