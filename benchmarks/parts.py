"""The parts of the way alone: what broker, converter and database can do at best.

Their costs, on both sides of the wire, tell what the cores could do if nothing else were to be done:
cores / sum of costs.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import amqp

from benchmarks import load
from benchmarks.convert import decode
from benchmarks.rig import QUEUE, Meter, Rig, Sample
from benchmarks.storage import LIMITS, Copy, Limit
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from panko_ingest.storage.recording.validation import Row, Validator
from panko_ingest.storage.schema import partitions
from panko_ingest.storage.schema.column_limits import read_limits
from tests.bus import Bus

BATCH = 1000
PARTS = ("drain", "convert", "load")
"""What the best is computed from."""


class PartitionedCopy(Copy):
    """COPY into the partitioned layout, where an id begins with the day."""

    def number(self, rows: Sequence[Row]) -> list[tuple[int, Row]]:
        """Give each row the id that the daemon would give it."""
        return [(number | partitions.first_id(row.generated), row) for number, row in super().number(rows)]


def publish(rig: Rig, *, quorum: bool = True) -> Sample:
    """Fill a durable queue; what the broker does for it is what it must do for any publisher."""
    with rig.vhost() as url, Bus(url, quorum=quorum) as bus:
        bus.declare()
        meter = rig.meter()
        return meter.sample(bus.publish(rig.bodies))


def drain(rig: Rig, *, quorum: bool = True) -> Sample:
    """Empty a full queue by bare py-amqp, one ack for each batch."""
    with rig.vhost() as url:
        with Bus(url, quorum=quorum) as bus:
            bus.declare()
            bus.publish(rig.bodies)
        return _drain(rig, url)


def _drain(rig: Rig, url: str) -> Sample:
    received = acknowledged = 0

    def receive(_message: amqp.Message) -> None:
        nonlocal received
        received += 1

    host, vhost = f"127.0.0.1:{rig.broker.port}", url.rpartition("/")[2]
    with amqp.Connection(host, "guest", "guest", virtual_host=vhost) as connection:
        channel = connection.channel()
        channel.basic_qos(0, 2 * BATCH, False)
        meter = rig.meter()
        channel.basic_consume(QUEUE, callback=receive)
        while received < len(rig.bodies):
            connection.drain_events()
            if received - acknowledged >= BATCH:
                channel.basic_ack(received, multiple=True)
                acknowledged = received
        channel.basic_ack(received, multiple=True)
        return meter.sample(received)


def convert(rig: Rig) -> Sample:
    """Decode and convert the load; ``decode_micro`` is the share of decoding, measured apart."""
    converter = load.converter()

    def whole(body: bytes) -> None:
        notification = decode(body)
        converter.to_event(notification.message, notification.priority)

    decoding = _timed(rig.bodies, decode)
    sample = _timed(rig.bodies, whole)
    sample.more["decode_micro"] = decoding.micro("ours")
    return sample


def _timed(bodies: Sequence[bytes], work: Callable[[bytes], object]) -> Sample:
    meter = Meter({})
    for body in bodies:
        work(body)
    return meter.sample(len(bodies))


def load_only(rig: Rig, events: Sequence[Event]) -> Sample:
    """Write ready rows by the fastest way of the driver into our tables, on one connection.

    Making them ready is not timed, so ``wall`` and ``cpu`` are sums over the batches.
    """
    with rig.store() as url:
        connection = Connection(url)
        rest = _record_one_of_each_type(connection, events)
        with connection.engine.connect() as session:
            rows = Validator(read_limits(session)).rows(rest)[0]
        rows.sort(key=lambda row: row.message_id)
        kind = "postgresql" if rig.kind == "partitioned" else rig.kind
        make: Callable[[Connection], Limit] = LIMITS[kind][0]
        limit = PartitionedCopy(connection) if rig.kind == "partitioned" else make(connection)
        database, wall, ours = rig.meter(), 0.0, 0.0
        for start in range(0, len(rows), BATCH):
            prepared: Any = limit.prepare(rows[start : start + BATCH])
            before = time.perf_counter(), time.process_time()
            limit.write(prepared)
            wall += time.perf_counter() - before[0]
            ours += time.process_time() - before[1]
        whole = database.sample(len(rows))
        limit.raw.close()
        connection.close()
    return Sample(len(rows), wall, {"ours": ours, "database": whole.cpu["database"]}, whole.busy)


def record_only(rig: Rig, events: Sequence[Event]) -> Sample:
    """Write events by record_events, in batches, on one connection."""
    with rig.store() as url:
        connection = Connection(url)
        rest = _record_one_of_each_type(connection, events)
        meter = rig.meter()
        for start in range(0, len(rest), BATCH):
            connection.record_events(rest[start : start + BATCH])
        rows = sum(1 + len(event.traits) for event in rest)
        sample = meter.sample(len(rest), rows_an_event=rows / len(rest))
        connection.close()
    return sample


def _record_one_of_each_type(connection: Connection, events: Sequence[Event]) -> list[Event]:
    """Make the event types known; return the events that are left."""
    ones = list({event.event_type: event for event in events}.values())
    connection.record_events(ones)
    done = {event.message_id for event in ones}
    return [event for event in events if event.message_id not in done]


def best(parts: Mapping[str, Sample], cores: int | None = None) -> float:
    """Return the events/s that the cores could do if nothing but the parts were to be done."""
    return (cores or os.cpu_count() or 1) / sum(parts[name].micro() for name in PARTS) * 1e6
