"""With the published panko package: its database adopted, and what we write read by its own code."""

import datetime
import json
from collections.abc import Iterator

import pytest

from panko_ingest.storage import EventFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from tests.compat.published import WITH_PANKO, ordered, panko, plain, url_for_panko

pytestmark = WITH_PANKO


@pytest.fixture
def store(database_url: str) -> Iterator[Connection]:
    connection = Connection(database_url)
    yield connection
    connection.close()


def test_a_database_of_panko_is_adopted_and_panko_reads_what_we_write(
    store: Connection, database_url: str
) -> None:
    url = url_for_panko(database_url)
    panko("record", url, "200")
    # On MariaDB Panko's own get_events is refused by the server (it casts NULL to FLOAT(53)).
    panko_reads = store.engine.dialect.name != "mysql"
    before = [ordered(one) for one in json.loads(panko("read", url))] if panko_reads else None
    store.upgrade(postpone_rewrites=True)
    postponed = plain(store.get_events(EventFilter()))
    store.upgrade()
    after = plain(store.get_events(EventFilter()))
    assert len(after) == 200
    assert after == postponed
    assert before is None or before == after
    moment = datetime.datetime(2026, 11, 23, 10, 0, 0, 1)
    traits = [
        Trait("untyped", Trait.NONE_TYPE, "\N{SNOWMAN} \N{PILE OF POO}"),
        Trait("big", Trait.INT_TYPE, 2**62),
        Trait("load", Trait.FLOAT_TYPE, 0.1),
        Trait("at", Trait.DATETIME_TYPE, moment),
    ]
    store.record_events(
        [
            Event("ours-2", "our.type", moment, traits, {"payload": {"a": [1, None, "\N{SNOWMAN}"]}}),
            Event("ours-1", "our.type", moment),
        ]
    )
    ours = plain(store.get_events(EventFilter()))
    assert [one["message_id"] for one in ours[-2:]] == ["ours-1", "ours-2"]
    if panko_reads:
        assert [ordered(one) for one in json.loads(panko("read", url))] == ours
