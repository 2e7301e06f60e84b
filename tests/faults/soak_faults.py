"""The faults of a soak, each a call that breaks one thing, and mends it."""

import contextlib
import itertools
import json
import random
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import amqp
import psutil
import psycopg

from tests.bus import Bus
from tests.faults import poison
from tests.faults.breaking import at_rest, crash, kill_master, locked, memory_alarm, read_only, slots_taken
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene
from tests.odd_properties import ODD, persistent
from tests.raw_frames import RawPublisher
from tests.services import PostgreSQL, RabbitMQ, Server
from tests.waiting import wait_until

CONSUMER_TIMEOUT = 60
"""Seconds, on the broker of a soak."""

_DRAINING = 600.0  # seconds for what piled up
_OF_ANOTHER = 180.0  # seconds within which whatever else is broken meanwhile is mended
_FLOOD = 1000
_BYSTANDER = "notifications.error"  # a queue that the daemon reads, and that nothing is published to
_REFUSED = "The new configuration is refused"


def wait_for(seconds: float) -> None:
    """Let time go by."""
    threading.Event().wait(seconds)


class SoakFaults:
    """The ways to break a scene; what stands before the colon in a name says which part it breaks.

    :param ways: to the broker and to the database.
    """

    def __init__(
        self, scene: Scene, broker: RabbitMQ, database: PostgreSQL, ways: tuple[Proxy, Proxy]
    ) -> None:
        self.scene = scene
        self.broker = broker
        self.database = database
        self.to_broker, self.to_database = ways
        self._vhost = scene.broker_url.rpartition("/")[2]
        self._rounds = itertools.count()

    def deadly(self) -> dict[str, Callable[[], object]]:
        """Return what ends processes of the daemon, or makes them end."""
        daemon = self.scene.daemon
        return {
            "daemon: a worker killed": lambda: random.choice(self._workers()).kill(),
            "daemon: a worker frozen": self._freeze_worker,
            "daemon: the master killed": lambda: kill_master(daemon),
            "daemon: the configuration read again": lambda: daemon.signal(signal.SIGHUP),
        }

    def others(self) -> dict[str, Callable[[], object]]:
        """Return what the daemon is to live through."""
        return {
            "daemon: a configuration that is refused": self._refused_reload,
            "publisher: poison among the messages": self._poison,
            "publisher: properties that can't be read": self._odd_properties,
            f"publisher: a flood of {_FLOOD} bad messages": self._flood,
            "publisher: queue deleted and made again": self._lose_queue,
            "queue: another one locked for 5 s": self._lock_queue,
            "queue: another one that may not be read for 5 s": self._forbid_queue,
            "exchange: deleted and made again": self._lose_exchange,
            "broker: restarted": self.broker.restart,
            "broker: killed": lambda: crash(self.broker),
            "broker: frozen for 8 s": lambda: self._freeze(self.broker, 8),
            "broker: the account's password changed for 5 s": self._lock_out,
            "broker: connections closed by an administrator": self._close_connections,
            "broker: a memory alarm": self._alarm,
            "broker: connections cut": self.to_broker.cut,
            "broker: connections cut in mid-frame": lambda: self._cut_after(self.to_broker, 70_001),
            "broker: connections half-open": self.to_broker.silence,
            "broker: 100 ms of latency for 5 s": lambda: self._slow(self.to_broker, 0.1),
            "database: restarted": self.database.restart,
            "database: killed": lambda: crash(self.database),
            "database: frozen for 15 s": lambda: self._freeze(self.database, 15),
            f"database: away for {CONSUMER_TIMEOUT} s, as long as the consumer_timeout": self._long_outage,
            "database: read-only": self._refuse,
            "database: a sequence behind its table for 5 s": self._sequence_behind,
            "database: a table locked for 10 s": self._lock,
            "database: all connection slots taken": self._take_slots,
            "database: connections cut": self.to_database.cut,
            "database: connections cut in mid-answer": lambda: self._cut_after(self.to_database, 5),
            "database: connections half-open": self.to_database.silence,
            "database: 50 ms of latency for 5 s": lambda: self._slow(self.to_database, 0.05),
            "database: the answer to a COMMIT cut off": self._swallow,
        }

    def _workers(self) -> list[psutil.Process]:
        return wait_until(lambda: self.scene.daemon.workers, 60, "a worker")

    def _freeze_worker(self) -> None:
        worker = random.choice(self._workers())
        worker.suspend()
        wait_until(lambda: not worker.is_running(), 120, "the end of a frozen worker", interval=0.5)

    def _refused_reload(self) -> None:
        daemon = self.scene.daemon
        good = daemon.conf.read_text()
        before = daemon.log.count(_REFUSED)
        daemon.conf.write_text(re.sub(r"workers = \d+", "workers = many", good))
        try:
            daemon.signal(signal.SIGHUP)
            wait_until(
                lambda: daemon.log.count(_REFUSED) > before, _OF_ANOTHER, "a refused reload", interval=0.5
            )
        finally:
            daemon.conf.write_text(good)

    def _poison(self) -> None:
        self._publish_bad(poison.bodies())

    def _flood(self) -> None:
        notification = {"publisher_id": "flood", "event_type": "flood", "priority": "INFO", "payload": {}}
        self._publish_bad(
            [json.dumps({**notification, "number": number}).encode() for number in range(_FLOOD)]
        )

    def _publish_bad(self, bad: list[bytes]) -> None:
        # The type is part of what tells dead letters apart; so each round makes new ones.
        kind = f"application/json; round={next(self._rounds)}"

        def publish() -> bool:
            with contextlib.suppress(amqp.AMQPError, OSError), Bus(self.scene.broker_url) as bus:
                return bool(bus.publish(bad, content_type=kind))
            return False

        wait_until(publish, _OF_ANOTHER, "a broker that takes bad messages", interval=1)
        self.scene.dead += len(bad)

    def _odd_properties(self) -> None:
        for name, properties in ODD.items():
            if name == "header not a number":
                continue  # the broker refuses it
            body = uuid.uuid4().bytes + b"\xff"  # no notification, so each becomes a dead letter

            def publish(properties: bytes = properties, body: bytes = body) -> bool:
                with (
                    contextlib.suppress(amqp.AMQPError, OSError, ValueError),
                    RawPublisher(self.scene.broker_url) as publisher,
                ):
                    return publisher.publish(persistent(properties), body, routing_key=b"notifications.info")
                return False

            wait_until(publish, _OF_ANOTHER, "a broker that takes odd properties", interval=1)
            self.scene.dead += 1

    def _lose_queue(self) -> None:
        scene = self.scene
        scene.feed.pause()

        def all_stored() -> bool:
            return scene.stored() >= scene.feed.confirmed and scene.ledger.dead_letters() >= scene.dead

        scene.wait_for(all_stored, _DRAINING, "an empty queue")

        def delete() -> None:
            with Bus(scene.broker_url) as bus:
                bus.delete()

        def make() -> None:
            with Bus(scene.broker_url) as bus:
                bus.declare()

        self._on_the_bus(delete)
        wait_for(2)
        self._on_the_bus(make)
        scene.feed.resume()

    def _on_the_bus(self, do: Callable[[], object]) -> None:
        """Do something that a broker has to be there for, which may be broken just now."""

        def done() -> bool:
            with contextlib.suppress(amqp.AMQPError, OSError):
                do()
                return True
            return False

        wait_until(done, _OF_ANOTHER, "a broker that answers", interval=0.5)

    def _lock_queue(self) -> None:
        def lock() -> None:
            with Bus(self.scene.broker_url) as bus:
                channel = bus.channel()
                channel.queue_delete(_BYSTANDER)
                channel.queue_declare(_BYSTANDER, exclusive=True)
                wait_for(5)

        self._on_the_bus(lock)

    def _forbid_queue(self) -> None:
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        others = {**everything, "read": "^(?!notifications.error)"}

        def permit(rights: dict[str, str]) -> None:
            self.broker.api("PUT", f"permissions/{self._vhost}/guest", rights)

        def lose_queue() -> None:
            with Bus(self.scene.broker_url) as bus:
                bus.delete(_BYSTANDER)

        self._on_the_bus(lambda: permit(others))
        self._on_the_bus(lose_queue)
        wait_for(5)
        self._on_the_bus(lambda: permit(everything))

    def _lose_exchange(self) -> None:
        def delete() -> None:
            with Bus(self.scene.broker_url) as bus:
                bus.channel().exchange_delete("nova")

        self._on_the_bus(delete)

    def _lock_out(self) -> None:
        def change(password: str) -> None:
            self.broker.ctl("change_password", "guest", password)

        change("another")
        try:
            self._close_connections()
            wait_for(5)
        finally:
            change("guest")

    def _close_connections(self) -> None:
        self.broker.ctl("close_all_connections", "closed by a test")

    @staticmethod
    def _freeze(server: Server, seconds: float) -> None:
        server.pause()
        try:
            wait_for(seconds)
        finally:
            server.resume()

    def _alarm(self) -> None:
        with memory_alarm(self.broker):
            wait_until(lambda: at_rest(lambda: self.scene.feed.confirmed), 60, "blocked publishers")

    def _long_outage(self) -> None:
        self.database.stop()
        wait_for(CONSUMER_TIMEOUT)
        self.database.start()

    def _refuse(self) -> None:
        with read_only(self.database, self.scene.ledger.url):
            wait_for(5)

    @contextlib.contextmanager
    def _session(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.scene.ledger.url, autocommit=True, connect_timeout=5) as connection:
            yield connection

    def _sequence_behind(self) -> None:
        with self._session() as connection:
            sequence = "pg_get_serial_sequence('event', 'id')"
            connection.execute(f"SELECT setval({sequence}, 1)".encode())
            wait_for(5)
            connection.execute(f"SELECT setval({sequence}, max(id)) FROM event".encode())

    def _lock(self) -> None:
        with locked(self.scene.ledger.url):
            wait_for(10)

    def _take_slots(self) -> None:
        over = time.monotonic() + 5
        with slots_taken(self.scene.ledger.url, lambda: time.monotonic() > over):
            pass

    @staticmethod
    def _cut_after(way: Proxy, size: int) -> None:
        before = way.cuts
        way.cut_after(size)
        wait_until(lambda: way.cuts > before, _OF_ANOTHER, "a cut")

    @staticmethod
    def _slow(way: Proxy, seconds: float) -> None:
        way.latency = seconds
        wait_for(5)
        way.latency = 0.0

    def _swallow(self) -> None:
        before = self.to_database.swallowed
        self.to_database.swallow_answer_to(b"COMMIT")
        wait_until(lambda: self.to_database.swallowed > before, _OF_ANOTHER, "a COMMIT")
