"""Making tables partitioned in a new database, and refusing to replace those that hold anything."""

import datetime
import itertools
from pathlib import Path

import pytest

from panko_ingest.cli.main import main
from panko_ingest.errors import ConfigError
from panko_ingest.storage import StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.integration.storage.samples import connect, is_partitioned, make_events, rows, stored_ids, there

pytestmark = pytest.mark.postgresql


def test_db_sync_makes_a_new_database_partitioned_once(postgresql_url: str) -> None:
    store = connect(postgresql_url, partition_by="week", event_time_to_live="90d")
    store.upgrade()
    made = there(store)
    store.upgrade()

    assert there(store) == made
    assert made[0].start is None
    assert made[-1].end is None
    assert all(one.end == next_one.start for one, next_one in itertools.pairwise(made))
    tomorrow_week = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=8)
    assert made[-1].start is not None
    assert made[-1].start >= tomorrow_week
    assert {finding.level for finding in store.check() if finding.subject == "partitions"} == {"ok"}
    store.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"partition_by": "day", "event_time_to_live": "90d"}, "101 partitions .* set week"),
        ({"partition_by": "week"}, "ever more partitions"),
    ],
)
def test_a_width_that_makes_too_many_partitions_is_refused(
    postgresql_url: str, options: dict[str, str], words: str
) -> None:
    store = connect(postgresql_url, **options)
    with pytest.raises(ConfigError, match=words):
        store.upgrade()
    assert store.current_revision() is None
    store.close()


def test_other_databases_have_no_partitions(sqlite_url: str) -> None:
    with pytest.raises(ConfigError, match="needs PostgreSQL"):
        connect(sqlite_url, partition_by="week", event_time_to_live="90d").upgrade()


def test_tables_that_hold_events_are_not_replaced(postgresql_url: str) -> None:
    plain = Connection(postgresql_url)
    plain.upgrade()
    plain.record_events(make_events(1))
    store = connect(postgresql_url, partition_by="week", event_time_to_live="90d")
    with pytest.raises(StorageUnavailable, match="hold events already"):
        store.upgrade()
    assert stored_ids(plain) == ["m0000"]
    plain.close()
    store.close()


@pytest.mark.parametrize(
    ("statement", "told", "remedy"),
    [
        (
            "CREATE TABLE hold (event_id bigint REFERENCES event)",
            "table constraint hold_event_id_fkey on public.hold",
            "DROP TABLE hold",
        ),
        (
            "CREATE TRIGGER mine BEFORE DELETE ON trait_int EXECUTE FUNCTION tsvector_update_trigger()",
            "trigger mine on public.trait_int",
            "DROP TRIGGER mine ON trait_int",
        ),
        (
            "CREATE POLICY mine ON event USING (true)",
            "policy mine on public.event",
            "DROP POLICY mine ON event",
        ),
        (
            "ALTER TABLE event ENABLE ROW LEVEL SECURITY",
            "row-level security of event",
            "ALTER TABLE event DISABLE ROW LEVEL SECURITY",
        ),
        (
            "CREATE PUBLICATION mine FOR TABLE trait_text",
            "publication relation public.trait_text in publication mine",
            "DROP PUBLICATION mine",
        ),
        (
            "CREATE RULE mine AS ON DELETE TO event DO INSTEAD NOTHING",
            "rule mine on public.event",
            "DROP RULE mine ON event",
        ),
        ("CREATE VIEW mine AS SELECT FROM event", "view public.mine", "DROP VIEW mine"),
    ],
)
def test_empty_tables_on_which_something_of_an_operators_hangs_are_not_replaced(
    postgresql_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    statement: str,
    told: str,
    remedy: str,
) -> None:
    plain = Connection(postgresql_url)
    plain.upgrade()
    with plain.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    conf = tmp_path / "panko-ingest.conf"
    conf.write_text(
        f"[database]\nconnection = {postgresql_url}\npartition_by = week\nevent_time_to_live = 90d\n"
    )
    store = connect(postgresql_url, partition_by="week", event_time_to_live="90d")

    with pytest.raises(StorageUnavailable, match=f"^db sync: {told}: would stay") as refused:
        store.upgrade()
    assert refused.value.operator
    assert main(["--config-file", str(conf), "db", "sync", "--dry-run"]) == 1
    assert f"it would be refused: {told}: would stay" in capsys.readouterr().out
    assert main(["--config-file", str(conf), "db", "sync"]) == 3
    assert not is_partitioned(store)
    with plain.engine.begin() as connection:
        connection.exec_driver_sql(remedy)  # so it is still there
    store.upgrade()
    assert is_partitioned(store)
    plain.close()
    store.close()


def test_partitions_in_the_place_of_empty_tables_are_stored_and_published_as_those_were(
    postgresql_url: str,
) -> None:
    plain = Connection(postgresql_url)
    plain.upgrade()
    with plain.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE trait_text SET (fillfactor = 70)")
        connection.exec_driver_sql("ALTER TABLE trait_text REPLICA IDENTITY FULL")
    store = connect(postgresql_url, partition_by="week", event_time_to_live="90d")

    store.upgrade()

    found = rows(
        store,
        "SELECT DISTINCT relkind::text, reloptions::text, relreplident::text FROM pg_class "
        "WHERE relname ~ '^trait_text' AND relkind IN ('r', 'p')",
    )
    assert sorted(found, key=str) == [("p", None, "f"), ("r", "{fillfactor=70}", "f")]
    plain.close()
    store.close()


def test_empty_tables_with_a_numbered_column_of_an_operators_are_replaced(postgresql_url: str) -> None:
    plain = Connection(postgresql_url)
    plain.upgrade()
    with plain.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE event ADD number bigserial")
    store = connect(postgresql_url, partition_by="week", event_time_to_live="90d")

    store.upgrade()

    assert is_partitioned(store)
    store.record_events(make_events(2))
    assert rows(store, "SELECT number FROM event ORDER BY 1") == [(1,), (2,)]
    plain.close()
    store.close()


def test_a_dry_run_of_db_sync_refuses_to_replace_tables_that_hold_events(postgresql_url: str) -> None:
    plain = Connection(postgresql_url)
    plain.upgrade()
    store = connect(postgresql_url, partition_by="week", event_time_to_live="90d")
    assert store.sync_obstacles() == ([], [])
    plain.record_events(make_events(1))
    ((told,), _) = store.sync_obstacles()
    assert "run `panko-ingest db partition`" in told
    plain.close()
    store.close()
