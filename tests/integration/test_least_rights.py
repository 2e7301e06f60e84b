"""docs/minimal-grants.md: each account can do its job, and nothing else."""

import contextlib
import datetime
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from panko_ingest import config, storage
from panko_ingest.storage.models import DeadLetter, Event, Trait
from tests.daemon import Daemon, configuration
from tests.documents import ROOT, blocks, commands, statements
from tests.services import MariaDB, PostgreSQL, RabbitMQ
from tests.waiting import wait_until

PAGE = ROOT / "docs" / "minimal-grants.md"
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


def test_each_account_can_do_its_job(store: Store) -> None:
    with store.connection("panko_ingest") as ingest:
        ingest.schema_state()
        ingest.record_events([event("a"), event("b")], [dead_letter()])
        again = ingest.record_events([event("b"), event("c")], [dead_letter()])
        assert (len(again.recorded), len(again.duplicates)) == (1, 1)
        ingest.check()
    with store.connection("panko_reader") as reader:
        assert {stored.message_id for stored in reader.get_events(storage.EventFilter())} == {"a", "b", "c"}
        (summary,) = reader.get_dead_letters(storage.DeadLetterFilter(), None)
        assert summary.attempts == 2
    with store.connection("panko_expirer") as expirer:
        assert expirer.clear_expired_data(3600, 100) == 3
        assert expirer.clear_expired_dead_letters(-3600) == 1


@pytest.mark.postgresql
def test_partitions_are_written_with_few_rights_and_expired_by_their_owner(partitioned_store: Store) -> None:
    with partitioned_store.connection("panko_ingest") as ingest:
        ingest.record_events([event("a"), event("b")], [dead_letter()])
        again = ingest.record_events([event("b")], [dead_letter()])
        assert len(again.duplicates) == 1
    with partitioned_store.connection("panko_owner") as owner:
        assert owner.clear_expired_data(30 * 86400, 100) == 2
        assert owner.clear_expired_dead_letters(-3600) == 1


def test_no_account_can_do_more(store: Store) -> None:
    for account, statement in (
        ("panko_ingest", "DELETE FROM event"),
        ("panko_ingest", "DROP TABLE trait_text"),
        ("panko_ingest", "UPDATE event SET generated = generated"),
        ("panko_expirer", "INSERT INTO trait_text (event_id) VALUES (1)"),
        ("panko_expirer", "DROP TABLE trait_text"),
        ("panko_reader", "DELETE FROM event"),
    ):
        with (
            store.engine(account).connect() as connection,
            pytest.raises(sa.exc.DBAPIError, match=r"denied|must be owner"),
        ):
            connection.exec_driver_sql(statement)


@pytest.mark.rabbitmq
@pytest.mark.parametrize("kind", ["shared", "pool", "never"])
def test_the_account_at_the_broker_can_read(
    kind: str, rabbitmq: RabbitMQ, broker_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    # What is there on a bus that is in use; a pool finds its exchange from the start.
    all_rights = configuration(tmp_path, broker_url, sqlite_url)
    publish(all_rights)
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


def set_permissions(rabbitmq: RabbitMQ, broker_url: str, kind: str) -> None:
    (block,) = blocks("bash", "rabbitmq", kind, path=PAGE)
    (line,) = commands(block)
    program, action, *words = shlex.split(line)
    assert (program, action) == ("rabbitmqctl", "set_permissions")
    rabbitmq.ctl(action, "--vhost", broker_url.rpartition("/")[2], *words)


def make_pool(rabbitmq: RabbitMQ, broker_url: str) -> None:
    vhost = broker_url.rpartition("/")[2]
    rabbitmq.api("PUT", f"queues/{vhost}/panko-ingest", {"durable": True})
    binding = {"routing_key": "notifications.info"}
    rabbitmq.api("POST", f"bindings/{vhost}/e/openstack/q/panko-ingest", binding)


def publish(conf: Path) -> None:
    notification = (
        '{"message_id": "m", "event_type": "x.y", "timestamp": "2026-11-23T08:00:00", "payload": {}}'
    )
    subprocess.run(
        [sys.executable, "-m", "panko_ingest", "--config-file", conf, "publish", "--count", "1", "-"],
        input=notification,
        text=True,
        check=True,
        capture_output=True,
    )
