"""Every metric of the project, declared once with its help text.

``docs/metrics.md`` is made from this list by ``docs/generate.py``. Counters and
histograms add up over the processes of the daemon, also those that ended; gauges are those of living
processes. Everything is counted once a batch; what may be counted for a single message, such as one that
came back often, is rare.
"""

import json
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from panko_ingest.errors import STAGES

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_MESSAGE_SECONDS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1, 1.0)
_LAG_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0)
_ROUND_SECONDS = (0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
_MAX_SALVAGED_SIZE = 32 * 1024
_SALVAGED_BESIDE_NAMES = 112
"""Bytes that a metric of a salvaged trait takes beside its names, as JSON: the rest of its key, its value."""
_BATCH_SIZES = (1, 10, 50, 100, 250, 500, 1000, 2000, 5000)

KINDS = ("ingester", "expirer", "monitor")
"""What the processes of the daemon are for."""

CAUSES = ("conflict", "reconnect", "unavailable", "operator", "blocker")
"""Why a batch has to be recorded again."""


_PREFIX = "panko_ingest_"


class Declared(NamedTuple):
    """What one metric is, for the list of all."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.declared: list[Declared] = []
        self._declare_messages()
        self._declare_times()
        self._declare_bus()
        self._declare_store()
        self._declare_daemon()

    def count_salvaged(self, event_type: str, trait: str) -> None:
        """Count a trait that conversion salvaged.

        Names come from publishers: where they take too much room they are left out, and others keep theirs.
        """
        pair = event_type, trait
        if pair not in self._salvaged_pairs:
            if self._salvaged_size + _size(pair) > _MAX_SALVAGED_SIZE:
                pair = "", ""
            else:
                self.note_salvaged(pair)
        self.salvaged.labels("convert", *pair).inc()

    def note_salvaged(self, pair: tuple[str, str]) -> None:
        """Note that there is a metric of an event type and a trait, also one that is there already."""
        self._salvaged_pairs.add(pair)
        self._salvaged_size += _size(pair)

    def of_bus(self, bus: str) -> "BusMetrics":
        """Return those metrics of one bus that the thread that reads it keeps up to date."""
        return BusMetrics(self, bus)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        self._note(f"{name}_total", "counter", labels, help_text)
        return Counter(f"{_PREFIX}{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        self._note(name, "histogram", (), help_text)
        return Histogram(f"{_PREFIX}{name}", help_text, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str, mode: Any = "livesum") -> Gauge:
        self._note(name, "gauge", labels, help_text)
        return Gauge(f"{_PREFIX}{name}", help_text, labels, multiprocess_mode=mode, registry=self.registry)

    def _note(self, name: str, kind: str, labels: tuple[str, ...], help_text: str) -> None:
        self.declared.append(Declared(f"{_PREFIX}{name}", kind, labels, help_text))

    def _declare_messages(self) -> None:
        self.received = self._counter(
            "messages_received",
            "Messages taken from the broker, redelivered ones included; those that were given back "
            "unseen are not.",
        )
        self.redelivered = self._counter(
            "messages_redelivered", "Messages among them that the broker had delivered before."
        )
        self.near_limit = self._counter(
            "messages_near_delivery_limit",
            "Messages that had come back so often that a quorum queue may drop them soon: ten times, of the "
            "twenty that RabbitMQ 4 allows where nothing else is set.",
        )
        self.recorded = self._counter("events_recorded", "Events committed to the database.")
        self.duplicates = self._counter(
            "events_duplicate", "Events that were stored already, by their message_id, type and time."
        )
        self.dead_letters = self._counter(
            "dead_letters",
            "Messages that can never become an event, by the stage that found out: decode, convert, "
            "record, or crash (workers died of it). A repeated one counts again.",
            "stage",
        )
        self.dropped = self._counter("messages_dropped", "Messages that the configuration says not to store.")
        self.salvaged = self._counter(
            "traits_salvaged",
            "Traits trimmed, changed or dropped so that their event could be stored, by the stage that "
            "did it: convert, which tells event type and trait (of some 200, of fewer with long names), or "
            "record.",
            "stage",
            "event_type",
            "trait",
        )
        self._salvaged_pairs: set[tuple[str, str]] = set()
        self._salvaged_size = 0
        for stage in STAGES:
            self.dead_letters.labels(stage)
        for stage in ("convert", "record"):
            self.salvaged.labels(stage, "", "")

    def _declare_times(self) -> None:
        self.batch_messages = self._histogram(
            "batch_messages", "Messages settled by one commit.", _BATCH_SIZES
        )
        self.convert_seconds = self._histogram(
            "convert_seconds",
            "Time to decode and convert one message; the first one of each batch is measured.",
            _MESSAGE_SECONDS,
        )
        self.record_seconds = self._histogram(
            "record_seconds",
            "Time that the database takes to store a batch, from the first statement to the end of COMMIT.",
            _SECONDS,
        )
        self.commit_seconds = self._histogram(
            "commit_seconds",
            "Time from handing a batch to the recording thread to its commit: waiting for the batch before "
            "it, recording, and tries that failed.",
            _SECONDS,
        )
        self.lag_seconds = self._histogram(
            "lag_seconds",
            "Age of the oldest event of a batch when it is committed, by the time it was generated.",
            _LAG_SECONDS,
        )

    def _declare_bus(self) -> None:
        self.connections = self._gauge(
            "broker_connections", "Open connections to the brokers of a bus.", "bus"
        )
        self.lost_connections = self._counter(
            "broker_connections_lost", "Connections to a broker that ended without our wish.", "bus"
        )
        self.refused = self._gauge(
            "broker_refusals",
            "Workers to which the broker refuses a queue, or does not answer about it, or refuses to bind an "
            "exchange.",
            "bus",
            "name",
        )
        self.absent_queues = self._gauge(
            "absent_queues",
            "Workers that wait for a queue that is not there: 0 where it is. Its publishers make it.",
            "bus",
            "name",
        )
        self.unbound_pools = self._gauge(
            "unbound_pools",
            "Workers that find no control exchange to bind the pool's queue to: what is published is lost.",
            "bus",
        )
        self.prefetch = self._gauge(
            "prefetch",
            "Messages of a queue that the broker may hand out before the first is acknowledged; 0 while "
            "nothing is read.",
            "bus",
        )
        self.messages_in_flight = self._gauge(
            "messages_in_flight", "Messages in hand that are not committed yet.", "bus"
        )
        self.bytes_in_flight = self._gauge(
            "bytes_in_flight", "Bytes of memory for the messages that are not committed yet.", "bus"
        )
        self.oldest_seconds = self._gauge(
            "oldest_in_hand_seconds",
            "Age, by the time it was generated, of the oldest message in hand that is not committed "
            "yet; 0 when nothing is in hand.",
            "bus",
            mode="livemax",
        )
        self.breaker_open = self._gauge(
            "breaker_open",
            "Workers whose flood breaker is open: nearly all messages are dead letters.",
            "bus",
        )

        self.not_stored = self._gauge(
            "batches_not_stored",
            "Workers of which the database takes other batches, but not the last one of this bus.",
            "bus",
        )

    def _declare_store(self) -> None:
        self.store_retries = self._counter(
            "store_retries",
            "Tries to record a batch that failed and are made again, by cause: conflict (with another "
            "transaction), reconnect (the connection broke), unavailable, operator (somebody has to act), or "
            "blocker (a session of ours that was left behind kept us waiting, and was ended).",
            "cause",
        )
        for cause in CAUSES:
            self.store_retries.labels(cause)
        self.unwritten_seconds = self._gauge(
            "unwritten_seconds",
            "Time for which messages have been in hand without one being committed; 0 with nothing in hand.",
            mode="livemax",
        )
        self.store_away = self._gauge("store_away", "Workers that wait for the database.")
        self.pool_in_use = self._gauge(
            "database_connections_in_use", "Pooled connections to the database that are in use."
        )
        self.expired = self._counter(
            "expired", "What was deleted because of its age: events, traits or dead_letters.", "kind"
        )
        for kind in ("events", "traits", "dead_letters"):
            self.expired.labels(kind)
        self.expired_partitions = self._counter(
            "expired_partitions", "Partitions dropped because of the age of all that was in them."
        )
        self.expiry_backlog = self._gauge(
            "expiry_backlog", "Expired events that the last round of expiry left to the next one."
        )
        self.oldest_event = self._gauge(
            "oldest_event_timestamp_seconds",
            "When the oldest event was generated that the last round of expiry left, in seconds since 1970; "
            "0 for none.",
        )
        self.expiry_seconds = self._histogram(
            "expiry_seconds", "Time that a round of expiry takes.", _ROUND_SECONDS
        )
        self.expiry_failures = self._counter(
            "expiry_failures", "Rounds of expiry that did not come to their end; the log tells why."
        )
        self.last_expiry = self._gauge(
            "expiry_last_success_timestamp_seconds",
            "When the last complete round of expiry ended, in seconds since 1970; 0 for never.",
            mode="max",
        )

    def _declare_daemon(self) -> None:
        self.build_info = self._gauge("build_info", "Always 1; the label is the release.", "version")
        self.readers = self._gauge("readers", "Threads that are to read a bus: workers times buses.")
        self.readers_consuming = self._gauge("readers_consuming", "Threads among them that consume now.")
        self.lost_workers = self._counter(
            "workers_lost", "Worker processes that ended without our wish and were replaced.", "kind"
        )
        for kind in KINDS:
            self.lost_workers.labels(kind)


def _size(pair: tuple[str, str]) -> int:
    return _SALVAGED_BESIDE_NAMES + len(json.dumps(pair))


class BusMetrics:
    """The metrics of one bus, in one process; label values are looked up once."""

    def __init__(self, metrics: Metrics, bus: str) -> None:
        self._bus = bus
        self._refused = metrics.refused
        self._absent = metrics.absent_queues
        self._refusals: set[str] = set()
        self.connections = metrics.connections.labels(bus)
        self.lost_connections = metrics.lost_connections.labels(bus)
        self.unbound_pools = metrics.unbound_pools.labels(bus)
        self.prefetch = metrics.prefetch.labels(bus)
        self.messages_in_flight = metrics.messages_in_flight.labels(bus)
        self.bytes_in_flight = metrics.bytes_in_flight.labels(bus)
        self.oldest_seconds = metrics.oldest_seconds.labels(bus)
        self.breaker_open = metrics.breaker_open.labels(bus)
        self.not_stored = metrics.not_stored.labels(bus)

    def note_refusal(self, name: str, reason: str | None) -> None:
        """Take note that the broker refuses a queue or an exchange, or, without a reason, no longer does."""
        if reason is not None or name in self._refusals:
            self._refusals.add(name)
            self._refused.labels(self._bus, name).set(reason is not None)

    def note_absence(self, name: str, absent: bool) -> None:
        """Take note of whether a queue is absent."""
        self._absent.labels(self._bus, name).set(absent)
