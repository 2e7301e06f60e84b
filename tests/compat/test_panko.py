"""With the published panko package: its database adopted, and what we write read by its own code.

It needs an environment of its own, which ``make test-panko`` makes: ``PANKO_INGEST_PANKO_PYTHON`` names
a Python (3.8 fits) with what requirements.txt lists.
"""

import datetime
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from panko_ingest.storage import EventFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait

PYTHON = os.environ.get("PANKO_INGEST_PANKO_PYTHON", "")
SIDE = Path(__file__).with_name("panko_side.py")

WITH_PANKO = [
    pytest.mark.long,
    pytest.mark.skipif(not PYTHON, reason="PANKO_INGEST_PANKO_PYTHON names no Python with panko in it"),
]
pytestmark = WITH_PANKO


def panko(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": ""}
    answer = subprocess.run(
        [PYTHON, str(SIDE), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout


def url_for_panko(url: str) -> str:
    """Return the URL for the drivers of Panko's days."""
    parsed = sa.make_url(url)
    return parsed.set(drivername=parsed.get_backend_name()).render_as_string(hide_password=False)


def plain(events: Any) -> list[dict[str, Any]]:
    """Return events as JSON has them; traits in one order, since Panko leaves those of one name unordered."""
    documents = json.loads(json.dumps([event.serialize() for event in events], default=str))
    return [_ordered(document) for document in documents]


def _ordered(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "traits": sorted(document["traits"])}


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
    before = [_ordered(one) for one in json.loads(panko("read", url))] if panko_reads else None
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
        assert [_ordered(one) for one in json.loads(panko("read", url))] == ours
