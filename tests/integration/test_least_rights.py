"""docs/minimal-grants.md: each account can do its job, and nothing else."""

import contextlib
import datetime
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from panko_ingest import config, storage
from panko_ingest.storage.models import DeadLetter, Event, Trait
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.documents import ROOT, blocks, commands, statements
from tests.services import MariaDB, PostgreSQL, RabbitMQ
from tests.waiting import wait_until

PAGE = ROOT / "docs" / "minimal-grants.md"
README = ROOT / "README.md"
ACCOUNTS = ("panko_owner", "panko_ingest", "panko_expirer", "panko_reader")
LONG_AGO = datetime.datetime(2001, 1, 1)


@dataclass
class Store:
    """A database that was set up as the page says; ``url(account)`` leads to it."""

    url: Callable[[str], str]
    conf: cfg.ConfigOpts | None = None

    def connection(self, account: str) -> "contextlib.closing[storage.Connection]":
        return contextlib.closing(storage.get_connection(self.url(account), self.conf))

    def engine(self, account: str) -> sa.Engine:
        url = sa.make_url(self.url(account))
        driver = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}[url.drivername]
        return sa.create_engine(url.set(drivername=driver), poolclass=sa.NullPool)


@pytest.fixture
def postgresql_store(postgresql: PostgreSQL) -> Iterator[Store]:
    yield from set_up_on_postgresql(postgresql)


@pytest.fixture
def partitioned_store(postgresql: PostgreSQL) -> Iterator[Store]:
    conf = cfg.ConfigOpts()
    config.register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("partition_by", "day", group="database")
    conf.set_override("event_time_to_live", "30d", group="database")
    yield from set_up_on_postgresql(postgresql, conf)


def set_up_on_postgresql(postgresql: PostgreSQL, conf: cfg.ConfigOpts | None = None) -> Iterator[Store]:
    for statement in sql("postgresql", "accounts"):
        postgresql.execute(statement)
    store = Store(lambda account: f"postgresql://{account}@127.0.0.1:{postgresql.port}/panko", conf)
    with store.connection("panko_owner") as owner:
        owner.upgrade()
    with store.engine("panko_owner").begin() as connection:
        for statement in sql("postgresql", "grants"):
            connection.exec_driver_sql(statement)
    yield store
    postgresql.execute("DROP DATABASE panko WITH (FORCE)")
    for account in ACCOUNTS:
        postgresql.execute(f"DROP ROLE {account}")


@pytest.fixture
def mariadb_store(mariadb: MariaDB) -> Iterator[Store]:
    def url(account: str) -> str:
        password = account.removeprefix("panko_").upper() + "_PASSWORD"
        return f"mysql://{account}:{password}@127.0.0.1:{mariadb.port}/panko"

    for statement in sql("mariadb", "accounts"):
        mariadb.execute(statement)
    store = Store(url)
    with store.connection("panko_owner") as owner:
        owner.upgrade()
    for statement in sql("mariadb", "grants"):
        mariadb.execute(statement)
    yield store
    mariadb.execute("DROP DATABASE panko", *(f"DROP USER {account}@'%'" for account in ACCOUNTS))


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def store(request: pytest.FixtureRequest) -> Store:
    store: Store = request.getfixturevalue(f"{request.param}_store")
    return store


def sql(*words: str) -> list[str]:
    (block,) = blocks("sql", *words, path=PAGE)
    return statements(block)


def event(name: str, generated: datetime.datetime = LONG_AGO) -> Event:
    traits = [
        Trait("project_id", Trait.TEXT_TYPE, "p"),
        Trait("size", Trait.INT_TYPE, 1),
        Trait("share", Trait.FLOAT_TYPE, 0.5),
        Trait("at", Trait.DATETIME_TYPE, LONG_AGO),
    ]
    return Event(name, f"type.{name}", generated, traits, {})


def dead_letter() -> DeadLetter:
    return DeadLetter(digest=b"d" * 32, body=b"no notification", stage="decode", error_class="E", error="e")


def test_each_account_of_the_documents_can_do_its_job(store: Store) -> None:
    with store.connection("panko_ingest") as ingest:
        ingest.schema_state()
        ingest.record_events([event("a"), event("b")], [dead_letter()])
        again = ingest.record_events([event("b"), event("c")], [dead_letter()])
        assert (len(again.recorded), len(again.duplicates)) == (1, 1)
        ingest.check()
    with store.connection("panko_reader") as reader:
        assert {stored.message_id for stored in reader.get_events(storage.EventFilter())} == {"a", "b", "c"}
    with store.connection("panko_ingest") as ingest:
        (summary,) = ingest.get_dead_letters(storage.DeadLetterFilter(), None)
        assert summary.attempts == 2
    with store.connection("panko_expirer") as expirer:
        assert expirer.clear_expired_data(3600, 100) == 3
        assert expirer.clear_expired_dead_letters(0) == 1


@pytest.mark.postgresql
def test_an_optional_right_lets_the_daemon_skip_what_is_proved_already(
    postgresql_store: Store, postgresql: PostgreSQL
) -> None:
    def told() -> str:
        with postgresql_store.connection("panko_ingest") as ingest:
            ingest.record_events([event(f"{number}") for number in range(30)])
            (text,) = [finding.text for finding in ingest.check() if finding.subject == "reference checks"]
            return text

    assert "GRANT SET ON PARAMETER" in told()
    (grant,) = sql("postgresql", "references")
    postgresql.execute(grant)
    assert told().startswith("skipped")
    postgresql.execute("REVOKE SET ON PARAMETER session_replication_role FROM panko_ingest")


@pytest.mark.mariadb
def test_an_optional_right_shows_who_holds_the_rows_that_an_insert_waits_for(
    mariadb_store: Store, mariadb: MariaDB
) -> None:
    insert = "INSERT INTO event_type (`desc`) VALUES ('held')"

    def waits() -> str:
        with mariadb_store.connection("panko_ingest") as ingest:
            return " ".join(map(str, ingest.lock_waits()))

    def wait_for_it() -> None:
        with mariadb_store.engine("panko_ingest").begin() as connection:
            connection.exec_driver_sql(insert)

    with ThreadPoolExecutor() as pool:
        with mariadb_store.engine("panko_owner").connect() as holder:
            holder.exec_driver_sql(insert)
            waiting = pool.submit(wait_for_it)
            told = wait_until(waits, 10, "the wait is told")
            assert "GRANT PROCESS" in told
            (grant,) = sql("mariadb", "process")
            mariadb.execute(grant)
            assert "of panko_owner" in waits()
        waiting.result()


@pytest.mark.postgresql
def test_partitions_are_written_with_few_rights_and_expired_by_their_owner(partitioned_store: Store) -> None:
    with partitioned_store.connection("panko_ingest") as ingest:
        ingest.record_events([event("a"), event("b")], [dead_letter()])
        again = ingest.record_events([event("b")], [dead_letter()])
        assert len(again.duplicates) == 1
    with partitioned_store.connection("panko_owner") as owner:
        assert owner.clear_expired_data(30 * 86400, 100) == 2
        assert owner.clear_expired_dead_letters(0) == 1


@pytest.mark.postgresql
def test_partitions_are_checked_with_few_rights(partitioned_store: Store) -> None:
    def told() -> dict[str, tuple[str, str]]:
        return {finding.subject: (finding.level, finding.text) for finding in ingest.check()}

    with partitioned_store.connection("panko_ingest") as ingest:
        ingest.record_events([event("a", datetime.datetime.now(datetime.UTC).replace(tzinfo=None))])
        assert told()["partitions"][0] == "ok"
        assert "failure" not in {level for level, _ in told().values()}
        ingest.record_events([event("b", datetime.datetime(2300, 1, 1))])
        assert "holds events of the future" in told()["partitions"][1]


@pytest.mark.postgresql
def test_rights_that_partitions_need_are_told_where_they_lack(
    partitioned_store: Store, postgresql: PostgreSQL
) -> None:
    def told(account: str, *, to_expire: bool = False) -> str:
        with partitioned_store.connection(account) as connection:
            (finding,) = connection.check_rights(to_record=not to_expire, to_expire=to_expire)
            return finding.text

    assert told("panko_ingest") == "the role may record"
    with partitioned_store.engine("panko_owner").begin() as connection:
        connection.exec_driver_sql("REVOKE USAGE ON SEQUENCE event_id_seq FROM panko_ingest")
    assert told("panko_ingest") == "to record, the role lacks USAGE on the sequence of event.id: grant it"
    assert told("panko_owner", to_expire=True) == "the role may expire"
    lacks = "membership in panko_owner, which makes and drops partitions, SELECT on event_id_seq"
    assert told("panko_expirer", to_expire=True) == f"to expire, the role lacks {lacks}: grant it"
    postgresql.execute("GRANT panko_owner TO panko_expirer")
    assert told("panko_expirer", to_expire=True) == "the role may expire"
    postgresql.execute("REVOKE panko_owner FROM panko_expirer")


EVENT_TABLES = ("event", "trait_text", "trait_int", "trait_float", "trait_datetime")
READ = {("SELECT", table) for table in ("panko_ingest_version", "event_type", *EVENT_TABLES)}
MAY = {
    "panko_ingest": READ
    | {("INSERT", table) for table in ("event_type", *EVENT_TABLES)}
    | {(verb, "dead_letter") for verb in ("SELECT", "INSERT", "UPDATE")}
    | {("SELECT", "panko_ingest_lease")},
    "panko_expirer": READ
    | {("DELETE", table) for table in EVENT_TABLES}
    | {("SELECT", "dead_letter"), ("DELETE", "dead_letter")}
    | {("SELECT", "panko_ingest_lease"), ("UPDATE", "panko_ingest_lease")},
    "panko_reader": READ,
}


def is_allowed(engine: sa.Engine, statement: str) -> bool:
    with engine.connect() as connection:
        try:
            connection.exec_driver_sql(statement)
        except sa.exc.DBAPIError as error:
            if not re.search("denied|must be owner", str(error)):
                raise
            return False
    return True


def test_each_account_of_the_documents_may_do_its_job_table_by_table_and_nothing_else(store: Store) -> None:
    with store.engine("panko_owner").connect() as owner:
        inspector = sa.inspect(owner)
        columns = {table: inspector.get_columns(table)[0]["name"] for table in inspector.get_table_names()}
    assert set(columns) == {table for _, table in READ} | {"dead_letter", "panko_ingest_lease"}
    for account, wanted in MAY.items():
        engine = store.engine(account)
        found = set()
        for table, column in columns.items():
            statements = {
                "SELECT": f"SELECT * FROM {table}",
                "INSERT": f"INSERT INTO {table} SELECT * FROM {table} WHERE 1 = 0",
                "UPDATE": f"UPDATE {table} SET {column} = {column} WHERE 1 = 0",
                "DELETE": f"DELETE FROM {table} WHERE 1 = 0",
                "TRUNCATE": f"TRUNCATE TABLE {table}",
                "ALTER": f"ALTER TABLE {table} ADD COLUMN more INTEGER",
                "DROP": f"DROP TABLE {table}",
            }
            for verb, statement in statements.items():
                if is_allowed(engine, statement):
                    found.add((verb, table))
        assert found == wanted, account


@pytest.mark.rabbitmq
@pytest.mark.parametrize("kind", ["shared", "pool", "never"])
def test_the_documented_account_at_the_broker_can_read(
    kind: str, rabbitmq: RabbitMQ, broker_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    # What is there on a bus that is in use; a pool finds its exchange from the start.
    all_rights = configuration(tmp_path, broker_url, sqlite_url)
    publish(all_rights, "--create")
    if kind == "never":
        make_pool(rabbitmq, broker_url)
    rabbitmq.ctl("add_user", "panko-ingest", "BROKER_PASSWORD")
    try:
        set_permissions(rabbitmq, broker_url, kind)
        store = Store(lambda _account: sqlite_url)
        with store.connection("any") as connection:
            connection.upgrade()
        few_rights = tmp_path / "few"
        few_rights.mkdir()
        url = broker_url.replace("guest:guest", "panko-ingest:BROKER_PASSWORD")
        more = {
            "shared": "",
            "pool": "pool = panko-ingest\n",
            "never": "pool = panko-ingest\ndeclare = never\n",
        }
        conf = configuration(few_rights, url, sqlite_url, f"[notification]\nworkers = 1\n{more[kind]}")
        with Daemon(conf).running() as daemon:
            daemon.wait_until_ready()
            if kind == "pool":
                wait_until(
                    lambda: "openstack" in rabbitmq.bound_exchanges(broker_url, "panko-ingest"),
                    30,
                    "the binding",
                )
            publish(all_rights)
            with store.connection("any") as connection:
                wait_until(lambda: list(connection.get_events(storage.EventFilter())), 30, "the event")
            assert "refuses" not in daemon.log
    finally:
        rabbitmq.ctl("delete_user", "panko-ingest")


@pytest.mark.rabbitmq
@pytest.mark.timeout(300)
@pytest.mark.parametrize("release", ["rabbitmq", "newest_rabbitmq"])
@pytest.mark.parametrize("creates", [False, True])
def test_the_documented_account_at_the_broker_can_publish(
    request: pytest.FixtureRequest, creates: bool, release: str, sqlite_url: str, tmp_path: Path
) -> None:
    server: RabbitMQ = request.getfixturevalue(release)
    url = server.create_vhost()
    server.ctl("add_user", "panko-ingest", "BROKER_PASSWORD")
    try:
        set_permissions(server, url, "samples" if creates else "publish", README if creates else PAGE)
        with Bus(url) as bus:
            if not creates:
                bus.declare(exchange="openstack")
            few_rights = url.replace("guest:guest", "panko-ingest:BROKER_PASSWORD")
            publish(configuration(tmp_path, few_rights, sqlite_url), *(["--create"] if creates else []))
            assert bus.count() == 1
    finally:
        server.ctl("delete_user", "panko-ingest")
        server.drop_vhost(url)


def set_permissions(rabbitmq: RabbitMQ, broker_url: str, kind: str, page: Path = PAGE) -> None:
    (block,) = blocks("bash", "rabbitmq", kind, path=page)
    (line,) = commands(block)
    program, action, *words = shlex.split(line)
    assert (program, action) == ("rabbitmqctl", "set_permissions")
    rabbitmq.ctl(action, "--vhost", broker_url.rpartition("/")[2], *words)


def make_pool(rabbitmq: RabbitMQ, broker_url: str) -> None:
    vhost = broker_url.rpartition("/")[2]
    rabbitmq.api("PUT", f"queues/{vhost}/panko-ingest", {"durable": True})
    binding = {"routing_key": "notifications.info"}
    rabbitmq.api("POST", f"bindings/{vhost}/e/openstack/q/panko-ingest", binding)


def publish(conf: Path, *options: str) -> None:
    notification = (
        '{"message_id": "m", "event_type": "x.y", "timestamp": "2026-11-23T08:00:00", "payload": {}}'
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "panko_ingest",
            "--config-file",
            conf,
            "publish",
            *options,
            "--count",
            "1",
            "-",
        ],
        input=notification,
        text=True,
        check=True,
        capture_output=True,
    )
