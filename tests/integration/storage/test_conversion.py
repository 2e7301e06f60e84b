"""Plain tables become partitioned ones, with every event, while others write."""

import datetime
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from panko_ingest.errors import ConfigError
from panko_ingest.storage import EventFilter, StorageUnavailable, partitions
from panko_ingest.storage.engine import read_transaction
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from tests.integration.storage.samples import connect, letter_for, rows, stored_ids
from tests.services import PostgreSQL
from tests.waiting import wait_until

pytestmark = pytest.mark.postgresql

NOW = datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)


def events(count: int, first: int = 0) -> list[Event]:
    return [
        Event(
            f"m{number:05}",
            f"type {number % 3}",
            NOW - datetime.timedelta(hours=number % 300),
            [Trait("size", Trait.INT_TYPE, number), Trait("project_id", Trait.TEXT_TYPE, f"p{number}")],
        )
        for number in range(first, first + count)
    ]


def filled(url: str, count: int) -> Connection:
    store = connect(url, event_time_to_live="30d")
    store.upgrade()
    for start in range(0, count, 1000):
        store.record_events(events(min(1000, count - start), start))
    return store


def is_partitioned(store: Connection) -> bool:
    with read_transaction(store.engine) as connection:
        return partitions.exist(connection)


def test_all_events_are_there_afterwards_and_duplicates_are_still_known(postgresql_url: str) -> None:
    store = filled(postgresql_url, 5000)
    before = list(store.get_events(EventFilter()))
    told: list[tuple[int, int]] = []

    store.convert("day", lambda done, total: told.append((done, total)))

    assert is_partitioned(store)
    assert list(store.get_events(EventFilter())) == before
    assert told[-1][0] == 5000
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(store.record_events(events(10)).duplicates) == 10
    assert len(store.record_events(events(10, 5000)).recorded) == 10
    assert {finding.level for finding in store.check() if finding.subject == "partitions"} == {"ok"}
    schemas = {row[0] for row in rows(store, "SELECT nspname FROM pg_namespace")}
    assert not [name for name in schemas if name.startswith("panko")]
    store.convert("day", lambda done, total: None)  # there is nothing left to do
    store.close()


def test_events_recorded_meanwhile_are_all_there(postgresql_url: str) -> None:
    store = filled(postgresql_url, 3000)
    writer = Connection(postgresql_url)
    done = threading.Event()

    def write() -> int:
        number = 3000
        while not done.is_set():
            try:
                writer.record_events(events(20, number), on_failure=letter_for)
            except StorageUnavailable as error:
                assert "partitioned" in str(error)  # noqa: PT017 - the daemon keeps the batch and tries again
                continue
            number += 20
        return number

    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(write)
        try:
            store.convert("week", lambda done, total: None)
            number = rows(store, "SELECT count(*) FROM event")[0][0]
            wait_until(lambda: rows(store, "SELECT count(*) FROM event")[0][0] > number, 30, "more events")
        finally:
            done.set()
        total = written.result()

    assert stored_ids(store) == [f"m{number:05}" for number in range(total)]
    assert rows(store, "SELECT count(*) FROM trait_int t JOIN event e ON e.id = t.event_id") == [(total,)]
    assert rows(store, "SELECT count(*) FROM dead_letter") == [(0,)]
    writer.close()
    store.close()


_CONVERSION = """
import sys
from tests.integration.storage.samples import connect
connect(sys.argv[1], event_time_to_live="30d").convert("day", lambda done, total: print(done, flush=True))
"""


def test_a_conversion_that_was_killed_goes_on_where_it_was(postgresql_url: str) -> None:
    store = filled(postgresql_url, 9000)
    process = subprocess.Popen(
        [sys.executable, "-c", _CONVERSION, postgresql_url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate()
    assert not is_partitioned(store)
    told: list[int] = []

    def go_on() -> bool:
        try:
            store.convert("day", lambda done, total: told.append(done))
        except StorageUnavailable:  # the lock of the killed one
            return False
        return True

    wait_until(go_on, 30, "the killed one's session to end")
    assert told[0] > 2000
    assert stored_ids(store) == [f"m{number:05}" for number in range(9000)]
    store.close()


def test_rights_are_those_of_the_plain_tables(postgresql: PostgreSQL, postgresql_url: str) -> None:
    store = filled(postgresql_url, 10)
    role = f"ingester_{postgresql_url.rpartition('_')[2]}"
    with store.engine.begin() as connection:
        for statement in (
            f"CREATE ROLE {role} LOGIN",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
            f"GRANT INSERT ON event_type, event, trait_text, trait_int TO {role}",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
        ):
            connection.execute(sa.text(statement))

    store.convert("day", lambda done, total: None)

    ingester = Connection(postgresql_url.replace("postgres@", f"{role}@"))
    assert len(ingester.record_events(events(5, 10)).recorded) == 5
    ingester.close()
    store.close()


def test_what_can_not_be_is_refused_before_anything_is_done(postgresql_url: str, sqlite_url: str) -> None:
    with pytest.raises(ConfigError, match="set event_time_to_live"):
        Connection(postgresql_url).convert("day", lambda done, total: None)
    with pytest.raises(ConfigError, match="PostgreSQL"):
        Connection(sqlite_url).convert("day", lambda done, total: None)
