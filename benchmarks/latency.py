"""From publishing to being queryable: publisher, observer and daemon are processes of their own.

The observer asks for new rows, rests for two milliseconds, and asks again; so what it reports is late by one
on average, and takes a few hundredths of a core. What that and one durable commit cost is measured in
the same way and called the floor: the publisher then inserts into the table itself, and no broker and
no daemon have part in it.
"""

import contextlib
import dataclasses
import gc
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import amqp
import orjson
import psycopg

from benchmarks.end_to_end import notification
from benchmarks.rig import QUEUE, Rig, Sample, command
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from tests.bus import Bus
from tests.daemon import Daemon, configuration

REST = 0.002
WARMING = 2.0
"""Seconds of events that are left out at the beginning, when caches are cold."""

EXCHANGE = "nova"
_SPAWN = multiprocessing.get_context("spawn")
_PATIENCE = 60.0
Times = dict[str, float]
"""Moments by message_id, by the clock that all processes of a machine share."""

Send = Callable[[str, bytes], None]


def latency(
    rig: Rig,
    rate: float,
    seconds: float,
    *,
    buses: int = 1,
    workers: int | None = None,
    release: Path | None = None,
) -> Sample:
    """Offer events at a steady rate to a daemon with its defaults; return delays in milliseconds.

    :param buses: that they are spread over.
    :param workers: how many; None for the default.
    :param release: the checkout of another release, whose daemon it is.
    """
    bodies = rig.bodies[: max(2, int(rate * seconds))]
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(rig.vhost()) for _ in range(buses)]
        for broker_url in urls:
            with Bus(broker_url, quorum=True) as bus:
                bus.declare()
        url = stack.enter_context(rig.store(release))
        store_each_type(url, rig.events())
        conf = configuration(rig.folder, urls[0], url, rig.database_options + notification(urls, workers))
        daemon = Daemon(conf, "--only", "ingester", command=command(release))
        stack.enter_context(daemon.running())
        daemon.wait_until_ready(120)
        meter, before = rig.meter(daemon.process), _next_transaction(rig)
        found = _observed(url, rate, bodies, publish_to_broker, urls)
        found = dataclasses.replace(meter.sample(len(bodies)), wall=len(bodies) / rate, more=found.more)
        found.more["transactions_an_event"] = (_next_transaction(rig) - before) / len(bodies)
        daemon.stop()
    return found


def _next_transaction(rig: Rig) -> int:
    """Return the number that the server gives to the next transaction that writes.

    Statistics count also those that only read, and sessions tell them up to ten seconds later.
    """
    assert rig.server is not None
    return int(rig.server.execute("SELECT txid_snapshot_xmax(txid_current_snapshot())")[0][0])


def floor(rig: Rig, rate: float, seconds: float) -> Sample:
    """Insert events at a steady rate, each in a transaction of its own; return delays in milliseconds."""
    bodies = rig.bodies[: max(2, int(rate * seconds))]
    with rig.store() as url:
        return _observed(url, rate, bodies, insert_into_table, url)


def store_each_type(url: str, events: Sequence[Event]) -> None:
    """Store an event of each type of the load, not one of it: a cloud's types are new but once."""
    ones = {event.event_type: event for event in events}.values()
    store = Connection(url)
    store.record_events(
        [dataclasses.replace(event, message_id=f"first-{event.message_id}") for event in ones]
    )
    store.close()


def _observed(
    url: str, rate: float, bodies: Sequence[bytes], publish: Callable[..., None], target: object
) -> Sample:
    (here, there), (ours, its) = _SPAWN.Pipe(), _SPAWN.Pipe()
    observer = _SPAWN.Process(target=observe, args=(there, url, len(bodies)), daemon=True)
    publisher = _SPAWN.Process(target=publish, args=(its, target, rate, bodies), daemon=True)
    observer.start()
    assert _receive(here) == "ready"
    publisher.start()
    published, late = _receive(ours)
    seen, spent = _receive(here)
    for process in (publisher, observer):
        process.join()
    counted = list(published)[min(int(rate * WARMING), len(published) // 2) :]
    delays = sorted((seen[name] - published[name]) * 1000 for name in counted)
    more = {
        "p50": statistics.median(delays),
        "p99": delays[max(0, -(-len(delays) * 99 // 100) - 1)],
        "longest": delays[-1],
        "publisher_late_ms": late * 1000,
        "observer_cores": spent,
    }
    return Sample(len(delays), len(delays) / rate, {}, 0.0, more)


def _receive(pipe: Pipe) -> Any:
    if not pipe.poll(600):
        raise TimeoutError("publisher or observer did not answer")
    return pipe.recv()


def observe(pipe: Pipe, url: str, count: int) -> None:
    """Note when each row is seen first; tell the moments, and the cores used."""
    gc.disable()
    seen: Times = {}
    skipped: dict[int, float] = {}
    # ^ by id, until when to look for it: a later one was committed sooner, or a proof of rows used it up
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor(binary=True) as cursor:
        (largest,) = cursor.execute("SELECT coalesce(max(id), 0) FROM event").fetchone() or (0,)
        pipe.send("ready")
        started, cpu = time.perf_counter(), time.process_time()
        ends = float("inf")
        while len(seen) < count and time.perf_counter() < ends:
            cursor.execute(
                "SELECT id, message_id FROM event WHERE id > %s OR id = ANY(%s)",
                (largest, list(skipped)),
                prepare=True,
            )
            rows = cursor.fetchall()
            now = time.perf_counter()
            if rows:
                ends = now + _PATIENCE
                seen.update((message_id, now) for _, message_id in rows)
                ids = {number for number, _ in rows}
                skipped.update((number, ends) for number in range(largest + 1, max(ids)))
                skipped = {
                    number: until for number, until in skipped.items() if number not in ids and until > now
                }
                largest = max(largest, *ids)
            time.sleep(REST)
    wall = time.perf_counter() - started
    pipe.send((seen, (time.process_time() - cpu) / wall))


def publish_to_broker(pipe: Pipe, urls: Sequence[str], rate: float, bodies: Sequence[bytes]) -> None:
    """Publish as notifiers do, without waiting for the broker, to the buses in turn; tell when each went."""
    with contextlib.ExitStack() as stack:
        channels = itertools.cycle([stack.enter_context(Bus(url)).channel() for url in urls])

        def send(_message_id: str, body: bytes) -> None:
            message = amqp.Message(
                body, content_type="application/json", content_encoding="utf-8", delivery_mode=2
            )
            next(channels).basic_publish(message, exchange=EXCHANGE, routing_key=QUEUE)

        pipe.send(_paced(rate, bodies, send))


def insert_into_table(pipe: Pipe, url: str, rate: float, bodies: Sequence[bytes]) -> None:
    """Insert into the table of events, one transaction each; tell when each was begun."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("""INSERT INTO event_type ("desc") VALUES ('floor')""")

        def send(message_id: str, _body: bytes) -> None:
            connection.execute(
                "INSERT INTO event (message_id, generated, raw, event_type_id) VALUES (%s, now(), '{}', 1)",
                (message_id,),
            )

        pipe.send(_paced(rate, bodies, send))


def _paced(rate: float, bodies: Sequence[bytes], send: Send) -> tuple[Times, float]:
    """Send at a steady rate; return when each went, and how late the latest was, in seconds."""
    names = list(_message_ids(bodies))
    times: Times = {}
    late = 0.0
    gc.disable()
    started = time.perf_counter() + 1
    for place, (name, body) in enumerate(zip(names, bodies, strict=True)):
        due = started + place / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        now = time.perf_counter()
        late = max(late, now - due)
        times[name] = now
        send(name, body)
    return times, late


def _message_ids(bodies: Sequence[bytes]) -> Iterator[str]:
    for body in bodies:
        yield orjson.loads(orjson.loads(body)["oslo.message"])["message_id"]
