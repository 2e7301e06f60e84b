"""Random requests to ``get_events`` beside a model of it, on each database, layout and collation."""

import random
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from panko_ingest.storage.database.engine import write_transaction
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from panko_ingest.storage.schema import partition_ddl
from tests.integration.storage.conftest import PARTITIONED_ON
from tests.integration.storage.query_model import Model, make_events, make_request

EVENTS = 200
QUERIES, MANY_QUERIES = 300, 15_000


@pytest.fixture(
    scope="module",
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("postgresql, icu", marks=pytest.mark.postgresql),
        pytest.param("postgresql, partitioned", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
        pytest.param("mariadb, general_ci", marks=pytest.mark.mariadb),
    ],
)
def queried(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Connection, list[Event], Model]]:
    """A store with random events, the events, and the model of it."""
    kind, _, variant = request.param.partition(", ")
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('queries')}/events.sqlite"
    else:
        server = request.getfixturevalue(kind)
        url = (
            server.create_database("LOCALE_PROVIDER icu ICU_LOCALE 'de'")
            if variant == "icu"
            else server.create_database()
        )
        request.addfinalizer(lambda: server.drop_database(url))  # noqa: PT021 - SQLite has no server
    store = Connection(url)
    store.upgrade()
    by_day = variant == "partitioned"
    with write_transaction(store.engine) as connection:
        if by_day:
            partition_ddl.create(connection, "month", PARTITIONED_ON)
        if variant == "general_ci":
            for table in ("event", "event_type", "trait_text", "trait_int", "trait_float", "trait_datetime"):
                connection.exec_driver_sql(
                    f"ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
                )
    events = make_events(random.Random(1), EVENTS, on_two_days=by_day)
    assert not store.record_events(events).duplicates
    yield store, events, Model(events, ranks(store), by_day=by_day)
    store.close()


def ranks(store: Connection) -> dict[str, int]:
    """Return the rank of each text of the events by the comparison of the database."""
    ranked = """SELECT t, DENSE_RANK() OVER (ORDER BY t) FROM (
        SELECT value AS t FROM trait_text WHERE value IS NOT NULL UNION ALL SELECT message_id FROM event
    ) AS texts"""
    with store.engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(sa.text(ranked))}


def compare(
    queried: tuple[Connection, list[Event], Model], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ask one random request of the store and of the model."""
    store, events, model = queried
    chance = random.Random(seed)
    request = make_request(chance, events, by_day=model.by_day)
    # Pages within a list, and both of the ways in which MariaDB looks for a trait.
    monkeypatch.setattr("panko_ingest.storage.reading.events.PAGE_SIZE", chance.choice((20, 50, 500)))
    monkeypatch.setattr("panko_ingest.storage.reading.events._FEW", chance.choice((0, 20, 6000)))
    found = list(store.get_events(request.event_filter, request.pagination))
    expected = model.expected(request)
    assert [(one.message_id, one.generated) for one in found] == [
        (one.message_id, one.generated) for one in expected
    ], f"seed {seed}: {request}"
    assert list(map(model.folded, found)) == list(map(model.folded, expected)), f"seed {seed}: {request}"


def test_random_requests_find_what_a_model_of_the_store_finds(
    queried: tuple[Connection, list[Event], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(QUERIES):
        compare(queried, seed, monkeypatch)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_fifteen_thousand_random_requests_find_what_a_model_of_the_store_finds(
    queried: tuple[Connection, list[Event], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(MANY_QUERIES):
        compare(queried, seed, monkeypatch)
