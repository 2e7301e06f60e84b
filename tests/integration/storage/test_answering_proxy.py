"""Behind a proxy that answers for MariaDB, says that it is MySQL, and does not know all settings."""

from collections.abc import Iterator
from contextlib import closing

import pymysql
import pytest
import sqlalchemy as sa

from panko_ingest.findings import FAILURE
from panko_ingest.storage import EventFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.recording.writers.mysql import MariadbWriter
from panko_ingest.storage.recording.writers.registry import writer_for
from panko_ingest.storage.settings import StorageSettings
from tests.integration.storage.answering_proxy import VERSION, AnsweringProxy
from tests.integration.storage.samples import make_event, make_events
from tests.services import MariaDB

pytestmark = pytest.mark.mariadb


@pytest.fixture
def proxy(mariadb: MariaDB) -> Iterator[AnsweringProxy]:
    with AnsweringProxy(mariadb.port) as server:
        yield server


@pytest.fixture
def connection(proxy: AnsweringProxy, mariadb_url: str) -> Iterator[Connection]:
    with closing(Connection(proxy.url(mariadb_url))) as found:
        found.upgrade()
        yield found


def test_the_proxy_tells_a_version_that_is_not_the_servers(proxy: AnsweringProxy) -> None:
    with (
        pymysql.connect(host="127.0.0.1", port=proxy.port, user="root") as session,
        session.cursor() as cursor,
    ):
        cursor.execute("SELECT VERSION()")
        assert cursor.fetchall() == ((VERSION.decode(),),)
        cursor.execute("SELECT @@version_compile_os, VERSION() LIKE '%MariaDB%'")
        assert cursor.fetchall()[0][1] == 1


def test_events_are_written_as_mariadb_takes_them_fastest_and_read_again(connection: Connection) -> None:
    events = make_events(300)
    assert len(connection.record_events(events).recorded) == 300
    assert len(connection.record_events(events).duplicates) == 300
    assert len(connection.record_events(make_events(1)).duplicates) == 1
    assert len(list(connection.get_events(EventFilter()))) == 300
    with connection.engine.connect() as session:
        assert isinstance(writer_for(session, StorageSettings()), MariadbWriter)


@pytest.mark.parametrize("length", [1, 30], ids=["one event", "a batch"])
def test_events_keep_their_types_after_a_failover_that_no_session_notices(
    connection: Connection, mariadb_url: str, length: int
) -> None:
    direct = Connection(mariadb_url)
    direct.record_events([make_event(0, event_type="first")])
    connection.record_events([make_event(1, event_type="lost")])
    with direct.engine.begin() as session:
        kinds = ("text", "int", "float", "datetime")
        for statement in (
            *(f"DELETE FROM trait_{kind} WHERE event_id > 1" for kind in kinds),
            "DELETE FROM event WHERE id > 1",
            "UPDATE event_type SET `desc` = 'another' WHERE `desc` = 'lost'",
        ):
            session.execute(sa.text(statement))
    events = [make_event(number, event_type="lost") for number in range(10, 10 + length)]
    assert len(connection.record_events(events).recorded) == length
    types = {event.message_id: event.event_type for event in direct.get_events(EventFilter())}
    assert types == {"m0000": "first"} | {event.message_id: "lost" for event in events}
    direct.close()


def test_no_setting_pins_a_session_to_one_server(proxy: AnsweringProxy, connection: Connection) -> None:
    connection.record_events(make_events(20))
    connection.clear_expired_data(1, 0)
    assert proxy.pinned == []


def test_the_limits_of_a_session_reach_the_server(connection: Connection) -> None:
    names = "@@max_statement_time, @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@sql_mode"
    with connection.engine.connect() as session:
        statement, row_lock, table_lock, mode = session.execute(sa.text(f"SELECT {names}")).one()
    assert statement > 0
    assert 0 < row_lock == table_lock < 100
    assert "STRICT_ALL_TABLES" in mode


def test_the_schema_is_the_declared_one(connection: Connection) -> None:
    wrong = [finding for finding in connection.check() if finding.level == FAILURE]
    assert wrong == []
    assert connection.pending_rewrites() == {}
