"""What most tests of the daemon need; where a module has other needs it has a fixture of that name."""

from collections.abc import Iterator

import pytest
from oslo_config import cfg

from panko_ingest import config
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.ledger import Ledger


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[Ledger]:
    """What is stored in an SQLite file."""
    ledger = Ledger(sqlite_url)
    yield ledger
    ledger.close()


@pytest.fixture
def impatient(ledger: Ledger) -> Iterator[Connection]:
    """A connection to the ledger's file to which a lock is an outage at once."""
    conf = cfg.ConfigOpts()
    config.register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("lock_timeout", 0.1, group="database")
    conf.set_override("max_retries", 0, group="database")
    store = Connection(ledger.url, conf)
    yield store
    store.close()
