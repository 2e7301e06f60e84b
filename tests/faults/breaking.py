"""Ways to break a server or a process that more than one test uses; each is mended by whoever broke it."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import psutil
import psycopg
import pymysql

from tests.daemon import Daemon
from tests.services import MariaDB, PostgreSQL, RabbitMQ, Server
from tests.waiting import wait_until

Database = PostgreSQL | MariaDB
Execute = Callable[[str], Sequence[tuple[int, ...]]]


def kill_master(daemon: Daemon) -> None:
    """SIGKILL the master, see its workers end, and start the daemon again."""
    family = daemon.process.children(recursive=True)
    daemon.process.kill()
    daemon.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, "workers outlive their master"
    daemon.start()


def crash(server: Server) -> None:
    """SIGKILL a server, and start it again."""
    server.kill()
    server.start()


@contextlib.contextmanager
def memory_alarm(broker: RabbitMQ) -> Iterator[None]:
    """Have the broker run short of memory: it blocks whoever publishes."""
    answer = broker.ctl("eval", "application:get_env(rabbit, vm_memory_high_watermark).")
    usual = answer.strip().removeprefix("{ok,").removesuffix("}")  # 0.4; from RabbitMQ 4 on 0.6
    broker.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        wait_until(lambda: broker.api("GET", "nodes")[0].get("mem_alarm"), 60, "the alarm", interval=0.5)
        yield
    finally:
        broker.ctl("set_vm_memory_high_watermark", usual)


@contextlib.contextmanager
def hanging(broker: RabbitMQ, url: str, queue: str) -> Iterator[Callable[[], None]]:
    """Have a queue's process hang for the ``with`` block, or until what is yielded is called."""
    vhost = url.rpartition("/")[2]
    found = f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>))'

    def have(action: str) -> None:
        broker.ctl("eval", f"{found}, sys:{action}(amqqueue:get_pid(Q)).")

    have("suspend")
    try:
        yield lambda: have("resume")
    finally:
        have("resume")


@contextlib.contextmanager
def leaderless(broker: RabbitMQ, url: str, queue: str) -> Iterator[None]:
    """Leave a quorum queue without a leader, as where most of its nodes are away, for the ``with`` block."""
    vhost = url.rpartition("/")[2]
    found = f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>))'

    def have(action: str) -> None:
        broker.ctl("eval", f"{found}, ok = ra:{action}_server(quorum_queues, amqqueue:get_pid(Q)).")

    have("stop")
    try:
        yield
    finally:
        have("restart")


@contextlib.contextmanager
def costly_exchange(broker: RabbitMQ, url: str, exchange: str) -> Iterator[Callable[[], None]]:
    """Have a broker end the connection of whoever binds a queue to an exchange, as if it had a bug there.

    It does so for the ``with`` block, or until what is yielded is called.
    """
    name = f'rabbit_misc:r(<<"{url.rpartition("/")[2]}">>, exchange, <<"{exchange}">>)'

    def have(decorators: str) -> None:
        broker.ctl(
            "eval",
            f"Name = {name}, Change = fun(X) -> setelement(11, X, {decorators}) end, "
            "case catch mnesia:dirty_read(rabbit_exchange, Name) of "
            "[X] -> mnesia:dirty_write(rabbit_exchange, Change(X)); "
            "_ -> rabbit_db_exchange:update(Name, Change) end.",
        )

    have("no_pair_of_lists")
    try:
        yield lambda: have("{[], []}")
    finally:
        have("{[], []}")


def limit_deliveries(broker: RabbitMQ, url: str, limit: int) -> None:
    """Have the quorum queues of a vhost drop what was given back more often than that."""
    definition = json.dumps({"delivery-limit": limit})
    broker.ctl(
        "set_policy", "--vhost", url.rpartition("/")[2], "limit", ".*", definition, "--apply-to", "queues"
    )


def at_rest(value: Callable[[], int]) -> int:
    """Return a count that stays the same for a second, or 0."""
    before, end = value(), time.monotonic() + 1
    while time.monotonic() < end:
        if value() != before:
            return 0
        threading.Event().wait(0.1)
    return before


@contextlib.contextmanager
def read_only(database: Database, url: str) -> Iterator[None]:
    """Make a database refuse to write."""
    if isinstance(database, PostgreSQL):
        name = url.rpartition("/")[2]
        database.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            kick(database.execute, url)  # the sessions of now don't know
            yield
        finally:
            database.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    else:
        database.execute("SET GLOBAL read_only = ON")
        try:
            yield
        finally:
            database.execute("SET GLOBAL read_only = OFF")


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """Keep others from writing to the event table."""
    with session(url) as execute:
        if url.startswith("mysql"):
            execute("LOCK TABLES event WRITE")
        else:
            execute("BEGIN")
            execute("LOCK TABLE event IN EXCLUSIVE MODE")
        yield


@contextlib.contextmanager
def slots_taken(url: str, notices: Callable[[], bool]) -> Iterator[None]:
    """Take every slot, also those that the daemon leaves when it is thrown out, until it notices."""
    with contextlib.ExitStack() as stack:
        administrator = stack.enter_context(session(url))

        def take_all() -> bool:
            with contextlib.suppress(psycopg.OperationalError, pymysql.OperationalError):
                for _ in range(500):
                    stack.enter_context(session(url))
            kick(administrator, url)
            return notices()

        wait_until(take_all, 90, "a daemon that finds no slot")
        yield


def kick(execute: Execute, url: str) -> None:
    """Throw the daemon out of a database."""
    name = url.rpartition("/")[2]
    if not url.startswith("mysql"):
        execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{name}' AND application_name = 'panko-ingest'"
        )
        return
    listed = f"SELECT id FROM information_schema.processlist WHERE db = '{name}' AND user = 'ingest'"
    for (connection_id,) in execute(listed):
        with contextlib.suppress(pymysql.OperationalError):  # it left by itself
            execute(f"KILL {connection_id}")


@contextlib.contextmanager
def session(url: str) -> Iterator[Execute]:
    """Open a session of our own, and give the function that runs a statement in it."""
    port, name = int(url.rpartition(":")[2].partition("/")[0]), url.rpartition("/")[2]
    if url.startswith("mysql"):
        with (
            pymysql.connect(
                host="127.0.0.1", port=port, user="root", database=name, autocommit=True, connect_timeout=5
            ) as connection,
            connection.cursor() as cursor,
        ):

            def execute(statement: str) -> Sequence[tuple[int, ...]]:
                cursor.execute(statement)
                return cursor.fetchall()

            yield execute
    else:
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as pg:

            def run(statement: str) -> Sequence[tuple[int, ...]]:
                answer = pg.execute(statement.encode())
                return answer.fetchall() if answer.description else ()

            yield run
