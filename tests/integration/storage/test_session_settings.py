"""Settings of a server that would change what statements find, keep or do: our sessions have their own."""

import dataclasses
import datetime
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from oslo_config import cfg

from panko_ingest import config, timestamps
from panko_ingest.findings import FAILURE, OK, WARNING
from panko_ingest.storage import EventFilter, StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from tests.integration.storage.samples import START, letter_for, make_event, stored
from tests.services import MariaDB, PostgreSQL
from tests.waiting import wait_until


def long_named(number: int) -> Event:
    """Return an event whose message_id differs from others' far behind its beginning."""
    event = make_event(number)
    return dataclasses.replace(
        event, message_id=f"{'m' * 34}{number:06}", generated=START + datetime.timedelta(seconds=number // 10)
    )


@pytest.mark.mariadb
@pytest.mark.parametrize(
    "setting",
    [
        "sql_select_limit=5",
        "max_join_size=100",
        "completion_type='RELEASE'",
        "sql_safe_updates=1",
        "sql_quote_show_create=0",
    ],
)
def test_settings_of_mariadb_change_nothing(mariadb: MariaDB, mariadb_url: str, setting: str) -> None:
    mariadb.execute(f"SET GLOBAL {setting}")
    store = Connection(mariadb_url)
    try:
        store.upgrade()
        events = [long_named(number) for number in range(1300)]
        assert len(store.record_events(events, (), letter_for).recorded) == len(events)
        again = store.record_events(events, (), letter_for)
        assert len(again.duplicates) == len(events)
        for direction in ("asc", "desc"):
            page = store.get_events(EventFilter(), {"sort": [("message_id", direction)]})
            found = [event.message_id for event in page]
            assert found == sorted((event.message_id for event in events), reverse=direction == "desc")
        assert not [one for one in store.check() if one.level == "failure"]
        assert {one.level for one in store.check_rights(to_record=True, to_expire=True)} == {OK}
        assert store.expire(1.0, clock=store.now).events == len(events)
        store.clear()
    finally:
        store.close()
        mariadb.execute(f"SET GLOBAL {setting.partition('=')[0]} = DEFAULT")


@pytest.mark.mariadb
def test_mariadb_checks_references_for_us_though_it_does_not_for_others(
    mariadb: MariaDB, mariadb_url: str
) -> None:
    mariadb.execute("SET GLOBAL foreign_key_checks = 0")
    store = Connection(mariadb_url)
    try:
        store.upgrade()
        store.record_events([make_event(1)])
        name = mariadb_url.rpartition("/")[2]
        mariadb.execute(f"DELETE FROM {name}.event", f"DELETE FROM {name}.event_type")
        store.record_events([make_event(2)])
        assert [event.message_id for event in stored(store)] == ["m0002"]
    finally:
        store.close()
        mariadb.execute("SET GLOBAL foreign_key_checks = 1")


@pytest.mark.postgresql
def test_a_trait_without_a_value_stays_so_where_arrays_hold_no_null(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    postgresql.execute(f"ALTER DATABASE {postgresql_url.rpartition('/')[2]} SET array_nulls = off")
    store = Connection(postgresql_url)
    store.upgrade()
    store.record_events([make_event(1, Trait("nothing", Trait.TEXT_TYPE, None))])
    (event,) = stored(store)
    assert Trait("nothing", Trait.TEXT_TYPE, None) in event.traits
    store.close()


@pytest.mark.postgresql
def test_partitions_are_known_where_a_server_puts_all_names_in_quotes(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    name = postgresql_url.rpartition("/")[2]
    postgresql.execute(f"ALTER DATABASE {name} SET quote_all_identifiers = on")
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    conf.register_opts(config.DATABASE_OPTS, group="database")
    conf.set_override("partition_by", "week", group="database")
    conf.set_override("event_time_to_live", 90 * 86400.0, group="database")
    store = Connection(postgresql_url, conf)
    store.upgrade()
    early = Event("early", "t", datetime.datetime(2001, 1, 1), [Trait("size", Trait.INT_TYPE, 1)])
    late = Event("late", "t", timestamps.utc_now(), [Trait("size", Trait.INT_TYPE, 1)])
    store.record_events([early, late])
    assert [event.message_id for event in stored(store)] == ["early", "late"]
    assert not [one for one in store.check() if one.level == FAILURE]
    assert store.expire(90 * 86400.0).events == 1
    store.close()


@pytest.mark.postgresql
def test_a_role_whose_references_are_not_checked_is_told(postgresql: PostgreSQL, postgresql_url: str) -> None:
    name = postgresql_url.rpartition("/")[2]
    postgresql.execute(f"ALTER DATABASE {name} SET session_replication_role = replica")
    store = Connection(postgresql_url)
    store.upgrade()
    (told,) = [one for one in store.check() if one.subject == "session_replication_role"]
    assert told.level == WARNING
    assert "references are not checked" in told.text
    store.close()


def test_a_connection_that_cannot_be_set_up_is_closed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    path.write_bytes(b"no database" * 1000)
    store = Connection(f"sqlite:///{path}")
    kept = []
    for _ in range(3):
        with pytest.raises(StorageUnavailable, match="not a database") as caught:
            store.ping()
        kept.append(caught.value)  # whoever keeps an error keeps what it refers to
    assert str(path) not in {file.path for file in psutil.Process().open_files()}
    store.close()


@pytest.mark.mariadb
def test_a_time_limit_in_the_url_counts(mariadb_url: str) -> None:
    store = Connection(f"{mariadb_url}?read_timeout=1")
    with (
        store.engine.connect() as connection,
        pytest.raises(sa.exc.OperationalError, match="Lost connection"),
    ):
        connection.exec_driver_sql("SELECT SLEEP(5)")
    store.close()


@pytest.mark.mariadb
def test_a_session_that_the_server_refuses_to_set_up_is_closed_without_a_traceback(
    mariadb: MariaDB, mariadb_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    mariadb.execute("CREATE USER patient WITH MAX_QUERIES_PER_HOUR 3")
    mariadb.execute("GRANT ALL ON *.* TO patient")
    store = Connection(mariadb_url.replace("root@", "patient@"))
    with pytest.raises(StorageUnavailable, match="1226") as kept:
        store.ping()
    assert kept.value
    sessions = "SELECT id FROM information_schema.processlist WHERE user = 'patient'"
    wait_until(lambda: not mariadb.execute(sessions), 5, "the end of the session")
    assert [record.name for record in caplog.records if record.exc_info] == []
    store.close()
    mariadb.execute("DROP USER patient")
