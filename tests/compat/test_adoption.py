"""A database that the published panko package made, with many events in it, adopted field by field.

Panko records the first events; copies of them fill the tables up to ``PANKO_INGEST_ADOPTED_EVENTS``.
"""

import logging
import os
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from panko_ingest.storage import EventFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests import legacy
from tests.compat.published import WITH_PANKO, panko, url_for_panko
from tests.integration.storage.samples import make_event
from tests.services import MariaDB, PostgreSQL

LOG = logging.getLogger(__name__)

EVENTS = int(os.environ.get("PANKO_INGEST_ADOPTED_EVENTS", "10000"))
FIRST = 200

pytestmark = [*WITH_PANKO, pytest.mark.timeout(7200)]


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def server(request: pytest.FixtureRequest) -> Iterator[PostgreSQL | MariaDB]:
    """A server that writes a million events in bearable time."""
    quick = (
        PostgreSQL({"fsync": "off", "shared_buffers": "512MB", "max_wal_size": "4GB"})
        if request.param == "postgresql"
        else MariaDB({"innodb-flush-log-at-trx-commit": "0", "innodb-buffer-pool-size": "1G"})
    )
    with quick:
        yield quick


def test_many_events_of_panko_are_adopted_as_they_are(server: PostgreSQL | MariaDB) -> None:
    url = server.create_database()
    panko("record", url_for_panko(url), str(min(FIRST, EVENTS)))
    store = Connection(url)
    plain = sa.create_engine(store.engine.url)  # whose statements may take long
    with plain.begin() as connection:
        legacy.multiply(connection, EVENTS)
    plain.dispose()
    server.settings.clear()  # what follows is measured under those that servers come with
    server.restart()
    with plain.connect() as connection:
        before = legacy.checksums(connection)
    assert before["event"][0] == EVENTS

    started = time.monotonic()
    store.upgrade(postpone_rewrites=True)
    postponed = time.monotonic()
    # On the old shape, with the rewrites still to be done.
    assert store.record_events([make_event(1)]).recorded == (0,)
    assert len(list(store.get_events(EventFilter(message_id="m0001")))) == 1
    with plain.begin() as connection:
        legacy.forget(connection, "m0001")
        assert legacy.checksums(connection) == before

    again = time.monotonic()
    store.upgrade()
    LOG.info(
        "%s: %d events adopted in %.1f s, and rewritten in %.1f s",
        store.engine.dialect.name,
        EVENTS,
        postponed - started,
        time.monotonic() - again,
    )
    with plain.connect() as connection:
        assert legacy.checksums(connection) == before
    plain.dispose()
    store.close()
