"""The private servers themselves: what every other test stands on."""

import shutil
import subprocess
import sys

import amqp
import psutil
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from tests.services import PostgreSQL, RabbitMQ
from tests.waiting import wait_until

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}


def test_every_test_gets_an_empty_database(database_url: str) -> None:
    url = make_url(database_url)
    engine = create_engine(url.set(drivername=DRIVERS[url.drivername]))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE only_here (number INTEGER)"))
    engine.dispose()


def test_postgresql_keeps_what_was_committed_when_it_is_killed(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    with psycopg.connect(postgresql_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
    postgresql.kill()
    assert not postgresql.running
    postgresql.start()
    with psycopg.connect(postgresql_url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(1,)]


def test_every_test_gets_an_empty_vhost(rabbitmq: RabbitMQ, broker_url: str) -> None:
    assert rabbitmq.queues(broker_url) == []


def test_the_broker_can_hang_up_on_its_clients(rabbitmq: RabbitMQ, broker_url: str) -> None:
    vhost = broker_url.rpartition("/")[2]
    client = amqp.Connection(f"127.0.0.1:{rabbitmq.port}", "guest", "guest", virtual_host=vhost)
    client.connect()
    wait_until(lambda: rabbitmq.connections(broker_url), what="the connection to be listed")
    rabbitmq.close_connections(broker_url)
    with pytest.raises(amqp.ConnectionForced):
        client.drain_events(timeout=5)


@pytest.mark.usefixtures("postgresql")  # which skips where it is not installed
def test_a_server_dies_with_the_process_that_started_it() -> None:
    script = (
        "from tests.services import PostgreSQL; server = PostgreSQL(); server.start();"
        "print(server.pid, server.directory, flush=True); input()"
    )
    starter = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert starter.stdout
    pid, directory = starter.stdout.readline().decode().split()
    starter.kill()
    starter.communicate()
    wait_until(lambda: not psutil.pid_exists(int(pid)), what="the server to end")
    shutil.rmtree(directory)
